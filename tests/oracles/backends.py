"""What PyTorch does with a call of scaled_dot_product_attention right now, backend by backend."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

NAMES = tuple(name for name in SDPBackend.__members__ if name != "ERROR")


def refusals(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> dict[str, Sequence[str]]:
    """For each backend, PyTorch's specific reasons for refusing the call; () where it accepts it."""
    return {name: _refusal(SDPBackend.__members__[name], query, key, value, options) for name in NAMES}


def usable(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> list[str]:
    """The names of the backends that accept the call, sorted."""
    return sorted(name for name, why in refusals(query, key, value, **options).items() if not why)


def kernels(name: str, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> list[str]:
    """The fused attention operators that this backend runs; [] for MATH, which consists of ordinary operators."""
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with sdpa_kernel(SDPBackend.__members__[name]), Watch():
        F.scaled_dot_product_attention(query, key, value, **options)
    return [operator for operator in seen if "scaled_dot_product" in operator]


def _refusal(backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Sequence[str]:
    with torch.random.fork_rng(), warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            with sdpa_kernel(backend):
                F.scaled_dot_product_attention(query, key, value, **options)
        except RuntimeError as error:
            said = [str(warning.message).partition(" (Triggered internally")[0] for warning in heard]
            specific = [sentence for sentence in said if not sentence.endswith("not used because:")]
            return specific or [*said, str(error)]
    return ()
