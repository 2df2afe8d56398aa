"""Keeps a worker process running, and passes on its messages.

The children of a sandboxed service (host/systemd.py) are in its sandbox too, where VirtualBox's VMs do not work:
VBoxHeadless is setuid root. So systemd listens at a socket and starts a worker outside the sandbox for each connection
(systemd.socket(5), Accept=yes).
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from vmdns.files import NO_WINDOW, decode_text
from vmdns.sources.installation import find
from vmdns.sources.reader import ReaderUnavailable
from vmdns.state.facts import from_json

Message = dict[str, Any]

# -P: never import from the current folder.
WORKER = (sys.executable, "-P", "-m", "vmdns.sources.worker")
SOCKET_VARIABLE = "VMDNS_BESIDE"  # of the environment: the path of systemd's socket

FIRST_PAUSE = 0.5
MAX_PAUSE = 20.0  # less than SILENT_SECONDS
MAX_FAILURES = 30  # counted
MAX_PENDING = 8  # messages that the event loop has not handled yet: a worker that waits merges its changes into one
RESUME_SECONDS = 2.0  # to read messages that arrived while vmdns was suspended
SILENT_SECONDS = 30.0  # six beats
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 300.0


class Supervisor:
    """Runs workers one after the other. `message` is called in the event loop's thread with each message."""

    def __init__(
        self,
        reader: str,
        home: str | None,
        interval: float,
        message: Callable[[Message], None],
        worker: Sequence[str] = WORKER,
    ) -> None:
        """worker: the command line of the process that reads VirtualBox."""
        self._options = {"reader": reader, "home": home, "interval": interval}
        self._message = message
        self._worker = worker
        self._process: subprocess.Popen[bytes] | SocketWorker | None = None
        self._failures = 0
        self._looking: dict[str, bool] = {}  # sources with a pending request; whether it was requested again since

    async def run(self) -> None:
        """Keeps a worker running until cancelled. Pauses grow while workers fail at once."""
        try:
            while True:
                pause = min(FIRST_PAUSE * 1.5**self._failures, MAX_PAUSE)
                try:
                    worked = await self._run_one(pause)
                except OSError as error:  # no process could be started, or it ended before it read its options
                    worked = False
                    self._message({"lost": f"its reader cannot be started ({error})"})
                    await asyncio.sleep(pause)
                self._failures = 0 if worked else min(self._failures + 1, MAX_FAILURES)
        finally:
            self.stop()

    def request_look(self, source: str) -> None:
        """Requests a look at this source now. Only one request a source is pending, so that writing never blocks."""
        if source in self._looking:
            self._looking[source] = True
            return
        with contextlib.suppress(OSError, ValueError):  # it ended; the next one reads everything
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.write(json.dumps({"look": source}).encode() + b"\n")
                self._process.stdin.flush()
                self._looking[source] = False

    def stop(self) -> None:
        """Ends the worker, which closes its connection to VirtualBox when its input ends."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5.0)

    def start(self, pause: float, failures: int) -> subprocess.Popen[bytes] | SocketWorker:
        """Starts one worker, which ends `pause` seconds after it lost VirtualBox. failures: how many workers in a row
        have read nothing. Raises OSError."""
        process: subprocess.Popen[bytes] | SocketWorker
        if SOCKET_VARIABLE in os.environ and self._worker == WORKER:
            process = SocketWorker(os.environ[SOCKET_VARIABLE])
        else:
            pipe = subprocess.PIPE
            process = subprocess.Popen(
                self._worker,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                env=self.environ(),
                creationflags=NO_WINDOW,
                # Ctrl-C in the terminal is for the server, which ends the worker itself. A process group and not a
                # session: autogroup scheduling of Linux would give a session as much CPU time as the server's.
                process_group=0 if os.name == "posix" else None,
            )
        assert process.stdin is not None
        process.stdin.write(json.dumps({**self._options, "failures": failures, "pause": pause}).encode() + b"\n")
        process.stdin.flush()
        self._process = process
        self._looking = {}
        return process

    def environ(self) -> dict[str, str]:
        """The worker's environment."""
        ours = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(one for one in (ours, os.environ.get("PYTHONPATH")) if one)
        home = self._options["home"]
        return {**os.environ, "PYTHONPATH": path, **({"VBOX_USER_HOME": str(home)} if home is not None else {})}

    async def _run_one(self, pause: float) -> bool:
        """Runs one worker until it ends. Returns whether it read VirtualBox."""
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        process = self.start(pause, self._failures)
        assert process.stdout is not None
        assert process.stderr is not None
        error_lines: deque[str] = deque(maxlen=5)
        room = threading.Semaphore(MAX_PENDING)
        reading = process.stdout, asyncio.get_running_loop(), messages, room
        threading.Thread(target=_read_messages, args=reading, daemon=True).start()
        threading.Thread(target=_read_errors, args=(process.stderr, error_lines), daemon=True).start()
        worked = reported = False
        while True:
            try:
                message = await _next(messages)
            except TimeoutError:
                self._message({"lost": "VirtualBox does not answer: its reader is started again"})
                reported = True
                process.kill()
                continue
            if message is None:
                break
            worked = worked or message.get("put") == "virtualbox"
            reported = reported or "lost" in message
            if "pid" in message:
                process.pid = int(message["pid"])
            elif "looked" in message and self._looking.pop(message["looked"], False):
                self.request_look(message["looked"])
            elif "beat" not in message:
                self._message(message)
            room.release()
            await asyncio.sleep(0)  # get() does not yield while the queue is not empty
        await asyncio.to_thread(process.wait)
        if not reported:
            self._message({"lost": " ".join(error_lines) or f"its reader ended (status {process.returncode})"})
            await asyncio.sleep(pause)
        return worked


