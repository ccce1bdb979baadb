"""RWKV-4: Peng et al. 2023, "RWKV: Reinventing RNNs for the Transformer Era" (arXiv:2305.13048).

Sizes in the shapes below: B batch, T tokens, H hidden width, C channels of the time mixing, I inner width of the
channel mixing, N layers, V vocabulary.

A `config` is any object that has the fields of a `transformers.RwkvConfig` as attributes: hidden_size (H),
attention_hidden_size (C), intermediate_size (I), num_hidden_layers (N), vocab_size (V), layer_norm_epsilon.

What the modules remember between calls is a list of five tensors, as in `transformers`, one slice a layer:
[0] (B, H, N), the last token that the channel mixing saw, and [1] (B, H, N), the one that the time mixing saw, both of
the dtype of the hidden states; [2], [3] and [4], (B, C, N), the state of `wkv`. A new sequence begins with zeros in the
first four and with the lowest numbers, or -inf, in the last.
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
    """In every channel an average of the values so far: older ones count less, the present one has a bonus.

    With the decay w = exp(time_decay) > 0 and the bonus u = time_first, for each token t = 1 … T,

        wkv_t = (Σ_{i<t} e^(k_i - (t-1-i) w) v_i + e^(k_t + u) v_t) / (Σ_{i<t} e^(k_i - (t-1-i) w) + e^(k_t + u))

    one token after the other, with a state of fixed size: the RNN form. Computed in float32, in float64 for float64
    keys. Exponents may be of any size, keys of ±100 and decays from 0 to "at once", without overflow.

    Args:
        time_decay: (C,), the logarithm of w.
        time_first: (C,), u.
        key: (B, T, C), float16, bfloat16, float32 or float64, contiguous or not. T ≥ 1.
        value: (B, T, C), of key's dtype.
        state: what came before this sequence: numerator, denominator and maximum, (B, C) each, float32, or float64 for
            float64 keys. They stand for the sums numerator · e^maximum and denominator · e^maximum, in which the last
            token has not decayed yet. None: nothing came before, which 0, 0 and a maximum of -1e38 say as well. Left
            as it was.
        return_state: whether to return the state after the last token.

    Returns:
        output: (B, T, C), of key's dtype. Differentiable in all arguments, the tensors of state among them.
        state: of the same form as the argument, where `return_state` or `state` is given, otherwise None. How a sum is
            shared between its factor and the maximum is left open, as long as both stay finite. (The maximum of an
            empty state may be -inf.)
    """
    dtype = torch.promote_types(key.dtype, torch.float32)
    decay, bonus = torch.exp(time_decay.to(dtype)), time_first.to(dtype)  # w and u, (C,) each
    past = state
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

    In each channel wkv_t is an attention over the tokens i ≤ t, whose scores are k_i - (t-1-i) w, and k_t + u for the
    token itself. Nothing here goes from token to token: the number of operations does not grow with T.

    Args: as for `wkv`.

    Returns:
        (B, T, C), of key's dtype. Differentiable in all arguments.
    """
    dtype = torch.promote_types(key.dtype, torch.float32)
    decay, bonus = torch.exp(time_decay.to(dtype)), time_first.to(dtype)  # w and u, (C,) each
    position = torch.arange(key.size(1), device=key.device)
    age = position[:, None] - 1 - position  # t-1-i, (T, T); -1 for the token itself, less for those to come
    bias = torch.where((age == -1)[..., None], bonus, -age[..., None] * decay)  # (T, T, C)
    bias = bias.masked_fill((age < -1)[..., None], -math.inf)
    weights = torch.softmax(key.to(dtype)[:, None] + bias, dim=2)  # (B, t, i, C)
    return torch.einsum("btic,bic->btc", weights, value.to(dtype)).to(key.dtype)


