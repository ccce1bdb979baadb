"""Scans with an associative operator: pairing over a whole sequence, doubling in a chunk, checkpoints for memory."""

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def selective_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):  # fmt: skip
    _refuse_odd_shapes(u, A, B=B, C=C)
    wide, dt = _inputs(u, delta, delta_bias, delta_softplus)
    A, B, C = (each.to(wide.dtype) for each in (A, B, C))
    decays, written = _terms(wide, dt, A, B)
    states = _pairing(decays, written)
    y = (states * _per_channel(C, u.size(1))).sum(2)
    out = _finish(y, wide, D, z).to(u.dtype)
    return (out, states[..., -1].clone()) if return_last_state else out


def selective_scan_chunked(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False, chunk_size=64
):
    if chunk_size <= 0:
        raise ValueError(f"a chunk cannot hold chunk_size={chunk_size} positions")
    _refuse_odd_shapes(u, A, B=B, C=C)
    wide, dt = _inputs(u, delta, delta_bias, delta_softplus)
    A, B, C = (each.to(wide.dtype) for each in (A, B, C))
    state, ys = wide.new_zeros(u.size(0), *A.shape), []
    for start in range(0, u.size(-1), chunk_size):
        here = slice(start, start + chunk_size)
        matrices = [each if each.dim() == 2 else each[..., here] for each in (B, C)]
        y, state = checkpoint(
            _chunk, state, wide[..., here], dt[..., here], A, *matrices, use_reentrant=False, preserve_rng_state=False
        )
        ys.append(y)
    out = _finish(torch.cat(ys, -1), wide, D, z).to(u.dtype)
    return (out, state) if return_last_state else out


def selective_state_update(state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False):
    _refuse_odd_shapes(x, A, B=B, C=C)
    wide, dt = _inputs(x[..., None], dt[..., None], dt_bias, dt_softplus)
    A, B, C = (each.to(wide.dtype) for each in (A, B[..., None], C[..., None]))
    y, new = _chunk(state.to(wide.dtype), wide, dt, A, B, C)
    state[...] = new
    return _finish(y, wide, D, None if z is None else z[..., None])[..., 0].to(x.dtype)


def causal_conv1d(x, weight, bias=None, initial_states=None, return_final_states=False, activation=None):
    if activation is not None and activation not in ("silu", "swish"):
        raise ValueError(f"no such activation: {activation}")
    before = weight.size(1) - 1
    seen = F.pad(x, (before, 0)) if initial_states is None else torch.cat((initial_states, x), -1)
    out = (seen.unfold(-1, before + 1, 1) * weight[:, None]).sum(-1)
    if bias is not None:
        out = out + bias[:, None]
    if activation is not None:
        out = out * out.sigmoid()
    final = torch.narrow_copy(seen, -1, seen.size(-1) - before, before)
    return (out, final) if return_final_states else out


def _refuse_odd_shapes(u, A, **matrices):
    (batch, channels), rest, states = u.shape[:2], tuple(u.shape[2:]), A.size(-1)
    for name, matrix in matrices.items():
        shape = tuple(matrix.shape)
        if rest and shape == (channels, states):
            continue
        if shape[0] == batch and shape[-1 - len(rest) :] == (states, *rest):
            groups = shape[1 : -1 - len(rest)]
            if groups == () or (len(groups) == 1 and channels % groups[0] == 0):
                continue
        raise ValueError(f"{name} cannot be {shape} with {channels} channels")


def _inputs(u, delta, bias, softplus):
    wide = torch.float64 if u.dtype == torch.float64 else torch.float32
    dt = delta.to(wide)
    if bias is not None:
        dt = dt + bias.to(wide)[:, None]
    return u.to(wide), torch.logaddexp(dt, torch.zeros_like(dt)) if softplus else dt


def _finish(y, u, D, z):
    if D is not None:
        y = y + u * D.to(y.dtype)[:, None]
    if z is not None:
        y = y * z.to(y.dtype) * torch.sigmoid(z.to(y.dtype))
    return y


def _per_channel(M, channels):
    """(b or 1, d or 1, n, l or 1)."""
    if M.dim() == 2:
        return M[None, :, :, None]
    if M.dim() == 3:
        return M[:, None]
    return M[:, torch.arange(channels) // (channels // M.size(1))]


def _terms(u, dt, A, B):
    """The pair (a, b) of x_t = a x_{t-1} + b at each position, (b, d, n, l)."""
    return torch.exp(dt[:, :, None] * A[..., None]), (dt * u)[:, :, None] * _per_channel(B, u.size(1))


def _chunk(state, u, dt, A, B, C):
    decays, written = _terms(u, dt, A, B)
    first = written[..., :1] + decays[..., :1] * state[..., None]
    states = _doubling(decays, torch.cat((first, written[..., 1:]), -1))
    return (states * _per_channel(C, u.size(1))).sum(2), states[..., -1].clone()


def _pairing(a, b):
    """All states, by scanning half as many pairs of neighbours and filling in the rest."""
    length = a.size(-1)
    if length == 1:
        return b
    half = length // 2
    a1, b1, a2, b2 = a[..., : 2 * half : 2], b[..., : 2 * half : 2], a[..., 1::2], b[..., 1::2]
    odd = _pairing(a1 * a2, a2 * b1 + b2)
    even = torch.cat((b[..., :1], a[..., 2::2] * odd[..., : (length - 1) // 2] + b[..., 2::2]), -1)
    merged = torch.stack((even[..., :half], odd), -1).flatten(-2)
    return torch.cat((merged, even[..., half:]), -1)


def _doubling(a, b):
    """All states, in rounds that each combine a position with the one 1, 2, 4 … before it."""
    reach = 1
    while reach < a.size(-1):
        b = torch.cat((b[..., :reach], a[..., reach:] * b[..., :-reach] + b[..., reach:]), -1)
        a = torch.cat((a[..., :reach], a[..., reach:] * a[..., :-reach]), -1)
        reach *= 2
    return b
