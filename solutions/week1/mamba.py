"""Mamba: Gu & Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (arXiv:2312.00752),
sections 3.4 to 3.6.

Sizes in the shapes below: b batch, l length, E = d_model, d = expand · E channels, n = d_state, w = d_conv,
r = dt_rank, V vocabulary size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .selective_scan import causal_conv1d, selective_scan_chunked, selective_state_update

States = dict[int, tuple[Tensor, Tensor]]  # conv_state and ssm_state of each block of a model, by block number


class Mamba(nn.Module):
    """The block that replaces both attention and the feed-forward network: figure 3 of the paper.

    Interchangeable with `mamba_ssm.Mamba` and with `MambaMixer` of `transformers`: the same state dict and results.

        x, z    = in_proj(hidden_states)                    the path through the state, and its gate
        x       = silu(conv1d(x))                           causal, each channel separately
        δ, B, C = x_proj(x)                                 r, n and n wide: they make the scan selective
        Δ       = softplus(dt_proj(δ))                      the step sizes, d wide
        y       = selective_scan(x, Δ, A, B, C, D, z)       with A = -exp(A_log)
        out     = out_proj(y)

    In a 16-bit block, A is computed in float32 from the 16-bit A_log: an error of 0.2% in a decay grows with each
    position.

    State dict: in_proj.weight (2d, E), whose first d rows produce x and the others z; conv1d.weight (d, 1, w);
    conv1d.bias (d,); x_proj.weight (r + 2n, d), which has no bias; dt_proj.weight (d, r); dt_proj.bias (d,); A_log
    (d, n); D (d,); out_proj.weight (E, d). With bias=True also in_proj.bias (2d,) and out_proj.bias (E,).

    In a new module, A_log holds log 1, log 2, …, log n for each channel, and D ones. dt_proj.weight is uniform between
    ±dt_scale / √r. dt_proj.bias is such that softplus(bias) is log-uniform between dt_min and dt_max, then raised to at
    least dt_init_floor. Everything else is initialised by `nn.Linear` and `nn.Conv1d`. A_log and D have an attribute
    `_no_weight_decay` = True, which tells the training code to exclude them from weight decay.

    Args:
        d_model: E, the width of input and output.
        d_state: n, numbers in the state of one channel.
        d_conv: w, the width of the convolution, at least 1.
        expand: d = int(expand · E).
        dt_rank: r, the rank of the map from x to Δ; "auto" means E / 16, rounded up.
        dt_min, dt_max, dt_scale, dt_init_floor: see above.
        dt_init: "random" as above; "constant" sets every number of dt_proj.weight to dt_scale / √r.
        conv_bias: False leaves out conv1d.bias.
        bias: True adds the biases of in_proj and out_proj.

    Raises:
        ValueError: dt_init is any other string; the message names it.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        channels = int(expand * d_model)
        rank = math.ceil(d_model / 16) if dt_rank == "auto" else int(dt_rank)
        self.sizes = [rank, d_state, d_state]  # of δ, B and C
        self.in_proj = nn.Linear(d_model, 2 * channels, bias=bias)
        self.conv1d = nn.Conv1d(channels, channels, d_conv, groups=channels, bias=conv_bias)
        self.x_proj = nn.Linear(channels, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(rank, channels)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(channels, 1))
        self.D = nn.Parameter(torch.ones(channels))
        for parameter in (self.A_log, self.D):  # decay would pull all of A towards -1, the same memory for all
            parameter._no_weight_decay = True  # type: ignore[attr-defined]
        self.out_proj = nn.Linear(channels, d_model, bias=bias)

        largest = dt_scale / math.sqrt(rank)
        if dt_init == "random":
            nn.init.uniform_(self.dt_proj.weight, -largest, largest)
        elif dt_init == "constant":
            nn.init.constant_(self.dt_proj.weight, largest)
        else:
            raise ValueError(f"dt_init={dt_init!r} must be 'random' or 'constant'")
        step = torch.empty(channels).uniform_(math.log(dt_min), math.log(dt_max)).exp().clamp_min(dt_init_floor)
        with torch.no_grad():
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus

    def forward(self, hidden_states: Tensor, states: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """A whole sequence at once. Work and memory grow with l, not with l².

        Args:
            hidden_states: (b, l, E), of the parameters' dtype, contiguous or not, l ≥ 1.
            states: (conv_state, ssm_state), see `step`. **Overwritten** with those after the last position, so that
                `step` can continue from there. Their contents are ignored: the sequence begins here.

        Returns:
            (b, l, E): position t depends only on positions up to t. Differentiable (not meant to be, with states).
        """
        inputs, z = self.in_proj(hidden_states).mT.chunk(2, dim=1)  # (b, d, l) each
        x = self._convolve(inputs)  # (b, d, l)
        dt, B, C = self._select(x.mT)  # (b, l, d), (b, l, n), (b, l, n)
        y, last_state = selective_scan_chunked(
            x, dt.mT, self._A(), B.mT, C.mT, self.D, z, self.dt_proj.bias, delta_softplus=True, return_last_state=True
        )  # (b, d, l), (b, d, n)
        if states is not None:
            conv_state, ssm_state = states
            width = conv_state.size(-1)
            conv_state.copy_(F.pad(inputs, (width - inputs.size(-1), 0)))  # add zeros in front, or cut the first inputs
            ssm_state.copy_(last_state)
        return self.out_proj(y.mT)

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One more position: the output of `forward` there, given the past as recorded in the two states.

        The work does not depend on the length of the past. The module stores nothing: the states belong to the caller.
        Not meant to be differentiated.

        Args:
            hidden_states: (b, 1, E).
            conv_state: (b, d, w), the last w inputs of the convolution, the latest last, zeros before the first one.
                **Overwritten** with those after this position.
            ssm_state: (b, d, n), the state of the scan. **Overwritten** with the state after this position. Both may be
                slices of larger tensors.

        Returns:
            (b, 1, E), and the two states: the same tensors as passed in.

        Raises:
            ValueError: hidden_states has more than one position; the message says how many.
        """
        if hidden_states.size(1) != 1:
            raise ValueError(f"hidden_states must hold 1 position, not {hidden_states.size(1)}")
        inputs, z = self.in_proj(hidden_states).mT.chunk(2, dim=1)  # (b, d, 1) each
        past = conv_state[..., 1:]  # (b, d, w - 1)
        x = self._convolve(inputs, past)  # (b, d, 1)
        conv_state.copy_(torch.cat([past, inputs], dim=-1))

        x, z = x.squeeze(-1), z.squeeze(-1)  # (b, d) each
        dt, B, C = self._select(x)  # (b, d), (b, n), (b, n)
        y = selective_state_update(
            ssm_state, x, dt, self._A(), B, C, self.D, z, self.dt_proj.bias, dt_softplus=True
        )  # (b, d)
        return self.out_proj(y).unsqueeze(1), conv_state, ssm_state

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """The states with which `step` begins a sequence: conv_state (b, d, w) and ssm_state (b, d, n), zeros.

        Args:
            batch_size: b.
            max_seqlen: ignored; the states have a fixed size.
            dtype: of both. None means the weights' dtype for conv_state, and float32 for ssm_state (float64 in a
                float64 model): in 16 bits, a state that grows by a little at each step would stop growing.

        Returns:
            Two new tensors on the device of the weights.
        """
        channels, states = self.A_log.shape
        weight = self.conv1d.weight
        conv_state = weight.new_zeros(batch_size, channels, weight.size(-1), dtype=dtype)
        ssm_state = weight.new_zeros(batch_size, channels, states, dtype=dtype or _at_least_float32(weight))
        return conv_state, ssm_state

    def _convolve(self, inputs: Tensor, past: Tensor | None = None) -> Tensor:
        """silu(conv1d(inputs)), (b, d, l), where `past` (b, d, w - 1), or zeros, came before the inputs."""
        x = causal_conv1d(inputs, self.conv1d.weight.squeeze(1), self.conv1d.bias, past, activation="silu")
        assert isinstance(x, Tensor)
        return x

    def _select(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(…, d) -> Δ before its bias (…, d), B (…, n) and C (…, n)."""
        dt, B, C = self.x_proj(x).split(self.sizes, dim=-1)  # (…, r), (…, n), (…, n)
        return F.linear(dt, self.dt_proj.weight), B, C

    def _A(self) -> Tensor:
        """(d, n), at least float32: in 16 bits the decays of long memories would all be equal."""
        return -torch.exp(self.A_log.to(_at_least_float32(self.A_log)))


