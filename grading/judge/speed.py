"""Judging speed: a submission against a reference, call by call in the same run, each in its own process.

Every pair of calls gets fresh inputs, created outside the timed region; the two sides take turns going first; every
timed answer is compared with the reference's. `grading.judge.ratios` reaches the verdict from the pairs.
"""

from __future__ import annotations

import functools
import itertools
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from typing import Any

from grading.ask.draw import Draw
from grading.ask.got import Got
from grading.ask.marks import AtLeast
from grading.ask.submission import Submission
from grading.course.layout import Course
from grading.course.trees import Tree, find_tree
from grading.data.plain import tensors_in
from grading.data.request import Process
from grading.explain.outcome import Inconclusive, NotGradableHere, Ungraded, Unmet
from grading.judge.ratios import LOOKS, Pair, PairedRatios, take_pairs
from grading.judge.same import check_same
from grading.run.executors import Executor, InProcess

IMPOSSIBLE = 3  # times the hardware's limit; twice is plausible where half of the counted FLOPs are masked out
CLOCK_DOUBTS = 5  # how often a suspicious clock is checked again, with ten more pairs each time
Ask = Callable[[Submission, Draw], Got]


class Contest:
    """A submission and the reference of an `at_least` mark, given the same requests in turn."""

    def __init__(self, submission: Submission, reference: Submission, named: str, limit: AtLeast, device: str) -> None:
        self.submission, self.reference, self.named = submission, reference, named
        self.limit, self.device = limit, device
        self.salt = secrets.token_hex(8)  # inputs are unpredictable, so answers can't be precomputed at import
        self.overheads: list[tuple[float, float]] = []  # of each pair: seconds on the judge's clock beyond the costs
        self.last: tuple[Got, Got] | None = None  # the answers of the last pair
        self.floor = 0.0  # the least seconds that the hardware needs for a call, set by `figures`

    @classmethod
    def arrange(cls, submission: Submission, course: Course, limit: AtLeast, device: str, ask: Ask) -> Contest:
        """A contest with the first reference that can run here. NotGradableHere if none can.

        The reference never runs in the submission's process, where it could be slowed down.
        """
        process = submission.always["process"] or Process()

        def side(role: str, tree: Tree, executor: Executor, **always: Any) -> Submission:
            always |= {"timed": True, "process": replace(process, role=role)}
            return Submission(tree, submission.exercise, executor, **submission.always | always)

        timed = side("timed", submission.tree, submission.executor)
        timed.observed = submission.observed
        executor = InProcess(isinstance(submission.executor, InProcess) and submission.executor.live)
        reasons = []
        for named in limit.of:
            whose, _, function = named.partition(".")
            tree = find_tree(course, whose, course.root, "of=")
            reference = side("reference", tree, executor, **({"name": function} if function else {}))
            contest = cls(timed, reference, named, limit, device)
            try:
                contest._ask(reference, ask, 0)
            except Ungraded as reason:
                reasons.append(f"{named}: {reason}")
            else:
                return contest
        raise NotGradableHere(f"no reference for the speed can run here ({'; '.join(reasons)})")

    @property
    def reference_speed(self) -> str:
        """`the solution's speed`, `the speed of torch's attention`."""
        tree, _, function = self.named.partition(".")
        whose = "the solution's" if tree == "solutions" else f"{tree}'s"
        return f"the speed of {whose} {function}" if function else f"{whose} speed"

    def run(self, ask: Ask) -> PairedRatios:
        """Compare the two sides. Unmet if an answer is wrong, or only seems fast because the clock is wrong."""
        pairs = map(functools.partial(self._pair, ask), itertools.count())
        comparison = take_pairs(pairs, self.limit)
        if comparison.verdict(self.limit.factors[0]) == "fast enough":
            self._check_clock(comparison, pairs)
        return comparison

    def _pair(self, ask: Ask, number: int) -> Pair:
        first_theirs = bool(number % 2)
        if first_theirs:
            right = self._ask(self.reference, ask, number)
        got = self._ask(self.submission, ask, number)
        if not first_theirs:
            right = self._ask(self.reference, ask, number)
        check_same(
            got,
            right,
            "a timed answer is wrong",
            expected="each timed call computes the answer to its own inputs before it returns",
            returned="numbers that differ from the reference's, for inputs that no earlier call had",
        )
        self.last = got, right
        self.overheads.append((_outside(got) - got.result.cost, _outside(right) - right.result.cost))
        return Pair(got.result.cost, right.result.cost)

    def _ask(self, side: Submission, ask: Ask, number: int) -> Got:
        """Ask one side for one call. The number determines the inputs, so both sides get the same."""
        side.observed.clear()
        got = ask(side, Draw(self.submission.always["seed"], f"{self.salt} {number}", self.device))
        if side.observed != [got]:
            raise TypeError("speed needs a function that asks the submission once and returns the result")
        if side is self.reference and got.trouble and got.trouble.kind == "raised":
            raise RuntimeError(f"the reference {self.named} failed: {got.trouble.message}\n{got.trouble.traceback}")
        got.require_answer()
        return got

    def _check_clock(self, comparison: PairedRatios, pairs: Iterator[Pair]) -> None:
        """Raise Unmet unless the costs agree with the judge's own clock, which the submission can't reach."""
        for doubts in range(CLOCK_DOUBTS + 1):
            list(itertools.islice(pairs, LOOKS[1] if doubts else 0))  # even on a busy machine some run undisturbed
            ours, theirs = (min(each) for each in zip(*self.overheads, strict=True))
            if ours - 1.5 * theirs <= 0.25 * comparison.reference_cost + 0.002:
                return
        assert self.last is not None
        raise Unmet(
            self.last[0].explain(
                "the reported call times are impossible",
                expected="the submission leaves the clock and the other threads of its process alone",
                got=f"{show_seconds(comparison.cost)} reported per call, and at least {show_seconds(ours)} more "
                f"unaccounted for ({show_seconds(theirs)} for the reference's calls)",
            )
        )

    def figures(self, comparison: PairedRatios, ask: Ask) -> dict[str, Any]:
        """The measurements, for records: speed, the reference's counts, and the share of the hardware's limits."""
        from grading.judge.hardware import ceilings, machine_kind

        assert self.last is not None
        _, right = self.last
        low, high = comparison.interval()
        found: dict[str, Any] = {
            "implementation": self.submission.tree.name,
            "reference": self.named,
            "reference_version": _version(self.named),
            "machine": machine_kind(),
            "ratio": comparison.ratio,
            "ratio_low": low,
            "ratio_high": high,
            "pairs": len(comparison.pairs),
            "seconds": comparison.cost,
            "reference_seconds": comparison.reference_cost,
        }
        carried = [
            *right.request.inputs,
            *tensors_in(right.output),
            *tensors_in(list(right.result.grads.values())),
        ]
        moved = sum(tensor.nbytes for tensor in carried)
        found["gigabytes_a_second"] = moved / comparison.cost / 1e9
        try:
            flops = self._counts(self.reference, ask)["flops"]
        except (Unmet, Ungraded, RuntimeError):  # a kernel that PyTorch does not see
            flops = 0
        dtype = next((t.dtype for t in right.request.inputs if t.is_floating_point()), None)
        if dtype is not None:
            limits = ceilings(self.device, dtype)
            found["share_of_hardware"] = limits.floor(flops, moved) / comparison.cost
            self.floor = limits.floor(flops, moved if self.device == "cuda" else 0)  # a CPU has its inputs in cache
        if flops:
            found["teraflops_a_second"] = flops / comparison.cost / 1e12
        return found

    def _counts(self, side: Submission, ask: Ask) -> dict[str, int]:
        counting = Submission(side.tree, side.exercise, side.executor, **{**side.always, "timed": False, "count": True})
        return self._ask(counting, ask, 0).counts

    def operations(self, ask: Ask) -> str:
        """How many operations each side calls, if that may explain a difference in speed."""
        try:
            ours, theirs = (self._counts(side, ask) for side in (self.submission, self.reference))
        except (Unmet, Ungraded, RuntimeError):
            return ""
        if ours["ops"] < 2 * theirs["ops"]:
            return ""
        return (
            f"{ours['ops']:,} PyTorch operations per call, {theirs['ops']:,} in the reference: perhaps a Python loop "
            "where one operation on a whole tensor would do"
        )


