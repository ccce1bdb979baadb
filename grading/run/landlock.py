"""Landlock: a Linux process asks the kernel to refuse it, for good, all files and connections but some.

https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the system calls' numbers, the same on every processor
_VERSION = 1  # the flag that asks for the ABI
_PATH_BENEATH, _NET_PORT = 1, 2
_NO_NEW_PRIVILEGES = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_ON_FILES = _EXECUTE | _READ_FILE | _WRITE_FILE | 1 << 14 | 1 << 15  # the rights that a rule for a file may hold
_FILES = (0, 13, 14, 15, 15, 16)  # by ABI: the number of rights to files
_CONNECT, _BIND = 2, 1
_ABSTRACT_SOCKETS, _SIGNALS = 1, 2


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Path(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


class _Port(ctypes.Structure):
    _fields_ = (("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64))


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    found = libc.syscall(ctypes.c_long(number), *arguments)
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(found)


def abi() -> int:
    """The version of Landlock that the kernel offers; 0 for none."""
    try:
        return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    except (OSError, AttributeError, TypeError):
        return 0


@functools.cache
def missing() -> str:
    """Why it does not work here; empty if it does. It was tried."""
    if not abi():
        return "this Linux kernel has no Landlock, or does not allow it"
    code = "from grading.run.landlock import restrict; restrict(['/usr'], [], None); open('/etc/passwd')"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    tried = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    return "" if "PermissionError" in tried.stderr else "Landlock did not refuse a file when it was tried"


def restrict(readable: Iterable[str], writable: Iterable[str], port: int | None, listable: Iterable[str] = ()) -> None:
    """From now on this process and its children can read and write only below these folders, and connect only to this
    port. It can't be undone."""
    version = abi()
    rights = (1 << _FILES[min(version, len(_FILES) - 1)]) - 1
    ruleset = _Ruleset(rights, 0, 0)
    if version >= 4:
        ruleset.network = _BIND | _CONNECT
    if version >= 6:
        ruleset.scoped = _ABSTRACT_SOCKETS | _SIGNALS
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = _call(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        for path in readable:
            _allow(rules, path, rights & _READ)
        for path in listable:
            _allow(rules, path, rights & _READ_DIR)
        for path in writable:
            _allow(rules, path, rights)
        if version >= 4 and port is not None:
            rule = _Port(_CONNECT, port)
            _call(_ADD_RULE, rules, _NET_PORT, ctypes.byref(rule), ctypes.c_uint32(0))
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        _call(_RESTRICT_SELF, rules, ctypes.c_uint32(0))
    finally:
        os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            rule = _Path(rights if os.path.isdir(path) else rights & _ON_FILES, folder)
            _call(_ADD_RULE, rules, _PATH_BENEATH, ctypes.byref(rule), ctypes.c_uint32(0))
        finally:
            os.close(folder)
