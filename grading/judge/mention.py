"""Whether a message mentions a name, a number, a shape or a dtype, in any usual notation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_NUMBER = r"[-−]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"  # 12, -3, 0.5, .5, 1_000, 1e6
_GROUPED = r"(?<![\d.])\d{1,3}(?:,\d{3})+(?![\d.])"  # 1,000
_TIMES = r"(?<=\d)\s*[x×*]\s*(?=\d)"  # 3x2x16
_DTYPE = r"\b(?:bfloat|float|complex|u?int|bf|fp|mxfp)\d+\b"  # the digits of a dtype are no numbers
_SHORT = {
    "float16": ("half", "fp16"),
    "bfloat16": ("bf16",),
    "float32": ("float", "fp32"),
    "float64": ("double", "fp64"),
}


def mentions(message: str, what: str | int | float | Sequence[int] | torch.dtype) -> bool:
    """A word stands in the message as it is; a number as a whole, so that 17 is no 7.

    A shape is a tuple: `(3, 2)`, `[3, 2]`, `torch.Size([3, 2])` and `3 x 2` are the same. So are `torch.float16`,
    `float16`, `half` and `fp16`.
    """
    if isinstance(what, (int, float)):
        return any(number == what for number in _numbers(message))
    if isinstance(what, (tuple, list)):
        return _has_shape(message, [int(size) for size in what])
    name = str(what)
    if name.startswith("torch."):
        short = name.removeprefix("torch.")
        return any(re.search(rf"\b{each}\b", message) for each in (short, *_SHORT.get(short, ())))
    return (
        any(number == float(name) for number in _numbers(message)) if re.fullmatch(_NUMBER, name) else name in message
    )


def spell(what: Any) -> str:
    """What should be mentioned, for the student."""
    return str(tuple(what)) if isinstance(what, (tuple, list)) else str(what).removeprefix("torch.")


def _numbers(message: str) -> list[float]:
    """All numbers of a message. A `-` between two numbers is a dash, and `1,000` is read both as one and as two."""
    text = re.sub(_TIMES, ", ", re.sub(_DTYPE, " ", message))
    text = re.sub(r"(?<=\d)[-−](?=\d)", " ", text)
    grouped = [each.replace(",", "") for each in re.findall(_GROUPED, text)]
    return [float(each.replace("_", "").replace("−", "-")) for each in [*re.findall(_NUMBER, text), *grouped]]


def _has_shape(message: str, shape: list[int]) -> bool:
    if len(shape) < 2:
        return re.search(rf"[(\[]\s*{''.join(map(str, shape))}\s*,?\s*[)\]]", message) is not None
    for between in (r"\s*,\s*", r"\s*[x×*]\s*"):
        alone = rf"(?<!\d){between.join(map(str, shape))}(?!\d|{between}\d)"
        if any(not re.search(rf"\d{between}$", message[: found.start()]) for found in re.finditer(alone, message)):
            return True
    return False
