"""What was observed of a submission: plain data, so that it can cross a process boundary."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from grading.data import wire
from grading.data.plain import TensorFacts, tensors_in
from grading.data.request import Request

KINDS = ("raised", "unstarted", "missing", "no file", "load", "signature", "time", "memory", "died", "printed")
LONGEST = 200_000  # characters of one text
CLOCK_SLACK = 0.05  # seconds


@dataclass(frozen=True)
class Trouble:
    """Why there is no answer.

    `kind`: "raised" (by the submission), "unstarted" (its own NotImplementedError), "missing" (no such name),
    "no file", "load" (can't be imported), "signature" (can't be called like this), "time", "memory", "died", "printed".
    """

    kind: str
    message: str  # one line
    type: str = ""  # of the exception
    bases: tuple[str, ...] = ()  # the names of its classes, for `raises(ValueError)`
    traceback: str = ""  # the submission's own frames
    exercise: str = ""  # of the unstarted function


@dataclass(frozen=True)
class Result:
    """What was observed."""

    output: Any = None
    facts: tuple[TensorFacts, ...] = ()  # of each tensor in the output, in order
    grads: dict[int | str, Any] = field(default_factory=dict)  # by number of the input, or by name of the parameter
    changed: tuple[int, ...] = ()  # numbers of the inputs that the submission changed
    counts: dict[str, int] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()  # the submission's names of the positional arguments
    heard: Any = field(default=None, metadata=wire.STAYS)  # by the request's model
    printed: str = ""
    left: tuple[str, ...] = ()  # global state that the submission left changed, and that was put back
    seconds: float = 0.0
    cost: float = 0.0  # in seconds, of a timed request: see `grading.run.stopwatch`
    trouble: Trouble | None = None
    spent: float = field(default=0.0, metadata=wire.STAYS)  # CPU seconds of a timed request, as seen from outside

    def encode(self) -> bytes:
        return wire.encode_fields(self)

    @classmethod
    def decode(cls, data: bytes, request: Request, elapsed: float) -> Result:
        """The result that a child sent. The child shares its process with a submission, so nothing of it is believed.

        Args:
            elapsed: the seconds that the request took on the clock of this process.

        ValueError if the bytes are no result of this request.
        """
        values = wire.decode(data, trusted=False)
        try:
            if values["trouble"] is not None:
                values["trouble"] = Trouble(**values["trouble"])
            result = cls(**values)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a result: {error}") from error
        for what in _wrong(result, request, elapsed):
            raise ValueError(f"not a result of this request: {what}")
        return result


def _wrong(result: Result, request: Request, elapsed: float) -> Iterator[str]:
    """What no observer of this request would have said."""
    trouble, names = result.trouble, (*result.parameters, *result.left)
    if not all(type(each) is tuple for each in (result.facts, result.changed, result.parameters, result.left)):
        yield "lists instead of tuples"
        return
    if not all(type(each) is dict for each in (result.grads, result.counts)):
        yield "no dictionaries"
        return
    if not all(type(text) is str and len(text) <= LONGEST for text in (*names, result.printed)):
        yield "texts that are none, or too long"
    if trouble is not None:
        texts = (trouble.message, trouble.type, trouble.traceback, trouble.exercise)
        if trouble.kind not in KINDS or type(trouble.bases) is not tuple:
            yield f"trouble of the kind {trouble.kind!r}"
        elif not all(type(text) is str and len(text) <= LONGEST for text in (*texts, *trouble.bases)):
            yield "trouble in texts that are none, or too long"
    tensors = list(tensors_in(result.output))
    if trouble is None and len(tensors) != len(result.facts):
        yield f"facts about {len(result.facts)} of {len(tensors)} tensors"
    for facts, tensor in zip(result.facts, tensors, strict=False):
        if not isinstance(facts, TensorFacts) or not _fit(facts, tensor, len(request.inputs)):
            yield f"facts that do not fit their tensor: {facts}"
    if not all(type(number) is int and 0 <= number < len(request.inputs) for number in result.changed):
        yield f"changed inputs {result.changed}"
    for key, grad in result.grads.items():
        known = type(key) is str or (type(key) is int and key in (request.grad or ()))
        shape = request.inputs[key].shape if type(key) is int and known else None
        if not known or not (grad is None or isinstance(grad, torch.Tensor)):
            yield f"a gradient of {key!r}"
        elif grad is not None and shape is not None and grad.shape != shape:
            yield f"a gradient of the shape {tuple(grad.shape)} for an input of {tuple(shape)}"
    counted = all(type(name) is str and type(number) is int and number >= 0 for name, number in result.counts.items())
    if not counted or (result.counts and not request.count):
        yield "counts that are none, or that nobody asked for"
    if not all(type(each) in (int, float) and 0 <= each < math.inf for each in (result.seconds, result.cost)):
        yield f"its reported call times are impossible: {result.seconds} and {result.cost} s"
    elif result.seconds > elapsed + CLOCK_SLACK:
        yield f"its reported call times are impossible: {result.seconds:.3g} s within {elapsed:.3g} s"


def _fit(facts: TensorFacts, tensor: torch.Tensor, inputs: int) -> bool:
    told = (facts.shape, facts.dtype, facts.device)
    is_ = (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.device.type)
    flags = type(facts.contiguous) is bool and type(facts.requires_grad) is bool and type(facts.type) is str
    aliases = type(facts.aliases) is tuple and all(type(each) is int and 0 <= each < inputs for each in facts.aliases)
    return told == is_ and flags and aliases
