"""A program whose output the tests read while it runs, and a socket unit that starts programs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from tests.wine import UNDER_WINE, start_self_breaking

# What ends a program as its user would: Windows has no SIGTERM, but Ctrl-Break for a process group.
BREAK = signal.CTRL_BREAK_EVENT if sys.platform == "win32" else signal.SIGTERM
PATIENCE = 60.0  # VBoxManage takes seconds on a busy machine with two cores


class Program:
    """Collects the lines that a program prints. how: arguments of Popen, or of what starts it instead."""

    def __init__(self, command: Sequence[str], *, start: Callable[..., Any] | None = None, **how: Any) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **how}
        if sys.platform == "win32":
            how["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP
        with mock.patch.object(subprocess, "Popen", start_self_breaking if UNDER_WINE else subprocess.Popen):
            self.process: subprocess.Popen[bytes] = (start or subprocess.Popen)(command, **how)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            with self._changed:
                self.lines.append(raw.decode(errors="replace").rstrip())
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def saw(self, text: str, after: int = 0) -> str:
        """Waits for a line with this text, from the line number `after` on; the line."""

        def find() -> str | None:
            return next((line for line in self.lines[after:] if text in line), None)

        with self._changed:
            self._changed.wait_for(lambda: find() or self._ended, PATIENCE)
            found = find()
        if found is None:
            raise AssertionError(f"no line with {text!r}; it printed:\n" + "\n".join(self.lines))
        return found

    def stop(self, number: int = BREAK) -> int:
        """Sends the signal if it still runs, and waits for its end; the exit status."""
        if self.process.poll() is None:
            if UNDER_WINE:
                assert self.process.stdin is not None
                self.process.stdin.write(b"!")
                self.process.stdin.flush()
            else:
                self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE / 2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(PATIENCE / 2)
            raise


class SocketUnit:
    """Starts a program for each connection to a Unix socket, as systemd does for a socket unit with Accept=yes."""

    def __init__(self, place: Path, *command: str, environ: Mapping[str, str] | None = None) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(place))
        self._listener.listen(8)
        self._start = lambda one: subprocess.Popen(command, env=environ, stdin=one, stdout=one, start_new_session=True)
        self.started: list[subprocess.Popen[bytes]] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                one, _ = self._listener.accept()
            except OSError:
                return
            with one:
                self.started.append(self._start(one))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self.started:
            one.kill()
            one.wait(10)


def assert_ends(pid: int) -> None:
    """Waits for the end of a process that is no child."""
    end = time.monotonic() + PATIENCE
    while _runs(pid):
        assert time.monotonic() < end, f"process {pid} still runs"
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    if sys.platform == "win32":  # where os.kill(pid, 0) would send it Ctrl-C
        import psutil

        return bool(psutil.pid_exists(pid))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
