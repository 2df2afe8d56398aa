"""DNS over TCP: any number of queries on a connection, answered as soon as they are ready (RFC 7766 section 6.2.1.1).

A connection ends when it is idle, when its peer is done and all is answered, when the peer does not read, or to make
room for another one.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial

from vmdns.dns.limits import Limits
from vmdns.server.counters import Counters
from vmdns.server.listeners import Listener

log = logging.getLogger(__name__)

PIPELINE = 100  # pending queries on one connection
SEND_SECONDS = 5.0  # timeout for a peer that does not read
FIRST_SECONDS = 3.0  # until the first query of a connection is complete
WHOLE_SECONDS = 5.0  # from the first byte of a query to its last
PAUSE_SECONDS = 0.1  # after accept() failed for lack of file descriptors
MOST_OF_ONE = 20  # connections of one guest, or of all strangers of one network

Handle = Callable[[bytes, str, str, bool], bytes | Awaitable[bytes] | None]
Spawn = Callable[[Awaitable[None]], asyncio.Task[None]]


class TcpConnections:
    """The TCP connections of all listeners, least recently used first, within the limits.

    handle answers a packet, spawn runs tasks that must be awaited at the end, limits gives the current limits.
    """

    def __init__(self, handle: Handle, spawn: Spawn, limits: Callable[[], Limits], counts: Counters) -> None:
        self._handle = handle
        self._spawn = spawn
        self._limits = limits
        self._counts = counts
        self._open: dict[asyncio.Task[None], str] = {}
        self._busy: set[asyncio.Task[None]] = set()  # those with pending queries
        self._full = False
        # on_query is called with each peer that sent a query, whose address is verified then. client_key(local, peer)
        # gives the key of a peer's limits; '' for the host itself.
        self.on_query: Callable[[str], None] = lambda peer: None
        self.client_key: Callable[[str, str], str] = lambda local, peer: ""

    def __len__(self) -> int:
        return len(self._open)

    async def accept(self, listener: Listener) -> None:
        """Accepts connections until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(listener.tcp)
            except OSError as error:
                if not self._full:
                    self._full = True
                    log.warning("no TCP connections can be accepted (%s); UDP still works", error.strerror)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            self._full = False
            key = self.client_key(listener.address, peer[0])
            self._make_room(key or peer[0], MOST_OF_ONE if key else None)
            self._counts.tcp_connections += 1
            task = loop.create_task(self._serve(connection, peer[0], listener.address))
            self._open[task] = key or peer[0]
            task.add_done_callback(partial(self._on_close, connection))

    def _make_room(self, key: str, limit: int | None) -> None:
        """Closes the connection that was idle for longest where there are too many; a peer with many loses one of its
        own.

        A connection with pending queries is closed only if none is idle.
        """
        most = self._limits().tcp_connections
        share = max(2, min(limit or most, most // 2))
        among = [task for task, other in self._open.items() if other == key]
        if len(among) < share:
            if len(self._open) < most:
                return
            among = list(self._open)
        idle = next((task for task in among if task not in self._busy), among[0])
        del self._open[idle]
        idle.cancel()

    def _on_close(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._open.pop(task, None)
        self._busy.discard(task)
        connection.close()  # also where the task was cancelled before it started

    def _mark_used(self) -> None:
        task = asyncio.current_task()
        if task in self._open:
            self._open[task] = self._open.pop(task)

    def _on_answer(self, task: asyncio.Task[None], pending: set[asyncio.Task[None]], one: asyncio.Task[None]) -> None:
        pending.discard(one)
        if not pending:
            self._busy.discard(task)

    async def close(self, seconds: float) -> None:
        """Closes all connections, and waits at most this long for it."""
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
        own = asyncio.current_task()
        assert own is not None
        pending: set[asyncio.Task[None]] = set()
        responses = _ResponseWriter(writer)
        try:
            first = True
            while True:
                packet = await _read(reader, self._limits().tcp_idle, first)
                if first:
                    first = False
                    self.on_query(peer)
                self._mark_used()
                reply = self._handle(packet, peer, local, True)
                if reply is None:
                    break
                if isinstance(reply, bytes):
                    await responses.send(reply)
                    continue
                task = self._spawn(responses.send_later(reply))
                pending.add(task)
                self._busy.add(own)
                task.add_done_callback(partial(self._on_answer, own, pending))
                if len(pending) >= PIPELINE:
                    await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        except (asyncio.IncompleteReadError, OSError):
            pass  # idle, gone, or closing after its last query
        except asyncio.CancelledError:
            for task in pending:
                task.cancel()
            raise
        finally:
            if pending:
                await asyncio.wait(pending, timeout=self._limits().query_timeout + 1)
            await responses.close()


async def _read(reader: asyncio.StreamReader, idle: float, first: bool) -> bytes:
    """Returns the next message. Raises TimeoutError where none begins within `idle` seconds, or none is complete in
    time."""
    async with asyncio.timeout(min(idle, FIRST_SECONDS) if first else idle) as waiting:
        start = await reader.readexactly(1)
        if not first:
            waiting.reschedule(asyncio.get_running_loop().time() + WHOLE_SECONDS)
        length = start[0] << 8 | (await reader.readexactly(1))[0]
        return await reader.readexactly(length)


class _ResponseWriter:
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
        """Closes the connection, after the peer has read what was written, if it does."""
        self._writer.close()
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._writer.wait_closed()
        except OSError:
            self._writer.transport.abort()
