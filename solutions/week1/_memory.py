"""The most memory that tensors hold at any one moment.

PyTorch has no counter of peak memory on the CPU. The operating system's counts the whole process, never falls
(`ru_maxrss`), and where it can be reset (Linux's `VmHWM`) misses tensors that are placed in memory kept for reuse.
"""

from __future__ import annotations

import weakref
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_memory(device: torch.device) -> CudaAllocator | Ledger:
    """What measures the peak inside its `with` block; afterwards it is in `peak_bytes`."""
    return CudaAllocator(device) if device.type == "cuda" else Ledger()


class Ledger(TorchDispatchMode):
    """Keeps account of what operators allocate inside its `with` blocks, on any device, until it is freed.

    Each block has its own peak, which includes what earlier blocks allocated and is still held.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held_bytes = self.peak_bytes = 0

    def __enter__(self) -> Self:
        self.peak_bytes = self.held_bytes
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = _storages((args, kwargs))  # a result that is a view, or was written in place, shares one of these
        for address, storage in _storages(result).items():
            if address not in inputs:
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return result

    def _add(self, size: int) -> None:
        self.held_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)


def _storages(tree: Any) -> dict[int, torch.UntypedStorage]:
    """The storages of all tensors in nested arguments, by address."""
    storages = (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
    return {storage._cdata: storage for storage in storages}


class CudaAllocator:
    """CUDA's allocator tracks the peak itself, but must be told when to start over."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> Self:
        torch.cuda.reset_peak_memory_stats(self.device)
        self.before = torch.cuda.memory_allocated(self.device)
        return self

    def __exit__(self, *error: Any) -> None:
        self.peak_bytes = torch.cuda.max_memory_allocated(self.device) - self.before
