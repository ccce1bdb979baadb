"""The `draw` fixture: the inputs of graded tests.

They are drawn from the grading seed and the test's id: `--grading-seed` changes every number, a score does not depend
on values that a student has seen, and a test draws the same numbers alone as in a full run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class Draw:
    """Random tensors and choices. Dtypes are given by name ("float32") or as torch.dtype."""

    def __init__(self, seed: int, test: str, device: str = "cpu") -> None:
        digest = hashlib.sha256(f"{seed}/{test}".encode()).digest()
        self.seed = int.from_bytes(digest[:7], "little")  # 56 bits: fits every generator
        self.generator = torch.Generator().manual_seed(self.seed)
        self.device = device

    def normal(self, *shape: int, dtype: Any = torch.float32, scale: float = 1.0, mean: float = 0.0) -> torch.Tensor:
        """Normally distributed numbers, drawn in float64 and rounded: every dtype gets the same ones."""
        numbers = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return (numbers * scale + mean).to(self.device, as_dtype(dtype))

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0, dtype: Any = torch.float32) -> torch.Tensor:
        numbers = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return (numbers * (high - low) + low).to(self.device, as_dtype(dtype))

    def integers(self, low: int, high: int, *shape: int) -> torch.Tensor:
        """int64 from low to high − 1."""
        return torch.randint(low, high, shape, generator=self.generator).to(self.device)

    def mask(self, *shape: int, keep: float = 0.7) -> torch.Tensor:
        """bool, True with probability `keep`, and at least once along the last dimension."""
        mask = torch.rand(shape, generator=self.generator) < keep
        if mask.ndim and mask.numel():
            sure = torch.randint(0, shape[-1], (*shape[:-1], 1), generator=self.generator)
            mask.scatter_(-1, sure, True)
        return mask.to(self.device)

    def permutation(self, length: int) -> torch.Tensor:
        return torch.randperm(length, generator=self.generator).to(self.device)

    def choice(self, options: Sequence[T]) -> T:
        return options[int(torch.randint(0, len(options), (), generator=self.generator))]


def as_dtype(name: str | torch.dtype) -> torch.dtype:
    dtype = getattr(torch, name, None) if isinstance(name, str) else name
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype must be a torch dtype or its name, not {name!r}")
    return dtype
