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
        raise NotImplementedError

    def forward(self, hidden_states: Tensor, states: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """A whole sequence at once. Work and memory grow with l, not with l².

        Args:
            hidden_states: (b, l, E), of the parameters' dtype, contiguous or not, l ≥ 1.
            states: (conv_state, ssm_state), see `step`. **Overwritten** with those after the last position, so that
                `step` can continue from there. Their contents are ignored: the sequence begins here.

        Returns:
            (b, l, E): position t depends only on positions up to t. Differentiable (not meant to be, with states).
        """
        raise NotImplementedError

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
        raise NotImplementedError

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
        raise NotImplementedError


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
        raise NotImplementedError

    def forward(self, input_ids: Tensor, states: States | None = None) -> Tensor:
        """The logits for the token after each position.

        Args:
            input_ids: (b, l), int64, l ≥ 1.
            states: of all blocks, see `allocate_inference_cache`. **Overwritten** with those after the last token, so
                that `step` can continue from there. Their contents are ignored: the text begins here.

        Returns:
            (b, l, V), float32 in a 16-bit model. Differentiable (not meant to be, with states).
        """
        raise NotImplementedError

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
        raise NotImplementedError

    def allocate_inference_cache(self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None) -> States:
        """The states with which a text begins: those of `Mamba.allocate_inference_cache` for each block number."""
        raise NotImplementedError
