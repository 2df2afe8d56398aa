"""Standard input, output and error: their encoding, colours, files and readers that are closed or full, and the log.

Python ends with status 120 where its last flush of standard output or error fails, whatever the program returns. So
each command flushes them itself, and what cannot be written is discarded. `python -m vmdns.commands.standard_streams`
is vmdns without a window, for Task Scheduler on Windows.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TextIO

MAX_LOG_BYTES = 1_000_000


def prepare() -> None:
    """Opens the null device in place of streams that are closed, which are None. A terminal that cannot show a letter
    gets its code: a name must never end the program. Files and pipes get UTF-8 on Windows, whose own code pages lack
    most letters; a console takes all of them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - it stays open
    for stream in (sys.stdout, sys.stderr):
        piped = sys.platform == "win32" and "PYTHONIOENCODING" not in os.environ and not stream.isatty()
        with contextlib.suppress(AttributeError, OSError):
            stream.reconfigure(encoding="utf-8" if piped else None, errors="backslashreplace")  # type: ignore[union-attr]


def is_colour_terminal() -> bool:
    """Whether standard output is a terminal that knows escape sequences for colours."""
    if not sys.stdout.isatty():
        return False
    if sys.platform == "win32":
        from vmdns.windows.console import enable_colours

        return enable_colours()
    return True


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


def open_log(file: Path) -> None:
    """Has standard output and standard error go to the file; of a long one, a copy is kept and a new one begun."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and file.stat().st_size > MAX_LOG_BYTES:
        os.replace(file, file.with_name(file.name + ".1"))
    sys.stdout = sys.stderr = file.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)


if __name__ == "__main__":
    from vmdns.host.folders import log_file

    open_log(log_file())
    from vmdns.cli import main

    sys.exit(main())
