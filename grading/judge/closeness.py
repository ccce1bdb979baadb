"""The closeness rule: an answer is right when rounding can explain its error.

No tolerance is chosen by hand. The reference is computed in float64, and then a few more times in Monte Carlo
arithmetic (Parker 1997), which rounds every operand of every operation to the answer's precision, on a randomly
shifted grid. The *spread* is how far this moves the reference: the effect of rounding on this function and these
inputs. In each slice of a tensor (its last two dimensions) an answer is right when

    error <= factor * (spread + u * size of the reference)        u: half the eps of the answer's dtype

holds for the largest error, spread and size, and for their means too: one corrupt head cannot hide among good ones.
NaN and ±inf must be in the same places; integers and booleans must be equal.

The factor leaves room for other algorithms than the reference's. In float32 and float64 it is 32, because the whole
computation, accumulators included, is in that precision. In half precisions it is 6, a few times the error of the plain
formula, as in flash-attn's tests: code in half precision keeps its accumulators in float32.
tests/grading/test_closeness.py lists the margins measured on right and wrong attentions.

Rounding only the inputs would not be enough. Where a softmax is 1 for one key, its gradient is 0 however the inputs are
rounded, yet correct code leaves residues such as dP - sum(dO O), 10^12 times what rounded inputs would allow.

A discontinuous reference (a quantiser, a choice of experts near a tie) has a large spread where rounding makes it jump.
Compare what must be exact with `equal_to`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grading.explain.show import show_number
from grading.judge.rounding import NO_SPREAD, detached, slices, spreads

FACTOR = 32.0  # in float32 and float64
HALF_FACTOR = 6.0  # in dtypes of 16 bits and less


@dataclass(frozen=True)
class TensorCloseness:
    """One tensor of the answer, compared with the reference's."""

    name: str
    mask: Tensor  # bool, the answer's shape: which numbers are wrong
    failed: str = ""  # the criterion: "nan", "inf", "max", "mean" or, for integers and booleans, "equal"
    # error / bound in the worst slice; the bound leaves out the spread if the answer is right without it. inf for a
    # wrong NaN, inf or integer
    ratio: float = 0.0
    max_error: float = 0.0  # in the worst slice
    mean_error: float = 0.0  # in the worst slice
    bound: float = 0.0  # the part of max_error (or of mean_error, if that failed) that rounding explains there
    worst: tuple[int, ...] = ()  # the index of the worst number there
    got: float | int = 0.0  # the answer's number at that index
    wanted: float | int = 0.0  # the reference's

    @property
    def ok(self) -> bool:
        return not self.failed

    @property
    def summary(self) -> str:
        """What is wrong in one line."""
        match self.failed:
            case "":
                return "right"
            case "nan":
                return "NaN where a number belongs" if math.isnan(self.got) else "a number where NaN belongs"
            case "inf":
                return f"{self.got:.6g} where {self.wanted:.6g} belongs"
            case "max":
                return f"off by up to {self.max_error:.2g}; rounding explains at most {self.bound:.2g}"
            case "mean":
                return f"off by {self.mean_error:.2g} on average; rounding explains at most {self.bound:.2g}"
            case _:
                return f"{int(self.mask.sum())} of {self.mask.numel()} numbers differ"

    @property
    def expected(self) -> str:
        """The reference's number at the worst index, `0.712345 at (0, 2, 4, 1)`."""
        return f"{show_number(self.wanted)}{self._place}"

    @property
    def returned(self) -> str:
        """The answer's number there, and how far it is beyond rounding."""
        beyond = f", {self.ratio:.2g} times what rounding explains" if 1 < self.ratio < math.inf else ""
        return f"{show_number(self.got)}{self._place}{beyond}"

    @property
    def _place(self) -> str:
        return f" at {self.worst}" if self.worst else ""


@dataclass(frozen=True)
class Closeness:
    """An answer compared with the reference, tensor by tensor in the reference's order."""

    tensors: tuple[TensorCloseness, ...]

    @property
    def ok(self) -> bool:
        return all(tensor.ok for tensor in self.tensors)