async def _next(messages: asyncio.Queue[Message | None]) -> Message | None:
    """The next message. Raises TimeoutError after SILENT_SECONDS without one."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SILENT_SECONDS):
            return await messages.get()
    async with asyncio.timeout(RESUME_SECONDS):
        return await messages.get()


def _read_messages(
    pipe: IO[bytes],
    loop: asyncio.AbstractEventLoop,
    messages: asyncio.Queue[Message | None],
    room: threading.Semaphore,
) -> None:
    # A socket whose other end closed with unread data ends with an error.
    with contextlib.suppress(OSError), pipe:
        for line in pipe:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            # Invalid facts are left for the receiver to report.
            with contextlib.suppress(KeyError, TypeError, ValueError):
                message["facts"] = {key: one and from_json(one) for key, one in message["facts"].items()}
            while not room.acquire(timeout=1.0):
                if loop.is_closed():
                    return
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(messages.put_nowait, message)
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(messages.put_nowait, None)


def _read_errors(pipe: IO[bytes], error_lines: deque[str]) -> None:
    with pipe:
        for line in pipe:
            text = decode_text(line, sys.platform).strip()
            if text:
                error_lines.append(text)


def look_once(reader: str, home: str | None, interval: float, seconds: float = 120.0) -> list[Message]:
    """The messages of a new worker that reads everything once: `found`, then `put` for each source. Blocks. Where
    VirtualBox's API does not answer, VBoxManage is used at once.

    Raises `ReaderUnavailable` where VirtualBox is not installed or does not answer within `seconds`.
    """
    supervisor = Supervisor(reader, home, interval, lambda message: None)
    if find(supervisor.environ()) is None:
        raise ReaderUnavailable("VirtualBox is not installed; to see vmdns work without it: vmdns demo")
    process = supervisor.start(0.0, MAX_FAILURES)
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    messages: list[Message] = []
    wanted = {"virtualbox", "leases", "addresses", "neighbours"}
    try:
        assert process.stdout is not None
        for line in process.stdout:
            messages.append(json.loads(line))
            if "lost" in messages[-1]:
                raise ReaderUnavailable(messages[-1]["lost"])
            wanted -= {messages[-1].get("put"), messages[-1].get("trouble")}
            if not wanted:
                return messages
        raise ReaderUnavailable("VirtualBox does not answer")
    finally:
        timer.cancel()
        supervisor.stop()


class SocketWorker:
    """A worker behind systemd's socket, with the part of `subprocess.Popen`'s interface that the supervisor uses.

    Its first message, `{"pid": N}`, tells which process to kill if it hangs.
    """

    def __init__(self, path: str) -> None:
        """Connects, which starts a worker. Raises OSError."""
        self._socket = _connect(path)
        self.pid = 0
        self.returncode = 0
        self.stdin = self._socket.makefile("wb")
        self.stdout = self._socket.makefile("rb")  # who reads it closes it at its end
        self.stderr = io.BytesIO()  # the worker's errors go to the systemd journal

    def poll(self) -> int | None:
        """None while it runs."""
        return 0 if self.stdout.closed else None

    def wait(self, timeout: float = CONNECT_SECONDS) -> int:
        """Ends it, and waits until it has ended. Raises `subprocess.TimeoutExpired`."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        end = time.monotonic() + timeout
        while not self.stdout.closed:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("the worker", timeout)
            time.sleep(0.01)
        self._socket.close()
        return 0

    def kill(self) -> None:
        """Kills the process if its id is known, and closes the connection."""
        with contextlib.suppress(OSError):
            if self.pid > 1 and not self.stdout.closed:
                os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


def send_request(message: Mapping[str, Any]) -> dict[str, Any]:
    """Sends one request to a new process behind systemd's socket, and returns its answer. Blocks. Raises OSError."""
    with _connect(os.environ[SOCKET_VARIABLE]) as one:
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
