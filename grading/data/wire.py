"""Plain data as bytes, to be sent to another process.

JSON that describes the structure, followed by the storages of its tensors. There is no pickle: the other end of the
pipe can send wrong numbers, but not code.
"""

from __future__ import annotations

import json
import math
import reprlib
import struct
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from grading.data.plain import Opaque, TensorFacts

STAYS = {"crosses": False}  # metadata of a dataclass's field that is not sent to the child process


def encode_fields(item: Any) -> bytes:
    """The fields of a dataclass as bytes; a nested dataclass becomes a dictionary."""
    values = {each.name: getattr(item, each.name) for each in fields(item) if each.metadata.get("crosses", True)}
    plain = (Opaque, TensorFacts)
    return encode(
        {
            name: dict(vars(value)) if is_dataclass(value) and not isinstance(value, plain) else value
            for name, value in values.items()
        }
    )


def encode(value: Any) -> bytes:
    """Plain data as bytes. TypeError for anything that is not plain."""
    storages: dict[int, tuple[int, torch.UntypedStorage]] = {}
    tensors: dict[int, int] = {}
    table: list[dict[str, Any]] = []

    def tensor_number(tensor: torch.Tensor) -> int:
        if id(tensor) not in tensors:
            storage = tensor.untyped_storage()
            number, _ = storages.setdefault(storage._cdata, (len(storages), storage))
            table.append(
                {
                    "storage": number,
                    "dtype": str(tensor.dtype).removeprefix("torch."),
                    "offset": tensor.storage_offset(),
                    "shape": list(tensor.shape),
                    "stride": list(tensor.stride()),
                }
            )
            tensors[id(tensor)] = len(table) - 1
        return tensors[id(tensor)]

    def tree(item: Any) -> Any:
        if item is None or type(item) in (bool, str):
            return item
        if type(item) is int:
            return item if abs(item) < 2**53 else {"int": str(item)}
        if type(item) is float:
            return {"float": item.hex()}
        if type(item) is bytes:
            return {"bytes": item.hex()}
        if isinstance(item, torch.Tensor):
            return {"tensor": tensor_number(item)}
        if isinstance(item, torch.dtype):
            return {"dtype": str(item).removeprefix("torch.")}
        if isinstance(item, torch.device):
            return {"device": str(item)}
        if type(item) is list:
            return [tree(part) for part in item]
        if type(item) is tuple:
            return {"tuple": [tree(part) for part in item]}
        if type(item) is dict:
            return {"dict": [[tree(key), tree(part)] for key, part in item.items()]}
        if type(item) is Opaque:
            return {"opaque": [item.type, item.repr]}
        if type(item) is TensorFacts:
            return {"facts": {name: tree(part) for name, part in vars(item).items()}}
        raise TypeError(f"not plain data: {type(item).__name__} {reprlib.repr(item)}")

    structure = tree(value)
    blobs = []
    for _, storage in storages.values():
        raw = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage).cpu()
        blobs.append((str(storage.device), raw.numpy().tobytes()))
    header = json.dumps(
        {"value": structure, "tensors": table, "storages": [[device, len(blob)] for device, blob in blobs]}
    ).encode()
    return b"".join([struct.pack("<Q", len(header)), header, *(blob for _, blob in blobs)])


def decode(data: bytes, *, trusted: bool = True) -> Any:
    """The plain data that `encode` was given. ValueError if the bytes are not from `encode`.

    Of whoever is not `trusted`, also if a tensor is not dense: a few bytes could stand for more numbers than fit into
    memory.
    """
    try:
        (length,) = struct.unpack_from("<Q", data)
        if length > len(data) - 8:
            raise ValueError("its header is cut off")
        header = json.loads(data[8 : 8 + length], parse_constant=_no_constant)
        position, storages = 8 + length, []
        for device, size in header["storages"]:
            if type(size) is not int or not 0 <= size <= len(data) - position:
                raise ValueError("a tensor is cut off")
            raw = torch.frombuffer(bytearray(data[position : position + size]), dtype=torch.uint8) if size else None
            storages.append((torch.empty(0, dtype=torch.uint8) if raw is None else raw).to(device).untyped_storage())
            position += size
        if position != len(data):
            raise ValueError("something follows its end")
        tensors = []
        for row in header["tensors"]:
            dtype, storage = _dtype(row["dtype"]), storages[_natural(row["storage"])]
            empty = torch.empty(0, dtype=dtype, device=storage.device)
            offset, shape, stride = _natural(row["offset"]), row["shape"], row["stride"]
            _check_layout(offset, shape, stride, storage.nbytes() // dtype.itemsize, dense=not trusted)
            tensors.append(empty.set_(storage, offset, shape, stride))
        return _untree(header["value"], tensors)
    except Exception as error:  # whatever the bytes do to the code above
        raise ValueError(f"not plain data: {error}") from error


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not JSON")


def _natural(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r} is not a natural number")
    return number


def _check_layout(offset: int, shape: list[int], stride: list[int], numbers: int, dense: bool) -> None:
    """ValueError if a tensor does not lie inside a storage of so many numbers."""
    sizes, steps = [_natural(size) for size in shape], [_natural(step) for step in stride]
    if len(sizes) != len(steps):
        raise ValueError("a tensor's strides do not fit its shape")
    if 0 in sizes:
        return
    last = offset + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    if last >= numbers or (dense and math.prod(sizes) > numbers):
        raise ValueError("a tensor reaches beyond its memory")


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"not plain data: {name!r} is not a dtype")
    return dtype


def _untree(item: Any, tensors: list[torch.Tensor]) -> Any:
    if isinstance(item, list):
        return [_untree(part, tensors) for part in item]
    if not isinstance(item, dict):
        return item
    ((kind, content),) = item.items()
    match kind:
        case "int":
            return int(content)
        case "float":
            return float.fromhex(content)
        case "bytes":
            return bytes.fromhex(content)
        case "tensor":
            return tensors[content]
        case "dtype":
            return _dtype(content)
        case "device":
            return torch.device(content)
        case "tuple":
            return tuple(_untree(part, tensors) for part in content)
        case "dict":
            return {_untree(key, tensors): _untree(part, tensors) for key, part in content}
        case "opaque":
            return Opaque(*content)
        case "facts":
            return TensorFacts(**{name: _untree(part, tensors) for name, part in content.items()})
    raise ValueError(f"not plain data: {kind}")
