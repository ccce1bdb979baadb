"""The structure of an answer, and its promises: inputs unchanged, memory not shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from grading.ask.got import Got
from grading.data.plain import Opaque
from grading.explain.location import describe_location
from grading.explain.outcome import Unmet
from grading.explain.show import show_dtype, show_number, show_shape, show_value

Named = dict[str, torch.Tensor]


def named_tensors(outputs: Any) -> Named:
    """The tensors of an output by name: `output`, or `output[0]`, `output['name']` in a container."""
    if isinstance(outputs, torch.Tensor):
        return {"output": outputs}
    named: Named = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, torch.Tensor):
            named[name] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{name}[{key!r}]")
        elif isinstance(value, (list, tuple)):
            for number, item in enumerate(value):
                walk(item, f"{name}[{number}]")

    walk(outputs, "output")
    return named


def check_structure(
    got: Got, answer: Any, right: Any, *, dtypes: Sequence[torch.dtype | None] | None = None, same_dtype: bool = False
) -> None:
    """Raise Unmet unless the answer has the structure of `right`: its containers, plain tensors, shapes and dtypes."""
    facts = iter(got.result.facts)
    expected_dtypes = iter(dtypes or ())

    def fail(reason: str, expected: str, returned: str, name: str) -> None:
        prefix = "" if name == "output" else f"{name}: "
        raise Unmet(got.explain(f"{prefix}{reason}", expected=f"{prefix}{expected}", got=f"{prefix}{returned}"))

    def walk(answer: Any, right: Any, name: str) -> None:
        if isinstance(right, torch.Tensor):
            dtype = next(expected_dtypes, None) or (right.dtype if same_dtype else None)
            wanted = _form(right) + (f" of {show_dtype(dtype)}" if dtype else "")
            if not isinstance(answer, torch.Tensor):
                fail("no tensor was returned", wanted, _not_a_tensor(answer), name)
            seen = next(facts)
            if tuple(answer.shape) != tuple(right.shape):
                fail("wrong shape", wanted, show_value(answer), name)
            if dtype is not None and answer.dtype != dtype:
                fail("wrong dtype", wanted, show_value(answer), name)
            if seen.type != "Tensor":
                fail("not a plain torch.Tensor", wanted, f"a {seen.type}", name)
            device = next((tensor.device.type for tensor in got.request.inputs), seen.device)
            if seen.device != device:
                fail("wrong device", f"a tensor on {device}", f"a tensor on {seen.device}", name)
        elif isinstance(right, (tuple, list)):
            if not isinstance(answer, (tuple, list)) or len(answer) != len(right):
                expected = f"{len(right)} values: {_form(right)}"
                fail("wrong structure", expected, show_value(answer), name)
            for number, (inner, outer) in enumerate(zip(answer, right, strict=True)):
                walk(inner, outer, f"{name}[{number}]")
        elif isinstance(right, dict):
            if not isinstance(answer, dict) or set(answer) != set(right):
                fail("wrong keys", f"keys {sorted(right)}", _keys(answer), name)
            for key in answer:  # in the answer's order, as its facts are
                walk(answer[key], right[key], f"{name}[{key!r}]")
        elif right is None and answer is not None:
            fail("a value was returned instead of None", "None", show_value(answer), name)

    walk(answer, right, "output")


def _form(right: Any) -> str:
    """What the answer must look like; the reference's own dtype and numbers are not part of it."""
    if isinstance(right, torch.Tensor):
        return f"a tensor {show_shape(right.shape)}"
    if isinstance(right, (tuple, list)):
        return f"({', '.join(map(_form, right))})"
    return show_value(right)


def _not_a_tensor(answer: Any) -> str:
    return "None: did you forget `return`?" if answer is None else f"{type_name(answer)}: {show_value(answer)}"


def _keys(answer: Any) -> str:
    return (
        f"keys {sorted(map(str, answer))}" if isinstance(answer, dict) else f"{type_name(answer)}: {show_value(answer)}"
    )


def type_name(value: Any) -> str:
    return value.type if isinstance(value, Opaque) else type(value).__name__


def check_promises(got: Got, *, alias: bool = False, writes: Sequence[Any] = ()) -> None:
    """Raise Unmet if an input was changed or shares memory with the answer, and may not."""
    allowed = {got.request.inputs.number(tensor) for tensor in writes}
    for number in got.result.changed:
        if number not in allowed:
            name = got.name_of(number)
            raise Unmet(
                got.explain(
                    f"the call changed its argument {name}",
                    expected=f"{name} unchanged",
                    got="changed by an in-place operation (+=, masked_fill_, softmax(out=…) …)",
                )
            )
    if alias:
        return
    for facts in got.result.facts:
        shared = [number for number in facts.aliases if number not in allowed]
        if shared:
            name = got.name_of(shared[0])
            raise Unmet(
                got.explain(
                    f"the answer shares memory with {name}",
                    expected="a new tensor",
                    got=f"a view of {name}: changing one changes the other",
                )
            )


def differing(answer: Any, right: Any) -> str:
    """Where plain data of the same structure differs, in words; empty if it is equal."""
    if isinstance(right, torch.Tensor):
        if torch.equal(answer, right):
            return ""
        both_nan = (
            answer.isnan() & right.isnan() if right.is_floating_point() else torch.zeros_like(right, dtype=torch.bool)
        )
        mask = (answer != right) & ~both_nan
        if not mask.any():
            return ""
        place = tuple(mask.nonzero()[0].tolist())
        numbers = f"{show_number(answer[place].item())} instead of {show_number(right[place].item())}"
        return f"{describe_location(mask, None)}\n{numbers} at {place}" if place else numbers
    if isinstance(right, (tuple, list)):
        return next((location for pair in zip(answer, right, strict=True) if (location := differing(*pair))), "")
    if isinstance(right, dict):
        return next((f"{key!r}: {location}" for key in right if (location := differing(answer[key], right[key]))), "")
    return (
        ""
        if type(answer) is type(right) and answer == right
        else f"{show_value(answer)} instead of {show_value(right)}"
    )
