"""RWKV-4: Peng et al. 2023, "RWKV: Reinventing RNNs for the Transformer Era" (arXiv:2305.13048).

Sizes in the shapes below: B batch, T tokens, H hidden width, C channels of the time mixing, I inner width of the
channel mixing, N layers, V vocabulary size.

A `config` is any object that has the fields of a `transformers.RwkvConfig` as attributes: hidden_size (H),
attention_hidden_size (C), intermediate_size (I), num_hidden_layers (N), vocab_size (V), layer_norm_epsilon.

The state of the modules between calls is a list of five tensors, as in `transformers`, with one slice per layer:
[0] (B, H, N), the last token seen by the channel mixing, and [1] (B, H, N), the last token seen by the time mixing,
both in the dtype of the hidden states; [2], [3] and [4], (B, C, N), the state of `wkv`. A new sequence begins with
zeros in the first four and with the lowest numbers, or -inf, in the last.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def wkv(
    time_decay: Tensor,
    time_first: Tensor,
    key: Tensor,
    value: Tensor,
    state: list[Tensor] | None = None,
    return_state: bool = False,
) -> tuple[Tensor, list[Tensor] | None]:
    """A running average of values in each channel: older values count less, the present one has a bonus.

    With the decay w = exp(time_decay) > 0 and the bonus u = time_first, for each token t = 1 … T,

        wkv_t = (Σ_{i<t} e^(k_i - (t-1-i) w) v_i + e^(k_t + u) v_t) / (Σ_{i<t} e^(k_i - (t-1-i) w) + e^(k_t + u))

    one token after another, with a state of fixed size: the RNN form. Computed in float32, for float64 keys in float32
    or float64. Exponents of any size do not overflow: keys of ±100, decays from 0 to "at once".

    Args:
        time_decay: (C,), the logarithm of w.
        time_first: (C,), u.
        key: (B, T, C), float16, bfloat16, float32 or float64, contiguous or not. T ≥ 1.
        value: (B, T, C), of key's dtype.
        state: the past of this sequence: numerator, denominator and maximum, (B, C) each, float32, or float64 if you
            compute in it. They represent the sums numerator · e^maximum and denominator · e^maximum, in which the last
            token has not decayed yet. None: no past, which can also be given as 0, 0 and a maximum of -1e38. Left
            unchanged.
        return_state: whether to return the state after the last token.

    Returns:
        output: (B, T, C), of key's dtype. Differentiable with respect to all arguments, including the tensors of state.
        state: in the same form as the argument if return_state is True or a state is given, otherwise None. You may
            split a sum between its factor and the maximum in any way, as long as both stay finite. (The maximum of an
            empty state may be -inf.)
    """
    dtype = torch.promote_types(key.dtype, torch.float32)
    decay, bonus = torch.exp(time_decay.to(dtype)), time_first.to(dtype)  # w and u, (C,) each
    past = state  # numerator, denominator and maximum, (B, C) each
    if past is None:
        nothing = torch.zeros_like(key[:, 0], dtype=dtype)  # (B, C)
        past = [nothing, nothing, torch.full_like(nothing, -math.inf)]
    outputs = []
    for k, v in zip(key.to(dtype).unbind(1), value.to(dtype).unbind(1), strict=True):  # (B, C) each
        numerator, denominator, _ = _add_term(past, k + bonus, v)
        outputs.append(numerator / denominator)
        numerator, denominator, maximum = past
        past = _add_term([numerator, denominator, maximum - decay], k, v)
    return torch.stack(outputs, dim=1).to(key.dtype), past if return_state or state is not None else None


def wkv_parallel(time_decay: Tensor, time_first: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`wkv` of whole sequences for all tokens at once: the attention-like form.

    In each channel, wkv_t is an attention over the tokens i ≤ t with the scores k_i - (t-1-i) w, and k_t + u for the
    token itself. There is no loop over tokens: the number of operations does not grow with T.

    Args: as for `wkv`.

    Returns:
        (B, T, C), of key's dtype. Differentiable with respect to all arguments.
    """
    dtype = torch.promote_types(key.dtype, torch.float32)
    decay, bonus = torch.exp(time_decay.to(dtype)), time_first.to(dtype)  # w and u, (C,) each
    position = torch.arange(key.size(1), device=key.device)
    age = position[:, None] - 1 - position  # t-1-i, (T, T); -1 for the token itself, lower for later ones
    bias = torch.where((age == -1)[..., None], bonus, -age[..., None] * decay)  # (T, T, C)
    bias = bias.masked_fill((age < -1)[..., None], -math.inf)
    weights = torch.softmax(key.to(dtype)[:, None] + bias, dim=2)  # (B, t, i, C)
    return torch.einsum("btic,bic->btc", weights, value.to(dtype)).to(key.dtype)


