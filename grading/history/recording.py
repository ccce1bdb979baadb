"""Performance tests in pytest-benchmark's table, JSON and storage, so that its own options apply to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from grading.ask.marks import AtLeast, AtMost
    from grading.judge.ratios import PairedRatios


class Replay:
    """The timer of a benchmark whose calls were measured elsewhere: each call advances it by the next of `costs`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.costs: list[float] = []

    def __repr__(self) -> str:
        return "grading.run.stopwatch"

    def __call__(self) -> float:
        return self.now

    def play(self) -> None:
        self.now += self.costs.pop(0)


def prepare(item: pytest.Item) -> None:
    """Have pytest-benchmark read the time of this test from a Replay."""
    item.add_marker(pytest.mark.benchmark(timer=Replay()))


def record_speed(
    benchmark: Any, item: pytest.Item, name: str, comparison: PairedRatios, limit: AtLeast, figures: dict[str, Any]
) -> None:
    """Record the submission's calls, with everything that a later comparison of runs needs in `extra_info`."""
    benchmark.extra_info.update(
        figures,
        limits=list(limit.texts),
        tolerance=limit.tolerance,
        ratios=comparison.ratios,
        reference_costs=[pair.reference for pair in comparison.pairs],
    )
    replay(benchmark, item, name, name.partition("::")[0], [pair.cost for pair in comparison.pairs])


def record_counts(
    benchmark: Any, item: pytest.Item, name: str, allowed: AtMost, figures: dict[str, Any], seconds: list[float]
) -> None:
    """Record a test that counts, with its counts in `extra_info`; the durations of its requests mean little."""
    benchmark.extra_info.update(counts={count: figures[count] for count in allowed.counts})
    replay(benchmark, item, name, f"{name.partition('::')[0]}, counted", seconds)


def replay(benchmark: Any, item: pytest.Item, name: str, group: str, costs: list[float]) -> None:
    marker = item.get_closest_marker("benchmark")
    assert marker is not None
    clock: Replay = marker.kwargs["timer"]
    clock.costs = list(costs)
    benchmark.fullname, benchmark.group = name, group
    benchmark.pedantic(clock.play, rounds=len(costs))
