"""What the parts of vmdns log, and faults that nobody caught: said as everything else is, and steering nothing.

`say` is what `cli.py` prints lines with; it escapes what steers a terminal (`dns/escaping.py`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from vmdns.daemon.log_limit import Sparing


class Saying(logging.Handler):
    """Says each record; its further lines (a traceback, or a message of a stranger) are indented, so that none of them
    can be taken for a line of vmdns'. The same place of the code says ten a minute at most."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._say = say
        self._clock = clock
        self._sparing = Sparing()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            place = f"{record.module} line {record.lineno}"
            for told in self._sparing.lines(place, text, self._clock()):
                first, *others = told.split("\n")
                self._say(first)
                for line in others:
                    self._say(f"    {line}")
        except Exception:
            self.handleError(record)


def take_over(say: Callable[[str], None]) -> logging.Handler:
    """Has all that is logged, and what ends a thread, said from now on. Returns the handler."""
    handler = Saying(say)
    logging.getLogger().addHandler(handler)

    def ended(what: threading.ExceptHookArgs) -> None:
        if what.exc_value is not None:
            found = (what.exc_type, what.exc_value, what.exc_traceback)
            logging.getLogger("vmdns").error("a thread ended", exc_info=found)

    threading.excepthook = ended
    return handler
