"""The results of a graded run: one Record per test, and the Grade that holds them.

Every report is generated from these alone, so the points agree everywhere.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Verdict = Literal[
    "passed",  # every point earned
    "failed",  # the submission is wrong; points may still be partly earned
    "not started",  # the function, or a part, still raises NotImplementedError, or the file is missing
    "not reached",  # the run ended before: it was interrupted, or its time was over
    "not offered",  # the library has no such operator
    "not gradable here",  # needs a GPU, a network, a key or a package that this machine lacks
    "inconclusive",  # the machine was too noisy for a verdict on speed
    "error",  # the grader itself broke
]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

# A verdict that says nothing about the submission removes its points from the total instead of scoring 0. What a
# submission could bring about itself is counted: none can make the total smaller.
COUNTED: frozenset[Verdict] = frozenset({"passed", "failed", "not started", "not reached"})


@dataclass(frozen=True)
class Part:
    """A named share of one test's points, earned separately."""

    points: float
    max_points: float


@dataclass(frozen=True)
class Record:
    """The outcome of one graded test.

    `id` does not depend on the implementation or on how pytest was called, so it can identify a row of a grade book.
    """

    id: str  # "week1/self_attention::test_scale_divides_the_scores[float16]"
    title: str  # "scale divides the scores [float16]"
    verdict: Verdict
    points: float  # earned, 0 <= points <= max_points
    max_points: float  # what the test offers, counted or not
    seconds: float = 0.0
    message: str = ""  # what the student reads, plain text, several lines; empty when passed
    reason: str = ""  # the message in one line
    mistakes: tuple[str, ...] = ()  # the names of the known mistakes that together explain the failure
    cause: str = (
        ""  # the same in failures that have the same cause, "week1/moe.py, line 52: IndexError"; empty if unknown
    )
    size: int = 0  # how much the test's calls were given: the smaller, the easier to follow by hand
    handout: str | None = None  # "exercises/week1/self_attention.md#masks"
    parts: dict[str, Part] = field(default_factory=dict)  # partial credit by name; empty if the test has no parts
    figures: dict[str, float | int | str] = field(default_factory=dict)  # measured counts, ratios, errors
    output: str = ""  # what the submission printed, truncated
    test_code: str = ""  # the graded test's source
    line: int | None = None  # where that source begins in the test file
    review: tuple[str, ...] = ()  # lines of the submission that a person should look at: see `grading.course.review`

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict must be one of {', '.join(VERDICTS)}, not {self.verdict!r}")
        if not 0 <= self.points <= self.max_points:
            raise ValueError(f"points must be between 0 and max_points={self.max_points}, not {self.points}")
        if self.verdict == "passed" and self.points != self.max_points:
            raise ValueError(f"a test that passed must earn all of its {self.max_points} points, not {self.points}")

    @property
    def exercise(self) -> str:
        """The exercise's path without suffix, `week1/self_attention`."""
        return self.id.partition("::")[0]

    @property
    def test(self) -> str:
        return self.id.partition("::")[2]

    @property
    def counted(self) -> bool:
        """Whether the points belong to the total."""
        return self.verdict in COUNTED

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Record:
        parts = {name: Part(**part) for name, part in data.get("parts", {}).items()}
        lists = {name: tuple(data.get(name, ())) for name in ("mistakes", "review")}
        return cls(**{**data, "parts": parts, **lists})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Tally:
    """The sums of points over some records."""

    records: tuple[Record, ...]

    @property
    def points(self) -> float:
        return _clean(sum(record.points for record in self.records if record.counted))

    @property
    def max_points(self) -> float:
        """The points that can be earned here, without those of tests that could not be graded."""
        return _clean(sum(record.max_points for record in self.records if record.counted))

    @property
    def ungraded_points(self) -> float:
        return _clean(sum(record.max_points for record in self.records if not record.counted))

    def count(self, verdict: Verdict) -> int:
        return sum(record.verdict == verdict for record in self.records)

    @property
    def complete(self) -> bool:
        """Whether every point that can be earned here is earned, and the grader itself worked."""
        return self.points == self.max_points and not self.count("error")


@dataclass(frozen=True)
class Grade(Tally):
    """A whole run."""

    implementation: str = "exercises"  # the tree that was graded, as given to --impl
    seed: int | None = 0  # of the graded inputs (--grading-seed); None for one that is secret
    environment: dict[str, str] = field(default_factory=dict)  # {"python": "3.11.7", "torch": "2.13.0", …}
    identity: dict[str, str] = field(default_factory=dict)  # {"date": "2026-03-02 14:05 UTC", "commit": "4c93f53…", …}
    problem: str = ""  # why the run graded nothing, such as an unknown --impl

    def by_exercise(self) -> dict[str, Tally]:
        """A tally for each exercise, in the order of grading."""
        groups: dict[str, list[Record]] = {}
        for record in self.records:
            groups.setdefault(record.exercise, []).append(record)
        return {name: Tally(tuple(records)) for name, records in groups.items()}


def show_points(points: float) -> str:
    """Points as a person writes them: `2`, `2.5`, `0.33`."""
    return f"{points:.2f}".rstrip("0").rstrip(".")


def _clean(total: float) -> float:
    """A sum of points without binary rounding errors: ten times 0.1 is 1."""
    return round(total, 6)
