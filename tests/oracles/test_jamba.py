"""The oracle of week1/jamba agrees with transformers: the model, and what models keep from token to token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.oracles import jamba as oracle

SMALL = {
    "vocab_size": 31, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "attn_layer_period": 3,
    "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 4, "mamba_d_conv": 3,
    "mamba_expand": 2, "mamba_dt_rank": 3, "mamba_conv_bias": True, "mamba_proj_bias": False, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False, "initializer_range": 0.02,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mamba_proj_bias": True, "mamba_conv_bias": False, "attn_layer_period": 2, "attn_layer_offset": 0},
        {"num_experts": 1, "num_hidden_layers": 1, "expert_layer_offset": 0},
        {"num_hidden_layers": 1, "attn_layer_period": 1, "attn_layer_offset": 0, "num_experts_per_tok": 4},
    ],
    ids=["experts", "biases", "one dense layer", "one attention layer"],
)
def test_it_is_transformers_model(changes):
    from transformers import JambaConfig, JambaForCausalLM

    torch.manual_seed(0)
    model = JambaForCausalLM(JambaConfig(**SMALL | changes)).eval()
    config = SMALL | changes | {"model_type": "jamba"}
    state = model.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == oracle.shapes_of(config)
    for tensor in state.values():
        torch.nn.init.normal_(tensor, std=0.3)
    input_ids = torch.randint(0, 31, (2, 9))
    mask = (torch.arange(9) >= torch.tensor([[0], [4]])).long()
    if config["mamba_proj_bias"]:  # transformers masks before in_proj, whose bias then leaks padding
        mask = torch.ones(2, 9).long()
    with torch.no_grad():
        theirs = model(input_ids, attention_mask=mask, use_cache=False).logits
        ours = oracle.jamba_lm(state, input_ids, config, mask)
    torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], rtol=1e-4, atol=1e-5)


DECODER = {
    "vocab_size": 31, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
KEPT = {
    "llama": DECODER | {"head_dim": 8},
    # transformers keeps one token less than the window, where the new token takes a place.
    "mistral": DECODER | {"sliding_window": 7},
    "mixtral": DECODER | {"num_local_experts": 2, "sliding_window": None},
    "qwen2": DECODER | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    "mamba": {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 3, "state_size": 5, "conv_kernel": 3},
    "jamba": SMALL,
}


@pytest.mark.parametrize("model_type", KEPT)
def test_a_cache_has_the_bytes_of_transformers(model_type):
    from transformers import AutoConfig, AutoModelForCausalLM

    given = AutoConfig.for_model(model_type, **KEPT[model_type])
    model = AutoModelForCausalLM.from_config(given).eval()
    config = KEPT[model_type] | {"model_type": model_type}
    if model_type == "mamba":
        config["intermediate_size"] = given.intermediate_size
    if config.get("sliding_window"):
        config["sliding_window"] -= 1
    for length in (4, 12):
        with torch.no_grad():
            output = model(torch.zeros(1, length, dtype=torch.long), use_cache=True)
        layers = output["cache_params" if "cache_params" in output else "past_key_values"].layers
        tensors = [
            tensor
            for layer in layers
            for name in ("keys", "values", "conv_states", "recurrent_states")
            for tensor in _tensors(getattr(layer, name, None))
        ]
        assert sum(tensor.nbytes for tensor in tensors) == oracle.cache_bytes(config, length, torch.float32)


def _tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return list(value.values() if isinstance(value, dict) else value or [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_rwkv_state_has_the_bytes_of_transformers(dtype):
    from transformers import RwkvConfig, RwkvForCausalLM

    model = RwkvForCausalLM(RwkvConfig(vocab_size=31, hidden_size=16, num_hidden_layers=3)).to(dtype).eval()
    with torch.no_grad():
        state = model(torch.zeros(1, 4, dtype=torch.long), use_cache=True).state
    config = {"model_type": "rwkv", "hidden_size": 16, "num_hidden_layers": 3}
    assert sum(tensor.nbytes for tensor in state) == oracle.cache_bytes(config, 4, dtype)


def test_the_published_configurations_are_those_of_transformers():
    """Each builds the configuration that it names, and every field of the file keeps its value there."""
    from transformers import AutoConfig

    paths = sorted((Path(__file__).parents[2] / "exercises" / "week1" / "configs").glob("*.json"))
    assert len(paths) == 5
    for path in paths:
        fields = json.loads(path.read_text("utf-8"))
        config = AutoConfig.for_model(**fields)
        renamed = {"rope_theta", "rope_scaling"}  # now in rope_parameters
        differing = {name for name, value in fields.items() if getattr(config, name, None) != value} - renamed
        assert not differing, (path.name, differing)
