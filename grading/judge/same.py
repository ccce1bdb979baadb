"""Whether an answer is the reference's, roughly: for calls that a test times or counts.

Such a test does not judge how exact an answer is; but what costs little must not be nothing.
"""

from __future__ import annotations

import math

import torch

from grading.ask.got import Got
from grading.explain.outcome import Unmet
from grading.judge.structure import check_structure, differing, named_tensors


def check_same(got: Got, right: Got, reason: str, *, expected: str, returned: str, share: float = 0.0) -> None:
    """Raise Unmet, for this reason, unless the answer and its gradients agree with the reference's.

    They agree to half the digits of the dtype; or, with a `share`, up to that share of their length as vectors.
    """
    check_structure(got, got.output, right.output)
    ours, theirs = named_tensors(got.output), named_tensors(right.output)
    for name, grad in right.result.grads.items():
        if grad is not None and (mine := got.result.grads.get(name)) is not None:
            ours[f"gradient of {name}"], theirs[f"gradient of {name}"] = mine, grad
    for name, tensor in theirs.items():
        if not _same(ours[name], tensor, share):
            raise Unmet(got.explain(f"{reason}: {name}", expected=expected, got=returned))
    if not theirs and (location := differing(got.output, right.output)):
        raise Unmet(got.explain(reason, expected=str(right.output), got=location))


def _same(ours: torch.Tensor, theirs: torch.Tensor, share: float) -> bool:
    if not theirs.is_floating_point():
        return torch.equal(ours, theirs.to(ours.dtype))
    if share:
        right = theirs.double()[theirs.isfinite()]
        return bool((ours.double()[theirs.isfinite()] - right).norm() <= share * right.norm())
    tolerance = math.sqrt(max(torch.finfo(t.dtype).eps for t in (ours, theirs)))
    a, b = ours.double(), theirs.double()
    scale = b[b.isfinite()].abs().max().item() if b.isfinite().any() else 0.0
    return torch.allclose(a, b, rtol=0, atol=tolerance * scale, equal_nan=True)
