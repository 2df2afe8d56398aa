"""DNS over TCP: any number of questions on a connection, answered as they are ready (RFC 7766 section 6.2.1.1).

A connection ends when it is idle, when its peer is done and all is answered, when the peer does not read, or to
make room for another one.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial

from vmdns.core.limits import Limits
from vmdns.serve.counts import Counts
from vmdns.serve.listeners import Listener

PIPELINE = 100  # questions under way on one connection
SEND_SECONDS = 5.0  # how long a peer that does not read is waited for

Handle = Callable[[bytes, str, str, bool], bytes | Awaitable[bytes] | None]
Spawn = Callable[[Awaitable[None]], asyncio.Task[None]]


class Connections:
    """The TCP connections of all listeners, least recently used first, and never more than the limits allow.

    handle answers a packet, spawn runs what must not be lost track of, limits are those in force.
    """

    def __init__(self, handle: Handle, spawn: Spawn, limits: Callable[[], Limits], counts: Counts) -> None:
        self._handle = handle
        self._spawn = spawn
        self._limits = limits
        self._counts = counts
        self._open: dict[asyncio.Task[None], str] = {}

    def __len__(self) -> int:
        return len(self._open)

    async def accept(self, listener: Listener) -> None:
        """Takes connections until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(listener.tcp)
            except OSError:
                await asyncio.sleep(0.1)  # out of file descriptors: UDP goes on
                continue
            self._make_room(peer[0])
            self._counts.tcp_connections += 1
            task = loop.create_task(self._serve(connection, peer[0], listener.address))
            self._open[task] = peer[0]
            task.add_done_callback(partial(self._gone, connection))

    def _make_room(self, peer: str) -> None:
        """Ends the connection that was idle for longest where there are too many; of a peer with many, its own."""
        most = self._limits().tcp_connections
        of_peer = [task for task, address in self._open.items() if address == peer]
        if len(of_peer) >= max(2, most // 2):
            idle = of_peer[0]
        elif len(self._open) >= most:
            idle = next(iter(self._open))
        else:
            return
        del self._open[idle]
        idle.cancel()

    def _gone(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._open.pop(task, None)
        connection.close()  # also where the task was ended before it began

    def _used(self) -> None:
        task = asyncio.current_task()
        if task in self._open:
            self._open[task] = self._open.pop(task)

    async def close(self, seconds: float) -> None:
        """Ends all connections, and waits at most this long for it."""
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    async def _serve(self, connection: socket.socket, peer: str, local: str) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader, writer = await asyncio.open_connection(sock=connection)
        except OSError:
            return
        pending: set[asyncio.Task[None]] = set()
        answers = _Answers(writer)
        try:
            while True:
                async with asyncio.timeout(self._limits().tcp_idle):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    packet = await reader.readexactly(length)
                self._used()
                reply = self._handle(packet, peer, local, True)
                if reply is None:
                    break
                if isinstance(reply, bytes):
                    await answers.send(reply)
                    continue
                task = self._spawn(answers.send_later(reply))
                pending.add(task)
                task.add_done_callback(pending.discard)
                if len(pending) >= PIPELINE:
                    await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        except (asyncio.IncompleteReadError, OSError):
            pass  # idle, gone, or closing after its last question
        except asyncio.CancelledError:
            for task in pending:
                task.cancel()
            raise
        finally:
            if pending:
                await asyncio.wait(pending, timeout=self._limits().query_timeout + 1)
            await answers.close()


class _Answers:
    """Writes responses, one after the other, to a peer that may not read them."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._lock = asyncio.Lock()

    async def send(self, reply: bytes) -> None:
        """Raises OSError where the peer is gone or does not read; the connection is over then."""
        async with self._lock:
            if self._writer.is_closing():
                raise ConnectionResetError("the peer is gone")
            self._writer.write(struct.pack("!H", len(reply)) + reply)
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await self._writer.drain()
            except TimeoutError:
                self._writer.transport.abort()
                raise

    async def send_later(self, reply: Awaitable[bytes]) -> None:
        await self.send(await reply)

    async def close(self) -> None:
        """Closes the connection, with what was written if the peer reads it."""
        self._writer.close()
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._writer.wait_closed()
        except OSError:
            self._writer.transport.abort()
