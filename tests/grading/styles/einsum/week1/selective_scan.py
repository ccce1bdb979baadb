"""Everything is an einsum; chunks start from zero in parallel, and the effect of initial states is added later."""

import math

import torch
from torch import einsum
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def selective_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):  # fmt: skip
    B, C = _full("B", B, u, A), _full("C", C, u, A)
    x, delta, A, B, C, D, z, delta_bias = _float(u.dtype, u, delta, A, B, C, D, z, delta_bias)
    dt = _positive(delta, delta_bias, delta_softplus)
    decays = torch.exp(einsum("bdl,dn->lbdn", dt, A))
    written = einsum("bdl,bdl,bdnl->lbdn", dt, x, B)
    state, states = torch.zeros_like(decays[0]), []
    for position in range(u.shape[2]):
        state = torch.addcmul(written[position], decays[position], state)
        states.append(state)
    y = einsum("lbdn,bdnl->bdl", torch.stack(states), C)
    out = _outwards(y, x, D, z).to(u.dtype)
    return (out, state) if return_last_state else out


def selective_scan_chunked(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False, chunk_size=64
):
    if not chunk_size > 0:
        raise ValueError(f"chunk_size must be positive, is {chunk_size}")
    length = u.shape[2]
    B, C = _full("B", B, u, A), _full("C", C, u, A)
    x, delta, A, B, C, D, z, delta_bias = _float(u.dtype, u, delta, A, B, C, D, z, delta_bias)
    dt = _positive(delta, delta_bias, delta_softplus)
    size = min(chunk_size, length)
    missing = math.ceil(length / size) * size - length

    def fold(tensor):
        """(..., l) -> (..., k, t), or (..., 1) -> (..., 1, t)."""
        if tensor.shape[-1] < length:
            return tensor[..., None].expand(*tensor.shape, size)
        return F.pad(tensor, (0, missing)).unflatten(-1, (-1, size))

    by_chunk, w, within = fold(dt), fold(dt * x), fold(dt).cumsum(-1)
    Bs, Cs = fold(B), fold(C)

    def run(state, dts, ws, Bs, Cs):
        ys = []
        for dt_p, w_p, B_p, C_p in zip(*(each.unbind(-1) for each in (dts, ws, Bs, Cs)), strict=True):
            state = torch.exp(dt_p[:, :, None] * A[..., None]) * state + w_p[:, :, None] * B_p  # (b, d, n, k)
            ys.append((state * C_p).sum(2))
        return torch.stack(ys, -1), state

    def enter(totals, begins, Cs):
        left = torch.exp(totals[:, :, None] * A[..., None, None]) * begins[..., None]  # (b, d, n, k, some positions)
        return (left * Cs).sum(2)

    stretches = [slice(first, first + 8) for first in range(0, size, 8)]
    state = torch.zeros(*u.shape[:2], A.shape[1], by_chunk.shape[2], dtype=x.dtype)
    ys = []
    for some in stretches:
        inputs = [each[..., some] for each in (by_chunk, w, Bs, Cs)]
        y, state = checkpoint(run, state, *inputs, use_reentrant=False)
        ys.append(y)

    whole = torch.exp(within[:, :, None, :, -1] * A[..., None])  # (b, d, n, k)
    begin, begins = torch.zeros_like(state[..., 0]), []
    for decay, end in zip(whole.unbind(-1), state.unbind(-1), strict=True):
        begins.append(begin)
        begin = decay * begin + end
    begins = torch.stack(begins, -1)
    for number, some in enumerate(stretches):
        extra = checkpoint(enter, within[..., some], begins, Cs[..., some], use_reentrant=False)
        ys[number] = ys[number] + extra

    y = torch.cat(ys, -1).flatten(-2)[..., :length]
    out = _outwards(y, x, D, z).to(u.dtype)
    return (out, begin) if return_last_state else out


def selective_state_update(state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False):
    B, C = _full("B", B, x, A), _full("C", C, x, A)
    old, wide, dt, A, B, C, D, z, dt_bias = _float(x.dtype, state, x, dt, A, B, C, D, z, dt_bias)
    wide, z = wide[..., None], None if z is None else z[..., None]
    dt = _positive(dt[..., None], dt_bias, dt_softplus)
    new = einsum("bdn,bdn->bdn", torch.exp(einsum("bdl,dn->bdn", dt, A)), old)
    new = new + einsum("bdl,bdl,bdn->bdn", dt, wide, B)
    y = einsum("bdn,bdn->bd", new, C)[..., None]
    state.copy_(new)
    return _outwards(y, wide, D, z).squeeze(-1).to(x.dtype)


def causal_conv1d(x, weight, bias=None, initial_states=None, return_final_states=False, activation=None):
    if activation not in {None, "silu", "swish"}:
        raise ValueError(f"unknown activation {activation}")
    width = weight.shape[1]
    history = x.new_zeros(x.shape[0], x.shape[1], width - 1) if initial_states is None else initial_states
    both = torch.cat((history, x), 2)
    windows = torch.stack([both[:, :, i : i + x.shape[2]] for i in range(width)])  # (w, b, d, l)
    out = einsum("wbdl,dw->bdl", windows, weight)
    out = out if bias is None else out + bias[None, :, None]
    out = out if activation is None else F.silu(out)
    return (out, both[:, :, x.shape[2] :].contiguous()) if return_final_states else out


def _full(name, matrix, u, A):
    """B or C in a shape that broadcasts to (b, d, n, l), or (b, d, n) for a step."""
    batch, channels, *length = u.shape
    states, shape = A.shape[1], tuple(matrix.shape)
    if length and shape == (channels, states):
        return matrix[None, :, :, None]
    if shape == (batch, states, *length):
        return matrix[:, None]
    if len(shape) == 3 + len(length) and shape == (batch, shape[1], states, *length) and channels % shape[1] == 0:
        return matrix.repeat_interleave(channels // shape[1], 1)
    raise ValueError(f"{name} has the wrong shape {list(shape)} for an input of {list(u.shape)}")


def _float(dtype, *tensors):
    wide = torch.promote_types(dtype, torch.float32)
    return [each if each is None else each.to(wide) for each in tensors]


def _positive(delta, bias, softplus):
    delta = delta if bias is None else delta + bias[None, :, None]
    return F.softplus(delta) if softplus else delta


def _outwards(y, u, D, z):
    y = y if D is None else y + einsum("d,bdl->bdl", D, u)
    return y if z is None else y * F.silu(z)
