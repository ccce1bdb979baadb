"""The performance tests from run to run: where a series steps up or down, and a plot of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from grading.history.runs import Run

SHUFFLES = 2000
CHANCE = 0.02  # how often a series without a step may seem to have one
FEWEST = 3  # runs on each side of a step


def series(runs: Sequence[Run]) -> dict[str, list[tuple[int, float]]]:
    """For each test the (number of the run, value): its speed relative to the reference, or a count."""
    found: dict[str, list[tuple[int, float]]] = {}
    for number, run in enumerate(runs):
        for test, measured in run.tests.items():
            for name, value in measured.counts or (("speed", measured.ratio),):
                found.setdefault(f"{test} {name}", []).append((number, value))
    return found


def steps(values: Sequence[float], tolerance: float) -> list[int]:
    """Where the level of a series changes: the first index of each new level.

    The series is cut where the mean logarithms of the two sides differ most, relative to their standard error. The cut
    is kept if it exceeds the tolerance and hardly any shuffle of the series has one as clear. Then both sides are
    searched in the same way.
    """
    logs = np.log(np.maximum(values, 1e-12))
    best, strength = _cut(logs)
    if best is None:
        return []
    before, after = logs[:best], logs[best:]
    if abs(np.expm1(after.mean() - before.mean())) <= tolerance:
        return []
    generator = np.random.default_rng(0)
    shuffled = sum(_cut(generator.permutation(logs))[1] >= strength for _ in range(SHUFFLES))
    if shuffled / SHUFFLES >= CHANCE:
        return []
    left = steps(values[:best], tolerance)
    return [*left, best, *(best + index for index in steps(values[best:], tolerance))]


def _cut(logs: np.ndarray) -> tuple[int | None, float]:
    """Where to cut in two, and how clear the cut is: the difference of the means relative to its standard error."""
    size = len(logs)
    if size < 2 * FEWEST:
        return None, 0.0
    cuts = np.arange(FEWEST, size - FEWEST + 1)
    sums = np.cumsum(logs)
    left, right = sums[cuts - 1] / cuts, (sums[-1] - sums[cuts - 1]) / (size - cuts)
    strength = np.abs(right - left) * np.sqrt(cuts * (size - cuts) / size)
    best = int(strength.argmax())
    return int(cuts[best]), float(strength[best])


def draw(runs: Sequence[Run], path: Path) -> list[str]:
    """Plot the history of each test to `path`; returns the steps in words."""
    from matplotlib.figure import Figure

    lines = series(runs)
    figure = Figure(figsize=(8, 1 + 1.6 * len(lines)), layout="constrained")
    panels = figure.subplots(len(lines), squeeze=False)[:, 0]
    words = []
    for panel, (name, points) in zip(panels, lines.items(), strict=True):
        numbers, values = [number for number, _ in points], [value for _, value in points]
        panel.plot(numbers, values, "o-", markersize=3, color="tab:blue")
        test = name.rpartition(" ")[0]
        tolerance = next(run.tests[test].tolerance for run in reversed(runs) if test in run.tests)
        for index in steps(values, tolerance):
            panel.axvline(numbers[index] - 0.5, color="tab:red", linestyle="--")
            was, now = np.median(values[:index][-FEWEST:]), np.median(values[index:][:FEWEST])
            words.append(f"{name}: {was:.3g} before {runs[numbers[index]].name}, {now:.3g} from then on")
        panel.set_title(name, fontsize=8, loc="left")
        panel.set_ylim(bottom=0)
        panel.tick_params(labelsize=7)
        panel.set_xlim(-0.5, max(len(runs) - 0.5, 0.5))
    if len(panels):
        panels[-1].set_xlabel("run, oldest first", fontsize=8)
    figure.savefig(path)
    return words