def judge_closeness(
    answers: Mapping[str, Tensor],
    solve: Callable[[Sequence[Tensor]], Mapping[str, Tensor]],
    leaves: Sequence[Tensor],
    *,
    factor: float | None = None,
) -> Closeness:
    """Compare `answers` with `solve(leaves)` by the closeness rule.

    Args:
        answers: the numbers to judge by name, outputs and gradients alike.
        solve: the reference: a function of the leaves, in their dtype, that returns tensors of the same names and
            shapes. Its own constants (positions, tables) are assumed to be computed in float32.
        leaves: every floating-point tensor that the answers depend on, with the values they were computed from. The
            computation may round to the least precise dtype among the leaves and the answers.
        factor: replaces 32 (6 in half precisions) where the exercise has a reason.

    Raises:
        ValueError: names or shapes of the answers are not the reference's.
        TypeError: a complex tensor.
    """
    exact = [leaf.detach().to(torch.float64, copy=True).requires_grad_() for leaf in leaves]
    reference = detached(solve(exact))
    _check(answers, reference)

    dtypes = {tensor.dtype for tensor in (*leaves, *answers.values()) if tensor.is_floating_point()}
    precision = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float64)
    factor = factor or (HALF_FACTOR if torch.finfo(precision).bits <= 16 else FACTOR)

    def judged(spreads: Mapping[str, tuple[Tensor, Tensor]]) -> Closeness:
        return Closeness(
            tuple(
                _close(name, answers[name], right, spreads.get(name, NO_SPREAD), factor)
                if right.is_floating_point()
                else _equal(name, answers[name], right)
                for name, right in reference.items()
            )
        )

    # The spread only widens the bound: most right answers pass without it, and computing it is the costly part.
    strict = judged({})
    return strict if strict.ok else judged(spreads(solve, exact, reference, precision))


def _check(answers: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
    if answers.keys() != reference.keys():
        raise ValueError(f"the answers are {sorted(answers)}, the reference has {sorted(reference)}")
    for name, right in reference.items():
        if answers[name].shape != right.shape:
            raise ValueError(f"{name} has the shape {tuple(answers[name].shape)}, the reference {tuple(right.shape)}")
        if answers[name].is_complex() or right.is_complex():
            raise TypeError(f"{name} is complex; judge its real and imaginary parts")


def _close(name: str, answer: Tensor, right: Tensor, spread: tuple[Tensor, Tensor], factor: float) -> TensorCloseness:
    if not right.numel():
        return TensorCloseness(name, torch.zeros(right.shape, dtype=torch.bool))
    got = answer.detach().to(right.device, torch.float64)
    # A reference beyond the range of the answer's dtype is inf there.
    right = torch.where(right.to(answer.dtype).isfinite(), right, right.to(answer.dtype).double())
    numbers = right.isfinite() & got.isfinite()
    misplaced = ~numbers & (got != right) & ~(got.isnan() & right.isnan())
    errors = slices(torch.where(numbers, (got - right).abs(), 0.0))
    sizes = slices(torch.where(numbers, right.abs(), 0.0))

    largest, mean = errors.amax(1), errors.mean(1)
    largest_allowed = factor * (spread[0] + _one_rounding(sizes.amax(1), answer.dtype))
    mean_allowed = factor * (spread[1] + _one_rounding(sizes.mean(1), answer.dtype))
    max_ratios, mean_ratios = _ratio(largest, largest_allowed), _ratio(mean, mean_allowed)
    # If a slice is wrong on average, its wrong numbers are those above the allowed mean.
    allowed = torch.where(mean_ratios > 1, torch.minimum(mean_allowed, largest_allowed), largest_allowed)
    mask = misplaced | (errors > allowed[:, None]).reshape(right.shape)

    by_mean = bool((max_ratios <= 1).all() and (mean_ratios > 1).any())
    ratios, bounds = (mean_ratios, mean_allowed) if by_mean else (max_ratios, largest_allowed)
    worst_slice = int(ratios.argmax())
    ratio = float(ratios[worst_slice])
    worst = worst_slice * errors.shape[1] + int(errors[worst_slice].argmax())
    failed = ("mean" if by_mean else "max") if ratio > 1 else ""
    if misplaced.any():
        worst, ratio = int(misplaced.flatten().byte().argmax()), math.inf
        failed = "nan" if (got.isnan() ^ right.isnan()).flatten()[worst] else "inf"
    return TensorCloseness(
        name,
        mask,
        failed,
        ratio,
        max_error=float(largest[worst_slice]),
        mean_error=float(mean[worst_slice]),
        bound=float(bounds[worst_slice]),
        **_at(worst, got, right),
    )


def _equal(name: str, answer: Tensor, right: Tensor) -> TensorCloseness:
    answer = answer.detach().to(right.device)
    mask = answer != right
    if not mask.any():
        return TensorCloseness(name, mask)
    return TensorCloseness(name, mask, "equal", math.inf, **_at(int(mask.flatten().byte().argmax()), answer, right))


def _at(position: int, got: Tensor, right: Tensor) -> dict[str, Any]:
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(position), right.shape))
    return {"worst": index, "got": got[index].item(), "wanted": right[index].item()}


def _one_rounding(size: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest error of rounding a number of this size to `dtype`; zeros are exact."""
    info = torch.finfo(dtype)
    return torch.where(size > 0, size.clamp_min(info.smallest_normal), 0.0) * info.eps / 2


def _ratio(error: Tensor, bound: Tensor) -> Tensor:
    """error / bound, where 0 / 0 is 0: an exact answer is right."""
    return torch.where(error > 0, error / bound, 0.0)
