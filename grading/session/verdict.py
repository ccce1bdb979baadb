"""Turns the outcome of a graded test into its record: the verdict, the points, and the failure in words."""

from __future__ import annotations

import re
import textwrap
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from grading.ask import marks
from grading.data.record import Part, Record, Verdict, show_points
from grading.explain.explanation import Explanation
from grading.explain.outcome import Inconclusive, NotGradableHere, NotOffered, NotReached, NotStarted, Unmet
from grading.explain.show import show_value
from grading.reports.wording import amount
from grading.session.collect import GradedModule
from grading.session.items import FIGURES, PARTS, SUBMISSION, record_id, title
from grading.session.outline import test_sources
from grading.session.session import Session

if TYPE_CHECKING:
    from grading.ask.got import Got
    from grading.mistakes.bank import Mistake

WITHHELD = "the points are withheld until a person has looked at these lines (--strict)"
OUTPUT_KEPT = 20_000  # characters of what a submission printed


def judge_test(
    session: Session, item: pytest.Function, module: GradedModule, call: pytest.CallInfo[None]
) -> tuple[Record, Explanation]:
    """The record of a finished test, and the explanation behind its message."""
    observed = observed_by(item)
    error = call.excinfo.value if call.excinfo is not None else None
    try:
        verdict, explanation = verdict_of(error, observed)
    except Exception as broken:  # whatever a hand-in returned, the run goes on and the report is written
        verdict, explanation = "error", Explanation(f"the grader broke: {type(broken).__name__}: {broken}")
    if verdict == "error" and observed and session.options.isolate and not (error and _broke_in_oracle(error)):
        verdict = "failed"  # a stranger's answer, made for that
    max_points, shares = marks.points_of(item)
    earned = item.stash[PARTS].earned if PARTS in item.stash else set()
    parts = {name: Part(share if name in earned else 0.0, share) for name, share in shares.items()}
    mistakes = name_mistakes(session, module, observed) if verdict == "failed" else []
    sections = [mistake.handout for mistake in mistakes if mistake.handout]
    section = sections[0] if sections else marks.section_of(item)
    handout = module.handout + (f"#{section}" if section else "")
    cause = cause_of(explanation, observed, module.exercise) if verdict == "failed" else ""
    whole_file = cause == f"{module.exercise}.py"  # no section of the handout is about that
    explanation = explanation.with_(likely=likely(mistakes), handout="" if whole_file else handout)
    review = tuple(map(str, session.findings(module.tree, module.exercise))) if verdict in ("passed", "failed") else ()
    earned_points = max_points if verdict == "passed" else sum(part.points for part in parts.values())
    if earned_points and session.options.strict and not session.accepted.issuperset(review):
        verdict, earned_points, parts = "failed", 0.0, {name: Part(0.0, share) for name, share in shares.items()}
        explanation = Explanation(WITHHELD, wrong="\n".join([WITHHELD, *review]))
    record = replace(
        unreached(item, module),
        verdict=verdict,
        points=earned_points,
        review=review,
        seconds=round(call.duration, 6),
        message=explanation.text() if explanation.reason else "",
        reason=explanation.reason,
        mistakes=tuple(mistake.name for mistake in mistakes),
        cause=cause,
        size=sum(map(size_of, observed)),
        handout=handout,
        parts=parts,
        figures=item.stash.get(FIGURES, {}),
        output="".join(got.printed for got in observed)[:OUTPUT_KEPT],
    )
    return record, explanation


def unreached(item: pytest.Function, module: GradedModule) -> Record:
    """The record of a collected test that did not run yet: with all of its points to lose."""
    max_points, shares = marks.points_of(item)
    section = marks.section_of(item)
    line, source = test_sources(module.course.tests(module.exercise))[item.originalname]
    return Record(
        id=record_id(item),
        title=title(item),
        verdict="not reached",
        points=0.0,
        max_points=max_points,
        reason="the run ended before this test",
        message="the run ended before this test",
        handout=module.handout + (f"#{section}" if section else ""),
        parts={name: Part(0.0, share) for name, share in shares.items()},
        test_code=source,
        line=line,
    )


def observed_by(item: pytest.Item) -> list[Got]:
    """The outcomes of the test's requests so far."""
    return item.stash[SUBMISSION].observed if SUBMISSION in item.stash else []


def verdict_of(error: BaseException | None, observed: list[Got]) -> tuple[Verdict, Explanation]:
    """What an exception says about the submission, or about the grader."""
    match error:
        case None:
            return "passed", Explanation("")
        case Unmet():
            about = observed[-1].explain("") if observed else Explanation("")
            return "failed", error.explanation.with_(called=about.called, printed=about.printed, note=about.note)
        case NotStarted():
            return "not started", Explanation(str(error))
        case NotOffered():
            return "not offered", Explanation(str(error))
        case NotReached():
            return "not reached", Explanation(str(error))
        case Inconclusive():
            return "inconclusive", Explanation(str(error))
        case NotGradableHere() | pytest.skip.Exception():
            return "not gradable here", Explanation(str(error))
    line = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if not observed or _broke_in_grader(error):
        return "error", Explanation(f"the grader broke: {line}")
    # The test did not expect such a result, for example a list without .shape.
    last = observed[-1]
    if isinstance(error, AssertionError) and str(error):
        return "failed", last.explain(str(error).splitlines()[0], wrong=str(error))
    if last.result.output is None:
        return "failed", last.explain("nothing was returned", got="None: did you forget `return`?")
    reason = f"the test cannot use this answer ({line})"
    return "failed", last.explain(reason, wrong=reason, got=show_value(last.result.output))


