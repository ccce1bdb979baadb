"""How far a float64 result may be off where the docstring allows float32 inside, as in many libraries."""

from __future__ import annotations

import torch

IN_FLOAT32 = 32 * 2.0**29  # the factor of the closeness rule: the spread of float32 is 2^29 times that of float64


def float32_inside(dtype: torch.dtype | str) -> float | None:
    """The factor of the closeness rule for results of this dtype that may be computed in float32."""
    return IN_FLOAT32 if dtype in (torch.float64, "float64") else None
