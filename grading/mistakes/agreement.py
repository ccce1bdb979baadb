"""Whether two wrong answers are the same wrong answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grading.data.result import Result


# How much two computations of the same thing may differ in each dtype, as a share of the largest number. Loose on
# purpose: mistakes differ much more, and a submission may compute in a different order than the mistake.
_NOISE = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


def agreement(student: Result, candidate: Result, right: Result) -> str | None:
    """Returns "both right", "both wrong" in the same way, or None if the student and the candidate disagree."""
    if _outward(student) != _outward(candidate):
        return None
    differs = _outward(student) != _outward(right)
    rights = dict(_leaves(right))
    for path, value in _leaves(student):
        match _values_agree(value, dict(_leaves(candidate)).get(path), rights.get(path)):
            case None:
                return None
            case "both wrong":
                differs = True
    return "both wrong" if differs else "both right"


def _outward(result: Result) -> Any:
    """Everything that must be the same, except the numbers."""
    trouble = result.trouble
    return (
        trouble and (trouble.kind, trouble.type, "" if trouble.kind == "time" else trouble.message),
        result.changed,
        [(facts.type, facts.shape, facts.dtype, facts.requires_grad, facts.aliases) for facts in result.facts],
        [path for path, _ in _leaves(result)],
    )


def _leaves(result: Result) -> Iterator[tuple[tuple[Any, ...], Any]]:
    def walk(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from walk(item, (*path, key))
        elif isinstance(value, (list, tuple)):
            for number, item in enumerate(value):
                yield from walk(item, (*path, number))
        else:
            yield path, value

    yield from walk(result.output, ("output",))
    yield from walk(result.grads, ("grad",))
    yield from walk(result.heard, ("heard",))


def _values_agree(student: Any, candidate: Any, right: Any) -> str | None:
    import torch

    if not isinstance(student, torch.Tensor):
        if isinstance(student, float) and isinstance(candidate, float):
            same = math.isclose(student, candidate, rel_tol=1e-6) or (student != student and candidate != candidate)
        else:
            same = type(student) is type(candidate) and student == candidate
        if not same:
            return None
        close = isinstance(right, float) and isinstance(student, float) and math.isclose(student, right, rel_tol=1e-4)
        return "both right" if close or student == right else "both wrong"
    if not isinstance(candidate, torch.Tensor) or candidate.shape != student.shape:
        return None
    comparable = isinstance(right, torch.Tensor) and right.shape == student.shape
    if not student.is_floating_point():
        if not torch.equal(student, candidate):
            return None
        return "both right" if comparable and torch.equal(student, right) else "both wrong"
    noise = _NOISE.get(str(student.dtype).removeprefix("torch."), 0.1)
    student, candidate = student.double(), candidate.double()
    if not _same_infinite(student, candidate):
        return None
    finite = student.isfinite()
    scale = float(student[finite].abs().max()) if finite.any() else 0.0
    apart = float((student - candidate)[finite].abs().max()) if finite.any() else 0.0
    from_right = math.inf
    if comparable and _same_infinite(student, right.double()):
        from_right = float((student - right.double())[finite].abs().max()) if finite.any() else 0.0
    if apart > max(0.02 * min(from_right, scale), noise * scale):
        return None
    return "both wrong" if from_right > max(10 * apart, 0.1 * noise * scale) else "both right"


def _same_infinite(a: Any, b: Any) -> bool:
    """Whether NaN, inf and -inf are in the same places."""
    import torch

    finite = a.isfinite()
    return (
        torch.equal(finite, b.isfinite())
        and torch.equal(a.isnan(), b.isnan())
        and torch.equal(a[a.isinf()], b[b.isinf()])
    )
