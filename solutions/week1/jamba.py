"""Jamba: Lieber et al. 2024, "Jamba: A Hybrid Transformer-Mamba Language Model" (arXiv:2403.19887), section 3.

Sizes in the shapes below: B batch, L tokens of this call, S tokens including those in the cache, V vocabulary size,
E = hidden_size, H = num_attention_heads, H_kv = num_key_value_heads, D = mamba_expand · E channels of a Mamba layer,
N = mamba_d_state, R = mamba_dt_rank, W = mamba_d_conv.

A `config` is any object that has the fields of a model's published config.json as attributes. There are such files in
exercises/week1/configs; `SimpleNamespace(**json.loads(path.read_text()))` turns one into a config.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .decoder_llm import KVCache, swiglu
from .moe import SparseMoeBlock
from .selective_scan import causal_conv1d, selective_scan_chunked, selective_state_update
from .self_attention import scaled_dot_product_attention


def layer_schedule(
    num_layers: int,
    attn_layer_period: int = 8,
    attn_layer_offset: int = 4,
    expert_layer_period: int = 2,
    expert_layer_offset: int = 1,
) -> list[tuple[str, str]]:
    """The composition of each layer: figure 2 of the paper.

    Layer i, counted from 0, mixes tokens by attention if i % attn_layer_period == attn_layer_offset, and otherwise by
    Mamba. It has experts if i % expert_layer_period == expert_layer_offset, and otherwise a single feed-forward
    network.

    Args:
        num_layers: the number of layers; it may be 0.

    Returns:
        num_layers pairs ("attention" or "mamba", "moe" or "mlp").

    Raises:
        ValueError: an offset is not between 0 and its period - 1; the message names both numbers.
    """
    for kind, period, offset in (
        ("attn", attn_layer_period, attn_layer_offset),
        ("expert", expert_layer_period, expert_layer_offset),
    ):
        if not 0 <= offset < period:
            raise ValueError(
                f"{kind}_layer_offset={offset} must be at least 0 and less than {kind}_layer_period={period}"
            )
    return [
        (
            "attention" if i % attn_layer_period == attn_layer_offset else "mamba",
            "moe" if i % expert_layer_period == expert_layer_offset else "mlp",
        )
        for i in range(num_layers)
    ]


def cache_bytes(config: Any, context_length: int, dtype: torch.dtype) -> int:
    """Bytes that one sequence of context_length tokens occupies between two steps of generation.

    By config.model_type:

    - "llama", "qwen2", "mistral", "mixtral": keys and values: num_key_value_heads heads for each token and layer, each
      head_dim wide, or hidden_size / num_attention_heads if head_dim is missing or None. A layer with a sliding window
      keeps at most the last sliding_window tokens: every layer of "mistral" and "mixtral" if sliding_window is present
      and not None; in "qwen2", if use_sliding_window is true, the layers from max_window_layers on (counted from 0).
    - "mamba": each layer has intermediate_size channels, each with the last conv_kernel inputs of the convolution and a
      state of state_size numbers, all of dtype, as `mamba_ssm` allocates them. Independent of context_length.
    - "rwkv" (RWKV-4): five vectors of hidden_size per layer. The two of the token shift have dtype; the three of the
      recurrence (numerator, denominator, largest exponent) are float32, as in `transformers`. Independent of
      context_length.
    - "jamba": layers by `layer_schedule`, attention layers as in "llama", Mamba layers as in "mamba" with
      mamba_expand · hidden_size channels, mamba_d_conv and mamba_d_state.

    Args:
        config: the fields named above, and num_hidden_layers.
        context_length: tokens read, at least 1.
        dtype: of the model.

    Raises:
        ValueError: any other model_type; the message names it.
    """
    layers = config.num_hidden_layers
    match config.model_type:
        case "llama" | "qwen2" | "mistral" | "mixtral":
            tokens = sum(_tokens_kept(config, layer, context_length) for layer in range(layers))
            return tokens * _kv_numbers(config) * dtype.itemsize
        case "mamba":
            return layers * config.intermediate_size * (config.conv_kernel + config.state_size) * dtype.itemsize
        case "rwkv":
            return layers * config.hidden_size * (2 * dtype.itemsize + 3 * torch.float32.itemsize)
        case "jamba":
            attending = [mixer for mixer, _ in _schedule_of(config)].count("attention")
            channels = config.mamba_expand * config.hidden_size
            state = channels * (config.mamba_d_conv + config.mamba_d_state)
            kept = attending * context_length * _kv_numbers(config) + (layers - attending) * state
            return kept * dtype.itemsize
        case other:
            raise ValueError(
                f"config.model_type={other!r} must be llama, qwen2, mistral, mixtral, mamba, rwkv or jamba"
            )


class JambaLM(nn.Module):
    """The language model: token embeddings, layers by `layer_schedule`, a final norm, and logits over the vocabulary.

    Interchangeable with `JambaForCausalLM` of `transformers`: the same state dict, the same logits in one whole pass.

    A layer is x + Mixer(RMSNorm(x)), then x + FeedForward(RMSNorm(x)). Attention is causal and has no position
    encodings of any kind, no biases, and H_kv ≤ H key/value heads. The Mamba mixer is Mamba's, with A = -exp(A_log) in
    float32 in a 16-bit model, and one addition: the outputs of x_proj, Δ (R channels), B (N) and C (N) in this order,
    each go through an RMSNorm, before dt_proj. The sparse feed-forward layers are `SparseMoeBlock`s, whose weights are
    not renormalised; with num_experts 1 all layers are dense.

    State dict: model.embed_tokens.weight, model.final_layernorm.weight, lm_head.weight and, under model.layers.i with
    i counting from 0: input_layernorm.weight and pre_ff_layernorm.weight; self_attn.{q,k,v,o}_proj.weight, or
    mamba.A_log (D, N), mamba.D (D,), mamba.{in,x,dt,out}_proj.weight, mamba.dt_proj.bias, mamba.conv1d.weight
    (D, 1, W) and mamba.{dt,b,c}_layernorm.weight; feed_forward.{gate,up,down}_proj.weight, or
    feed_forward.router.weight and feed_forward.experts.{gate_up,down}_proj. With mamba_conv_bias also
    mamba.conv1d.bias, with mamba_proj_bias also mamba.{in,out}_proj.bias. With tie_word_embeddings, lm_head.weight and
    model.embed_tokens.weight are the same parameter under two names. The initial weights of a new model are up to you.

    Args:
        config: a `JambaConfig`, or any object with the fields of a published Jamba's config.json. Its activation is
            silu, without dropout.

    Raises:
        ValueError: an offset is one that `layer_schedule` rejects.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.model = _Jamba(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: Any = None,
        use_cache: bool = False,
    ) -> Tensor | tuple[Tensor, Any]:
        """Logits for the token after each of input_ids.

        Args:
            input_ids: (B, L), int64, L ≥ 1, contiguous or not. With a cache, the tokens that follow those in it.
            attention_mask: (B, S), integer or bool, S = tokens in the cache + L: 1 or True for a token, 0 or False for
                padding, which is on the left. Padding does not affect the other logits, with or without the cache; the
                logits at padding are unspecified. None: no padding.
            cache: the cache that an earlier call returned; None begins a new text. It may be modified: use the newest.
            use_cache: also return the cache. A text read in chunks of any lengths, or token by token, yields the same
                logits as in one pass, up to rounding. Nothing is read twice: for a Mamba layer, a further token costs
                the same after any number of tokens, in work and in what the cache holds. An attention layer's work
                grows with S, and it holds H_kv heads of keys and values for each token.

        Returns:
            (B, L, V), in the dtype of the parameters, which may be float16, bfloat16, float32 or float64 (then norms,
            routers and scans may still be computed in float32); with use_cache the pair (logits, cache). A whole pass
            is differentiable; a pass that continues from a cache need not be.
        """
        if use_cache and cache is None:
            cache = _Cache()
        logits = self.lm_head(self.model(input_ids, attention_mask, cache))
        return (logits, cache) if use_cache else logits