class MambaLM(nn.Module):
    """The language model: embeddings, blocks x + Mamba(RMSNorm(x)), a final RMSNorm, and logits over the vocabulary.

    Interchangeable with `MambaForCausalLM` of `transformers`: the same state dict, the same logits. There are no
    position encodings: the scan is aware of order.

    State dict: backbone.embeddings.weight (V, E), backbone.norm_f.weight (E,), lm_head.weight (V, E) and, for block N
    counted from 0, backbone.layers.N.norm.weight (E,) and backbone.layers.N.mixer.*, the state dict of `Mamba`. With
    tie_word_embeddings, lm_head.weight and backbone.embeddings.weight are the same parameter under two names.

    Args:
        config: a `MambaConfig`, or any object with vocab_size, hidden_size (E), state_size (n), num_hidden_layers,
            conv_kernel (w), expand, time_step_rank (r), use_bias, use_conv_bias, layer_norm_epsilon (the norms' ε),
            residual_in_fp32 and tie_word_embeddings. Its activation is silu. With residual_in_fp32, a 16-bit model
            keeps the sum x in float32. The initial weights of a new model are up to you.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.backbone = _Backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.backbone.embeddings.weight

    def forward(self, input_ids: Tensor, states: States | None = None) -> Tensor:
        """The logits for the token after each position.

        Args:
            input_ids: (b, l), int64, l ≥ 1.
            states: of all blocks, see `allocate_inference_cache`. **Overwritten** with those after the last token, so
                that `step` can continue from there. Their contents are ignored: the text begins here.

        Returns:
            (b, l, V), float32 in a 16-bit model. Differentiable (not meant to be, with states).
        """
        return self._logits(self.backbone(input_ids, states))

    def step(self, input_ids: Tensor, states: States) -> tuple[Tensor, States]:
        """One more token: the logits of `forward` there. The work does not depend on the length of the past.

        Args:
            input_ids: (b, 1), int64.
            states: of all blocks. **Overwritten** with those after this token.

        Returns:
            (b, 1, V), and the same states as passed in.

        Raises:
            ValueError: input_ids has more than one token; the message says how many.
        """
        return self._logits(self.backbone(input_ids, states, step=True)), states

    def allocate_inference_cache(self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None) -> States:
        """The states with which a text begins: those of `Mamba.allocate_inference_cache` for each block number."""
        mixers = (module for module in self.backbone.modules() if isinstance(module, Mamba))  # in the blocks' order
        return {i: mixer.allocate_inference_cache(batch_size, max_seqlen, dtype) for i, mixer in enumerate(mixers)}

    def _logits(self, hidden_states: Tensor) -> Tensor:
        logits = self.lm_head(hidden_states)
        return logits.to(_at_least_float32(logits))


class _Backbone(nn.Module):
    """Everything except the logits."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.num_hidden_layers))
        self.norm_f = nn.RMSNorm(config.hidden_size, config.layer_norm_epsilon)

    def forward(self, input_ids: Tensor, states: States | None, step: bool = False) -> Tensor:
        """(b, l) -> (b, l, E)."""
        x = self.embeddings(input_ids)
        for i, layer in enumerate(self.layers):
            x = layer(x, None if states is None else states[i], step)
        return self.norm_f(x.to(self.norm_f.weight.dtype))


class _Block(nn.Module):
    """x + Mamba(RMSNorm(x))."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.residual_in_fp32 = config.residual_in_fp32
        self.norm = nn.RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mixer = Mamba(
            config.hidden_size,
            config.state_size,
            config.conv_kernel,
            config.expand,
            config.time_step_rank,
            conv_bias=config.use_conv_bias,
            bias=config.use_bias,
        )

    def forward(self, x: Tensor, states: tuple[Tensor, Tensor] | None, step: bool) -> Tensor:
        """(b, l, E) -> (b, l, E)."""
        normed = self.norm(x.to(self.norm.weight.dtype))
        mixed = self.mixer.step(normed, *states)[0] if step and states else self.mixer(normed, states)
        if self.residual_in_fp32:
            x = x.to(_at_least_float32(x))
        return x + mixed


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