def _outside(got: Got) -> float:
    """What a call cost by the judge's own clock: CPU time, which other programs do not lengthen, where it was seen."""
    return got.result.spent or got.elapsed


def _version(named: str) -> str:
    """The version of the reference's package; PyTorch's for the solutions."""
    tree = named.partition(".")[0]
    try:
        return metadata.version(tree)
    except metadata.PackageNotFoundError:
        return f"torch {metadata.version('torch')}"


def show_seconds(seconds: float) -> str:
    """`12 ms`, `350 µs`: up to three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def judge_speed(contest: Contest, ask: Ask, comparison: PairedRatios, earned: Callable[[str], None]) -> None:
    """Call `earned(limit)` for each limit that is met; raise Unmet for the first that is not, or Inconclusive."""
    limit, reference_speed = contest.limit, contest.reference_speed
    if comparison.cost * IMPOSSIBLE < contest.floor:
        raise Inconclusive(
            f"the measurement is broken: {show_seconds(comparison.cost)} per call, but this machine needs at least "
            f"{show_seconds(contest.floor)} for the reference's FLOPs or for moving its inputs and outputs"
        )
    low, high = comparison.interval()
    verdicts = {text: comparison.verdict(factor) for text, factor in zip(limit.texts, limit.factors, strict=True)}
    for text, verdict in verdicts.items():
        if verdict == "fast enough":
            earned(text)
    about = f"{comparison.ratio:.2f}× ({low:.2f}× to {high:.2f}×; {len(comparison.pairs)} pairs of calls)"
    for text, verdict in verdicts.items():
        if verdict == "too slow":
            assert contest.last is not None
            required = text.replace("x", "×")
            raise Unmet(
                contest.last[0].explain(
                    f"too slow: {comparison.ratio:.2g}× {reference_speed} ({required} required)",
                    expected=f"at least {required} {reference_speed} "
                    f"({show_seconds(comparison.reference_cost)} per call here)",
                    got=f"{show_seconds(comparison.cost)} per call: {about}",
                    location=contest.operations(ask),
                )
            )
    if "inconclusive" in verdicts.values():
        raise Inconclusive(f"this machine is too noisy to compare with {reference_speed}: {about}")
