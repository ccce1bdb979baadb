"""The limits that a child process sets itself before it loads a submission: files, the network, memory."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

LARGEST_FILE_MB = 1024
MORE_PROCESSES = 512  # with their threads


def forbid_reading(roots: list[Path], allowed: list[Path]) -> None:
    """Refuse to open any file below these folders but what is allowed. Python code can't remove an audit hook."""
    prefixes, others = (tuple(f"{path}{os.sep}" for path in paths) for paths in (roots, allowed))
    real, decode = os.path.realpath, os.fsdecode  # a submission may replace them

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in ("open", "os.listdir", "os.scandir") and args and isinstance(args[0], (str, bytes, os.PathLike)):
            path = real(decode(args[0])) + os.sep
            if path.startswith(prefixes) and not path.startswith(others):
                raise PermissionError(f"a submission may not read {decode(args[0])}: it belongs to the grader")

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


def limit_the_rest() -> None:
    """No core dumps, no huge files, and not much more processes than this account has now."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_FSIZE, LARGEST_FILE_MB << 20)
    with contextlib.suppress(OSError):
        own = sum(os.stat(path).st_uid == os.getuid() for path in Path("/proc").glob("[0-9]*"))
        _lower(resource.RLIMIT_NPROC, own + MORE_PROCESSES)


def _lower(limit: int, value: int) -> None:
    import resource

    _, most = resource.getrlimit(limit)
    value = value if most == resource.RLIM_INFINITY else min(value, most)
    resource.setrlimit(limit, (value, value))
