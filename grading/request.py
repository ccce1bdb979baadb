"""What a test asks of a submission, and what was observed: both plain data, so either can cross a process boundary."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from grading import plain

if TYPE_CHECKING:
    from grading.llm import ScriptedModel

_STAYS = {"crosses": False}  # of a field that the process that performs a request need not know


@dataclass(frozen=True)
class Scenario:
    """The source of a function of a test file, with the import statements that it relies on."""

    name: str
    source: str
    imports: str
    filename: str
    line: int


@dataclass(frozen=True)
class Process:
    """A process of their own that some requests ask for, kept from one to the next: what must be set before an import.

    `{folder}` in a value of `environment` is a temporary folder that the process has to itself.
    """

    environment: tuple[tuple[str, str | None], ...] = ()  # None: not set
    loopback: bool = False  # no connection and no name look-up beyond this machine
    role: str = ""  # processes that differ in nothing else are two where they play two roles


@dataclass(frozen=True)
class Request:
    """One thing to do with a submission.

    Either call the function `name`; or, where `init` is given, make an object of the class `name`, load `state` into
    it and call it; or run `scenario`.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    init: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    state: dict[str, Any] | None = None
    to: tuple[Any, ...] = ()  # arguments of Module.to, `(torch.float16,)`
    training: bool | None = None  # True for .train(), False for .eval()
    method: str | None = None  # of the object; None calls the object itself
    scenario: Scenario | None = None
    grad: tuple[int, ...] | None = None  # which of the distinct tensors want a gradient; None computes no gradients
    cotangent: str = "normal"  # the gradient that arrives from above, see `cotangent`
    count: bool = False  # whether to count FLOPs, intermediates and saved bytes
    timed: bool = False  # whether to measure what the call and its gradients cost
    seed: int = 0  # of torch's global generator, and of the cotangents
    seconds: float = 30.0  # the time limit
    process: Process | None = field(default=None, metadata=_STAYS)
    model: ScriptedModel | None = field(default=None, metadata=_STAYS)  # that listens

    @property
    def tensors(self) -> list[Any]:
        """The distinct tensor objects that the request carries: gradients and aliases go by their numbers."""
        return plain.distinct_tensors(self.init, self.state, self.args, self.kwargs)

    def encode(self) -> bytes:
        return _encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Request:
        values = plain.decode(data)
        if values["scenario"] is not None:
            values["scenario"] = Scenario(**values["scenario"])
        return cls(**values)


@dataclass(frozen=True)
class Trouble:
    """Why there is no answer.

    `kind`: "raised" (by the submission), "unstarted" (NotImplementedError of its own), "missing" (no such name),
    "no file", "load" (does not import), "signature" (cannot be called like that), "time", "memory", "died", "printed".
    """

    kind: str
    message: str  # one line
    type: str = ""  # of the exception
    bases: tuple[str, ...] = ()  # the names of its classes, so that `raises(ValueError)` can be judged
    traceback: str = ""  # the submission's own frames
    exercise: str = ""  # where an unstarted function stands


@dataclass(frozen=True)
class Result:
    """What was observed."""

    output: Any = None
    facts: tuple[plain.TensorFacts, ...] = ()  # of each tensor in the output, in order
    grads: dict[int | str, Any] = field(default_factory=dict)  # by number of the tensor, or by name of the parameter
    changed: tuple[int, ...] = ()  # numbers of the tensors that the submission wrote to
    counts: dict[str, int] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()  # names of the arguments given by position, in the submission's own words
    heard: Any = field(default=None, metadata=_STAYS)  # by the request's model
    printed: str = ""
    seconds: float = 0.0
    cost: float = 0.0  # in seconds, of a timed request: see `grading.stopwatch`
    trouble: Trouble | None = None

    def encode(self) -> bytes:
        return _encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Result:
        values = plain.decode(data)
        if values["trouble"] is not None:
            values["trouble"] = Trouble(**values["trouble"])
        return cls(**values)


def _encode(item: Any) -> bytes:
    values = {}
    for each in fields(item):
        if not each.metadata.get("crosses", True):
            continue
        value = getattr(item, each.name)
        values[each.name] = dict(vars(value)) if isinstance(value, (Scenario, Trouble)) else value
    return plain.encode(values)


def cotangents(outputs: list[Any], kind: str, seed: int) -> list[Any]:
    """The gradients that arrive from above, one for each output: the judge and the judged make the same ones.

    Each is drawn in float64 and rounded to the output's dtype. "normal" is standard normal and contiguous,
    "transposed" the same numbers in a non-contiguous layout, "expanded" one number for all (what `.sum()` sends).
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    made = []
    for output in outputs:
        shape = tuple(output.shape)
        if kind == "expanded":
            made.append(torch.randn((), generator=generator, dtype=torch.float64).to(output).expand(shape))
            continue
        normal = torch.randn(shape, generator=generator, dtype=torch.float64).to(output)
        if kind == "transposed" and normal.ndim > 1:
            normal = normal.transpose(-1, -2).contiguous().transpose(-1, -2)
        made.append(normal)
    return made