class _Cache:
    """Everything a model keeps of the tokens it has read: keys and values, which grow, and states, which do not."""

    def __init__(self) -> None:
        self.attention = KVCache()
        self.mamba: dict[int, tuple[Tensor, Tensor]] = {}  # by layer: (B, D, W - 1) inputs and (B, D, N) state


class _Jamba(nn.Module):
    """Everything except the logits."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config, i, *kinds) for i, kinds in enumerate(_schedule_of(config)))
        self.final_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, cache: _Cache | None) -> Tensor:
        """(B, L) -> (B, L, E)."""
        real = None if attention_mask is None else attention_mask.bool()  # (B, S)
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = layer(x, real, cache)
        return self.final_layernorm(x)


class _Layer(nn.Module):
    def __init__(self, config: Any, index: int, mixer: str, feed_forward: str) -> None:
        super().__init__()
        self.mixer = mixer
        if mixer == "attention":
            self.self_attn = _Attention(config, index)
        else:
            self.mamba = _Mamba(config, index)
        sparse = feed_forward == "moe" and config.num_experts > 1
        self.feed_forward = SparseMoeBlock(config) if sparse else _FeedForward(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.pre_ff_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, real: Tensor | None, cache: _Cache | None) -> Tensor:
        mix = self.self_attn if self.mixer == "attention" else self.mamba
        x = x + mix(self.input_layernorm(x), real, cache)
        return x + self.feed_forward(self.pre_ff_layernorm(x))


class _Attention(nn.Module):
    """Causal attention without position encodings: the Mamba layers below it are aware of order."""

    def __init__(self, config: Any, index: int) -> None:
        super().__init__()
        self.index = index  # of the layer, in the cache
        self.head_dim = _head_dim(config)
        query_width = config.num_attention_heads * self.head_dim
        key_width = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, key_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, key_width, bias=False)
        self.o_proj = nn.Linear(query_width, config.hidden_size, bias=False)

    def forward(self, x: Tensor, real: Tensor | None, cache: _Cache | None) -> Tensor:
        """(B, L, E) -> (B, L, E)."""
        q, k, v = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, H or H_kv, L, width of a head)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if cache is not None:
            k, v = cache.attention.update(k, v, self.index)  # (B, H_kv, S, width of a head)
        length, total = q.size(-2), k.size(-2)
        visible = torch.ones(length, total, dtype=torch.bool, device=x.device).tril(total - length)  # (L, S)
        if real is not None:
            visible = visible & real[:, None, None, :]  # (B, 1, L, S)
        heads = scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=True)
        return self.o_proj(heads.transpose(1, 2).flatten(2))


class _Mamba(nn.Module):
    """Mamba's mixer with RMSNorms on Δ, B and C: section 6.4 of the paper."""

    def __init__(self, config: Any, index: int) -> None:
        super().__init__()
        self.index = index  # of the layer, in the cache
        channels, states, rank = config.mamba_expand * config.hidden_size, config.mamba_d_state, config.mamba_dt_rank
        width, eps = config.mamba_d_conv, config.rms_norm_eps
        self.sizes = [rank, states, states]  # of Δ, B and C
        self.in_proj = nn.Linear(config.hidden_size, 2 * channels, bias=config.mamba_proj_bias)
        self.conv1d = nn.Conv1d(channels, channels, width, groups=channels, bias=config.mamba_conv_bias)
        self.x_proj = nn.Linear(channels, sum(self.sizes), bias=False)
        self.dt_layernorm, self.b_layernorm, self.c_layernorm = (nn.RMSNorm(size, eps) for size in self.sizes)
        self.dt_proj = nn.Linear(rank, channels)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(channels, 1))  # (D, N)
        self.D = nn.Parameter(torch.ones(channels))
        self.out_proj = nn.Linear(channels, config.hidden_size, bias=config.mamba_proj_bias)

    def forward(self, hidden_states: Tensor, real: Tensor | None, cache: _Cache | None) -> Tensor:
        """(B, L, E) -> (B, L, E)."""
        x, z = self.in_proj(hidden_states).mT.chunk(2, dim=1)  # (B, D, L) each
        inputs, state = (None, None) if cache is None else cache.mamba.get(self.index, (None, None))
        # Padding must not reach the convolution or, through the convolution's bias, the state.
        padding = None if real is None else ~real[:, None, -x.size(-1) :]  # (B, 1, L)
        x, inputs = causal_conv1d(
            _without(padding, x), self.conv1d.weight.squeeze(1), self.conv1d.bias, inputs, True, "silu"
        )
        x = _without(padding, x)

        dt, B, C = self.x_proj(x.mT).split(self.sizes, dim=-1)  # (B, L, R), (B, L, N), (B, L, N)
        dt = F.linear(self.dt_layernorm(dt), self.dt_proj.weight).mT  # (B, D, L); the scan adds the bias
        y, state = self._scan(x, dt, self.b_layernorm(B).mT, self.c_layernorm(C).mT, z, state)  # (B, D, L), (B, D, N)
        if cache is not None:
            cache.mamba[self.index] = inputs, state
        return self.out_proj(y.mT)

    def _scan(
        self, x: Tensor, dt: Tensor, B: Tensor, C: Tensor, z: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The output (B, D, L) and the last state (B, D, N). `state` is overwritten."""
        A = -torch.exp(self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)))
        D, bias = self.D, self.dt_proj.bias
        if state is None:
            y, state = selective_scan_chunked(x, dt, A, B, C, D, z, bias, delta_softplus=True, return_last_state=True)
            return y, state
        # The scan always starts from zeros, so a state is continued step by step.
        steps = zip(*(each.unbind(-1) for each in (x, dt, B, C, z)), strict=True)
        ys = [
            selective_state_update(state, x_t, dt_t, A, B_t, C_t, D, z_t, bias, dt_softplus=True)
            for x_t, dt_t, B_t, C_t, z_t in steps
        ]
        return torch.stack(ys, dim=-1), state


class _FeedForward(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return swiglu(x, self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)


def _without(padding: Tensor | None, x: Tensor) -> Tensor:
    """x with zeros in place of padding."""
    return x if padding is None else x.masked_fill(padding, 0)


def _schedule_of(config: Any) -> list[tuple[str, str]]:
    return layer_schedule(
        config.num_hidden_layers,
        config.attn_layer_period,
        config.attn_layer_offset,
        config.expert_layer_period,
        config.expert_layer_offset,
    )


def _head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _kv_numbers(config: Any) -> int:
    """Size of the keys and values of one token in one layer, in numbers."""
    return 2 * config.num_key_value_heads * _head_dim(config)


def _tokens_kept(config: Any, layer: int, context_length: int) -> int:
    """Tokens whose keys and values a layer keeps."""
    window = getattr(config, "sliding_window", None)
    slides = config.model_type in ("mistral", "mixtral") or (
        config.model_type == "qwen2" and config.use_sliding_window and layer >= config.max_window_layers
    )
    return min(context_length, window) if slides and window is not None else context_length
