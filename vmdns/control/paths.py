"""Where the control channel of one running vmdns is: its key, its folder, and the lock that keeps it the only one.

One vmdns serves one VirtualBox home. In the folder stand, by the key of that home, `<key>.lock`, locked while the
server lives, and `<key>.sock` (a Unix socket) or `<key>.json` (port and token on the loopback address, Windows).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

# Some systems count the final zero byte of sun_path (104 bytes on macOS, 108 on Linux).
MAX_SOCKET_PATH = 103


class ControlError(OSError):
    """The control channel cannot be used; the text says why and what to do."""


class NotRunning(ControlError):
    """No vmdns answers there."""


class ControlBusy(ControlError):
    """Another vmdns serves this VirtualBox home; pid is its process, 0 if unknown."""

    def __init__(self, pid: int) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(f"vmdns already runs for this VirtualBox ({who}); stop it first, or name another --vbox-home")
        self.pid = pid


DEMO = "demo"  # the key of `vmdns demo`, which has no VirtualBox home


def instance_key(home: Path | str | None, environ: Mapping[str, str] = os.environ) -> str:
    """The key of a VirtualBox home: that one, else VBOX_USER_HOME's; "default" where neither is said."""
    named = str(home or "") or environ.get("VBOX_USER_HOME", "")
    if not named:
        return "default"
    path = os.path.normcase(os.path.realpath(named))
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def is_own(folder: Path) -> bool:
    """Whether the folder is there, no link, and this user's. On Windows the rights of the profile see to that."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode):
        return False
    return sys.platform == "win32" or found.st_uid == os.geteuid()


def make_private(folder: Path) -> None:
    """Makes the folder, for this user only. Raises `ControlError` where it is somebody else's."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_own(folder) and sys.platform != "win32":
            folder.chmod(0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise ControlError(f"{folder} cannot be made: {error.strerror}") from None
    if not is_own(folder):
        raise ControlError(f"{folder} is not a folder of this user; remove it, or give it to this user")


class Lock:
    """The lock of one instance. The system drops it when the process ends, however it ends."""

    def __init__(self, folder: Path, key: str) -> None:
        """Takes the lock. Raises `ControlBusy` where another process has it, `ControlError` where it cannot be had."""
        self._path = folder / f"{key}.lock"
        # A server that ends removes its file; the lock of a removed file guards nothing, so take that of the new one.
        for _ in range(8):
            try:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
                locked = _try_lock(self._file)
            except OSError as error:
                raise ControlError(f"{self._path} cannot be locked: {error.strerror}") from None
            if not locked:
                pid = os.read(self._file, 20).decode("ascii", "replace").strip()
                os.close(self._file)
                raise ControlBusy(int(pid) if pid.isdecimal() else 0)
            if self._is_current():
                break
            os.close(self._file)
        else:
            raise ControlBusy(0)
        os.ftruncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode("ascii"))

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except OSError:
            return False

    def release(self) -> None:
        """Lets the lock go and removes its file."""
        # Windows removes no open file. Nobody can have the lock between the two steps but a new server, whose open
        # file then stays.
        if sys.platform == "win32":
            os.close(self._file)
        with contextlib.suppress(OSError):
            self._path.unlink()
        if sys.platform != "win32":
            os.close(self._file)


def _try_lock(file: int) -> bool:
    if sys.platform == "win32":
        import msvcrt

        # A byte behind the content, because Windows lets nobody read what is locked.
        os.lseek(file, 1024, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        finally:
            os.lseek(file, 0, os.SEEK_SET)
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
