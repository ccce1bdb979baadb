"""Reference for week1/selective_scan: the recurrence solved for all its states at once.

    x_t = Σ_{s ≤ t} exp((Δ_{s+1} + … + Δ_t) A) Δ_s B_s u_s

The formulas work in any dtype and are differentiable. The exponents are differences of prefix sums, so that the
closeness rule, which measures what rounding does to these formulas, allows what correct scans by prefix sums lose.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.oracles.attention import dims


@dims(("batch", "channel", "position"), ("batch", "channel", "state"))
def selective_scan_and_state(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = True,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """The output and the last state of `selective_scan` and of `selective_scan_chunked`, for any chunk_size."""
    dt = delta if delta_bias is None else delta + delta_bias[:, None]
    dt = F.softplus(dt) if delta_softplus else dt
    B, C = (_for_each_channel(each, u.shape) for each in (B, C))  # (b, d, n, l)
    written = (dt * u)[:, :, None] * B  # (b, d, n, l)

    total = dt.cumsum(-1)
    between = total[..., :, None] - total[..., None, :]  # (b, d, l, l): from the column's position to the row's
    earlier = torch.ones(u.size(-1), u.size(-1), dtype=torch.bool, device=u.device).tril(-1)
    exponents = torch.where(earlier, between, 0)[:, :, None] * A[:, :, None, None]  # (b, d, n, l, l)
    left = torch.where(earlier, exponents.exp(), 0)
    states = written + torch.einsum("bdnts,bdns->bdnt", left, written)

    y = (states * C).sum(2)
    y = y if D is None else y + D[:, None] * u
    return (y if z is None else y * z * torch.sigmoid(z)), states[..., -1]


@dims("batch", "channel", "position")
def selective_scan(*args: Any, **kwargs: Any) -> Tensor:
    """The output alone."""
    return selective_scan_and_state(*args, **kwargs)[0]


@dims(("batch", "channel"), ("batch", "channel", "state"))
def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """The output and the new state."""
    dt = dt if dt_bias is None else dt + dt_bias
    dt = F.softplus(dt) if dt_softplus else dt
    shape = (*x.shape, 1)
    B, C = (_for_each_channel(each[..., None], shape)[..., 0] for each in (B, C))  # (b, d, n)
    new = torch.exp(dt[..., None] * A) * state + (dt * x)[..., None] * B
    y = torch.einsum("bdn,bdn->bd", new, C)
    y = y if D is None else y + D * x
    return (y if z is None else y * z * torch.sigmoid(z)), new


@dims(("batch", "channel", "position"), ("batch", "channel", "state"))
def causal_conv1d_and_states(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = True,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The output and the final states of `causal_conv1d`."""
    (batch, channels, length), width = x.shape, weight.size(1)
    before = x.new_zeros(batch, channels, width - 1) if initial_states is None else initial_states
    seen = torch.cat([before, x], -1)
    out: Any = sum(weight[:, i, None] * seen[..., i : i + length] for i in range(width))
    out = out if bias is None else out + bias[:, None]
    return (out if activation is None else out * torch.sigmoid(out)), seen[..., length:]


@dims("batch", "channel", "position")
def causal_conv1d(*args: Any, **kwargs: Any) -> Tensor:
    """The output alone."""
    return causal_conv1d_and_states(*args, **kwargs)[0]


def _for_each_channel(B: Tensor, shape: tuple[int, ...]) -> Tensor:
    """B or C, in any of its forms, as (b, d, n, l)."""
    batch, channels, length = shape
    if B.dim() == 2:
        return B[None, :, :, None].expand(batch, channels, B.size(1), length)
    if B.dim() == 3:
        return B[:, None].expand(batch, channels, B.size(1), length)
    group = torch.arange(channels, device=B.device) // (channels // B.size(1))
    return B[:, group]
