"""The cost of a call: the clock of timed requests. It runs beside the submission and judges nothing.

On a CPU the cost is the duration of the call, minus the time in which it was ready to run but waited for a core: the
load from other programs is not the submission's fault. The cost is at least the CPU time since the previous call of all
threads of the process and of the child processes that it waited for, so work moved to another thread is counted,
finished or not.

On a GPU the cost is the time that device events measure from an idle device to the end of the call's own stream, plus
the time that other streams still take. Nothing is queued ahead of the call, since that could hide work on another
stream; the cost of small calls therefore includes their launches.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable
from time import perf_counter_ns, process_time_ns, thread_time_ns
from typing import Any, Protocol

import torch

L2_FLUSH_BYTES = 256 << 20  # larger than the L2 cache of any GPU
IDLE_SYNC_NS = 20_000  # the time that synchronising an idle GPU takes


class Stopwatch(Protocol):
    """`with stopwatch: …` once or more, then `cost()` once: the total in seconds."""

    def cost(self) -> float: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: object) -> None: ...


def stopwatch(inputs: list[torch.Tensor]) -> Stopwatch:
    """The stopwatch for the device of the inputs."""
    return _GpuStopwatch() if any(tensor.is_cuda for tensor in inputs) else _CpuStopwatch()


def _delay_reader() -> Callable[[], int]:
    """Reads the nanoseconds in which this thread was ready but not running (on Linux; 0 elsewhere)."""
    try:
        file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        os.pread(file, 64, 0).split()[1]
    except (OSError, IndexError):
        return lambda: 0
    return lambda: int(os.pread(file, 64, 0).split()[1])


_delay_ns = _delay_reader()  # of the thread that imports this, which runs the requests


def _others_ns() -> int:
    """The CPU time, since the process started, of all threads except this one and of ended child processes."""
    return process_time_ns() - thread_time_ns() + _children_ns()


def _children_ns() -> int:
    if sys.platform == "win32":  # which does not record it
        return 0
    import resource

    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round((children.ru_utime + children.ru_stime) * 1e9)


class _CpuStopwatch:
    _others_before = 0  # at the end of the previous call

    def __init__(self) -> None:
        self.active = self.own = 0

    def __enter__(self) -> None:
        self.collecting = gc.isenabled()
        gc.disable()
        if hasattr(os, "sched_setaffinity"):  # both sides on the same core: others may be slower or shared
            self.cores = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {min(self.cores)})
        self.begun = (perf_counter_ns() - _delay_ns(), thread_time_ns())

    def __exit__(self, *_: object) -> None:
        own, active = thread_time_ns(), perf_counter_ns() - _delay_ns()
        self.active += active - self.begun[0]
        self.own += own - self.begun[1]
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self.cores)
        if self.collecting:
            gc.enable()

    def cost(self) -> float:
        before, now = _CpuStopwatch._others_before, _others_ns()
        _CpuStopwatch._others_before = now
        return max(self.active, self.own + now - before) / 1e9


class _GpuStopwatch:
    def __init__(self) -> None:
        self.seconds = 0.0
        self.cache = torch.empty(L2_FLUSH_BYTES, dtype=torch.int8, device="cuda")
        self.start, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def __enter__(self) -> None:
        self.cache.zero_()
        torch.cuda.synchronize()
        self.start.record()

    def __exit__(self, *_: object) -> None:
        self.end.record()
        self.end.synchronize()
        begun = perf_counter_ns()
        torch.cuda.synchronize()
        elsewhere = max(0, perf_counter_ns() - begun - IDLE_SYNC_NS)
        self.seconds += self.start.elapsed_time(self.end) / 1e3 + elsewhere / 1e9

    def cost(self) -> float:
        return self.seconds


class NoStopwatch(contextlib.nullcontext[None]):
    """For a request that is not timed."""

    def cost(self) -> float:
        return 0.0
