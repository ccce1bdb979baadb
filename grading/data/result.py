"""What was observed of a submission: plain data, so that it can cross a process boundary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from grading.data import wire
from grading.data.plain import TensorFacts


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

    def encode(self) -> bytes:
        return wire.encode_fields(self)

    @classmethod
    def decode(cls, data: bytes) -> Result:
        values = wire.decode(data)
        if values["trouble"] is not None:
            values["trouble"] = Trouble(**values["trouble"])
        return cls(**values)
