"""The server of the control channel: this user's own commands ask the running vmdns.

A Unix socket of mode 0600 in a folder of mode 0700, with the peer's user checked; on Windows a port of
127.0.0.1 with a random token, both in a file of the user's profile. A connection carries one request, a line of JSON;
the response is a line of JSON, or a line for each change until either side ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import secrets
import socket
import stat
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from vmdns.control.paths import MAX_SOCKET_PATH, ControlBusy, ControlError, Lock, instance_key, make_private

__all__ = ["ControlBusy", "ControlError", "ControlServer", "Handler", "instance_key"]

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]] | AsyncIterator[dict[str, Any]]]

MAX_REQUEST = 1024 * 1024  # bytes
MAX_CLIENTS = 16
MOST_AT_ONCE = 100  # items of a list that are made JSON without others in between
READ_SECONDS = 5.0  # for a client to say what it wants
ANSWER_SECONDS = 60.0  # for the handler to answer; a question to upstreams takes 30 at most
WRITE_SECONDS = 10.0  # for a client to take a line

# macOS: sys/un.h, and the size of a struct xucred with its 16 groups.
_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_SIZE = 0, 1, 76


class _Gone(Exception):
    """The client went away, or sends or receives nothing."""


class ControlServer:
    """Serves the control channel of one instance."""

    def __init__(self, loopback: bool = sys.platform == "win32") -> None:
        """With `loopback` the channel is a port with a token, else a Unix socket."""
        self._loopback = loopback
        self._token = ""
        self._place: Path | None = None
        self._lock: Lock | None = None
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self.where = ""

    async def start(self, folder: Path, key: str, handler: Handler) -> None:
        """Answers requests with `handler` from now on.

        Raises `ControlBusy` where another vmdns serves this key, `ControlError` where the channel cannot be made.
        What the handler raises becomes the response {"error": text}.
        """
        self._handler = handler
        make_private(folder)
        self._lock = Lock(folder, key)
        try:
            await (self._open_port if self._loopback else self._open_socket)(folder, key)
        except ControlError:
            await self.close()
            raise
        except OSError as error:
            await self.close()
            raise ControlError(f"the control channel in {folder} cannot be opened: {error.strerror or error}") from None

    async def _open_socket(self, folder: Path, key: str) -> None:
        if sys.platform == "win32":
            raise ControlError("asyncio has no Unix sockets on Windows")
        place = folder / f"{key}.sock"
        if len(os.fsencode(place)) > MAX_SOCKET_PATH:
            raise ControlError(f"{place} is too long for a socket's path, at most {MAX_SOCKET_PATH} bytes")
        with contextlib.suppress(FileNotFoundError):
            # Its lock is free, so its server is dead and the socket can go.
            if not stat.S_ISSOCK(place.lstat().st_mode):
                raise ControlError(f"{place} is in the way; remove it")
            place.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(place))
            self._place = place
            place.chmod(0o600)
            self._server = await asyncio.start_unix_server(self._client, sock=listener, limit=MAX_REQUEST)
        except BaseException:
            listener.close()
            raise
        self.where = str(place)

    async def _open_port(self, folder: Path, key: str) -> None:
        self._token = secrets.token_hex(32)
        self._server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=MAX_REQUEST)
        port = self._server.sockets[0].getsockname()[1]
        self._place = folder / f"{key}.json"
        _write_whole(self._place, json.dumps({"port": port, "token": self._token, "pid": os.getpid()}))
        self.where = f"127.0.0.1:{port}"

    async def close(self) -> None:
        """Closes all connections and removes the socket."""
        lock, self._lock = self._lock, None
        if self._server is not None:
            self._server.close()
            self._server = None
        clients = tuple(self._clients)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        if self._place is not None:
            self._place.unlink(missing_ok=True)
            self._place = None
        if lock is not None:
            lock.release()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            # Clients over the limit get an error, but there is a limit to that too.
            if self._lock and len(self._clients) <= 2 * MAX_CLIENTS and self._is_this_user(writer):
                await self._serve(reader, writer)
                writer.close()
                async with asyncio.timeout(WRITE_SECONDS):
                    await writer.wait_closed()
        except (_Gone, OSError, asyncio.CancelledError):
            # Python 3.11 logs a client's task that ends as cancelled as an error; here the task ends in any case.
            pass
        finally:
            self._clients.discard(task)
            # What a client never takes would keep its connection for ever.
            writer.transport.abort()

    def _is_this_user(self, writer: asyncio.StreamWriter) -> bool:
        if self._loopback or sys.platform not in ("linux", "darwin"):
            return True
        try:
            return peer_user(writer.get_extra_info("socket")) in (os.geteuid(), 0)
        except OSError:
            return False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines: AsyncIterator[dict[str, Any]] | None = None
        try:
            request = self._read(await _line(reader))
            if len(self._clients) > MAX_CLIENTS:
                raise ValueError(f"{MAX_CLIENTS} clients are being served already; end one of them")
            reply = self._handler(request)
            if isinstance(reply, AsyncIterator):
                lines = reply
                await self._stream(lines, reader, writer)
            else:
                async with asyncio.timeout(ANSWER_SECONDS):
                    answer = await reply
                await _send(writer, answer)
        except _Gone:
            raise
        except Exception as error:  # a client's mistake or a handler's never ends the server
            await _send(writer, {"error": str(error) or type(error).__name__})
        finally:
            if lines is not None and hasattr(lines, "aclose"):
                await lines.aclose()

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            raise ValueError("the request is not a line of JSON with an object")
        token = request.pop("token", "")
        if self._token and not hmac.compare_digest(str(token).encode(), self._token.encode()):
            raise ValueError("the token is wrong")
        return request

    async def _stream(
        self, lines: AsyncIterator[dict[str, Any]], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Sends line after line, until there are no more or the client says anything or goes."""
        gone = asyncio.ensure_future(reader.read(1))
        try:
            while True:
                step = asyncio.ensure_future(_next(lines))
                try:
                    await asyncio.wait({gone, step}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not step.done():
                        step.cancel()
                        await asyncio.gather(step, return_exceptions=True)
                if step.cancelled() or (line := step.result()) is None:
                    return
                await _send(writer, line)
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)


