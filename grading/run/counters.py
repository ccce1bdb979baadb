"""The cost of a computation, counted instead of timed: the same numbers on every machine.

    with count(exclude=[q, k, v]) as counts:
        attention(q, k, v).sum().backward()
    counts.flops, counts.saved_bytes

The counters see everything that PyTorch dispatches: forward and backward, with or without autograd, also inside
`autograd.Function`s and `torch.utils.checkpoint`. They can't see inside an operation: the workspace of a fused kernel,
or anything of a Triton or compiled kernel except the tensors allocated for it.
"""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten


@dataclass
class Counts:
    """Plain numbers, complete when the `with` block ends."""

    flops: int = 0  # of matrix products, convolutions and attentions: 2mnk for (m, k) @ (k, n); nothing else counts
    largest_intermediate_bytes: int = 0  # the largest allocation by one operation; views and in-place ones allocate 0
    largest_intermediate_numel: int = 0  # the same in numbers
    saved_bytes: int = 0  # saved by autograd in the forward pass for the backward pass, each storage once
    # Allocated and still alive when the backward pass begins, or at the end if there is none: saved tensors, tensors
    # that bypass autograd (`ctx.x = tensor`, a cache), and the outputs that the caller holds.
    held_bytes: int = 0
    ops: Counter[str] = field(default_factory=Counter)  # operations by name, ops["aten.mm"]

    def figures(self) -> dict[str, int]:
        """All counts by name; `ops` is the number of all operations, `aten.mm` the number of that one."""
        numbers = {name: value for name, value in vars(self).items() if name != "ops"}
        return {**numbers, "ops": self.ops.total(), **self.ops}


@contextlib.contextmanager
def count(exclude: Iterable[Tensor] = ()) -> Iterator[Counts]:
    """Count what is computed in the block.

    Args:
        exclude: tensors whose memory counts neither as saved nor as held: inputs and parameters.
    """
    counts = Counts()
    ledger = _Ledger(counts, exclude)
    flops = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    flops.mod_tracker = _NoModules()  # type: ignore[assignment]
    # The mode entered last sees a call first: FlopCounterMode decomposes compound operations for the ledger.
    with ledger.saving(), ledger, flops:
        yield counts
    counts.flops = flops.get_total_flops()
    ledger.close()


class _NoModules(contextlib.nullcontext[None]):
    """Replaces FlopCounterMode's module tracker, whose hooks on leaves break `torch.autograd.grad`."""

    parents = frozenset({"Global"})


class _Ledger(TorchDispatchMode):
    """Tracks every allocation."""

    def __init__(self, counts: Counts, exclude: Iterable[Tensor]) -> None:
        super().__init__()
        self.counts = counts
        self.excluded = {StorageWeakRef(tensor.untyped_storage()) for tensor in exclude}
        self.allocated: dict[StorageWeakRef, int] = {}  # a weak reference keeps the identity, not the memory
        self.saved: dict[StorageWeakRef, int] = {}
        self.forward = True

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if self.forward and _in_backward():
            self.close()
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is not aten.detach.default:  # autograd's own bookkeeping
            self.counts.ops[str(func.overloadpacket)] += 1
        given = {StorageWeakRef(tensor.untyped_storage()) for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if (reference := StorageWeakRef(storage)) in given or reference in self.allocated:
                continue
            self.allocated[reference] = storage.nbytes()
            counts, size = self.counts, storage.nbytes()
            counts.largest_intermediate_bytes = max(counts.largest_intermediate_bytes, size)
            counts.largest_intermediate_numel = max(counts.largest_intermediate_numel, size // tensor.element_size())
        return result

    def saving(self) -> contextlib.AbstractContextManager[None]:
        def pack(tensor: Tensor) -> Tensor:
            if not _in_backward():
                storage = tensor.untyped_storage()
                self.saved[StorageWeakRef(storage)] = storage.nbytes()
            return tensor.detach()  # the tensor itself would form a cycle with the node that made it

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)

    def close(self) -> None:
        """At the end of the forward pass, count what is kept."""
        if not self.forward:
            return
        self.forward = False
        gc.collect()
        held = {reference: size for reference, size in self.allocated.items() if not reference.expired()}
        self.counts.held_bytes = self._total(held)
        self.counts.saved_bytes = self._total(self.saved)

    def _total(self, sizes: dict[StorageWeakRef, int]) -> int:
        return sum(size for reference, size in sizes.items() if reference not in self.excluded)


def _in_backward() -> bool:
    return torch._C._current_autograd_node() is not None


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.layout is torch.strided]


# PyTorch counts only the attention kernels of GPUs; the CPU's kernel has the same leading arguments.
def _cpu_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _cpu_attention_backward(above: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(above, query, key, value)


_CPU_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward,
}
