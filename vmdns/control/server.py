"""The server of the control channel: this user's own commands send requests to the running vmdns.

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
import struct
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

from vmdns.control.client import ControlError, NotRunning, is_own, request
from vmdns.files import replace_file

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]] | AsyncGenerator[dict[str, Any]]]

MAX_REQUEST = 1024 * 1024  # bytes
MAX_CLIENTS = 16
READ_SECONDS = 5.0  # for a client to send its request
ANSWER_SECONDS = 60.0  # for the handler to answer; a query to upstreams takes 30 at most
WRITE_SECONDS = 10.0  # for a client to take a line
PROBE_SECONDS = 2.0  # for another server to answer

# macOS: sys/un.h, and the size of a struct xucred with its 16 groups.
_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_SIZE = 0, 1, 76


class ControlBusy(ControlError):
    """Another vmdns serves this VirtualBox home."""


class ControlServer:
    """Serves the control channel of one instance: a port with a token (loopback), else a Unix socket."""

    def __init__(self, loopback: bool = sys.platform == "win32") -> None:
        self._loopback = loopback
        self._token = ""
        self._path: Path | None = None  # of the socket, or of the file with port and token
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self, folder: Path, key: str, handler: Handler) -> None:
        """Answers requests with `handler` from now on.

        Raises `ControlBusy` where another vmdns serves this key, `ControlError` where the channel cannot be made.
        What the handler raises becomes the response {"error": text}.
        """
        self._handler = handler
        make_private(folder)
        await asyncio.to_thread(_check_not_running, folder, key)
        try:
            if self._loopback:
                await self._listen_at_port(folder / f"{key}.json")
            else:
                await self._listen_at_socket(folder / f"{key}.sock")
        except OSError as error:
            await self.close()
            if isinstance(error, ControlError):
                raise
            raise ControlError(f"the control channel in {folder} cannot be opened: {error.strerror or error}") from None

    async def _listen_at_socket(self, path: Path) -> None:
        if sys.platform == "win32":
            raise ControlError("asyncio has no Unix sockets on Windows")
        _check_replaceable(path)
        # Replaces the socket of a server that ended without removing it. The folder is private, so that nobody else can
        # connect before the mode is set.
        self._server = await asyncio.start_unix_server(self._client, path, limit=MAX_REQUEST)
        self._path = path
        os.chmod(path, 0o600)

    async def _listen_at_port(self, path: Path) -> None:
        self._token = secrets.token_hex(32)
        self._server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=MAX_REQUEST)
        port = self._server.sockets[0].getsockname()[1]
        server = {"port": port, "token": self._token, "pid": os.getpid()}
        if sys.platform == "win32":
            from vmdns.windows.process import start_time

            server["started"] = start_time(os.getpid())
        replace_file(path, json.dumps(server).encode())
        self._path = path

    async def close(self) -> None:
        """Closes all connections and removes the socket."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            # Clients over the limit get an error, but there is a limit to that too.
            if self._server and len(self._clients) <= 2 * MAX_CLIENTS and self._is_this_user(writer):
                async with asyncio.timeout(READ_SECONDS):
                    line = await reader.readline()
                await self._serve(line, reader, writer)
                writer.close()
                async with asyncio.timeout(WRITE_SECONDS):
                    await writer.wait_closed()
        except (OSError, ValueError, asyncio.CancelledError):
            # It went away, is too slow, or sends too much. Python 3.11 logs a client's task that ends as cancelled as
            # an error.
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

    async def _serve(self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = self._parse(line)
            if len(self._clients) > MAX_CLIENTS:
                raise ValueError(f"{MAX_CLIENTS} clients are being served already; end one of them")
            response = self._handler(request)
            if isinstance(response, AsyncGenerator):
                await _stream(response, reader, writer)
            else:
                async with asyncio.timeout(ANSWER_SECONDS):
                    message = await response
                await _send(writer, message)
        except Exception as error:  # a client's mistake or a handler's never ends the server
            await _send(writer, {"error": str(error) or type(error).__name__})

    def _parse(self, line: bytes) -> dict[str, Any]:
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
    lines: AsyncGenerator[dict[str, Any]], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Sends line after line, until there are no more or the client sends anything or goes."""
    sending = asyncio.current_task()
    assert sending is not None
    reading = asyncio.ensure_future(reader.read(1))

    def end(_: asyncio.Future[bytes]) -> None:
        if not reading.cancelled():
            reading.exception()  # that the connection was reset is no error
            sending.cancel()

    reading.add_done_callback(end)
    try:
        async with contextlib.aclosing(lines):
            async for line in lines:
                await _send(writer, line)
    finally:
        reading.cancel()


async def _send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n")
    async with asyncio.timeout(WRITE_SECONDS):
        await writer.drain()


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


def _check_not_running(folder: Path, key: str) -> None:
    """Raises `ControlBusy` where a server answers for this key, or takes requests without answering."""
    try:
        status = request(folder, key, {"do": "status"}, PROBE_SECONDS)
    except NotRunning:
        return
    except ControlError:
        status = {}
    pid = f" (pid {status['pid']})" if "pid" in status else ""
    raise ControlBusy(f"another vmdns of yours runs already{pid}: commands talk to that one")


def _check_replaceable(path: Path) -> None:
    """Raises `ControlError` where something other than a socket has this path."""
    if path.is_symlink() or (path.exists() and not path.is_socket()):
        raise ControlError(f"{path} is in the way; remove it")


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
