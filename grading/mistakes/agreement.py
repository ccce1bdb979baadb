"""Whether two wrong answers are the same wrong answer, and how much that says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grading.data.result import Result


# How much two computations of the same thing may differ in each dtype, as a share of the largest number. Loose on
# purpose: mistakes differ much more, and a submission may compute in a different order than the mistake.
_NOISE = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
_SHARE = 0.02  # of the distance to the right answer: how far apart two answers that are both wrong may be …
_FEW = 8  # … unless they have fewer numbers than this, which may be near each other by chance

# What it says that two answers are wrong alike. A number says 1 for each element.
_FAINT = 0.5  # NaN everywhere, no answer in time, a bool: many mistakes lead there
_TELLING = 2.0  # the same exception with the same message, the same wrong shape, the same text


def agreement(student: Result, candidate: Result, right: Result) -> float | None:
    """None if the student and the candidate disagree; 0 if both are right; more the more their common error says."""
    outward = _outward(student)
    if outward != _outward(candidate):
        return None
    evidence = 0.0
    if outward != _outward(right):
        evidence = _FAINT if student.trouble and student.trouble.kind == "time" else _TELLING
    rights, theirs = dict(_leaves(right)), dict(_leaves(candidate))
    for path, value in _leaves(student):
        said = _same(value, theirs.get(path), rights.get(path))
        if said is None:
            return None
        evidence += said
    return evidence


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


def _same(student: Any, candidate: Any, right: Any) -> float | None:
    """As `agreement`, for one value."""
    import torch

    if isinstance(student, torch.Tensor):
        if not isinstance(candidate, torch.Tensor) or candidate.shape != student.shape:
            return None
        comparable = isinstance(right, torch.Tensor) and right.shape == student.shape
        compare = _same_numbers if student.is_floating_point() else _same_integers
        return compare(student, candidate, right if comparable else None)
    if isinstance(student, float) and isinstance(candidate, float):
        if not (math.isclose(student, candidate, rel_tol=1e-6) or (student != student and candidate != candidate)):
            return None
        if isinstance(right, float) and math.isclose(student, right, rel_tol=1e-4):
            return 0.0
        return 1.0 if math.isfinite(student) else _FAINT
    if type(student) is not type(candidate) or student != candidate:
        return None
    if type(student) is type(right) and student == right:
        return 0.0
    if student is None or isinstance(student, bool):
        return _FAINT
    return _TELLING if isinstance(student, str) else 1.0


def _same_integers(student: Any, candidate: Any, right: Any | None) -> float | None:
    import torch

    if not torch.equal(student, candidate):
        return None
    return float(student.numel() if right is None else (student != right).sum())


def _same_numbers(student: Any, candidate: Any, right: Any | None) -> float | None:
    noise = _NOISE.get(str(student.dtype).removeprefix("torch."), 0.1)
    student, candidate = student.double(), candidate.double()
    if not _same_infinite(student, candidate):
        return None
    finite = student.isfinite()
    numbers = int(finite.sum())
    scale = float(student[finite].abs().max()) if numbers else 0.0
    apart = float((student - candidate)[finite].abs().max()) if numbers else 0.0
    from_right = math.inf
    if right is not None and _same_infinite(student, right.double()):
        from_right = float((student - right.double())[finite].abs().max()) if numbers else 0.0
    share = _SHARE if numbers >= _FEW else 0.0
    if apart > max(share * min(from_right, scale), noise * scale):
        return None
    if from_right <= max(10 * apart, 0.1 * noise * scale):
        return 0.0
    differing = numbers if right is None else int(((student - right.double()).abs() > 0.1 * noise * scale).sum())
    if differing:
        return float(differing)
    return _TELLING if numbers else _FAINT * bool(student.numel())  # NaN at certain places, or everywhere


def _same_infinite(a: Any, b: Any) -> bool:
    """Whether NaN, inf and -inf are in the same places."""
    import torch

    finite = a.isfinite()
    return (
        torch.equal(finite, b.isfinite())
        and torch.equal(a.isnan(), b.isnan())
        and torch.equal(a[a.isinf()], b[b.isinf()])
    )
