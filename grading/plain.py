"""Plain data: all that crosses between a graded test and a submission.

None, bool, int, float, str, bytes, lists, tuples, dicts, dtypes, devices and plain tensors. Anything else that a
submission returns arrives as an `Opaque`: its type and the beginning of its repr, never the object.
"""

from __future__ import annotations

import json
import reprlib
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

_ATOMS = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device)


@dataclass(frozen=True)
class Opaque:
    """A value that is not plain data."""

    type: str
    repr: str

    def __str__(self) -> str:
        return f"{self.type}: {self.repr}"


@dataclass(frozen=True)
class TensorFacts:
    """What is promised of a returned tensor beside its numbers, seen before it was made plain."""

    type: str  # "Tensor" for a plain one
    shape: tuple[int, ...]
    dtype: str  # "float32"
    device: str  # "cpu", "cuda"
    contiguous: bool
    requires_grad: bool
    aliases: tuple[int, ...]  # numbers of the input tensors that share its memory


def map_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The same plain data with each tensor replaced."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(item, change) for item in value)
    return value


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in plain data, in order, repetitions included."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(item)


def distinct_tensors(*values: Any) -> list[torch.Tensor]:
    """The tensor objects in plain data, each once: the same object passed twice (query is key) is one."""
    return list({id(tensor): tensor for tensor in tensors_in(values)}.values())


def make_plain(value: Any, depth: int = 0) -> Any:
    """A copy of `value` as plain data; tensors are detached from the graph but not yet copied."""
    if depth > 50:
        return Opaque(type(value).__name__, "nested more than 50 levels deep")
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.device.type == "meta":
            return opaque(value)
        return value.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg()
    if type(value) in _ATOMS:
        return value
    if isinstance(value, Mapping):
        return {key: make_plain(item, depth + 1) for key, item in value.items() if isinstance(key, (str, int))}
    if isinstance(value, (list, tuple)):  # a NamedTuple becomes a plain tuple
        items = [make_plain(item, depth + 1) for item in value]
        return items if isinstance(value, list) else tuple(items)
    for atom in (bool, int, float, str):  # an IntEnum, a numpy float …
        if isinstance(value, atom):
            return atom(value)
    return opaque(value)


def opaque(value: Any) -> Opaque:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return Opaque(name, reprlib.repr(value))


class Copier:
    """Copies tensors so that what shared memory still does, strides included.

    Made for one request: the submission gets copies, and `changed` says which inputs it wrote to.
    """

    def __init__(self) -> None:
        self._storages: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._copies: dict[int, torch.Tensor] = {}

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in self._copies:
            storage = tensor.untyped_storage()
            _, copy = self._storages.setdefault(storage._cdata, (storage, storage.clone()))
            fresh = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            fresh.set_(copy, tensor.storage_offset(), tensor.size(), tensor.stride())
            self._copies[id(tensor)] = fresh
        return self._copies[id(tensor)]

    def changed(self, tensor: torch.Tensor) -> bool:
        """Whether the copy's numbers are no longer the original's, bit by bit."""
        return not torch.equal(_bits(tensor), _bits(self._copies[id(tensor)].detach()))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


# --- bytes: how plain data travels to another process -------------------------------------------------------------
# A JSON text that describes the structure, and the storages of the tensors behind it. No pickle: whoever holds the
# other end of the pipe can send wrong numbers, but nothing that runs.


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


def decode(data: bytes) -> Any:
    """The plain data that `encode` was given. ValueError if the bytes are not its work."""
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        position, storages = 8 + length, []
        for device, size in header["storages"]:
            raw = torch.frombuffer(bytearray(data[position : position + size]), dtype=torch.uint8) if size else None
            storages.append((torch.empty(0, dtype=torch.uint8) if raw is None else raw).to(device).untyped_storage())
            position += size
        tensors = []
        for row in header["tensors"]:
            dtype, storage = _dtype(row["dtype"]), storages[row["storage"]]
            empty = torch.empty(0, dtype=dtype, device=storage.device)
            tensors.append(empty.set_(storage, row["offset"], row["shape"], row["stride"]))
        return _untree(header["value"], tensors)
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"not plain data: {error}") from error


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"not plain data: {name!r} is no dtype")
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