def peer_user(connection: socket.socket) -> int:
    """The user at the other end of a Unix socket: Linux, unix(7) SO_PEERCRED; macOS, unix(4) LOCAL_PEERCRED, which was
    not run there. Raises OSError where the system does not know."""
    if sys.platform == "linux":
        _, user, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(user)
    if sys.platform == "darwin":
        return user_of_xucred(connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_SIZE))
    raise OSError("this system does not know the peer of a socket")


def user_of_xucred(data: bytes) -> int:
    """The user in a `struct xucred` (macOS, sys/ucred.h): version 0, the user, and groups that do not matter."""
    if len(data) < 8:
        raise OSError("the system's answer is cut short")
    version, user = struct.unpack_from("=II", data)
    if version != 0:
        raise OSError(f"the system's answer has the unknown version {version}")
    return int(user)


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The request. Raises ValueError where it is too long."""
    try:
        async with asyncio.timeout(READ_SECONDS):
            line = await reader.readline()
    except OSError:
        raise _Gone from None
    if not line:
        raise _Gone
    return line


async def _next(lines: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
    try:
        return await anext(lines)
    except StopAsyncIteration:
        return None


async def _encoded(message: dict[str, Any]) -> str:
    """As JSON, long lists item by item: long lists at once would block the event loop."""
    parts = []
    for key, value in message.items():
        if isinstance(value, list) and len(value) > MOST_AT_ONCE:
            items = []
            for at in range(0, len(value), MOST_AT_ONCE):
                some = json.dumps(value[at : at + MOST_AT_ONCE], separators=(",", ":"))
                items.append(some[1:-1])
                await asyncio.sleep(0)
            text = f"[{','.join(items)}]"
        else:
            text = json.dumps(value, separators=(",", ":"))
        parts.append(f"{json.dumps(key)}:{text}")
    return f"{{{','.join(parts)}}}"


async def _send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    text = await _encoded(message)
    try:
        writer.write(text.encode("ascii") + b"\n")
        async with asyncio.timeout(WRITE_SECONDS):
            await writer.drain()
    except OSError:
        raise _Gone from None


def _write_whole(place: Path, text: str) -> None:
    """Writes the file, for this user only, so that nobody ever reads half of it."""
    fresh = place.with_suffix(f".{os.getpid()}.new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.write(text)
    fresh.replace(place)
