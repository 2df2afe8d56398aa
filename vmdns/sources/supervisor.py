"""Keeps a worker process running beside the server, and passes on what it says."""

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

from vmdns.sources.installation import find
from vmdns.sources.reader import Unavailable
from vmdns.state.facts import from_json
from vmdns.state.program_output import decode_text

if TYPE_CHECKING:
    from vmdns.sources.worker_socket import Beside

    Worker = subprocess.Popen[bytes] | Beside

Message = dict[str, Any]

# -P: never import from the folder that vmdns happens to be started in.
WORKER = (sys.executable, "-P", "-m", "vmdns.sources.worker")

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 20.0  # less than what counts as silence
MOST_WAITING = 8  # messages that the event loop has not taken yet: what comes behind them waits for all of them
HELD_UP_SECONDS = 2.0  # to take what was said while vmdns itself was held up, as in a sleep of this computer
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
        self._looking: dict[str, bool] = {}  # sources that a look was asked for; whether again since

    async def run(self) -> None:
        """Until cancelled: a worker runs. Pauses grow while it fails at once."""
        try:
            while True:
                pause = min(FIRST_PAUSE * 1.5**self._failures, LONGEST_PAUSE)
                try:
                    worked = await self._run_one(pause)
                except OSError as error:  # no process to be had, or it ended before it read its options
                    worked = False
                    self._message({"lost": f"its reader cannot be started ({error})"})
                    await asyncio.sleep(pause)
                self._failures = 0 if worked else min(self._failures + 1, 30)
        finally:
            self.stop()

    def nudge(self, source: str) -> None:
        """Asks the worker to look at this source at once. One wish is under way at a time, so that none can block."""
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
            return  # it ended; the next one looks at everything anyway
        self._looking[source] = False

    def stop(self) -> None:
        """Ends the worker; it lets VirtualBox go by itself when its input ends."""
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
        """Starts one worker, which stays `pause` seconds after it lost VirtualBox. Raises OSError."""
        process = self._beside() or self._child()
        assert process.stdin is not None
        process.stdin.write(json.dumps({**self._options, "failures": self._failures, "pause": pause}).encode() + b"\n")
        process.stdin.flush()
        self._process = process
        self._looking = {}
        return process

    def _beside(self) -> Beside | None:
        """Where vmdns is confined, a worker that is not."""
        if "VMDNS_BESIDE" not in os.environ or self._worker != WORKER:
            return None
        from vmdns.sources.worker_socket import VARIABLE, Beside

        return Beside(os.environ[VARIABLE])

    def _child(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._worker,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environ(),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            # Ctrl-C in the terminal is for the server, which ends the worker in its own order. Not another session:
            # Linux may give each of them as much of a core, and then the worker takes it from those that answer.
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
        """Runs one worker to its end; whether it had found VirtualBox."""
        loop = asyncio.get_running_loop()
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        process = self.start(pause)
        assert process.stdout is not None
        assert process.stderr is not None
        last_words: deque[str] = deque(maxlen=5)
        # A worker that tells more than can be taken has to wait, which makes one message of many changes.
        room = threading.Semaphore(MOST_WAITING)
        reading = process.stdout, loop, messages, room
        threading.Thread(target=_read_messages, args=reading, daemon=True).start()
        threading.Thread(target=_read_errors, args=(process.stderr, last_words), daemon=True).start()
        worked = told = False
        while True:
            try:
                message = await _next(messages)
            except TimeoutError:
                self._message({"lost": "VirtualBox does not answer: its reader is started anew"})
                told = True
                process.kill()
                continue
            if message is None:
                break
            if "pid" in message:
                process.pid = int(message["pid"])
            worked = worked or message.get("put") == "virtualbox"
            told = told or "lost" in message
            if "looked" in message:
                if self._looking.pop(message["looked"], False):
                    self.nudge(message["looked"])
                else:
                    self._message(message)
            elif "beat" not in message and "pid" not in message:
                self._message(message)
            room.release()
            await asyncio.sleep(0)  # a queue that is never empty never waits
        await asyncio.to_thread(process.wait)
        if not told:
            self._message({"lost": " ".join(last_words) or f"its reader ended (status {process.returncode})"})
            await asyncio.sleep(pause)
        return worked


async def _next(messages: asyncio.Queue[Message | None]) -> Message | None:
    """The next message. Raises TimeoutError after too long a silence."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SILENT_SECONDS):
            return await messages.get()
    async with asyncio.timeout(HELD_UP_SECONDS):
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
            return  # the loop is closed: nobody listens any more

    # A socket whose other end closed before it read everything ends by an error (daemon/worker_service.py).
    with contextlib.suppress(OSError), pipe:
        for line in pipe:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            # What makes no sense is left to who takes it.
            with contextlib.suppress(KeyError, TypeError, ValueError):
                message["facts"] = {key: one and from_json(one) for key, one in message["facts"].items()}
            while not room.acquire(timeout=1.0):
                if loop.is_closed():
                    return
            put(message)
    put(None)


def _read_errors(pipe: IO[bytes], last_words: deque[str]) -> None:
    with pipe:
        for line in pipe:
            text = decode_text(line, sys.platform).strip()
            if text:
                last_words.append(text)


def look_once(reader: str, home: str | None, interval: float, seconds: float = 120.0) -> list[Message]:
    """The messages of one look by a worker of its own: `found`, then `put` for each source. Blocks.

    Raises `Unavailable` where VirtualBox is not there or does not answer in that many seconds.
    """
    supervisor = Supervisor(reader, home, interval, lambda message: None)
    if find(supervisor.environ()) is None:
        raise Unavailable("VirtualBox is not installed; to see vmdns work without it: vmdns demo")
    process = supervisor.start(0.0)
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    messages: list[Message] = []
    wanted = {"settled", "leases", "addresses", "neighbours"}
    try:
        assert process.stdout is not None
        for line in process.stdout:
            messages.append(json.loads(line))
            if "lost" in messages[-1]:
                raise Unavailable(messages[-1]["lost"])
            wanted -= {*messages[-1], messages[-1].get("put"), messages[-1].get("trouble")}
            if not wanted:
                return messages
        raise Unavailable("VirtualBox does not answer")
    finally:
        timer.cancel()
        supervisor.stop()
