"""Copies of a request's inputs: the submission works on these, so the originals stay unchanged."""

from __future__ import annotations

from typing import Any

import torch

from grading.data.plain import Inputs


class Copies:
    """A copy of each input, by its number. Copies keep the strides, and share memory if their originals do."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        storages: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}  # the original is kept alive
        self.tensors: list[torch.Tensor] = []
        for tensor in inputs:
            storage = tensor.untyped_storage()
            _, copy = storages.setdefault(storage._cdata, (storage, storage.clone()))
            fresh = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            self.tensors.append(fresh.set_(copy, tensor.storage_offset(), tensor.size(), tensor.stride()))

    def put_in(self, value: Any) -> Any:
        """The plain data with each input replaced by its copy."""
        return self._inputs.replaced(value, dict(enumerate(self.tensors)))

    def changed(self) -> tuple[int, ...]:
        """The numbers of the copies that differ from their originals in any bit."""
        pairs = zip(self._inputs, self.tensors, strict=True)
        return tuple(n for n, (old, new) in enumerate(pairs) if not torch.equal(_bits(old), _bits(new.detach())))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)
