"""Failures grouped by cause, so that every cause is told once: with one failure to read, and the others by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from grading.data.record import Record, Tally

SMALLER = 4  # times; tests begin with what is simple, so that a little smaller is not easier to follow


@dataclass(frozen=True)
class Cause:
    """What the failures of one exercise have in common."""

    shown: Record  # the failure that is told
    alike: tuple[Record, ...] = ()  # the others, in the order of the tests

    @property
    def failures(self) -> tuple[Record, ...]:
        return self.shown, *self.alike

    @property
    def lost(self) -> float:
        return lost(self.failures)

    @property
    def whole_file(self) -> bool:
        """Whether the exercise's file does not load."""
        return self.shown.cause == f"{self.shown.exercise}.py"

    @property
    def known(self) -> bool:
        """Whether a known mistake explains it."""
        return bool(self.shown.mistakes)


def causes(tally: Tally) -> list[Cause]:
    """The causes of the failures of one exercise: what loses the most points comes first, known mistakes before others.

    A failure that several mistakes explain is told with the last of them.
    """
    left = [record for record in tally.records if record.verdict == "failed"]
    costs: Counter[str] = Counter()
    for record in left:
        costs.update(dict.fromkeys(record.mistakes, record.max_points - record.points))
    found, told = [], set()
    for mistake in sorted(costs, key=lambda name: -costs[name]):
        told.add(mistake)
        members = [record for record in left if record.mistakes and told.issuperset(record.mistakes)]
        left = [record for record in left if not (record.mistakes and told.issuperset(record.mistakes))]
        found += [_cause(members)] if members else []

    alike: dict[object, list[Record]] = {}
    for number, record in enumerate(left):
        alike.setdefault(record.cause or number, []).append(record)
    # Several that are alike come first; the rest stay in the order of the tests, which begin with what is simple.
    others = sorted(map(_cause, alike.values()), key=lambda it: (not it.whole_file, -it.lost if it.alike else 0))
    unloadable = [cause for cause in others if cause.whole_file]
    return [*unloadable, *found, *others[len(unloadable) :]]


def _cause(records: list[Record]) -> Cause:
    """The failure to read has as few mistakes as possible, and is the first of these or a much smaller one."""
    fewest = min(len(record.mistakes) for record in records)
    shown, *others = (record for record in records if len(record.mistakes) == fewest)
    for record in others:
        if SMALLER * record.size < shown.size:
            shown = record
    return Cause(shown, tuple(record for record in records if record is not shown))


def lost(records: Iterable[Record]) -> float:
    """The points that these tests still have to give."""
    tally = Tally(tuple(records))
    return tally.max_points - tally.points
