"""Reads files that other users may have written: regular ones only, up to a bound, and without blocking."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_regular(path: Path, most: int) -> bytes:
    """Its first `most` bytes, and one more if it is longer. Raises FileNotFoundError or another OSError.

    A FIFO would be waited for and a device never end, so neither is read.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with open(handle, "rb", closefd=False) as file:
            return file.read(most + 1)
    finally:
        os.close(handle)


def read_whole(path: Path, most: int) -> bytes:
    """All of its bytes, for a file that will be written again: a part of it must never replace it.

    Raises OSError as `read_regular` does, and where it has more than `most` bytes.
    """
    data = read_regular(path, most)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"longer than {most >> 10} KiB", str(path))
    return data