class TimeMix(nn.Module):
    """The layer that mixes tokens: `RwkvSelfAttention` of `transformers`, whose weights it loads.

    Key, value and receptance are each computed from the token x_t mixed with the one before it,
    μ ⊙ x_t + (1-μ) ⊙ x_{t-1}, each with its own μ; before the first token there are zeros. Then

        output_t = W_o (sigmoid(r_t) ⊙ wkv_t)

    State dict: time_decay (C,), time_first (C,); time_mix_key, time_mix_value, time_mix_receptance (1, 1, H), the μ;
    key.weight, value.weight, receptance.weight (C, H); output.weight (H, C). Their initial values are up to you.

    Args:
        config: hidden_size and attention_hidden_size.
        layer_id: index of this layer's slice of the state.
    """

    def __init__(self, config: Any, layer_id: int = 0) -> None:
        super().__init__()
        hidden_size, channels = config.hidden_size, config.attention_hidden_size
        self.layer_id = layer_id
        self.time_decay = nn.Parameter(torch.linspace(-5, 3, channels))  # half-lives from 100 tokens to almost none
        self.time_first = nn.Parameter(torch.full((channels,), math.log(0.3)))
        self.time_mix_key = _new_mix(hidden_size)
        self.time_mix_value = _new_mix(hidden_size)
        self.time_mix_receptance = _new_mix(hidden_size)
        self.key = nn.Linear(hidden_size, channels, bias=False)
        self.value = nn.Linear(hidden_size, channels, bias=False)
        self.receptance = nn.Linear(hidden_size, channels, bias=False)
        self.output = nn.Linear(channels, hidden_size, bias=False)

    def forward(
        self, hidden: Tensor, state: list[Tensor] | None = None, use_cache: bool = False
    ) -> tuple[Tensor, list[Tensor] | None]:
        """Mix each token with those before it.

        Args:
            hidden: (B, T, H), T ≥ 1.
            state: the five tensors after the preceding tokens, or None if there are none.
            use_cache: as in `transformers`, `wkv`'s return_state. If a state is given, it is always updated.

        Returns:
            output: (B, T, H).
            state: None if None was given. Otherwise the five tensors after the last token, in which this layer's slices
                of [1], [2], [3] and [4] are new and everything else is unchanged. They may be the tensors that were
                given, modified in place: continue with the ones returned.
        """
        before = None if state is None else state[1][..., self.layer_id]
        shifted = _shift(hidden, before)
        key = self.key(_mix(hidden, shifted, self.time_mix_key))  # (B, T, C)
        value = self.value(_mix(hidden, shifted, self.time_mix_value))  # (B, T, C)
        receptance = torch.sigmoid(self.receptance(_mix(hidden, shifted, self.time_mix_receptance)))  # (B, T, C)

        past = None if state is None else [each[..., self.layer_id] for each in state[2:]]
        average, past = wkv(self.time_decay, self.time_first, key, value, past, use_cache)
        if state is not None and past is not None:
            state = _write(state, self.layer_id, {1: hidden[:, -1], 2: past[0], 3: past[1], 4: past[2]})
        return self.output(receptance * average), state


class ChannelMix(nn.Module):
    """The layer that mixes channels: `RwkvFeedForward` of `transformers`, whose weights it loads.

    Key and receptance are computed from mixed tokens as in `TimeMix`; then

        output_t = sigmoid(r_t) ⊙ (W_v relu(k_t)²)

    State dict: time_mix_key, time_mix_receptance (1, 1, H); key.weight (I, H), receptance.weight (H, H), value.weight
    (H, I). Their initial values are up to you.

    Args:
        config: hidden_size and intermediate_size.
        layer_id: index of this layer's slice of the state.
    """

    def __init__(self, config: Any, layer_id: int = 0) -> None:
        super().__init__()
        self.layer_id = layer_id
        self.time_mix_key = _new_mix(config.hidden_size)
        self.time_mix_receptance = _new_mix(config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.receptance = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.value = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor] | None]:
        """Mix the channels of each token and the one before it.

        Args:
            hidden: (B, T, H), T ≥ 1.
            state: as for `TimeMix`.

        Returns:
            output: (B, T, H).
            state: as for `TimeMix`, except that only this layer's slice of [0] is new.
        """
        before = None if state is None else state[0][..., self.layer_id]
        shifted = _shift(hidden, before)
        key = self.key(_mix(hidden, shifted, self.time_mix_key))  # (B, T, I)
        receptance = torch.sigmoid(self.receptance(_mix(hidden, shifted, self.time_mix_receptance)))  # (B, T, H)
        if state is not None:
            state = _write(state, self.layer_id, {0: hidden[:, -1]})
        return receptance * self.value(torch.relu(key).square()), state


