"""What `vmdns run` logs: records of the logging module and uncaught exceptions too, and no peer may fill the log.

`log` is what `cli.py` prints lines with; it escapes control characters (`dns/escape.py`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from vmdns.dns.escape import escape_text
from vmdns.server.listeners import Listener
from vmdns.state.findings import domain_to_allow

Log = Callable[[str], None]

MAX_LINES = 10
SECONDS = 60.0
MAX_KEYS = 1024  # beyond that all counts are dropped, which lets a few more lines through


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
        if now - begun >= SECONDS:
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
