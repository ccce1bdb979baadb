"""The way from a sandbox without a network to the scripted model: a Unix socket, and a forwarder at each end.

Inside, the forwarder listens where the model's URL says, so that no URL differs; outside, it connects to the model's
server and to nothing else.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

CHUNK = 1 << 16


def _forward(listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
    """Connect whoever connects to `listener`, in threads of their own, until it is closed."""

    def serve() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = connect()
            except OSError:
                near.close()
                continue
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)  # the answer may still be on its way


class Outside:
    """The grader's end, at a socket in this folder."""

    def __init__(self, folder: Path, port: int) -> None:
        self.path = folder / "model"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        os.chmod(self.path, 0o666)  # the sandbox's user is another one
        self._listener.listen(64)
        _forward(self._listener, lambda: socket.create_connection(("127.0.0.1", port), timeout=None))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def listen_inside(port: int, path: Path) -> None:
    """The sandbox's end."""

    def connect() -> socket.socket:
        found = socket.socket(socket.AF_UNIX)
        found.connect(str(path))
        return found

    listener = socket.create_server(("127.0.0.1", port), backlog=64)
    _forward(listener, connect)
