"""The process of `vmdns run`: its log, privileges and limits, signals, background tasks, suspends, the service manager.

`Log` is what `cli.py` prints lines with; it escapes control characters (`dns/escape.py`).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from vmdns.dns.escape import escape_text
from vmdns.dns.query import encode_query
from vmdns.host.systemd import ServiceNotifier, drop_ambient_capabilities
from vmdns.server.listeners import Listener
from vmdns.state.findings import domain_to_allow

# Seconds that the UDP thread waits at most for the interpreter lock while the event loop runs Python code.
SWITCH_INTERVAL = 0.0001
OPEN_FILES = 4096
RESTART_SECONDS, MAX_RESTART_SECONDS = 0.5, 30.0
CHECK_SECONDS = 5.0  # between checks for a suspend
GAP_SECONDS = 5.0  # a busy computer delays a timer by less
ANSWER_SECONDS = 2.0  # for the server's own query to be answered
RETRY_SECONDS = 1.0
REFUSAL_SECONDS = 300.0  # after which a refused packet does not matter any more
MAX_LINES, LIMIT_SECONDS = 10, 60.0  # of the log, for each key
MAX_KEYS = 1024  # beyond that all counts are dropped, which lets a few more lines through
_SOA = 6
# A socket at an exact address keeps mDNSResponder, which binds every address, from port 53.
MAC_ROOT = (
    "vmdns runs as root: meanwhile macOS cannot answer DNS for guests of UTM, multipass, Lima, Apple container and "
    "Internet Sharing; run it without sudo"
)

Call = Callable[[], object]
Log = Callable[[str], None]


class LimitedLog:
    """Logs at most 10 texts a minute for each key: a guest that changes all the time must not fill the log (T19).

    Further lines of a text (a traceback, or what a peer sent) are indented, so that none looks like a line of vmdns.
    """

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._counts: dict[str, tuple[float, int]] = {}  # by key: when the minute began, how many texts came

    def __call__(self, key: str, text: str) -> None:
        now = self._clock()
        begun, count = self._counts.get(key, (now, 0))
        if now - begun >= LIMIT_SECONDS:
            if count > MAX_LINES:
                self._log(f"{count - MAX_LINES} more lines about {key} were left out")
            begun, count = now, 0
        if len(self._counts) >= MAX_KEYS and key not in self._counts:
            self._counts.clear()
        self._counts[key] = begun, count + 1
        if count < MAX_LINES:
            for line in text.replace("\n", "\n    ").split("\n"):
                self._log(line)


class PrintHandler(logging.Handler):
    """Logs each record by a `LimitedLog`: each place in the code may log ten a minute."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._limited = LimitedLog(log)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._limited(f"{record.module} line {record.lineno}", self.format(record))
        except Exception:
            self.handleError(record)


def print_log_records(log: Log) -> logging.Handler:
    """Logs all records, and exceptions that end a thread, from now on. Returns the handler."""
    handler = PrintHandler(log)
    logging.getLogger().addHandler(handler)

    def thread_ended(what: threading.ExceptHookArgs) -> None:
        if what.exc_value is not None:
            error = (what.exc_type, what.exc_value, what.exc_traceback)
            logging.getLogger("vmdns").error("a thread ended", exc_info=error)

    threading.excepthook = thread_ended
    return handler


def find_refusal(*refusals: tuple[str, float]) -> str:
    """Why this computer itself lately refused to send packets to guests; '' if it did not. refusals: reasons with their
    times (time.monotonic)."""
    reason, when = max(refusals, key=lambda one: one[1])
    return reason if time.monotonic() < when + REFUSAL_SECONDS else ""


def is_mac_root() -> bool:
    """Whether this process is root's on macOS."""
    return sys.platform == "darwin" and os.geteuid() == 0


def withheld_line(name: str) -> str:
    """The line about an answer for this name that the rebinding guard withheld, with the remedy."""
    return (
        f"! {escape_text(name)}: an answer from outside had a private address and was withheld (DNS rebinding); if "
        f'the name is yours, write in vmdns.toml: private_domains = ["{escape_text(domain_to_allow(name))}"]'
    )


def ready_lines(zones: Sequence[str], listeners: Sequence[Listener], simulation: bool) -> list[str]:
    """The line that says where names are answered; in a simulation also what to try."""
    by_port: dict[int, list[str]] = {}
    for one in listeners:
        by_port.setdefault(one.port, []).append(one.address)
    where = ", ".join(f"{', '.join(addresses)} port {port}" for port, addresses in by_port.items())
    prefix = "this is a simulation; " if simulation else ""
    lines = [f"ready: {prefix}names in {' and '.join(zones)} are answered at {where}"]
    if simulation:
        from vmdns.commands.demo import guide

        lines += guide(zones[0], [(one.address, one.port) for one in listeners])
    return lines


def prepare_process(log: Log) -> None:
    """To be called once, before the event loop starts."""
    print_log_records(log)
    if sys.platform != "win32":
        import resource

        # Each forwarded query takes one socket; the soft limit is 256 on macOS, 1024 on Linux.
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    drop_ambient_capabilities()
    sys.setswitchinterval(SWITCH_INTERVAL)
    # A full garbage collection stops all threads; it need not visit what was imported and stays.
    gc.freeze()


