"""The global state of the process: what a submission leaves changed is put back after every call, and named.

Libraries change global state too while they are imported. So what can be told apart is: an environment variable or a
library's function is put back where the submission's own file names it; the switches of torch, numpy and Python always.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import gc
import itertools
import locale
import math
import multiprocessing
import operator
import os
import random
import re
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch._tensor_str import PRINT_OPTS

# Where submissions replace functions, by mistake or to get around writing them.
_PATCHABLE: tuple[Any, ...] = (
    builtins, math, os, random, time, numpy, torch, torch.nn, torch.nn.functional, torch.nn.Module, torch.Tensor,
    torch.linalg, torch.autograd, torch.autograd.Function, torch.special, torch.random,
)  # fmt: skip
_ABSENT = object()
_MARKS = ("__builtins__", "__doc__", "_")  # what a REPL, an import or gettext may set


@dataclass(frozen=True)
class Switch:
    """One setting of the process."""

    name: str  # in the student's words
    setters: str  # how a line that changes it looks: a regular expression
    read: Callable[[], Any]
    write: Callable[[Any], object]


def _default_device() -> Any:
    context = getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None)  # private: a default device of None differs from "cpu"
    return getattr(context, "device_context", None) and torch.get_default_device()


def _autocast() -> Any:
    return tuple((kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda"))


def _set_autocast(state: Any) -> None:
    for kind, enabled, dtype in state:
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)


_TIMERS = {getattr(signal, name, None) for name in ("SIGALRM", "SIGPROF", "SIGVTALRM", "SIGKILL", "SIGSTOP", "SIGINT")}
_SIGNALS = tuple(signal.valid_signals() - _TIMERS)  # looked up once: every call of a submission needs them


def _signals() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in _SIGNALS}


def _set_signals(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _set_path(path: list[str]) -> None:
    sys.path[:] = path


def _set_filters(filters: list[Any]) -> None:
    warnings.filters[:] = filters  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]


_SWITCHES = (
    Switch(
        "torch's default dtype", "set_default_(dtype|tensor_type)", torch.get_default_dtype, torch.set_default_dtype
    ),
    Switch("torch's default device", "set_default_device", _default_device, torch.set_default_device),
    Switch(
        "torch's gradient mode", "set_grad_enabled|no_grad|enable_grad", torch.is_grad_enabled, torch.set_grad_enabled
    ),
    Switch("torch's autocast", "autocast", _autocast, _set_autocast),
    Switch(
        "torch's deterministic mode",
        "deterministic",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda state: torch.use_deterministic_algorithms(state[0], warn_only=state[1]),
    ),
    Switch(
        "torch's matmul precision",
        "matmul_precision|allow_tf32|fp32_precision",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    Switch("torch's number of threads", "set_num_threads", torch.get_num_threads, torch.set_num_threads),
    Switch(
        "torch's anomaly detection",
        "anomaly",
        torch.is_anomaly_enabled,
        torch.set_anomaly_enabled,
    ),
    Switch("numpy's error handling", "seterr|errstate", numpy.geterr, lambda state: numpy.seterr(**state)),
    Switch("the working directory", "chdir", os.getcwd, os.chdir),
    Switch(
        "the locale",
        "setlocale",
        lambda: locale.setlocale(locale.LC_ALL),
        lambda state: locale.setlocale(locale.LC_ALL, state),
    ),
    Switch("the recursion limit", "setrecursionlimit", sys.getrecursionlimit, sys.setrecursionlimit),
    Switch(
        "multiprocessing's start method",
        "set_start_method",
        lambda: multiprocessing.get_start_method(allow_none=True),
        lambda state: multiprocessing.set_start_method(state, force=True),
    ),
    Switch("torch's print options", "set_printoptions", lambda: vars(PRINT_OPTS).copy(), vars(PRINT_OPTS).update),
    Switch(
        "numpy's print options",
        "set_printoptions",
        numpy.get_printoptions,
        lambda state: numpy.set_printoptions(**state),
    ),
    Switch("sys.path", r"sys\.path", lambda: list(sys.path), _set_path),
    Switch("the warnings filters", r"(filter|simple)\w*\(|warnings", lambda: list(warnings.filters), _set_filters),
    Switch(
        "the garbage collector",
        r"gc\.(dis|en)able",
        gc.isenabled,
        lambda state: gc.enable() if state else gc.disable(),
    ),
    Switch("the trace function", r"set(trace|profile)", sys.gettrace, sys.settrace),
)
_QUIET = {"the warnings filters"}  # put back without a word: imports of libraries change them all the time


class GlobalState:
    """The state of the process now, to be put back later. `source` is the submission's file, where the cause is."""

    def __init__(self, filename: str, source: str) -> None:
        self.lines = _Lines(filename, source)
        self.main = threading.current_thread() is threading.main_thread()
        self.switches = [(switch, switch.read()) for switch in _SWITCHES]
        self.signals = _signals() if self.main else {}
        self.environment = dict(os.environ)
        patches = _may_patch(source)
        self.modules = dict(sys.modules) if patches else {}
        self.functions = [(owner, dict(vars(owner))) for owner in _PATCHABLE] if patches else []
        self.random = torch.get_rng_state(), random.getstate(), numpy.random.get_state()

    def put_back(self) -> list[str]:
        """Put everything back; what was changed, each with the line of the submission's file that may have done it."""
        lines = self.lines
        changed = [*self._switches(lines), *self._environment(lines), *self._functions(lines), *self._modules(lines)]
        if self.main:
            with contextlib.suppress(Exception):
                if _signals() != self.signals:
                    changed.append(lines.about("a signal handler", r"signal\.signal"))
                    _set_signals(self.signals)
        return changed

    def put_back_random_numbers(self) -> None:
        """The generators go on as if the submission had drawn nothing."""
        torch.set_rng_state(self.random[0])
        random.setstate(self.random[1])
        numpy.random.set_state(self.random[2])

    def _switches(self, lines: _Lines) -> Iterator[str]:
        for switch, before in self.switches:
            try:
                now = switch.read()
            except Exception:  # a working directory that was removed
                now = None
            if now != before:
                with contextlib.suppress(Exception):
                    switch.write(before)
                if switch.name not in _QUIET:
                    yield lines.about(f"{switch.name} ({_shown(now)})", switch.setters)

    def _environment(self, lines: _Lines) -> Iterator[str]:
        for name in os.environ.keys() | self.environment.keys():
            before, now = self.environment.get(name), os.environ.get(name)
            if before == now or not lines.find(re.escape(name)):
                continue
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before
            yield lines.about(f"the environment variable {name}", re.escape(name))

    def _functions(self, lines: _Lines) -> Iterator[str]:
        for owner, before in self.functions:
            for name in _different(before, vars(owner)):
                now = vars(owner).get(name, _ABSENT)
                if name in _MARKS or isinstance(now, types.ModuleType):
                    continue
                assignment = rf"\.{re.escape(name)}\s*=(?!=)"
                added = name not in before  # by the submission, or by a library that sets its attributes late
                setting = assignment if added else rf"{assignment}|(setattr|patch|del)\b.*\b{re.escape(name)}\b"
                if lines.find(setting):
                    with contextlib.suppress(Exception):
                        if added:
                            delattr(owner, name)
                        else:
                            setattr(owner, name, before[name])
                    yield lines.about(f"{owner.__name__}.{name}", setting)

    def _modules(self, lines: _Lines) -> Iterator[str]:
        for name in _different(self.modules, sys.modules):
            setting = rf"sys\.modules.*\b{re.escape(name)}\b|reload\(.*\b{re.escape(name)}\b"
            if name in self.modules and lines.find(setting):
                sys.modules[name] = self.modules[name]
                yield lines.about(f"the module {name}", setting)


