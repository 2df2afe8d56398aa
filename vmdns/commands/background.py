"""vmdns without a window: its output goes to a log, for Task Scheduler on Windows. Not run there yet."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

MOST_BYTES = 1_000_000


def log_file() -> Path:
    """The log, in the folder with the journal of changes. Raises RuntimeError where no home is known."""
    from vmdns.host.folders import state_folder

    return state_folder() / "vmdns.log"


def open_log(file: Path) -> None:
    """Has standard output and standard error go to the file; of a long one, a copy is kept and a new one begun."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and file.stat().st_size > MOST_BYTES:
        os.replace(file, file.with_name(file.name + ".1"))
    sys.stdout = sys.stderr = file.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line with the log as its output. Returns its exit status."""
    open_log(log_file())
    from vmdns.cli import main as run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
