"""Whether a run is slower than an earlier one, with the tolerance that each test declares.

What is compared is the speed relative to the reference, which both runs measured beside the submission, so it depends
neither on the machine nor on its load. A change counts if it exceeds the tolerance and if the pairs of the two runs
differ by more than chance (Mann-Whitney). Counts have no noise: any difference is a change.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from grading.history.runs import Measured, Run

CHANCE = 0.01  # how often two runs of the same code may seem to differ

Change = Literal["slower", "more", "gone", "unclear", "faster", "less", "new", "same"]
REGRESSIONS: frozenset[Change] = frozenset({"slower", "more", "gone"})
ORDER: tuple[Change, ...] = ("slower", "more", "gone", "unclear", "faster", "less", "new", "same")


@dataclass(frozen=True)
class Finding:
    """How one test changed."""

    test: str
    change: Change
    before: str = ""
    now: str = ""
    note: str = ""


def compare(before: Run, now: Run) -> list[Finding]:
    """A finding for each test of either run, regressions first."""
    same_machine = before.machine == now.machine
    findings = []
    for test, old in before.tests.items():
        new = now.tests.get(test)
        if new is None:
            findings.append(_gone(test, now.tests.keys() - before.tests.keys()))
        elif old.counts or new.counts:
            findings += _compare_counts(test, dict(old.counts), dict(new.counts))
        else:
            findings.append(_compare_speed(test, old, new, same_machine))
    findings += [Finding(test, "new", now=_show(new)) for test, new in now.tests.items() if test not in before.tests]
    return sorted(findings, key=lambda finding: (ORDER.index(finding.change), finding.test))


def _gone(test: str, others: Iterable[str]) -> Finding:
    close = difflib.get_close_matches(test, list(others), 1, cutoff=0.8)
    return Finding(test, "gone", note=f"renamed to {close[0]}?" if close else "removed, or not measured this time")


def _compare_counts(test: str, old: dict[str, float], new: dict[str, float]) -> list[Finding]:
    findings = []
    for name in old | new:
        a, b = old.get(name), new.get(name)
        change: Change = "same" if a == b else "gone" if b is None else "new" if a is None else "more"
        if change == "more" and a is not None and b is not None and b < a:
            change = "less"
        shown = ["" if value is None else f"{value:,.0f} {name}" for value in (a, b)]
        findings.append(Finding(test, change, *shown))
    return findings


def _compare_speed(test: str, old: Measured, new: Measured, same_machine: bool) -> Finding:
    if old.reference != new.reference:
        return Finding(test, "unclear", _show(old), _show(new), "relative to a different reference")
    quotient, tolerance = new.ratio / old.ratio, new.tolerance
    change: Change = "same"
    if quotient < 1 - tolerance:
        change = "slower" if _less(new.ratios, [ratio * (1 - tolerance) for ratio in old.ratios]) else "unclear"
    elif quotient > 1 + tolerance:
        change = "faster" if _less([ratio * (1 + tolerance) for ratio in old.ratios], new.ratios) else "unclear"
    note = "within what chance explains" if change == "unclear" else ""
    if change == "same" and same_machine and new.seconds > old.seconds * (1 + tolerance):
        note = f"takes {new.seconds / old.seconds:.2f} times as long, but so does its reference"
    return Finding(test, change, _show(old), _show(new), note)


def _less(left: Iterable[float], right: Iterable[float]) -> bool:
    from scipy.stats import mannwhitneyu

    return bool(mannwhitneyu(list(left), list(right), alternative="less").pvalue < CHANCE)


def _show(measured: Measured) -> str:
    if measured.counts:
        return ", ".join(f"{value:,.0f} {name}" for name, value in measured.counts)
    return f"{measured.ratio:.2f}x"


def show(before: Run, now: Run, findings: list[Finding]) -> str:
    """The comparison in Markdown, for the terminal and for a comment on a pull request."""
    same_machine = before.machine == now.machine
    location = f"on {now.machine}" if same_machine else f"on {now.machine} (before: on {before.machine})"
    counts = {change: sum(finding.change == change for finding in findings) for change in ORDER}
    summary = ", ".join(f"{number} {change}" for change, number in counts.items() if number) or "no performance tests"
    lines = [f"**{summary}**: {now.name} against {before.name}, {location}."]
    told = [finding for finding in findings if finding.change != "same" or finding.note]
    if told:
        lines += ["", "| test | before | now | |", "|---|---|---|---|"]
        lines += [f"| {f.test} | {f.before} | {f.now} | {f.change}{f.note and ': ' + f.note} |" for f in told]
    return "\n".join(lines)
