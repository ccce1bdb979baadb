"""transformers' Mamba, without its kernels."""

from transformers import DynamicCache, MambaConfig, MambaForCausalLM
from transformers.models.mamba.modeling_mamba import MambaMixer


def _cache(config, states, begun):
    """A cache that writes to these states; `begun`: whether they already hold a past."""
    cache = DynamicCache(config=config)
    for layer, (conv_state, ssm_state) in zip(cache.layers, states, strict=True):
        layer.conv_states[0], layer.recurrent_states[0] = conv_state, ssm_state
        layer.conv_kernel_size[0] = conv_state.size(-1)
        layer.is_conv_states_initialized[0] = layer.is_recurrent_states_initialized[0] = True
        layer.has_previous_state[0] = begun
    return cache


def _new_states(config, weight, batch_size, dtype):
    """The states that a cache creates when it is first written to."""
    sizes = (config.conv_kernel, config.state_size)
    return tuple(weight.new_zeros(batch_size, config.intermediate_size, size, dtype=dtype) for size in sizes)


class Mamba(MambaMixer):
    def __init__(
        self,
        d_model,
        d_state=16,
        d_conv=4,
        expand=2,
        dt_rank="auto",
        dt_min=0.001,
        dt_max=0.1,
        dt_init="random",
        dt_scale=1.0,
        dt_init_floor=1e-4,
        conv_bias=True,
        bias=False,
    ):
        config = MambaConfig(
            hidden_size=d_model,
            state_size=d_state,
            num_hidden_layers=1,
            conv_kernel=d_conv,
            expand=expand,
            time_step_rank=dt_rank,
            time_step_min=dt_min,
            time_step_max=dt_max,
            time_step_init_scheme=dt_init,
            time_step_scale=dt_scale,
            time_step_floor=dt_init_floor,
            use_conv_bias=conv_bias,
            use_bias=bias,
        )
        super().__init__(config, layer_idx=0)

    def forward(self, hidden_states, states=None):
        cache = None if states is None else _cache(self.config, [states], begun=False)
        return super().forward(hidden_states, cache_params=cache)

    def step(self, hidden_states, conv_state, ssm_state):
        cache = _cache(self.config, [(conv_state, ssm_state)], begun=True)
        return super().forward(hidden_states, cache_params=cache), conv_state, ssm_state

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None):
        return _new_states(self.config, self.D, batch_size, dtype)


class MambaLM(MambaForCausalLM):
    def __init__(self, config):
        if not isinstance(config, MambaConfig):
            fields = vars(config).items()
            config = MambaConfig(**{name: value for name, value in fields if name in MambaConfig.__dataclass_fields__})
        super().__init__(config)

    def forward(self, input_ids, states=None):
        cache = None if states is None else _cache(self.config, states.values(), begun=False)
        return super().forward(input_ids, cache_params=cache, use_cache=states is not None).logits

    def step(self, input_ids, states):
        cache = _cache(self.config, states.values(), begun=True)
        return super().forward(input_ids, cache_params=cache, use_cache=True).logits, states

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None):
        weight = self.lm_head.weight
        blocks = range(self.config.num_hidden_layers)
        return {block: _new_states(self.config, weight, batch_size, dtype) for block in blocks}
