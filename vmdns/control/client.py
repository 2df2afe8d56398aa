"""The client of the control channel: blocking, without asyncio, so that a command starts fast."""

from __future__ import annotations

import json
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vmdns.control.paths import DEMO, ControlError, NotRunning, instance_key, is_own
from vmdns.regular_file import read_regular

__all__ = ["DEMO", "ControlError", "NotRunning", "instance_key", "request", "stream"]

CONNECT_SECONDS = 2.0
MAX_INSTANCES = 64

# A connection, and the token that its server wants to see.
Connection = tuple[socket.socket, str]


def request(folder: Path, key: str | None, message: dict[str, Any], timeout: float) -> dict[str, Any]:
    """The response of the vmdns with that key; without a key, of the one that runs, `vmdns demo` apart.

    timeout: seconds to wait for each part of the response. Raises `NotRunning`, or `ControlError` where the
    response does not come or is none.
    """
    with _ask(folder, key, message, timeout) as connection, connection.makefile("rb") as file:
        line = _line(file, timeout)
    if line is None:
        raise ControlError("vmdns ended without an answer")
    return line


def stream(folder: Path, key: str | None, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of a response that lasts. Raises as `request` does, at once where nothing runs."""
    return _lines(_ask(folder, key, message, None))


def _lines(connection: socket.socket) -> Iterator[dict[str, Any]]:
    with connection, connection.makefile("rb") as file:
        while (line := _line(file, None)) is not None:
            yield line


def _line(file: Any, timeout: float | None) -> dict[str, Any] | None:
    """The next line, None at the end."""
    try:
        raw = file.readline()
        line = json.loads(raw) if raw else None
    except TimeoutError:
        raise ControlError(f"vmdns does not answer within {timeout:g} s; end it and start it again") from None
    except OSError as error:
        raise ControlError(f"vmdns broke off: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ControlError("vmdns broke off in the middle of an answer") from None
    if line is not None and not isinstance(line, dict):
        raise ControlError("what answers there is not vmdns")
    return line


def _ask(folder: Path, key: str | None, message: dict[str, Any], timeout: float | None) -> socket.socket:
    connection, token = _connect(folder, key)
    try:
        connection.settimeout(timeout or CONNECT_SECONDS)
        text = json.dumps({**message, "token": token} if token else message)
        connection.sendall(text.encode("ascii") + b"\n")
        connection.settimeout(timeout)
    except OSError as error:
        connection.close()
        raise ControlError(f"vmdns takes no request: {error.strerror or error}") from None
    return connection


def _connect(folder: Path, key: str | None) -> Connection:
    not_running = NotRunning(f"no vmdns runs {'here' if key is None else 'for this VirtualBox home'}")
    if not is_own(folder):
        raise not_running
    wanted = key or instance_key(None)
    if found := _open(folder, wanted):
        return found
    if key is not None:
        raise not_running
    live: list[Connection] = []
    for other in _keys(folder, wanted):
        if found := _open(folder, other):
            live.append(found)
    if len(live) == 1:
        return live[0]
    for connection, _ in live:
        connection.close()
    if live:
        raise ControlError("several vmdns run, none for the usual VirtualBox home; say which by --vbox-home")
    raise not_running


def _keys(folder: Path, without: str) -> list[str]:
    found = sorted({place.stem for kind in ("*.sock", "*.json") for place in folder.glob(kind)} - {without, DEMO})
    return found[:MAX_INSTANCES]


def _open(folder: Path, key: str) -> Connection | None:
    """A connection to that instance, None without a server."""
    return _open_socket(folder / f"{key}.sock") or _open_port(folder / f"{key}.json")


def _open_socket(place: Path) -> Connection | None:
    if sys.platform == "win32":
        return None
    try:
        if not stat.S_ISSOCK(place.lstat().st_mode):
            return None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError:
        return None
    return _connected(connection, str(place), "")


def _open_port(place: Path) -> Connection | None:
    try:
        found = json.loads(read_regular(place, 4096))
        port, token = int(found["port"]), str(found["token"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not (0 < port < 65536 and token):
        return None
    return _connected(socket.socket(socket.AF_INET, socket.SOCK_STREAM), ("127.0.0.1", port), token)


def _connected(connection: socket.socket, address: str | tuple[str, int], token: str) -> Connection | None:
    try:
        connection.settimeout(CONNECT_SECONDS)
        connection.connect(address)
    except OSError:
        connection.close()
        return None
    return connection, token
