"""Saved runs of the performance tests: pytest-benchmark's JSON files, in a folder for each kind of machine."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grading.course.layout import Course


class RunError(Exception):
    """A run that does not exist or cannot be read; the message is one sentence for the user."""


@dataclass(frozen=True)
class Measured:
    """One performance test of one run: what a `speed` test measured, or what `at_most` counted."""

    ratios: tuple[float, ...] = ()  # of the pairs: speed relative to the reference
    reference_costs: tuple[float, ...] = ()  # seconds
    counts: tuple[tuple[str, float], ...] = ()
    reference: str = ""
    tolerance: float = 0.0

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def seconds(self) -> float:
        return statistics.median(cost / ratio for cost, ratio in zip(self.reference_costs, self.ratios, strict=True))


@dataclass(frozen=True)
class Run:
    """The performance tests of one pytest run."""

    name: str
    when: str  # ISO 8601, UTC
    machine: str  # the kind of machine
    tests: dict[str, Measured]

    @classmethod
    def load(cls, path: Path) -> Run:
        """Raises RunError unless this is a JSON file of pytest-benchmark."""
        try:
            data = json.loads(path.read_text("utf-8"))
            return cls.of(path.stem, data["datetime"], data["benchmarks"])
        except OSError as error:
            raise RunError(f"{path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise RunError(f"{path}: not a file written by --benchmark-save or --benchmark-json ({reason})") from None

    @classmethod
    def of(cls, name: str, when: str, benchmarks: Iterable[dict[str, Any]]) -> Run:
        """A run from pytest-benchmark's description of its benchmarks."""
        tests, machine = {}, ""
        for each in benchmarks:
            info = each["extra_info"]
            if "ratios" in info:
                machine = info["machine"]
                tests[each["fullname"]] = Measured(
                    ratios=tuple(info["ratios"]), reference_costs=tuple(info["reference_costs"]),
                    reference=info["reference"], tolerance=info["tolerance"],
                )  # fmt: skip
            elif "counts" in info:
                tests[each["fullname"]] = Measured(counts=tuple(info["counts"].items()))
        return cls(name, when, machine, tests)


def kept_runs(course: Course, machine: str = "*") -> list[Run]:
    """The saved runs on one kind of machine, or on all kinds, oldest first."""
    runs = [Run.load(path) for path in course.kept_runs(machine)]
    return sorted(runs, key=lambda run: run.when)


def newest(runs: Sequence[Run], machine: str) -> Run:
    """The newest of these runs on this kind of machine, or else on any."""
    return next((run for run in reversed(runs) if run.machine == machine), runs[-1])


def find_run(course: Course, name: str) -> Run:
    """A saved run by its path or by part of its file name."""
    if Path(name).is_file():
        return Run.load(Path(name))
    found = course.kept_runs(name=f"*{name}*")
    if len(found) != 1:
        what = f"matches {', '.join(path.name for path in found)}" if found else "no such run"
        raise RunError(f"{name}: {what} under benchmarks/; give the path of a JSON file of pytest-benchmark")
    return Run.load(found[0])