class RwkvLM(nn.Module):
    """The whole language model: it loads the state dict of `transformers.RwkvForCausalLM` and returns the same logits.

    Embedding; N blocks, the first of which begins with an additional LayerNorm; a final LayerNorm; a linear layer to
    the vocabulary. A block adds the time mixing of its normalised input, then the channel mixing of the normalised
    result:

        x = pre_ln(x)                                        only in block 0
        x = x + attention(ln1(x))
        x = x + feed_forward(ln2(x))

    State dict: rwkv.embeddings.weight (V, H); for each block i, under rwkv.blocks.i, pre_ln (block 0 only), ln1 and ln2
    with weight and bias (H,), attention as `TimeMix` and feed_forward as `ChannelMix`; rwkv.ln_out.weight and .bias
    (H,); head.weight (V, H), not tied to the embedding. The norms use layer_norm_epsilon, except rwkv.ln_out, which
    always uses 1e-5. `rescale_every` is ignored: in transformers it keeps float16 from overflowing.

    Args:
        config: all fields named at the top of the file.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.rwkv = _Rwkv(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self, input_ids: Tensor, state: list[Tensor] | None = None, use_cache: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """The logits for the token after each token.

        A text read in pieces, even of one token each, yields the same logits as the whole text at once, if each call
        receives the state that the previous one returned.

        Args:
            input_ids: (B, T), int64, T ≥ 1.
            state: the state returned by the previous call, or by `transformers`; None at the beginning of a text.
            use_cache: whether to return the state after the last token.

        Returns:
            logits, (B, T, V), or with use_cache (logits, state). As in `TimeMix`, the given state may have been
            modified.
        """
        hidden = self.rwkv.embeddings(input_ids)  # (B, T, H)
        if state is None and use_cache:
            state = self._empty_state(hidden)
        for block in self.rwkv.blocks:
            hidden, state = block(hidden, state)
        logits = self.head(self.rwkv.ln_out(hidden))  # (B, T, V)
        if use_cache and state is not None:
            return logits, state
        return logits

    def _empty_state(self, hidden: Tensor) -> list[Tensor]:
        batch, layers = hidden.size(0), self.config.num_hidden_layers
        last = hidden.new_zeros(batch, self.config.hidden_size, layers)
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        total = hidden.new_zeros(batch, self.config.attention_hidden_size, layers, dtype=dtype)
        return [last, last, total, total, torch.full_like(total, -math.inf)]


class _Rwkv(nn.Module):
    """Everything except the head."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(_Block(config, layer_id) for layer_id in range(config.num_hidden_layers))
        self.ln_out = nn.LayerNorm(config.hidden_size)


class _Block(nn.Module):
    def __init__(self, config: Any, layer_id: int) -> None:
        super().__init__()
        if layer_id == 0:
            self.pre_ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.ln1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.ln2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_epsilon)
        self.attention = TimeMix(config, layer_id)
        self.feed_forward = ChannelMix(config, layer_id)

    def forward(self, hidden: Tensor, state: list[Tensor] | None) -> tuple[Tensor, list[Tensor] | None]:
        if self.attention.layer_id == 0:
            hidden = self.pre_ln(hidden)
        attention, state = self.attention(self.ln1(hidden), state)
        hidden = hidden + attention
        feed_forward, state = self.feed_forward(self.ln2(hidden), state)
        return hidden + feed_forward, state


def _add_term(sums: list[Tensor], exponent: Tensor, value: Tensor) -> list[Tensor]:
    """Add e^exponent to Σ e^x, and e^exponent · value to Σ e^x v.

    Both sums are kept as factors of e^maximum, so that no exponential exceeds 1. All are (B, C).
    """
    numerator, denominator, maximum = sums
    highest = torch.maximum(maximum, exponent)
    old, new = torch.exp(maximum - highest), torch.exp(exponent - highest)
    return [old * numerator + new * value, old * denominator + new, highest]


def _shift(hidden: Tensor, before: Tensor | None) -> Tensor:
    """The token before each token, (B, T, H). Before the first one: `before` (B, H), or zeros."""
    if before is None:
        before = torch.zeros_like(hidden[:, 0])
    return torch.cat([before[:, None], hidden[:, :-1]], dim=1)


def _mix(hidden: Tensor, shifted: Tensor, mix: Tensor) -> Tensor:
    """μ ⊙ x_t + (1-μ) ⊙ x_{t-1}, (B, T, H)."""
    return mix * hidden + (1 - mix) * shifted


def _new_mix(hidden_size: int) -> nn.Parameter:
    return nn.Parameter(torch.linspace(0, 1, hidden_size).view(1, 1, -1))


def _write(state: list[Tensor], layer_id: int, slices: dict[int, Tensor]) -> list[Tensor]:
    """The state with one layer's slices replaced, in new tensors, so that gradients can flow from call to call."""
    return [
        each.select_scatter(slices[number], -1, layer_id) if number in slices else each
        for number, each in enumerate(state)
    ]
