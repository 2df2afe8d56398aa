"""A worker at the other end of a Unix socket, for a server that runs in a sandbox.

The children of a sandboxed service (host/systemd_unit.py) are in its sandbox too. VirtualBox's VMs do not work in it:
VBoxHeadless is setuid root. So systemd listens at a socket and starts a worker outside the sandbox for each connection
(systemd.socket(5), Accept=yes). The messages are those of a worker that the server started itself
(worker.py); the first one, `{"pid": N}`, tells which process to kill if it hangs.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

SOCKET_VARIABLE = "VMDNS_BESIDE"  # of the environment: the path of the socket
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 300.0


class SocketWorker:
    """One connection to a worker, with the part of `subprocess.Popen`'s interface that the supervisor uses."""

    def __init__(self, path: str) -> None:
        """Connects, which starts a worker. Raises OSError."""
        self._socket = _connect(path)
        self._ended = threading.Event()
        self.pid = 0
        self.returncode: int | None = None
        self.stdin = self._socket.makefile("wb")
        self.stdout = _Output(socket.SocketIO(self._socket, "r"), self._ended)
        self.stderr = io.BytesIO()  # the worker's errors go to the systemd journal

    def poll(self) -> int | None:
        """None while it runs."""
        return 0 if self._ended.is_set() else None

    def wait(self, timeout: float | None = None) -> int:
        """Ends it, and waits until it has ended. Raises `subprocess.TimeoutExpired`."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("the worker", timeout or 0.0)
        self._socket.close()
        self.returncode = 0
        return 0

    def kill(self) -> None:
        """Kills the process if its id is known, and closes the connection."""
        if self.pid > 1 and not self._ended.is_set():
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class _Output(io.BufferedReader):
    """The messages of the worker. The reader closes it at the end of input."""

    def __init__(self, raw: io.RawIOBase, ended: threading.Event) -> None:
        super().__init__(raw)
        self._ended = ended

    def close(self) -> None:
        super().close()
        self._ended.set()


def send_request(path: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """Sends one request to a new process behind the socket, and returns its answer. Blocks. Raises OSError."""
    with _connect(path) as one:
        one.settimeout(ANSWER_SECONDS)
        one.sendall(json.dumps(message).encode() + b"\n")
        with one.makefile("rb") as file:
            line = file.readline()
    try:
        answer = json.loads(line)
    except ValueError:
        raise OSError("it ended without an answer; its journal may say why") from None
    if not isinstance(answer, dict):
        raise OSError("its answer is invalid")
    return answer


def _connect(path: str) -> socket.socket:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        one.settimeout(CONNECT_SECONDS)
        one.connect(path)
        one.settimeout(None)
    except OSError:
        one.close()
        raise
    return one
