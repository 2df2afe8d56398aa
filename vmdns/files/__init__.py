"""Reads files that other users may have written and what programs print, and replaces vmdns's own files as a whole.

Those for Windows ran under Wine.
"""

from __future__ import annotations

import contextlib
import errno
import locale
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

LOCK_SECONDS = 10.0  # a change takes milliseconds
_RETRY_SECONDS = 0.02
# creationflags of subprocess for every program: CREATE_NO_WINDOW, without which Windows shows a console for each.
NO_WINDOW = 0x08000000 if sys.platform == "win32" else 0
_TEMPORARY = ".vmdns-"
_TEMPORARY_SECONDS = 60.0  # older ones were left by a killed process


FileStamp = tuple[int, ...] | None


def read_stamp(path: str | Path) -> FileStamp:
    """Device, inode, time of modification and size: it changes when the file is replaced or written. None if it does
    not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def read_regular(path: Path, limit: int) -> bytes:
    """Its first `limit` bytes, and one more if it is longer. Raises FileNotFoundError or another OSError.

    A FIFO would be waited for and a device never end, so neither is read. On Windows, others may rename and delete the
    file meanwhile: VirtualBox replaces its files, and could not save a VM's settings while they are read.
    """
    handle = _open_shared(path)
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read(limit + 1)


def _open_shared(path: Path) -> int:
    """A file descriptor for reading."""
    if sys.platform != "win32":
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    import msvcrt

    import pywintypes
    import win32file

    shared = win32file.FILE_SHARE_READ | win32file.FILE_SHARE_WRITE | win32file.FILE_SHARE_DELETE
    try:
        file = win32file.CreateFile(str(path), win32file.GENERIC_READ, shared, None, win32file.OPEN_EXISTING, 0, None)
    except pywintypes.error as error:
        raise OSError(0, error.strerror, str(path), error.winerror) from None  # that of its error code
    return msvcrt.open_osfhandle(file.Detach(), os.O_RDONLY)


def read_whole(path: Path, limit: int) -> bytes:
    """All of its bytes, for a file that will be written again: a part of it must never replace it.

    Raises OSError as `read_regular` does, and where it has more than `limit` bytes.
    """
    data = read_regular(path, limit)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"longer than {limit >> 10} KiB", str(path))
    return data


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replaces the file by one with these bytes, which is on disk when this returns. Raises OSError.

    Owner (where that is allowed), mode and extended attributes are kept; a new file gets `mode`.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in path.parent.glob(_TEMPORARY + "*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _TEMPORARY_SECONDS:
                left.unlink()
    handle, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
        _copy_attributes(path, temporary, mode)
        _rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _copy_attributes(path: Path, temporary: str, mode: int) -> None:
    try:
        there = path.stat()
    except FileNotFoundError:
        os.chmod(temporary, mode)
        return
    if sys.platform != "win32":
        with contextlib.suppress(PermissionError):  # of another user's file, in a folder of this one
            os.chown(temporary, there.st_uid, there.st_gid)
    shutil.copystat(path, temporary)
    os.utime(temporary)
    os.chmod(temporary, stat.S_IMODE(there.st_mode))  # chown clears the bits of setuid


def _rename(temporary: str, path: Path) -> None:
    """Renames the file to one that may exist. Windows replaces no file that is read-only, so it is writable meanwhile,
    and keeps no access list, so that is copied."""
    if sys.platform != "win32" or not path.exists():
        os.replace(temporary, path)
        return
    import win32security

    kind = win32security.DACL_SECURITY_INFORMATION
    win32security.SetFileSecurity(temporary, kind, win32security.GetFileSecurity(str(path), kind))
    mode = path.stat().st_mode
    os.chmod(path, mode | stat.S_IWRITE)
    os.chmod(temporary, mode | stat.S_IWRITE)
    try:
        os.replace(temporary, path)
    finally:
        os.chmod(path, mode)


def lock_path(guarded: Path) -> Path:
    """The lock file of a file."""
    return guarded.with_name(guarded.name + ".lock")


@contextlib.contextmanager
def lock_file(guarded: Path) -> Iterator[None]:
    """Locks that file against other processes. Raises OSError after LOCK_SECONDS.

    The system releases the lock when the process ends; the lock file stays, as another process may wait for it.
    """
    guarded.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(os.open(lock_path(guarded), os.O_RDWR | os.O_CREAT, 0o600)) as lock:
        end = time.monotonic() + LOCK_SECONDS
        while not _try_lock(lock.fileno()):
            if time.monotonic() > end:
                raise OSError(errno.EAGAIN, f"{guarded} is in the hands of another vmdns; try again once it is done")
            time.sleep(_RETRY_SECONDS)
        yield


def _try_lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the latter on Windows
        return False
    return True


def decode_console(data: bytes, platform: str) -> str:
    """The output of a console program. platform is `sys.platform`.

    Windows' own programs (netsh, getmac, schtasks, tasklist) write the console's code page, Python's codec `oem`, also
    in Python's UTF-8 mode, which 3.15 has on by default.
    """
    return data.decode("oem" if platform == "win32" else "utf-8", "replace")


def decode_text(data: bytes, platform: str) -> str:
    """The output of a program that writes the system's own (ANSI) code page on Windows, as VBoxManage and Python do.

    It is tried as UTF-8 first, which text in another code page hardly ever is by chance.
    """
    if platform != "win32":
        return data.decode("utf-8", "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode(locale.getencoding(), "replace")
