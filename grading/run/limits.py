"""The limits that a child process sets itself before it loads a submission: files, the network, memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def forbid_reading(roots: list[Path]) -> None:
    """Refuse to open any file below these folders. Python code can't remove an audit hook."""
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
            raise PermissionError(f"a submission may not reach {host}: it is graded without network access")

    sys.addaudithook(hook)


def limit_memory(megabytes: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    # RLIMIT_DATA counts memory that is really used; RLIMIT_AS would also count the gigabytes of address space that
    # libraries reserve and never touch.
    resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))
