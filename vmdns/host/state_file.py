"""Files that vmdns keeps in its state folder: replaced as a whole, and locked while a process changes them.

The lock is a file beside the guarded one; the system releases it when the process ends. Never run on Windows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

LOCK_SECONDS = 10.0  # a change takes milliseconds
_RETRY_SECONDS = 0.02
_TEMPORARY = ".fresh"


def replace_file(path: Path, text: str) -> None:
    """Replaces the file by a new one with this text, which is on disk when this returns. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    prefix = path.name + "-"
    for left in path.parent.glob(f"{prefix}*{_TEMPORARY}"):  # of a process that was killed while it wrote
        left.unlink(missing_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=prefix, suffix=_TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def lock_path(guarded: Path) -> Path:
    """The lock file of a file."""
    return guarded.with_name(guarded.name + ".lock")


@contextlib.contextmanager
def lock_file(guarded: Path) -> Iterator[None]:
    """Locks that file against other processes. Raises OSError after LOCK_SECONDS."""
    handle = os.open(lock_path(guarded), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        end = time.monotonic() + LOCK_SECONDS
        while not _try_lock(handle):
            if time.monotonic() > end:
                raise OSError(errno.EAGAIN, f"{guarded} is in the hands of another vmdns; try again once it is done")
            time.sleep(_RETRY_SECONDS)
        yield
    finally:
        os.close(handle)  # which releases the lock; the file stays, as another process may wait for it


def _try_lock(handle: int) -> bool:
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
