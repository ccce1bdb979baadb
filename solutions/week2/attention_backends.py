"""Which of PyTorch's attention kernels accept a call, and why the others refuse it.

`torch.nn.functional.scaled_dot_product_attention` (SDPA) has several implementations, the members of
`torch.nn.attention.SDPBackend`, and picks one by device, dtype, shapes, strides, mask and dropout.

Sizes in the shapes below: B batch, H heads, L queries, S keys, D width of one head.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def usable_backends(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
) -> list[SDPBackend]:
    """Every backend that can perform this call here and now if it is the only one allowed.

    The arguments are those of SDPA and may be anything that can be passed to it, including wrong calls, which no
    backend accepts. Backends switched on or off by the caller make no difference, and nothing is left changed: no
    switch, no random state, no warning filter. No warning reaches the caller.

    Args:
        query: (B, H, L, D), in PyTorch's notation `(N, ..., L, E)`.
        key: (B, H, S, D).
        value: (B, H, S, D_v).
        attn_mask: broadcasts to (B, H, L, S); boolean or of query's dtype.
        is_causal: as in SDPA.
        dropout_p: as in SDPA.

    Returns:
        Members of `SDPBackend` except ERROR, each once, in any order; [] if there is none.
    """
    backends = [backend for backend in SDPBackend.__members__.values() if backend != SDPBackend.ERROR]
    return [
        backend for backend in backends if why_not(backend, query, key, value, attn_mask, is_causal, dropout_p) is None
    ]


def attend_with(
    backend: SDPBackend,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
) -> Tensor:
    """SDPA by this backend and no other, whatever the caller has switched on or off.

    Args:
        backend: a member of `SDPBackend`. The other arguments are those of `usable_backends`.

    Returns:
        What SDPA returns: (B, H, L, D_v), differentiable.

    Raises:
        RuntimeError: PyTorch refuses the call with this backend. The switches are restored in that case, too.
        ValueError: backend is not a member of `SDPBackend`; the message shows it.
    """
    if not isinstance(backend, SDPBackend):
        raise ValueError(f"backend must be a member of SDPBackend, not {backend!r}")
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal)


def why_not(
    backend: SDPBackend,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    dropout_p: float = 0.0,
) -> str | None:
    """PyTorch's own reason why the backend refuses the call; None if it performs it.

    PyTorch gives it in warnings ("Flash attention kernel not used because: …", and the reason in the next one) and then
    raises an error that only says that no kernel is available. If there are no warnings, the error is the reason.

    Args:
        backend: a member of `SDPBackend`. The other arguments are those of `usable_backends`. As there, nothing is left
            changed, and no warning reaches the caller.

    Returns:
        Text that contains PyTorch's words verbatim, possibly among others.
    """
    generators = [query.device] if query.is_cuda else []
    with torch.random.fork_rng(generators), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")  # also warnings that were shown before
        try:
            attend_with(backend, query, key, value, attn_mask, is_causal, dropout_p)
        except RuntimeError as error:
            return "\n".join([*(str(warning.message) for warning in heard), str(error)])
    return None
