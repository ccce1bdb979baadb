"""A test's request to a submission: plain data, so that it can cross a process boundary."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from grading.data import wire
from grading.data.plain import Inputs


@dataclass(frozen=True)
class Scenario:
    """A function of a test file as source code, with everything that it needs from that file."""

    name: str
    filename: str
    imports: str  # the import statements that the functions rely on
    definitions: tuple[tuple[int, str], ...]  # first line and source of each, in the order of the file


@dataclass(frozen=True)
class Process:
    """A separate process for some requests, reused by all of them: for settings that must precede an import.

    `{folder}` in a value of `environment` is the process's own temporary folder.
    """

    environment: tuple[tuple[str, str | None], ...] = ()  # None: unset
    loopback: bool = False  # no connections or name look-ups beyond this machine
    role: str = ""  # two roles get two processes, even with the same environment


class Listener(Protocol):
    """A language model that records what the submission asks it during a request: see `grading.ask.llm`."""

    def begin(self) -> None:
        """Forget all requests and restart the script."""

    def heard(self) -> list[dict[str, Any]]:
        """The requests since `begin`, as plain data."""

    @property
    def port(self) -> int:
        """Of the server that answers, on this machine."""


@dataclass(frozen=True)
class Request:
    """One request to a submission.

    Call the function `name`; or, if `init` is given, create an object of the class `name`, load `state` into it and
    call it; or run `scenario`.
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
    grad: tuple[int, ...] | None = None  # the inputs whose gradients to compute; None for no gradients at all
    cotangent: str = "normal"  # the kind of output gradient, see `cotangents`
    count: bool = False  # whether to count FLOPs, intermediates and saved bytes
    timed: bool = False  # whether to measure the cost of the call and its gradients
    seed: int = 0  # of torch's global generator, and of the cotangents
    seconds: float = 30.0  # the time limit
    process: Process | None = field(default=None, metadata=wire.STAYS)
    model: Listener | None = field(default=None, metadata=wire.STAYS)

    @cached_property
    def inputs(self) -> Inputs:
        """The distinct tensors of the request, numbered."""
        return Inputs(self.init, self.state, self.args, self.kwargs)

    def name_of(self, number: int, parameters: tuple[str, ...] = ()) -> str:
        """The name of an input; `parameters` are the names of the positional arguments, if known."""
        tensor = self.inputs[number]
        for position, value in enumerate(self.args):
            if value is tensor:
                return parameters[position] if position < len(parameters) else f"argument {position + 1}"
        named = {**self.kwargs, **(self.state or {})}
        return next((name for name, value in named.items() if value is tensor), f"tensor {number + 1}")

    def encode(self) -> bytes:
        return wire.encode_fields(self)

    @classmethod
    def decode(cls, data: bytes) -> Request:
        values = wire.decode(data)
        if values["scenario"] is not None:
            values["scenario"] = Scenario(**values["scenario"])
        return cls(**values)


def cotangents(outputs: list[Any], kind: str, seed: int) -> list[Any]:
    """The gradients with respect to the outputs, one for each: the judge and the child draw the same ones.

    Each is drawn in float64 and rounded to the output's dtype. "normal" is standard normal and contiguous,
    "transposed" the same numbers in a non-contiguous layout, "expanded" one number for all (as from `.sum()`).
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
