"""Standard input, output and error that are closed, or whose file or reader takes no more.

Python ends with status 120 where its last flush of standard output or error fails, whatever the program returns. So
each command flushes them itself, and what cannot be written is discarded.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def prepare() -> None:
    """Opens the null device in place of streams that are closed, which are None. A terminal that cannot show a letter
    gets its code: a name must never end the program."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - it stays open
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def flush() -> OSError | None:
    """Flushes standard output and error. Returns why standard output could not be written, None if it could.

    A stream that fails writes to the null device from then on, so that Python's last flush does not fail too.
    """
    _flush(sys.stderr)
    return _flush(sys.stdout)


def _flush(stream: TextIO) -> OSError | None:
    try:
        stream.flush()
    except OSError as error:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        return error
    return None
