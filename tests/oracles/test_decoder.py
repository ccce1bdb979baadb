"""The decoder's oracles agree with transformers: Llama, Qwen2, and Qwen2-VL's rotary positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.oracles import decoder as oracle

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "attn_implementation": "eager",
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
MODELS = {
    "llama": ("Llama", SIZES | {"rope_parameters": PLAIN, "num_key_value_heads": 4}),
    "llama 3": ("Llama", SIZES | {"rope_parameters": LLAMA3, "head_dim": 16}),
    "qwen2": ("Qwen2", SIZES | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "tied": ("Qwen2", SIZES | {"rope_parameters": PLAIN, "tie_word_embeddings": True}),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(name: str) -> tuple[Any, dict[str, Any]]:
    """A transformers model with random weights, and its settings."""
    family, settings = MODELS[name]
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**settings)).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model, settings


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str) -> None:
    model, settings = made(name)
    ids = torch.randint(0, 31, (3, 20), generator=torch.Generator().manual_seed(2))
    assert_close(oracle.decoder_lm(model.state_dict(), ids, settings), model(ids).logits, rtol=1e-4, atol=1e-5)

    mask = (torch.arange(20) >= torch.tensor([[0], [7], [19]])).long()
    ours = oracle.decoder_lm(model.state_dict(), ids, settings, mask)
    assert_close(ours[mask == 1], model(ids, attention_mask=mask).logits[mask == 1], rtol=1e-4, atol=1e-5)

    places = torch.arange(20).pow(2)[None].expand(3, -1)
    ours = oracle.decoder_lm(model.state_dict(), ids, settings, position_ids=places)
    theirs = model(ids, attention_mask=torch.ones_like(ids), position_ids=places).logits
    assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_transformers(name: str) -> None:
    model, settings = made(name)
    ids, above = torch.randint(0, 31, (2, 9), generator=torch.Generator().manual_seed(2)), normal(2, 9, 31)
    parameters = dict(model.named_parameters())
    theirs = torch.autograd.grad(model(ids).logits, list(parameters.values()), above)
    ours = torch.autograd.grad(oracle.decoder_lm(parameters, ids, settings), list(parameters.values()), above)
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_frequencies_are_those_of_transformers(name: str) -> None:
    model, settings = made(name)
    assert_close(oracle.rope_frequencies(settings).float(), model.model.rotary_emb.inv_freq)


def test_the_parts_are_those_of_transformers() -> None:
    from transformers.models.llama import modeling_llama as llama

    norm, x = llama.LlamaRMSNorm(8, eps=0.1), normal(2, 5, 8)
    torch.nn.init.normal_(norm.weight)
    assert_close(oracle.rms_norm(x, norm.weight, 0.1), norm(x))

    mlp = llama.LlamaMLP(transformers.LlamaConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2))
    assert_close(oracle.swiglu(x, mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight), mlp(x))

    angles = normal(2, 5, 4).repeat(1, 1, 2)
    for unsqueeze_dim, shapes in ((1, [(2, 3, 5, 8), (2, 1, 5, 8)]), (2, [(2, 5, 3, 8), (2, 5, 1, 8)])):
        q, k = (normal(*shape, seed=seed) for seed, shape in enumerate(shapes))
        arguments = (q, k, angles.cos(), angles.sin(), unsqueeze_dim)
        assert_close(oracle.apply_rotary_pos_emb(*arguments), llama.apply_rotary_pos_emb(*arguments))


def test_multimodal_rope_is_qwen2_vl_s() -> None:
    """transformers composes each token's table before it rotates queries and keys."""
    from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2_vl

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    config = transformers.Qwen2VLTextConfig(hidden_size=32, num_attention_heads=2, rope_parameters=rope)
    rotary = qwen2_vl.Qwen2VLRotaryEmbedding(config)
    q, k = normal(2, 2, 5, 16), normal(2, 1, 5, 16, seed=1)
    positions = torch.randint(0, 40, (3, 2, 5), generator=torch.Generator().manual_seed(2))
    theirs = qwen2_vl.apply_rotary_pos_emb(q, k, *rotary(q, positions))

    angles = (positions[..., None] * rotary.inv_freq).repeat(1, 1, 1, 2)  # one table for each kind of position
    assert_close(oracle.multimodal_rope(q, k, angles.cos(), angles.sin(), [2, 3, 3]), theirs)
