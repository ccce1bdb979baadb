"""Paired ratios of two costs: when there are enough pairs, and on which side of a limit they are.

The verdict rests on the median of the paired ratios and its bootstrap interval, not on the machine or its load. If the
interval still contains a limit when time runs out, there is no verdict.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from grading.ask.marks import AtLeast

CONFIDENCE = 0.999  # high, because there are several looks, and consecutive pairs are correlated
GREY = 0.05  # an interval within this distance of a limit counts in the submission's favour
LOOKS = (3, 10, 15, 20, 30, 40, 60, 80, 100)  # numbers of pairs after which a verdict is attempted
CLEAR = 3.0  # three pairs are enough if every ratio is below the limit by this factor
WARM_UP = 2, 10  # discarded pairs: at least, and at most while calls keep getting faster
RESAMPLES = 4000
SpeedVerdict = Literal["fast enough", "too slow", "inconclusive"]


@dataclass(frozen=True)
class Pair:
    """The cost in seconds of one call, and of the reference's call with the same inputs."""

    cost: float
    reference: float

    @property
    def ratio(self) -> float:
        """The speed relative to the reference: 2 is twice as fast."""
        return self.reference / max(self.cost, 1e-9)  # a clock that was tampered with may say 0


@dataclass
class PairedRatios:
    """The pairs so far, and their statistics."""

    pairs: list[Pair] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        return [pair.ratio for pair in self.pairs]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def cost(self) -> float:
        return statistics.median(pair.cost for pair in self.pairs)

    @property
    def reference_cost(self) -> float:
        return statistics.median(pair.reference for pair in self.pairs)

    def interval(self) -> tuple[float, float]:
        """The bootstrap interval of the median ratio."""
        return bootstrap_interval(self.ratios)

    def verdict(self, limit: float) -> SpeedVerdict:
        if len(self.pairs) < LOOKS[1]:
            return "too slow" if max(self.ratios) * CLEAR < limit else "inconclusive"
        low, high = self.interval()
        if low >= limit or (low >= limit * (1 - GREY) and high <= limit * (1 + GREY)):
            return "fast enough"
        return "too slow" if high < limit else "inconclusive"


def bootstrap_interval(ratios: Sequence[float]) -> tuple[float, float]:
    """The percentile interval of the median over resampled ratios; deterministic."""
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor(ratios, dtype=torch.float64)
    picks = torch.randint(len(ratios), (RESAMPLES, len(ratios)), generator=generator)
    medians = values[picks].quantile(0.5, dim=1)
    outside = (1 - CONFIDENCE) / 2
    low, high = medians.quantile(torch.tensor([outside, 1 - outside], dtype=torch.float64)).tolist()
    return low, high


def take_pairs(pairs: Iterator[Pair], limit: AtLeast) -> PairedRatios:
    """Take pairs until every factor has a verdict, or until time runs out and there are at least ten."""
    comparison = PairedRatios()
    begun = time.monotonic()
    for pair in _warm(pairs):
        comparison.pairs.append(pair)
        number = len(comparison.pairs)
        if number in LOOKS and all(comparison.verdict(each) != "inconclusive" for each in limit.factors):
            break
        if number == LOOKS[-1] or (number >= LOOKS[1] and time.monotonic() - begun > limit.seconds):
            break
    return comparison


def _warm(pairs: Iterator[Pair]) -> Iterator[Pair]:
    """The pairs after calls have stopped getting faster."""
    fewest, most = WARM_UP
    before = next(pairs)
    for number, pair in enumerate(pairs, 2):
        if number > most or (number > fewest and _steady(before, pair)):
            yield pair
            break
        before = pair
    yield from pairs


def _steady(before: Pair, now: Pair) -> bool:
    return now.cost > 0.8 * before.cost and now.reference > 0.8 * before.reference
