"""The attention oracles agree with PyTorch, flash-attn and transformers wherever these agree with each other."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from tests.oracles import attention as oracle
from tests.oracles.references import reference

DTYPES = [torch.float32, torch.float64]


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()


def with_gradients(outputs: Iterable[Tensor | None], inputs: Iterable[Tensor]) -> list[Tensor]:
    """The outputs, and the gradients of the inputs for fixed cotangents."""
    made = [output for output in outputs if output is not None]
    cotangents = [normal(*output.shape, seed=9 + number).detach().to(output) for number, output in enumerate(made)]
    return made + list(torch.autograd.grad(made, list(inputs), cotangents))


def assert_same(ours: Iterable[Tensor | None], theirs: Iterable[Tensor | None], *inputs: Tensor) -> None:
    for mine, other in zip(with_gradients(ours, inputs), with_gradients(theirs, inputs), strict=True):
        assert_close(mine, other)


def mask(name: str | None, length: int, keys: int, dtype: torch.dtype) -> Tensor | None:
    """The mask of this name; "bool" and "float with -inf" hide every key from one row."""
    if name is None:
        return None
    if name == "keys":
        return torch.arange(keys) < keys - 2
    bias = normal(2, 3, length, keys, seed=5).detach()
    visible = bias > -0.3
    visible[..., 1, :] = False
    if name == "bool":
        return visible
    return bias.to(dtype) if name == "float" else bias.to(dtype).masked_fill(~visible, -math.inf)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [None, "bool", "float", "float with -inf"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_is_pytorch_s(dtype: torch.dtype, name: str | None, scale: float | None) -> None:
    query, key, value = (normal(2, 3, n, d, dtype=dtype, seed=n) for n, d in ((4, 8), (6, 8), (6, 5)))
    attn_mask = mask(name, 4, 6, dtype)
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        attn_mask.requires_grad_()
    inputs = [x for x in (query, key, value, attn_mask) if x is not None and x.requires_grad]
    ours = oracle.attention(query, key, value, attn_mask, scale=scale)
    theirs = F.scaled_dot_product_attention(query, key, value, attn_mask, scale=scale)
    assert_same([ours], [theirs], *inputs)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("lengths", [(5, 5), (4, 7), (7, 4)])
def test_causal_attention_is_pytorch_s(shape: tuple[int, ...], lengths: tuple[int, int]) -> None:
    query, key, value = (normal(*shape, n, 8, seed=seed) for seed, n in enumerate((lengths[0], lengths[1], lengths[1])))
    ours = oracle.attention(query, key, value, is_causal=True)
    theirs = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert_same([ours], [theirs], query, key, value)


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("name", [None, "keys"])
def test_grouped_heads_are_pytorch_s(kv_heads: int, name: str | None) -> None:
    query, key, value = normal(2, 6, 4, 8), normal(2, kv_heads, 5, 8, seed=1), normal(2, kv_heads, 5, 8, seed=2)
    attn_mask = mask(name, 4, 5, torch.float64)
    wide = None if attn_mask is None else attn_mask.expand(4, 5)  # PyTorch rejects a 1-D mask
    ours = oracle.attention(query, key, value, attn_mask, enable_gqa=True)
    theirs = F.scaled_dot_product_attention(query, key, value, wide, enable_gqa=True)
    assert_same([ours], [theirs], query, key, value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_attention_computes_in_the_dtype_it_is_given(dtype: torch.dtype) -> None:
    query, key, value = (normal(2, 3, 5, 8, dtype=dtype, seed=seed) for seed in range(3))
    output = oracle.attention(query, key, value)
    exact = oracle.attention(query.double(), key.double(), value.double())
    assert output.dtype == dtype
    assert 0 < (output - exact).abs().max() < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_attention_is_flash_attn_s_reference(causal: bool, kv_heads: int) -> None:
    query, key, value = normal(2, 5, 4, 8), normal(2, 5, kv_heads, 8, seed=1), normal(2, 5, kv_heads, 8, seed=2)
    padding = torch.arange(5) < torch.tensor([[5], [3]])  # (batch, key), True = a real key
    attention_ref = reference("flash_attn.utils.testing.attention_ref")
    theirs, _ = attention_ref(query, key, value, key_padding_mask=padding, causal=causal, upcast=False)
    visible = padding[:, None, None, :] & (torch.ones(5, 5).tril().bool() if causal else True)
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    ours = oracle.attention(q, k, v, visible, enable_gqa=True)
    # attention_ref aligns its causal mask with the last real key, so only the unpadded sequence agrees.
    rows = slice(0, 1) if causal else slice(None)
    assert_close(ours.transpose(1, 2)[rows], theirs[rows])


def packed(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize("average", [True, False])
def test_multihead_attention_is_pytorch_s(
    dtype: torch.dtype, bias: bool, batch_first: bool, kind: str, average: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    module = nn.MultiheadAttention(12, 3, bias=bias, batch_first=batch_first, dtype=dtype)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    query, key, value = (normal(2, n, 12, dtype=dtype, seed=seed) for seed, n in enumerate((4, 6, 6)))
    if not batch_first:
        query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
    masks: dict[str, Any] = {
        "attn_mask": normal(6, 4, 6, dtype=dtype, seed=3).detach(),
        "key_padding_mask": normal(2, 6, dtype=dtype, seed=4).detach(),
    }
    if kind == "bool":
        masks = {name: (each > 0.8).index_fill(-1, torch.tensor(0), False) for name, each in masks.items()}
    ours = oracle.multihead_attention(
        packed(module), query, key, value, num_heads=3, average_attn_weights=average, batch_first=batch_first, **masks
    )
    theirs = module(query, key, value, average_attn_weights=average, **masks)
    assert_same(ours, theirs, query, key, value)


@pytest.mark.parametrize("heads_mask", [False, True])
def test_multihead_attention_of_one_sequence_is_pytorch_s(heads_mask: bool) -> None:
    module = nn.MultiheadAttention(12, 3, dtype=torch.float64)
    query, key = normal(4, 12), normal(6, 12, seed=1)
    attn_mask = normal(3, 4, 6, seed=3).detach() if heads_mask else normal(4, 6, seed=3).detach()
    padding = torch.tensor([0.0, 0.0, 0.0, 0.0, -math.inf, -math.inf], dtype=torch.float64)
    arguments: dict[str, Any] = {"attn_mask": attn_mask, "key_padding_mask": padding}
    ours = oracle.multihead_attention(packed(module), query, key, key, num_heads=3, **arguments)
    assert_same(ours, module(query, key, key, **arguments), query, key)


def test_multihead_attention_returns_weights_only_when_asked() -> None:
    x = normal(2, 4, 12)
    state = packed(nn.MultiheadAttention(12, 3, dtype=torch.float64))
    assert oracle.multihead_attention(state, x, x, x, num_heads=3, need_weights=False)[1] is None


def test_multihead_attention_is_bert_s_self_attention() -> None:
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertSelfAttention

    config = BertConfig(hidden_size=12, num_attention_heads=3, attn_implementation="eager")
    bert = BertSelfAttention(config).double().eval()
    parts = [bert.query, bert.key, bert.value]
    state = {
        "in_proj_weight": torch.cat([part.weight for part in parts]),
        "in_proj_bias": torch.cat([part.bias for part in parts]),
        "out_proj.weight": torch.eye(12, dtype=torch.float64),
    }
    x = normal(2, 5, 12)
    padding = torch.arange(5) >= torch.tensor([[5], [3]])
    additive = torch.zeros(2, 1, 1, 5, dtype=torch.float64).masked_fill(padding[:, None, None], -math.inf)
    theirs, their_weights = bert(x, attention_mask=additive)
    ours, our_weights = oracle.multihead_attention(
        state, x, x, x, num_heads=3, key_padding_mask=padding, average_attn_weights=False
    )
    assert_close(ours, theirs)
    assert_close(our_weights, their_weights)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_query_that_sees_no_key_leaves_no_nan(kind: str) -> None:
    x = normal(2, 4, 12)
    attn_mask: Tensor = torch.zeros(4, 4, dtype=torch.bool)
    attn_mask[2] = True
    if kind == "float":
        attn_mask = torch.zeros(4, 4, dtype=torch.float64).masked_fill(attn_mask, -math.inf)
    state = packed(nn.MultiheadAttention(12, 3, dtype=torch.float64))
    output, weights = oracle.multihead_attention(state, x, x, x, num_heads=3, attn_mask=attn_mask)
    assert weights is not None
    assert weights[:, 2].eq(0).all()
    for each in with_gradients([output, weights], [x]):
        assert each.isfinite().all()


def test_the_reference_packages_run_on_the_cpu() -> None:
    u, delta, B, C, kernel, q = (
        normal(*shape, dtype=torch.float32, seed=seed).detach()
        for seed, shape in enumerate([(2, 3, 7), (2, 3, 7), (2, 4, 7), (2, 4, 7), (3, 4), (1, 3, 2, 8)])
    )
    A = -torch.arange(1.0, 5.0).expand(3, 4)
    selective_scan_ref = reference("mamba_ssm.ops.selective_scan_interface.selective_scan_ref")
    assert selective_scan_ref(u, delta, A, B, C, delta_softplus=True).shape == (2, 3, 7)
    causal_conv1d_ref = reference("causal_conv1d.causal_conv1d_interface.causal_conv1d_ref")
    assert_close(causal_conv1d_ref(u, kernel), F.conv1d(F.pad(u, (3, 0)), kernel[:, None], groups=3))
    assert reference("flash_attn.utils.testing.attention_ref")(q, q, q)[0].shape == q.shape


def test_transformers_stays_on_the_cpu_after_the_reference_packages_were_loaded() -> None:
    from transformers import FalconMambaConfig, FalconMambaModel  # imported after the stand-ins are gone

    reference("mamba_ssm.ops.selective_scan_interface.selective_scan_ref")
    model = FalconMambaModel(FalconMambaConfig(hidden_size=8, num_hidden_layers=1, vocab_size=5, state_size=4))
    assert model(torch.arange(5)[None]).last_hidden_state.isfinite().all()