def _broke_in_grader(error: BaseException) -> bool:
    """Whether an exception came from the grader or an oracle, not from a graded test that got an odd answer."""
    if isinstance(error, (AssertionError, pytest.fail.Exception)):
        return False
    grader, hooks = Path(__file__).parents[1], Path(__file__).parent
    broken = False
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename)
        if (file.is_relative_to(grader) and not file.is_relative_to(hooks)) or file.parent.name == "oracles":
            broken = True
        elif file.name.startswith("test_"):
            broken = False  # also a reference of the test's own, which it made from the answer
    return broken


def _broke_in_oracle(error: BaseException) -> bool:
    """Whether an exception came from an oracle that was given the test's own numbers, not a submission's."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).parts[-2:] == ("judge", "question.py") for frame in frames)


def cause_of(explanation: Explanation, observed: list[Got], exercise: str) -> str:
    """What failures with the same cause have in common; empty for wrong numbers, which do not tell their cause.

    For an exception it is the line of the submission's code; for a file that does not load, the file.
    """
    failing = next((got for got in observed if got.trouble and got.trouble.message == explanation.reason), None)
    if not observed or (failing and failing.trouble and failing.trouble.kind == "load"):
        return f"{exercise}.py"
    if failing and failing.trouble and failing.trouble.kind == "time":
        # Wherever it was stopped; of what a scenario called, the function.
        entered = re.findall(rf"^{re.escape(exercise)}\.py, line \d+, in (\w+)$", explanation.traceback, re.MULTILINE)
        name = entered[0] if entered and failing.request.scenario else failing.request.name
        return f"{name}: out of time"
    if explanation.location:
        return ""
    if observed[-1].trouble is None and observed[-1].result.output is None:
        return f"{observed[-1].request.name}: nothing was returned"
    places = [line for line in explanation.traceback.splitlines() if not line.startswith(" ")]
    place = places[-1] if places else (failing or observed[-1]).request.name
    return f"{place}: {re.sub(r'[0-9]+', '#', explanation.reason)}"


def size_of(got: Got) -> int:
    """How much a reader who follows the request by hand has before them: numbers, and characters of a scenario."""
    scenario = got.request.scenario
    code = sum(len(source) for _, source in scenario.definitions) if scenario else 0
    return code + sum(tensor.numel() for tensor in got.request.inputs)


def likely(mistakes: Sequence[Mistake]) -> str:
    """What the student reads about these mistakes."""
    if len(mistakes) < 2:
        return "".join(mistake.explanation for mistake in mistakes)
    listed = (f"{number}. {mistake.explanation}" for number, mistake in enumerate(mistakes, 1))
    return "\n".join([f"{len(mistakes)} mistakes together:", *listed])


def name_mistakes(session: Session, module: GradedModule, observed: list[Got]) -> Sequence[Mistake]:
    """The known mistakes that together explain what the test saw; none where more than one explanation fits."""
    if not observed or session.patience.over:
        return []
    if any(got.trouble and got.trouble.kind in ("load", "no file") for got in observed):
        return []  # no mistake of the bank keeps a file from being imported
    from grading.mistakes.recogniser import recogniser

    asking, named = session.asking(module, observed), session.named.setdefault(module.exercise, {})
    try:
        with session.patience.spending():
            found = recogniser(session.course, module.exercise).recognise(
                observed, asking, named, session.patience_for_several
            )
        named.update(dict.fromkeys(mistake.name for mistake in found))
        return found
    except Exception as error:  # a failed guess must not end the run
        warnings.warn(f"looking for a known mistake failed: {type(error).__name__}: {error}", stacklevel=2)
        return []


def failure_text(session: Session, record: Record, explanation: Explanation) -> str:
    """The failure as the terminal shows it; nothing is explained twice."""
    head = f"{record.title}   {show_points(record.points)} of {amount(record.max_points)}"
    lines = textwrap.wrap(head, 80)
    if not explanation.called:  # a problem of the whole file
        before = session.explained.setdefault((record.exercise, record.reason), record.test)
        if before != record.test:
            return "\n".join([*lines, *textwrap.wrap(f"{record.reason} (see {before})", 80)])
    if record.mistakes:
        before = session.explained.setdefault((record.exercise, ", ".join(record.mistakes)), record.test)
        if before != record.test:
            what = "mistakes" if len(record.mistakes) > 1 else "mistake"
            explanation = replace(explanation, likely=f"the same {what} as in {before}")
    return "\n".join([*lines, "", explanation.text()])
