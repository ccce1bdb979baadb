"""`python -m grading doctor`: what this machine offers for grading, and what its sandboxes do not stop."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from grading.run import quota
from grading.run.sandbox import KINDS, Sandbox, missing, strongest

_PACKAGES = ("torch", "transformers", "triton", "pytest", "hypothesis", "numpy", "scipy")
_REFERENCES = ("flash_attn", "mamba_ssm", "causal_conv1d")
_FRAMEWORKS = ("crewai", "dspy", "haystack", "langgraph", "llama_index")
_WIDTH = 100


def lines() -> Iterator[str]:
    """The report. A part that can't be found out says why, so that this never fails."""
    parts: tuple[tuple[str, Callable[[], Iterator[str]]], ...] = (
        ("python", _python),
        ("packages", _packages),
        ("machine", _machine),
        ("sandboxes", _sandboxes),
        ("limits", _limits),
    )
    for heading, part in parts:
        yield heading
        try:
            for line in part():
                yield textwrap.fill(line, _WIDTH, initial_indent="  ", subsequent_indent="    ")
        except Exception as error:
            yield f"  can't be found out: {type(error).__name__}: {error}"


def _python() -> Iterator[str]:
    yield f"Python {platform.python_version()}, {sys.executable}, {platform.platform()}"


def _packages() -> Iterator[str]:
    yield ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    for what, names in (("reference packages", _REFERENCES), ("agent frameworks", _FRAMEWORKS)):
        found = {name: importlib.util.find_spec(name) is not None for name in names}
        absent = [name for name, there in found.items() if not there]
        yield f"{what}: {', '.join(name for name, there in found.items() if there) or 'none'}" + (
            f"; not installed: {', '.join(absent)}" if absent else ""
        )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "is not installed"


def _machine() -> Iterator[str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB of memory"
    yield f"{cores} CPU cores{memory}"
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)
    yield f"C++ compiler: {compiler or 'none, so torch.compile with inductor does not work'}"
    devices = [*Path("/dev").glob("nvidia[0-9]*"), *Path("/dev").glob("kfd")]
    yield f"GPU: {', '.join(map(str, devices)) or 'none'}"


def _sandboxes() -> Iterator[str]:
    best = strongest()
    for kind in KINDS:
        if why := missing(kind):
            yield f"{kind}: does not work. {why}"
            continue
        yield f"{kind}: works{', and is what --isolate takes' if kind == best else ''}. It does not stop everything:"
        for sentence in Sandbox(kind).does_not_stop:
            yield f"- {sentence}"


def _limits() -> Iterator[str]:
    if quota.has_cgroups():
        yield "memory and processes of a sandbox: by a cgroup"
    elif sys.platform.startswith("linux"):
        yield (
            "memory and processes of a sandbox: no cgroup can be made here, so the grader watches and ends what uses "
            "too much, a moment later"
        )
    else:
        yield "memory of a sandbox: each process by itself, where the system has such a limit"
