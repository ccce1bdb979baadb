"""Whether a submission has replaced what observes it. Both share an interpreter, in which nothing can be locked.

The grader's own modules, and the few functions of others that an observation rests on, are compared with what they were
before the submission was loaded. What differs is put back. Whoever also replaces this is noticed by reading the source.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

_CLOCKS = ("perf_counter", "perf_counter_ns", "thread_time_ns", "process_time_ns", "monotonic", "monotonic_ns")
_FUNCTIONS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (time, _CLOCKS),
    (json, ("loads", "dumps")),
    (struct, ("pack", "unpack", "unpack_from")),
    (os, ("read", "write", "pread", "sched_setaffinity")),
    (TorchDispatchMode, ("__enter__", "__exit__")),
    (FlopCounterMode, ("__enter__", "__exit__", "get_total_flops")),
    (torch, ("equal", "clone", "empty")),
    (torch.Tensor, ("untyped_storage", "clone", "detach", "numel", "element_size", "is_contiguous", "as_subclass")),
)
_ABSENT = object()
_PARTS = ("__code__", "__defaults__", "__kwdefaults__")


class Integrity:
    """What the observer rests on, as it is now: made before the first submission is loaded."""

    def __init__(self) -> None:
        self._held = [(owner, name, value, _inside(value)) for owner, name, value in _everything()]

    def put_back(self) -> list[str]:
        """The names of what was replaced since, which is as before again."""
        found = []
        for owner, name, value, inside in self._held:
            if vars(owner).get(name, _ABSENT) is not value:
                if value is _ABSENT:
                    delattr(owner, name)
                else:
                    setattr(owner, name, value)
                found.append(f"{owner.__name__}.{name}")
            if _inside(value) != inside:
                for part, before in zip(_PARTS, inside, strict=True):
                    setattr(_function(value), part, before)
                found.append(f"{owner.__name__}.{name}")
        return list(dict.fromkeys(found))


def _everything() -> Iterator[tuple[Any, str, Any]]:
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "grading" or not isinstance(module, types.ModuleType):
            continue
        for key, value in list(vars(module).items()):
            if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)):
                yield module, key, value
            if isinstance(value, type) and value.__module__ == name:
                yield from ((value, each, made) for each, made in vars(value).items() if _function(made) is not None)
    for owner, names in _FUNCTIONS:
        yield from ((owner, name, vars(owner).get(name, _ABSENT)) for name in names)


def _function(value: Any) -> Any:
    """The Python function in a function, a method or a property; None for anything else."""
    value = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
    return value if isinstance(value, types.FunctionType) else None


def _inside(value: Any) -> tuple[Any, ...]:
    function = _function(value)
    return tuple(getattr(function, part) for part in _PARTS) if function is not None else ()
