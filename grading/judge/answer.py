"""Judges an answer: its structure, its promises (inputs unchanged, memory not shared), and its numbers.

Everything here runs in the judge's process, after the submission has run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from grading.ask.got import Got
from grading.data.plain import tensors_in
from grading.explain.location import describe_location, error_map
from grading.explain.outcome import Unmet
from grading.explain.show import show_kind
from grading.judge.closeness import TensorCloseness, judge_closeness
from grading.judge.question import Question
from grading.judge.structure import check_promises, check_structure


def judge_answer(
    got: Got,
    oracle: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    factor: float | None,
    alias: bool,
    writes: Sequence[Any],
    dims: Sequence[str] | None,
    dtypes: Sequence[torch.dtype | None] | None,
) -> None:
    """Raise Unmet unless rounding can explain how the answer differs from `oracle(*args, **kwargs)`."""
    question = Question(got, oracle, args, kwargs)
    right = question.structure()
    check_structure(got, got.output, right, dtypes=_expected_dtypes(question, right, dtypes))
    check_promises(got, alias=alias, writes=writes)
    answers = question.answers()
    comparison = judge_closeness(answers, question.solve, question.leaves, factor=factor)
    if comparison.ok:
        return
    worst = next(tensor for tensor in comparison.tensors if not tensor.ok)
    if worst.name in question.wanted and not any(facts.requires_grad for facts in got.result.facts):
        raise Unmet(
            got.explain(
                "no gradient flows through the output",
                expected=f"{worst.name}: {show_kind(answers[worst.name])}",
                got="an output without a graph (computed under no_grad, or with .detach(), .data or .item())",
            )
        )
    names = _dims_of(worst.name, dims or getattr(oracle, "dims", None))
    raise Unmet(
        got.explain(
            f"{worst.name} is wrong: {worst.summary}",
            expected=f"{worst.name}: {_with(worst, answers[worst.name])}",
            got=worst.returned,
            location="\n".join([describe_location(worst.mask, names), *_overview(comparison.tensors)]),
            map=tuple(error_map(worst.mask, names)),
        )
    )


def _with(worst: TensorCloseness, answer: torch.Tensor) -> str:
    """The right number, and the kind of tensor that it belongs to; the answer is already known to be of this kind."""
    return f"{show_kind(answer)} with {worst.expected}" if answer.ndim else worst.expected


def _dims_of(name: str, dims: Any) -> Sequence[str] | None:
    """The names of an answer's dimensions; `dims` holds those of one output, or a sequence of names for each output."""
    if not dims:
        return None
    if name == "output":
        return dims if isinstance(dims[0], str) else dims[0]
    number = name.removeprefix("output[").removesuffix("]")
    return dims[int(number)] if number.isdecimal() and not isinstance(dims[0], str) else None


def _overview(tensors: Sequence[Any]) -> list[str]:
    """Which of several answers are wrong and which are right; empty for a single one."""
    if len(tensors) == 1:
        return []
    wrong = [tensor.name for tensor in tensors if not tensor.ok]
    right = [tensor.name for tensor in tensors if tensor.ok]
    return [f"wrong: {', '.join(wrong)}"] + ([f"right: {', '.join(right)}"] if right else [])


def _expected_dtypes(
    question: Question, right: Any, dtypes: Sequence[torch.dtype | None] | None
) -> list[torch.dtype | None]:
    """The dtype of each tensor in the answer: the first input's for floating ones, unless the test says otherwise."""
    tensors = list(tensors_in(right))
    if dtypes is not None:
        return list(dtypes)
    first = question.inputs[0].dtype if question.inputs else None
    return [first if tensor.is_floating_point() else tensor.dtype for tensor in tensors]
