"""A child process that performs requests: they come through one pipe, their results go through another.

Started as `python -m grading.worker IN OUT`, fed with its limits in JSON, and then with pairs of a tree in JSON and a
request, each behind its length. It holds no oracle, and under `--isolate` it may not read the files that do.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path
from typing import BinaryIO


def read_message(pipe: BinaryIO) -> bytes | None:
    """One message, or None where the other side has closed the pipe."""
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


def forbid_reading(roots: list[Path]) -> None:
    """Refuse to open any file below these folders. An audit hook cannot be taken away again by Python code."""
    prefixes = tuple(f"{root}{os.sep}" for root in roots)

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in ("open", "os.listdir", "os.scandir") and args and isinstance(args[0], (str, bytes, os.PathLike)):
            path = os.path.realpath(os.fsdecode(args[0])) + os.sep
            if path.startswith(prefixes):
                raise PermissionError(f"a submission may not read {os.fsdecode(args[0])}: it belongs to the grader")

    if prefixes:
        sys.addaudithook(hook)


LOOPBACK = ("127.0.0.1", "::1", "localhost", "", None)


def forbid_network() -> None:
    """Refuse connections and name look-ups beyond this machine."""

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in ("socket.connect", "socket.sendto") and isinstance(address := args[-1], tuple):
            host = address[0]
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            host = args[0].decode() if isinstance(args[0], bytes) else args[0]
        else:
            return
        if host not in LOOPBACK:
            raise PermissionError(f"a submission may not reach {host}: it is graded without a network")

    sys.addaudithook(hook)


def limit_memory(megabytes: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    # RLIMIT_DATA counts what is really asked for; RLIMIT_AS also counts the gigabytes of addresses that libraries
    # reserve and never touch.
    resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))


def main() -> None:
    incoming, outgoing = os.fdopen(int(sys.argv[1]), "rb"), os.fdopen(int(sys.argv[2]), "wb")
    setup = json.loads(read_message(incoming) or b"{}")

    from grading.perform import perform
    from grading.request import Request, Result, Trouble
    from grading.trees import Tree

    forbid_reading([Path(root) for root in setup["forbidden"]])
    if setup["memory_mb"]:
        limit_memory(setup["memory_mb"])
    if setup["loopback"]:
        forbid_network()
    write_message(outgoing, b"ready")
    while (message := read_message(incoming)) is not None:
        whose = json.loads(message)
        tree = Tree(whose["name"], tuple(Path(root) for root in whose["roots"]), whose["library"])
        result, _ = perform(Request.decode(read_message(incoming) or b""), tree, whose["exercise"])
        try:
            answer = result.encode()
        except MemoryError:
            answer = Result(trouble=Trouble("memory", "ran out of memory")).encode()
        write_message(outgoing, answer)


if __name__ == "__main__":
    main()
