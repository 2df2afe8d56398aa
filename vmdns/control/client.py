"""The client of the control channel: blocking, without asyncio, so that a command starts fast.

One vmdns serves one VirtualBox home. The folder of the channel has, by the key of that home, `<key>.sock` (a Unix
socket) or `<key>.json` (port and token on the loopback address, Windows).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vmdns.files import read_regular

CONNECT_SECONDS = 2.0
SIGNAL_SECONDS = 0.25  # the longest that Ctrl-C waits
DEMO = "demo"  # the key of `vmdns demo`, which has no VirtualBox home


class ControlError(OSError):
    """The control channel cannot be used; the text says why and what to do."""


class NotRunning(ControlError):
    """No vmdns answers there."""


def instance_key(home: Path | str | None, environ: Mapping[str, str] = os.environ) -> str:
    """The key of a VirtualBox home: that one, else VBOX_USER_HOME's; "default" without either."""
    named = str(home or "") or environ.get("VBOX_USER_HOME", "")
    if not named:
        return "default"
    path = os.path.normcase(os.path.realpath(named))
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def is_own(folder: Path) -> bool:
    """Whether this is a folder of this user, and no link. On Windows the rights of the profile see to that."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and (sys.platform == "win32" or found.st_uid == os.geteuid())


def request(folder: Path, key: str | None, message: dict[str, Any], timeout: float) -> dict[str, Any]:
    """The response of the vmdns with that key; without a key, of the one that runs, `vmdns demo` apart.

    timeout: seconds to wait for each part of the response. Raises `NotRunning`, or `ControlError` where the
    response does not come or is none.
    """
    for line in stream(folder, key, message, timeout):
        return line
    raise ControlError("vmdns ended without an answer")


def stream(
    folder: Path, key: str | None, message: dict[str, Any], timeout: float | None = None
) -> Iterator[dict[str, Any]]:
    """The lines of a response that lasts. Raises as `request` does, at once where nothing runs."""
    connection = _send(folder, key, message)

    def lines() -> Iterator[dict[str, Any]]:
        with connection:
            yield from read_lines(lambda: _receive(connection, timeout))

    return lines()


def read_lines(receive: Callable[[], bytes]) -> Iterator[dict[str, Any]]:
    """The lines of a response. receive: its next part, b"" at the end. Raises `ControlError`."""
    start = b""
    while data := receive():
        *whole, rest = data.split(b"\n")
        for line in whole:
            yield _parse(start + line)
            start = b""
        start += rest
    if start:
        raise ControlError("vmdns broke off in the middle of an answer")


def _receive(connection: socket.socket, timeout: float | None) -> bytes:
    """What comes next, b"" at the end. A wait in short parts, as no signal ends a wait for a socket on Windows."""
    end = math.inf if timeout is None else time.monotonic() + timeout
    while True:
        connection.settimeout(max(0.001, min(SIGNAL_SECONDS, end - time.monotonic())))
        try:
            return connection.recv(65536)
        except TimeoutError:
            if time.monotonic() >= end:
                raise ControlError(f"vmdns does not answer within {timeout:g} s; end it and start it again") from None
        except OSError as error:
            raise ControlError(f"vmdns broke off: {error.strerror}") from None


def _parse(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise ControlError("vmdns broke off in the middle of an answer") from None
    if not isinstance(message, dict):
        raise ControlError("what answers there is not vmdns")
    return message


def _send(folder: Path, key: str | None, message: dict[str, Any]) -> socket.socket:
    connection, token = _connect(folder, key)
    try:
        text = json.dumps({**message, "token": token} if token else message)
        connection.sendall(text.encode("ascii") + b"\n")
    except OSError as error:
        connection.close()
        raise ControlError(f"vmdns takes no request: {error.strerror or error}") from None
    return connection


def _connect(folder: Path, key: str | None) -> tuple[socket.socket, str]:
    """A connection, and the token that its server requires."""
    missing = NotRunning(f"no vmdns runs {'here' if key is None else 'for this VirtualBox home'}")
    if not is_own(folder):
        raise missing
    default = instance_key(None)
    if found := _open(folder, key or default):
        return found
    if key is not None:
        raise missing
    others = {path.stem for kind in ("*.sock", "*.json") for path in folder.glob(kind)} - {default, DEMO}
    running = [one for one in (_open(folder, other) for other in others) if one is not None]
    if len(running) == 1:
        return running[0]
    for connection, _ in running:
        connection.close()
    if running:
        raise ControlError("several vmdns run, none for the usual VirtualBox home; say which by --vbox-home")
    raise missing


def _open(folder: Path, key: str) -> tuple[socket.socket, str] | None:
    """A connection to that instance, None without a server."""
    path = folder / f"{key}.sock"
    address: str | tuple[str, int] = str(path)
    token = ""
    if sys.platform != "win32" and path.is_socket() and not path.is_symlink():
        connection = socket.socket(socket.AF_UNIX)
    else:
        try:
            found = json.loads(read_regular(folder / f"{key}.json", 4096))
            address, token = ("127.0.0.1", int(found["port"])), str(found["token"])
            if not _is_running(int(found.get("pid", 0)), found.get("started")):
                return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        connection = socket.socket(socket.AF_INET)
    with contextlib.suppress(OSError, OverflowError):  # a port above 65535 overflows
        connection.settimeout(CONNECT_SECONDS)
        connection.connect(address)
        return connection, token
    connection.close()
    return None


def _is_running(pid: int, started: str | None) -> bool:
    """Whether the server that wrote this still runs: after a crash, its port may be another user's. started: when that
    process did, None where that is not known."""
    if sys.platform != "win32" or not started:
        return True
    from vmdns.windows.process import start_time

    return start_time(pid) in (started, None)
