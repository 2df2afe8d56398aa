"""The worker at the other end of a Unix socket, for a server that is not to start programs itself.

A confined service (vmdns/host/systemd_unit.py) hands its confinement on to whatever it starts. VirtualBox's VMs do not
work in it: VBoxHeadless is setuid root. So systemd listens at a socket and starts a worker, outside of the
confinement, for each connection (systemd.socket(5), Accept=yes). What is said is what is said to a worker that the
server started itself (sources/worker.py), with `{"pid": N}` first, as nothing else tells whom to end when it hangs.
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

VARIABLE = "VMDNS_BESIDE"  # of the environment: the path of the socket
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 300.0


class Beside:
    """One connection. Has of `subprocess.Popen` what the supervisor uses."""

    def __init__(self, place: str) -> None:
        """Has a worker started. Raises OSError where nobody listens."""
        self._socket = _connect(place)
        self._ended = threading.Event()
        self.pid = 0
        self.returncode: int | None = None
        self.stdin = self._socket.makefile("wb")
        self.stdout = _Output(socket.SocketIO(self._socket, "r"), self._ended)
        self.stderr = io.BytesIO()  # what the worker complains of goes to the journal

    def poll(self) -> int | None:
        """None while it runs."""
        return 0 if self._ended.is_set() else None

    def wait(self, timeout: float | None = None) -> int:
        """Lets it end, and waits until it has. Raises `subprocess.TimeoutExpired`."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("the worker", timeout or 0.0)
        self._socket.close()
        self.returncode = 0
        return 0

    def kill(self) -> None:
        """Ends it, as far as it told which process it is, and the connection in any case."""
        if self.pid > 1 and not self._ended.is_set():
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class _Output(io.BufferedReader):
    """What the worker says; whoever reads it closes it at its end."""

    def __init__(self, raw: io.RawIOBase, ended: threading.Event) -> None:
        super().__init__(raw)
        self._ended = ended

    def close(self) -> None:
        super().close()
        self._ended.set()


def ask(place: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """The one line that somebody beside us answers to this message. Blocks. Raises OSError."""
    with _connect(place) as one:
        one.settimeout(ANSWER_SECONDS)
        one.sendall(json.dumps(message).encode() + b"\n")
        with one.makefile("rb") as file:
            line = file.readline()
    try:
        answer = json.loads(line)
    except ValueError:
        raise OSError("it ended without an answer; its journal may say why") from None
    if not isinstance(answer, dict):
        raise OSError("its answer makes no sense")
    return answer


def _connect(place: str) -> socket.socket:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        one.settimeout(CONNECT_SECONDS)
        one.connect(place)
        one.settimeout(None)
    except OSError:
        one.close()
        raise
    return one
