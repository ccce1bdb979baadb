"""The Transformer oracles agree with PyTorch's layers and with DistilBERT's positions in transformers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from tests.oracles import transformer as oracle

OPTIONS: list[dict[str, Any]] = [
    {},
    {"norm_first": True},
    {"activation": "gelu"},
    {"activation": F.silu},
    {"layer_norm_eps": 0.3},
    {"batch_first": False},
    {"bias": False},
    {"norm_first": True, "activation": "gelu", "bias": False, "batch_first": False},
]


def option_names(options: dict[str, Any]) -> str:
    """An id that is the same in every process, as a function's repr is not."""
    return "-".join(f"{name}={getattr(value, '__name__', value)}" for name, value in options.items()) or "defaults"


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def filled(layer: nn.Module) -> nn.Module:
    """The layer in eval mode, with parameters large enough to matter, norms included."""
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, mean=0.1, std=0.4, generator=generator)
    return layer.eval()


def masks(kind: str | None, length: int, keys: int) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    """Masks for a batch of two and three heads, each with a padding mask; every position sees the first key."""
    if kind is None:
        yield None, None
        return
    for shape in ((length, keys), (6, length, keys)):
        hidden, padding = normal(*shape, seed=2).detach() > 0.4, torch.arange(keys) >= torch.tensor([[keys], [2]])
        hidden[..., 0] = False
        if kind == "boolean":
            yield hidden, padding
        else:
            bias = normal(*shape, seed=3).detach().masked_fill(hidden, -math.inf)
            yield bias, normal(2, keys, seed=4).detach().masked_fill(padding, -math.inf)


def assert_same(ours: Tensor, theirs: Tensor, *inputs: Tensor) -> None:
    cotangent = normal(*ours.shape, seed=9).detach()
    assert_close(ours, theirs)
    gradients = (torch.autograd.grad(output, inputs, cotangent) for output in (ours, theirs))
    for mine, other in zip(*gradients, strict=True):
        assert_close(mine, other)


@pytest.mark.parametrize("options", OPTIONS, ids=option_names)
@pytest.mark.parametrize("kind", [None, "boolean", "floating-point"])
def test_the_encoder_layer_is_pytorch_s(options: dict[str, Any], kind: str | None) -> None:
    options = {"batch_first": True, **options}
    layer = filled(nn.TransformerEncoderLayer(12, 3, 20, **options, dtype=torch.float64))
    src = normal(2, 5, 12) if options["batch_first"] else normal(5, 2, 12)
    options.pop("bias", None)
    for mask, padding in masks(kind, 5, 5):
        ours = oracle.encoder_layer(layer.state_dict(), src, mask, padding, nhead=3, **options)
        assert_same(ours, layer(src, mask, padding), src)


@pytest.mark.parametrize("options", OPTIONS, ids=option_names)
@pytest.mark.parametrize("kind", [None, "boolean", "floating-point"])
def test_the_decoder_layer_is_pytorch_s(options: dict[str, Any], kind: str | None) -> None:
    options = {"batch_first": True, **options}
    layer = filled(nn.TransformerDecoderLayer(12, 3, 20, **options, dtype=torch.float64))
    tgt, memory = normal(2, 4, 12), normal(2, 5, 12, seed=1)
    if not options["batch_first"]:
        tgt, memory = tgt.transpose(0, 1), memory.transpose(0, 1)
    options.pop("bias", None)
    for own, other in zip(masks(kind, 4, 4), masks(kind, 4, 5), strict=True):
        arguments = (tgt, memory, own[0], other[0], own[1], other[1])
        ours = oracle.decoder_layer(layer.state_dict(), *arguments, nhead=3, **options)
        assert_same(ours, layer(*arguments), tgt, memory)


@pytest.mark.parametrize(("length", "d_model"), [(40, 16), (5, 7), (1, 1)])
def test_positions_are_distilbert_s(length: int, d_model: int) -> None:
    from transformers.models.distilbert.modeling_distilbert import create_sinusoidal_embeddings

    theirs = create_sinusoidal_embeddings(length, d_model, torch.empty(length, d_model))
    assert_close(oracle.sinusoidal_positions(length, d_model).float(), theirs)
