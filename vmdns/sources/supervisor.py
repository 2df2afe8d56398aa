"""Keeps a worker process running, and passes on its messages."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vmdns.files import decode_text
from vmdns.sources.installation import find
from vmdns.sources.reader import ReaderUnavailable
from vmdns.state.facts import from_json

if TYPE_CHECKING:
    from vmdns.sources.worker_socket import SocketWorker

    Worker = subprocess.Popen[bytes] | SocketWorker

Message = dict[str, Any]

# -P: never import from the current folder.
WORKER = (sys.executable, "-P", "-m", "vmdns.sources.worker")

FIRST_PAUSE = 0.5
MAX_PAUSE = 20.0  # less than SILENT_SECONDS
MAX_PENDING = 8  # messages that the event loop has not handled yet
RESUME_SECONDS = 2.0  # to read messages that arrived while vmdns was suspended
SILENT_SECONDS = 30.0  # six beats


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
        self._home = home
        self._message = message
        self._worker = worker
        self._process: Worker | None = None
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
                self._failures = 0 if worked else min(self._failures + 1, 30)
        finally:
            self.stop()

    def request_look(self, source: str) -> None:
        """Requests a look at this source now. Only one request a source is pending, so that writing never blocks."""
        if source in self._looking:
            self._looking[source] = True
            return
        process = self._process
        if process is None or process.stdin is None:
            return
        try:
            process.stdin.write(json.dumps({"look": source}).encode() + b"\n")
            process.stdin.flush()
        except (OSError, ValueError):
            return  # it ended; the next one reads everything
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

    def start(self, pause: float) -> Worker:
        """Starts one worker, which ends `pause` seconds after it lost VirtualBox. Raises OSError."""
        process = self._connect_worker() or self._spawn_worker()
        assert process.stdin is not None
        process.stdin.write(json.dumps({**self._options, "failures": self._failures, "pause": pause}).encode() + b"\n")
        process.stdin.flush()
        self._process = process
        self._looking = {}
        return process

    def _connect_worker(self) -> SocketWorker | None:
        """A worker outside the sandbox, if vmdns runs in one."""
        if "VMDNS_BESIDE" not in os.environ or self._worker != WORKER:
            return None
        from vmdns.sources.worker_socket import SOCKET_VARIABLE, SocketWorker

        return SocketWorker(os.environ[SOCKET_VARIABLE])

    def _spawn_worker(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._worker,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environ(),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            # Ctrl-C in the terminal is for the server, which ends the worker itself. A process group and not a session:
            # autogroup scheduling of Linux would give the worker's session as much CPU time as the server's.
            process_group=0 if os.name == "posix" else None,
        )

    def environ(self) -> dict[str, str]:
        """The worker's environment."""
        environ = dict(os.environ)
        ours = str(Path(__file__).resolve().parents[2])
        environ["PYTHONPATH"] = os.pathsep.join(one for one in (ours, environ.get("PYTHONPATH")) if one)
        if self._home is not None:
            environ["VBOX_USER_HOME"] = self._home
        return environ

    async def _run_one(self, pause: float) -> bool:
        """Runs one worker until it ends. Returns whether it read VirtualBox."""
        loop = asyncio.get_running_loop()
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        process = self.start(pause)
        assert process.stdout is not None
        assert process.stderr is not None
        error_lines: deque[str] = deque(maxlen=5)
        # Backpressure: a worker that waits merges its changes into one message.
        room = threading.Semaphore(MAX_PENDING)
        reading = process.stdout, loop, messages, room
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
            if "pid" in message:
                process.pid = int(message["pid"])
            worked = worked or message.get("put") == "virtualbox"
            reported = reported or "lost" in message
            if "looked" in message:
                if self._looking.pop(message["looked"], False):
                    self.request_look(message["looked"])
                else:
                    self._message(message)
            elif "beat" not in message and "pid" not in message:
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
    def put(message: Message | None) -> None:
        try:
            loop.call_soon_threadsafe(messages.put_nowait, message)
        except RuntimeError:
            return  # the loop is closed

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
            put(message)
    put(None)


def _read_errors(pipe: IO[bytes], error_lines: deque[str]) -> None:
    with pipe:
        for line in pipe:
            text = decode_text(line, sys.platform).strip()
            if text:
                error_lines.append(text)


def look_once(reader: str, home: str | None, interval: float, seconds: float = 120.0) -> list[Message]:
    """The messages of a new worker that reads everything once: `found`, then `put` for each source. Blocks.

    Raises `ReaderUnavailable` where VirtualBox is not installed or does not answer within `seconds`.
    """
    supervisor = Supervisor(reader, home, interval, lambda message: None)
    if find(supervisor.environ()) is None:
        raise ReaderUnavailable("VirtualBox is not installed; to see vmdns work without it: vmdns demo")
    process = supervisor.start(0.0)
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
