"""Calls and values as a student would write them, each on one line."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grading.data.request import Request
    from grading.data.result import Result


def show_call(request: Request, result: Result | None = None) -> str:
    """The call as a student would write it, and a line for each tensor in it."""
    parameters = result.parameters if result is not None else ()
    tensors: dict[str, Any] = {}

    def argument(value: Any) -> str:
        number = request.inputs.number(value) if _is_tensor(value) else None
        if number is None:
            return _short.repr(value)
        name = request.name_of(number, parameters)
        tensors[name] = value
        return name

    if request.scenario is not None:
        inside = [_short.repr(value) for value in request.args]
        inside += [f"{name}={_short.repr(value)}" for name, value in request.kwargs.items()]
        return f"{request.name}({', '.join(['module', *inside])})"
    arguments = [argument(value) for value in request.args]
    arguments += [f"{name}={argument(value)}" for name, value in request.kwargs.items()]
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
    rows = [f"  {name:<{column}}  {show_tensor(value)}{_layout(value)}" for name, value in tensors.items()]
    return "\n".join([f"{head}({', '.join(arguments)})", *rows])


def show_tensor(tensor: Any) -> str:
    """`float32 (2, 3, 7, 8)`; a tensor of one number with the number: `5 (float32)` if it has no dimensions."""
    import torch

    text = show_kind(tensor)
    if tensor.is_meta:
        return text
    if tensor.ndim == 0:
        return f"{show_number(tensor.item())} ({show_dtype(tensor.dtype)})"
    if tensor.dtype is torch.bool and tensor.numel():
        return f"{text}, {int(tensor.sum())} of {tensor.numel()} True"
    return f"{text} = {show_number(tensor.item())}" if tensor.numel() == 1 else text


def show_kind(tensor: Any, dtype: Any = None) -> str:
    """`float32 (2, 3, 7, 8)`, or with another dtype than the tensor's."""
    return f"{show_dtype(dtype or tensor.dtype)} {show_shape(tensor.shape)}"


def show_dtype(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def show_shape(shape: Any) -> str:
    return str(tuple(shape))


def show_number(number: complex) -> str:
    """An integer in full, and seven digits of anything else."""
    return str(number) if isinstance(number, int) else f"{number:.7g}"


def _layout(tensor: Any) -> str:
    return "" if tensor.is_contiguous() else ", not contiguous"


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
