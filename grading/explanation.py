"""What a student reads when a test fails: what was asked, what came back, where it is wrong, and why that may be."""

from __future__ import annotations

import reprlib
import textwrap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from grading.request import Request, Result

LABELS = ("called", "expected", "came", "where", "raised at", "printed", "likely", "read")
_INDENT = max(map(len, LABELS)) + 2


@dataclass(frozen=True)
class Explanation:
    """The parts of a failure message; empty parts are left out."""

    reason: str  # one line, for tables and summaries
    called: str = ""
    expected: str = ""
    came: str = ""
    where: str = ""
    map: tuple[str, ...] = ()  # drawn as it is, under `where`
    traceback: str = ""
    printed: str = ""
    likely: str = ""  # the sentence of the known mistake that gives the same wrong answer
    handout: str = ""

    def text(self, width: int = 80) -> str:
        lines = []
        seen = (self.called, self.expected, self.came, self.where, self.traceback, self.printed)
        for label, part in zip(LABELS, (*seen, self.likely, self.handout), strict=True):
            if part:
                lines += _labelled(label, part, width)
            if label == "where" and self.map:
                lines += [" " * _INDENT + line for line in self.map]
        return "\n".join(lines)

    def with_(self, **changes: Any) -> Explanation:
        """A copy with the empty ones among these parts filled in."""
        return replace(self, **{name: value for name, value in changes.items() if not getattr(self, name)})


def _labelled(label: str, text: str, width: int) -> list[str]:
    """The label in a column of its own, the text wrapped beside it; lines of the text stay lines."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        inner = " " * (len(paragraph) - len(paragraph.lstrip()))
        lines += textwrap.wrap(
            paragraph, max(width - _INDENT, 20), subsequent_indent=inner + "  " * bool(inner), drop_whitespace=True
        ) or [""]
    return [f"{label if i == 0 else '':<{_INDENT}}{line}".rstrip() for i, line in enumerate(lines)]


class Unmet(AssertionError):
    """A submission does not do what a test expects of it."""

    def __init__(self, explanation: Explanation) -> None:
        super().__init__(explanation.reason)
        self.explanation = explanation


class Ungraded(pytest.skip.Exception):  # type: ignore[name-defined]
    """Nothing to judge; to pytest, a test that is skipped."""


class NotStarted(Ungraded):
    """The function still raises NotImplementedError."""


class NotOffered(Ungraded):
    """A library that has no such operator."""


class NotGradableHere(Ungraded):
    """This machine lacks what the test needs."""


class Inconclusive(Ungraded):
    """The machine is too noisy for a verdict on speed."""


# --- showing calls and values -------------------------------------------------------------------------------------


def show_call(request: Request, result: Result | None = None) -> str:
    """The call as a student would write it, and a line for each tensor in it."""
    tensors: dict[str, Any] = {}
    names = list(result.parameters) if result is not None else []
    names += [f"argument {number}" for number in range(len(names), len(request.args))]

    def argument(name: str, value: Any) -> str:
        if _is_tensor(value):
            same = next((known for known, tensor in tensors.items() if tensor is value), None)
            if same is None:
                tensors[name] = value
            return same or name
        return _short.repr(value)

    if request.scenario is not None:
        inside = [_short.repr(value) for value in request.args]
        inside += [f"{name}={_short.repr(value)}" for name, value in request.kwargs.items()]
        return f"{request.name}({', '.join(['module', *inside])})"
    arguments = [argument(name, value) for name, value in zip(names, request.args, strict=True)]
    arguments += [f"{name}={argument(name, value)}" for name, value in request.kwargs.items()]
    head = request.name
    if request.init is not None:
        made = [_short.repr(value) for value in request.init[0]]
        made += [f"{name}={_short.repr(value)}" for name, value in request.init[1].items()]
        head = f"{request.name}({', '.join(made)})"
        if request.training is not None:
            head += ".train()" if request.training else ".eval()"
        if request.method is not None:
            head += f".{request.method}"
    column = max(map(len, tensors), default=0)
    rows = [f"  {name:<{column}}  {show_tensor(value)}" for name, value in tensors.items()]
    return "\n".join([f"{head}({', '.join(arguments)})", *rows])


def show_tensor(tensor: Any) -> str:
    """`float32 (2, 3, 7, 8), not contiguous`."""
    import torch

    text = f"{str(tensor.dtype).removeprefix('torch.')} {show_shape(tensor.shape)}"
    if tensor.dtype is torch.bool and tensor.numel():
        text += f", {int(tensor.sum())} of {tensor.numel()} True"
    elif tensor.numel() == 1:
        text += f" = {tensor.item():.6g}"
    if not tensor.is_contiguous():
        text += ", not contiguous"
    return text


def show_shape(shape: Any) -> str:
    return str(tuple(shape))


def show_value(value: Any) -> str:
    """Any plain data in one line."""
    if _is_tensor(value):
        return show_tensor(value)
    if isinstance(value, (tuple, list)):
        brackets = "()" if isinstance(value, tuple) else "[]"
        return brackets[0] + ", ".join(show_value(item) for item in value[:6]) + brackets[1]
    return str(value) if type(value).__name__ == "Opaque" else _short.repr(value)


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "untyped_storage")


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60

    def repr_Tensor(self, value: Any, level: int) -> str:
        return show_tensor(value)

    def repr_dtype(self, value: Any, level: int) -> str:
        return str(value)


_short = _Short()