def handle_signals(stop: Call, reload: Call, log_status: Call) -> None:
    """SIGINT, SIGTERM, SIGBREAK and a closed terminal or console end vmdns, SIGHUP reads its files again, SIGUSR1 logs
    the status, SIGUSR2 does nothing: from now on, in the running event loop."""
    loop = asyncio.get_running_loop()
    on_terminal = _has_terminal()

    def hang_up() -> None:
        # The kernel sends SIGHUP too when the terminal is closed (termios(3)). A program that runs in it ends then.
        closed = on_terminal and not _has_terminal()
        (stop if closed else reload)()

    calls: dict[str, Call] = {
        "SIGINT": stop,
        "SIGTERM": stop,
        "SIGBREAK": stop,
        "SIGHUP": hang_up,
        "SIGUSR1": log_status,
        # Not SIG_IGN, which the programs that vmdns starts would inherit.
        "SIGUSR2": lambda: None,
    }
    for name, call in calls.items():
        if hasattr(signal, name):
            _handle_signal(loop, getattr(signal, name), call)
    if sys.platform == "win32":
        from vmdns.windows.console import interrupt_when_closed

        interrupt_when_closed()
        # The loop's selector sleeps through signals there, unless they write to a socket that it watches.
        reading, writing = socket.socketpair()
        for one in (reading, writing):
            one.setblocking(False)
        signal.set_wakeup_fd(writing.detach())
        loop.add_reader(reading, reading.recv, 64)


def _handle_signal(loop: asyncio.AbstractEventLoop, number: int, call: Call) -> None:
    if sys.platform == "win32":
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(call))
    else:
        loop.add_signal_handler(number, call)


def _has_terminal() -> bool:
    try:
        return sys.stdout is not None and sys.stdout.isatty()
    except ValueError:  # it is closed
        return False


class Tasks:
    """Background tasks, and a count of failures of the server itself: each is logged, and the server goes on."""

    def __init__(self) -> None:
        self.failures = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def watch_failures(self) -> None:
        """Logs and counts every exception that nobody catches in the running event loop, from now on."""

        def failed(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            self.failures += 1
            logging.getLogger("vmdns").error(context["message"], exc_info=context.get("exception"))

        asyncio.get_running_loop().set_exception_handler(failed)

    def spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """Runs the work in the background until it is over or `cancel` is called."""
        task = asyncio.get_running_loop().create_task(work(*args), name=work.__name__)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Reports a failure at once, not only when the task is collected."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {"message": f"{task.get_name()} failed", "exception": error}
            task.get_loop().call_exception_handler(context)

    @property
    def problems(self) -> list[str]:
        """A sentence for the status, if there were failures."""
        if not self.failures:
            return []
        times = "once" if self.failures == 1 else f"{self.failures} times"
        return [f"vmdns itself failed at something {times} since its start, and went on; its log says at what"]

    def attempt(self, call: Callable[..., None], *args: object) -> None:
        """Calls it; a failure is logged and counted."""
        try:
            call(*args)
        except Exception as error:
            context = {"message": f"{call.__name__} failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    async def finished(self) -> None:
        """Ends once all tasks of now have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cancel(self) -> None:
        """Cancels all tasks and waits for their end."""
        for task in self._tasks:
            task.cancel()
        await self.finished()


async def run_with_restarts(what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Does the work until it is over or cancelled, and restarts it after a failure. what: the work, for the log."""
    loop = asyncio.get_running_loop()
    delay = RESTART_SECONDS
    while True:
        began = loop.time()
        try:
            await work()
            return
        except Exception as error:
            loop.call_exception_handler({"message": f"{what} failed and is restarted", "exception": error})
        delay = RESTART_SECONDS if loop.time() - began > MAX_RESTART_SECONDS else delay
        await asyncio.sleep(delay)
        delay = min(2 * delay, MAX_RESTART_SECONDS)


def clock() -> float:
    """Seconds that also count suspends: CLOCK_BOOTTIME on Linux; on macOS CLOCK_MONOTONIC, unlike time.monotonic(); on
    Windows time.monotonic()."""
    which = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    return time.monotonic() if which is None else time.clock_gettime(which)


async def watch_suspends(resumed: Callable[[float], None], now: Callable[[], float] = clock) -> None:
    """Calls `resumed` with the seconds that were missed when this computer was suspended, or vmdns stopped."""
    last = now()
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        before, last = last, now()
        missed = last - before - CHECK_SECONDS
        if missed >= GAP_SECONDS:
            resumed(missed)


async def notify_manager(notifier: ServiceNotifier, listeners: Callable[[], Sequence[Listener]], status: str) -> None:
    """Notifies READY=1 once a query to the server itself is answered, then WATCHDOG=1 if the manager wants it."""
    while not await _answers(listeners()):
        await asyncio.sleep(RETRY_SECONDS)
    notifier.ready(status)
    while notifier.seconds:
        # Half of the time, as sd_watchdog_enabled(3) advises. Without an answer, the manager restarts vmdns.
        await asyncio.sleep(notifier.seconds / 2)
        if await _answers(listeners()):
            notifier.alive()


async def _answers(listeners: Sequence[Listener]) -> bool:
    """Whether a query to the first listener is answered, by UDP as a client sends it."""
    if not listeners:
        return False
    loop = asyncio.get_running_loop()
    query = encode_query(0x7664, b"\5local\0", _SOA)
    with socket.socket(listeners[0].udp.family, socket.SOCK_DGRAM) as one:
        one.setblocking(False)
        try:
            one.connect(listeners[0].udp.getsockname())
            await loop.sock_sendall(one, query)
            async with asyncio.timeout(ANSWER_SECONDS):
                return (await loop.sock_recv(one, 4096))[:2] == query[:2]
        except OSError:  # also TimeoutError
            return False
