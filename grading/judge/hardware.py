"""The kind of this machine, and how fast it can be: measured, because data sheets promise more."""

from __future__ import annotations

import functools
import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@functools.cache
def machine_kind() -> str:
    """The kind of machine as a folder name, `amd-epyc-2-cores` or `nvidia-h200`: the GPU if there is one."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    else:
        import cpuinfo  # a dependency of pytest-benchmark

        name = f"{cpuinfo.get_cpu_info().get('brand_raw', 'unknown CPU')} {os.cpu_count()} cores"
    name = re.sub(r"\((R|TM)\)|CPU @.*GHz|\d+-Core Processor", " ", name)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@dataclass(frozen=True)
class Ceilings:
    """What one thread of the CPU, or the whole GPU, can do."""

    flops: float  # per second, for a large matrix product in this dtype
    bandwidth: float  # bytes per second, read plus written, for a copy larger than any cache

    def floor(self, flops: float, moved: float) -> float:
        """The least time in seconds for this many FLOPs and moved bytes."""
        return max(flops / self.flops, moved / self.bandwidth)


@functools.cache
def ceilings(device: str, dtype: torch.dtype) -> Ceilings:
    size = 8192 if device == "cuda" else 256
    numel = 1 << (29 if device == "cuda" else 25)
    a, b = torch.randn(2, size, size).to(device, dtype).unbind()
    source = torch.ones(numel, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Ceilings(
            flops=2 * size**3 / _fastest(lambda: torch.mm(a, b), device),
            bandwidth=2 * numel / _fastest(lambda: target.copy_(source), device),
        )
    finally:
        torch.set_num_threads(threads)


def _fastest(work: Callable[[], object], device: str) -> float:
    """The time of the fastest of many calls in seconds: even on a busy machine some short calls run undisturbed."""
    fastest, began = math.inf, time.perf_counter()
    while (begun := time.perf_counter()) < began + 0.5:
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        fastest = min(fastest, time.perf_counter() - begun)
    return fastest
