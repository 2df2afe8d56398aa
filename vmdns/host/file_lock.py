"""A lock between processes for the time of one change: held by a file beside what it guards, dropped by the system when
the process ends, however it ends. The part for Windows has not been run there."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PATIENCE = 10.0  # seconds; what it guards takes milliseconds
_AGAIN = 0.02


def lock_of(guarded: Path) -> Path:
    """The file that stands for the lock."""
    return guarded.with_name(guarded.name + ".lock")


@contextlib.contextmanager
def held(guarded: Path) -> Iterator[None]:
    """Holds the lock of that file, in its folder. Raises OSError where another process holds it for long."""
    handle = os.open(lock_of(guarded), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        end = time.monotonic() + PATIENCE
        while not _try(handle):
            if time.monotonic() > end:
                raise OSError(errno.EAGAIN, f"{guarded} is in the hands of another vmdns; try again once it is done")
            time.sleep(_AGAIN)
        yield
    finally:
        os.close(handle)  # which drops the lock; its file stays, as another process may be waiting for it


def _try(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True