def _different(before: dict[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names that stand for another object, or are gone or new. Asked after every call: no loop in Python."""
    replaced = map(operator.is_not, map(now.get, before), before.values())
    return [*itertools.compress(before, replaced), *(now.keys() - before.keys())]


@functools.cache
def _may_patch(source: str) -> bool:
    """Whether a file assigns to attributes of anything but self, or has other ways to replace what is not its own."""
    return re.search(r"(?<!self)\.\w+\s*=(?!=)|setattr|patch|sys\.modules|reload|__dict__|vars\(", source) is not None


def _shown(value: Any) -> str:
    return value.__name__ if callable(value) and hasattr(value, "__name__") else f"{value}"[:60]


class _Lines:
    """The lines of the submission's file, to find what changed something."""

    def __init__(self, filename: str, source: str) -> None:
        self.filename, self.source = filename, source

    def find(self, pattern: str) -> int | None:
        """The number of the first line that matches."""
        return _first_line(self.source, pattern)

    def about(self, what: str, pattern: str) -> str:
        number = self.find(pattern)
        return what + (f", {self.filename}, line {number}" if number else "")


@functools.lru_cache(10_000)  # libraries change the same names in every call
def _first_line(source: str, pattern: str) -> int | None:
    """The number of the first line that matches, comments aside."""
    found = re.compile(pattern)
    lines = (line.partition("#")[0] for line in source.splitlines())
    return next((number for number, line in enumerate(lines, 1) if found.search(line)), None)
