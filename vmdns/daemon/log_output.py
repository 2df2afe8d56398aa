"""Prints log records and uncaught exceptions like all other lines of vmdns.

`print_line` is what `cli.py` prints lines with; it escapes control characters (`dns/escape.py`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from vmdns.daemon.log_limit import LogLimit


class PrintHandler(logging.Handler):
    """Prints each record. Its further lines (a traceback, or text from a peer) are indented, so that none of them looks
    like a line of vmdns itself. Each place in the code may log ten records a minute."""

    def __init__(self, print_line: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._print_line = print_line
        self._clock = clock
        self._limit = LogLimit()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            place = f"{record.module} line {record.lineno}"
            for one in self._limit.lines(place, text, self._clock()):
                first, *more = one.split("\n")
                self._print_line(first)
                for line in more:
                    self._print_line(f"    {line}")
        except Exception:
            self.handleError(record)


def print_log_records(print_line: Callable[[str], None]) -> logging.Handler:
    """Prints all log records, and exceptions that end a thread, from now on. Returns the handler."""
    handler = PrintHandler(print_line)
    logging.getLogger().addHandler(handler)

    def ended(what: threading.ExceptHookArgs) -> None:
        if what.exc_value is not None:
            found = (what.exc_type, what.exc_value, what.exc_traceback)
            logging.getLogger("vmdns").error("a thread ended", exc_info=found)

    threading.excepthook = ended
    return handler
