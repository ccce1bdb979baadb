"""Plain data: everything that passes between a graded test and a submission.

None, bool, int, float, str, bytes, lists, tuples, dicts, dtypes, devices and plain tensors. Anything else that a
submission returns arrives as an `Opaque`: its type and the beginning of its repr, never the object.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

_ATOMS = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device)


@dataclass(frozen=True)
class Opaque:
    """A value that is not plain data."""

    type: str
    repr: str

    def __str__(self) -> str:
        return f"{self.type}: {self.repr}"


@dataclass(frozen=True)
class TensorFacts:
    """The properties of a returned tensor besides its numbers, recorded before it was made plain."""

    type: str  # "Tensor" for a plain one
    shape: tuple[int, ...]
    dtype: str  # "float32"
    device: str  # "cpu", "cuda"
    contiguous: bool
    requires_grad: bool
    aliases: tuple[int, ...]  # numbers of the input tensors that share its memory


def map_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The same plain data with each tensor replaced."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(item, change) for item in value)
    return value


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in plain data, in order, repetitions included."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(item)


class Inputs(Sequence[torch.Tensor]):
    """The distinct tensor objects in plain data, numbered in order of appearance.

    The same object passed twice (query is key) is one input. Gradients, aliases and changes refer to these numbers.
    """

    def __init__(self, *values: Any) -> None:
        self._tensors = list({id(tensor): tensor for tensor in tensors_in(values)}.values())
        self._numbers = {id(tensor): number for number, tensor in enumerate(self._tensors)}

    def __getitem__(self, number: Any) -> Any:
        return self._tensors[number]

    def __len__(self) -> int:
        return len(self._tensors)

    def number(self, tensor: torch.Tensor) -> int | None:
        """The tensor's number; None for a tensor that is not an input."""
        return self._numbers.get(id(tensor))

    def replaced(self, value: Any, by: Mapping[int, torch.Tensor]) -> Any:
        """The plain data `value` with each input whose number is in `by` replaced."""
        return map_tensors(value, lambda tensor: by.get(self._numbers.get(id(tensor), -1), tensor))


def make_plain(value: Any, depth: int = 0) -> Any:
    """A copy of `value` as plain data; tensors are detached from the graph but not yet copied."""
    if depth > 50:
        return Opaque(type(value).__name__, "nested more than 50 levels deep")
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.device.type == "meta":
            return opaque(value)
        return value.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg()
    if type(value) in _ATOMS:
        return value
    if isinstance(value, Mapping):
        return {key: make_plain(item, depth + 1) for key, item in value.items() if isinstance(key, (str, int))}
    if isinstance(value, (list, tuple)):  # a NamedTuple becomes a plain tuple
        items = [make_plain(item, depth + 1) for item in value]
        return items if isinstance(value, list) else tuple(items)
    for atom in (bool, int, float, str):  # an IntEnum, a numpy float …
        if isinstance(value, atom):
            return atom(value)
    return opaque(value)


def opaque(value: Any) -> Opaque:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return Opaque(name, reprlib.repr(value))