class TimeMix(nn.Module):
    """Where tokens meet: `RwkvSelfAttention` of `transformers`, whose weights it loads.

    Key, value and receptance are each made from the token x_t mixed with the one before it, μ ⊙ x_t + (1-μ) ⊙ x_{t-1},
    with a μ of their own; before the first token there are zeros. Then

        output_t = W_o (sigmoid(r_t) ⊙ wkv_t)

    State dict: time_decay (C,), time_first (C,); time_mix_key, time_mix_value, time_mix_receptance (1, 1, H), the μ;
    key.weight, value.weight, receptance.weight (C, H); output.weight (H, C). With what numbers they begin is left open.

    Args:
        config: hidden_size and attention_hidden_size.
        layer_id: which slice of the state is this layer's.
    """

    def __init__(self, config: Any, layer_id: int = 0) -> None:
        super().__init__()
        hidden_size, channels = config.hidden_size, config.attention_hidden_size
        self.layer_id = layer_id
        self.time_decay = nn.Parameter(torch.linspace(-5, 3, channels))  # half forgotten after 100 tokens … at once
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
            state: the five tensors after the tokens before these, or None where these are the first.
            use_cache: as in `transformers`, what `wkv` gets for return_state. A state that is given is always brought
                up to date.

        Returns:
            output: (B, T, H).
            state: None if None was given. Otherwise the five tensors after the last token, in which this layer's slices
                of [1], [2], [3] and [4] are new and all else is as it was. Whether they are the tensors that were
                given, written to in place, is left open: go on with those that are returned.
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
    """Where channels meet: `RwkvFeedForward` of `transformers`, whose weights it loads.

    Key and receptance are made from mixed tokens as in `TimeMix`; then

        output_t = sigmoid(r_t) ⊙ (W_v relu(k_t)²)

    State dict: time_mix_key, time_mix_receptance (1, 1, H); key.weight (I, H), receptance.weight (H, H), value.weight
    (H, I). With what numbers they begin is left open.

    Args:
        config: hidden_size and intermediate_size.
        layer_id: which slice of the state is this layer's.
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
        """Mix the channels of each token, and of the one before it.

        Args:
            hidden: (B, T, H), T ≥ 1.
            state: as for `TimeMix`.

        Returns:
            output: (B, T, H).
            state: as for `TimeMix`; new is this layer's slice of [0].
        """
        before = None if state is None else state[0][..., self.layer_id]
        shifted = _shift(hidden, before)
        key = self.key(_mix(hidden, shifted, self.time_mix_key))  # (B, T, I)
        receptance = torch.sigmoid(self.receptance(_mix(hidden, shifted, self.time_mix_receptance)))  # (B, T, H)
        if state is not None:
            state = _write(state, self.layer_id, {0: hidden[:, -1]})
        return receptance * self.value(torch.relu(key).square()), state


class RwkvLM(nn.Module):
    """The whole language model: loads the state dict of `transformers.RwkvForCausalLM` and gives its logits.

    Embedding; N blocks, of which the first begins with a LayerNorm more; a last LayerNorm; a linear layer to the
    vocabulary. A block adds time mixing of its normed input, then channel mixing of the normed result:

        x = pre_ln(x)                                        only in block 0
        x = x + attention(ln1(x))
        x = x + feed_forward(ln2(x))

    State dict: rwkv.embeddings.weight (V, H); for each block i, under rwkv.blocks.i, pre_ln (block 0 only), ln1 and ln2
    with weight and bias (H,), attention as `TimeMix` and feed_forward as `ChannelMix`; rwkv.ln_out.weight and .bias
    (H,); head.weight (V, H), a matrix of its own. The norms use layer_norm_epsilon, but for rwkv.ln_out, which has 1e-5
    whatever the configuration says. `rescale_every` is not used: in transformers it keeps float16 from overflowing.

    Args:
        config: all fields that are named at the top of the file.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.rwkv = _Rwkv(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self, input_ids: Tensor, state: list[Tensor] | None = None, use_cache: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """The logits of the next token after each token.

        A text in pieces, each with the state that the one before returned, down to pieces of one token, gives the same
        logits as the whole text at once.

        Args:
            input_ids: (B, T), int64, T ≥ 1.
            state: what the call before returned, or what `transformers` returns; None at the beginning of a text.
            use_cache: whether to return the state after the last token.

        Returns:
            logits, (B, T, V), or with use_cache (logits, state). As in `TimeMix` the state that was given may have
            been written to.
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
    """What lies under the head."""

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
    """Σ e^x v and Σ e^x with one more term, as factors of e^maximum, so that no exponential is larger than 1."""
    numerator, denominator, maximum = sums
    highest = torch.maximum(maximum, exponent)
    old, new = torch.exp(maximum - highest), torch.exp(exponent - highest)
    return [old * numerator + new * value, old * denominator + new, highest]


def _shift(hidden: Tensor, before: Tensor | None) -> Tensor:
    """For each token the one before it, (B, T, H); for the first `before` (B, H), or zeros."""
    if before is None:
        before = torch.zeros_like(hidden[:, 0])
    return torch.cat([before[:, None], hidden[:, :-1]], dim=1)


def _mix(hidden: Tensor, shifted: Tensor, mix: Tensor) -> Tensor:
    return mix * hidden + (1 - mix) * shifted


def _new_mix(hidden_size: int) -> nn.Parameter:
    return nn.Parameter(torch.linspace(0, 1, hidden_size).view(1, 1, -1))


def _write(state: list[Tensor], layer_id: int, slices: dict[int, Tensor]) -> list[Tensor]:
    """The state with one layer's slices replaced; new tensors, so that gradients may flow from call to call."""
    return [
        each.select_scatter(slices[number], -1, layer_id) if number in slices else each
        for number, each in enumerate(state)
    ]
