"""Messages between a parent and its child: a length in eight bytes, then the data."""

from __future__ import annotations

import struct
from typing import BinaryIO


def read_message(pipe: BinaryIO) -> bytes | None:
    """One message, or None if the other side has closed the pipe."""
    head = pipe.read(8)
    if len(head) < 8:
        return None
    (length,) = struct.unpack("<Q", head)
    data = pipe.read(length)
    return data if len(data) == length else None


def write_message(pipe: BinaryIO, data: bytes) -> None:
    pipe.write(struct.pack("<Q", len(data)))
    pipe.write(data)
    pipe.flush()
