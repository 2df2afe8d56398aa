"""DNS over TCP: any number of questions on a connection, answered as they are ready (RFC 7766 section 6.2.1.1).

A connection ends when it is idle, when its peer is done and all is answered, when the peer does not read, or to
make room for another one.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial

from vmdns.dns.limits import Limits
from vmdns.server.counters import Counts
from vmdns.server.listeners import Listener

log = logging.getLogger(__name__)

PIPELINE = 100  # questions under way on one connection
SEND_SECONDS = 5.0  # how long a peer that does not read is waited for
FIRST_SECONDS = 3.0  # until the first question of a connection is whole
WHOLE_SECONDS = 5.0  # from the first byte of a question to its last
PAUSE_SECONDS = 0.1  # where no connection can be taken: file descriptors are out
MOST_OF_ONE = 20  # connections of one guest, or of all strangers of one network

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
        self._busy: set[asyncio.Task[None]] = set()  # those whose peers wait for an answer
        self._full = False
        # Told of each peer that sent a question: it is where it says. And what a peer is counted by, asking at an
        # address of the host; '' for the host itself.
        self.met: Callable[[str], None] = lambda peer: None
        self.key: Callable[[str, str], str] = lambda local, peer: ""

    def __len__(self) -> int:
        return len(self._open)

    async def accept(self, listener: Listener) -> None:
        """Takes connections until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(listener.tcp)
            except OSError as error:
                if not self._full:
                    self._full = True
                    log.warning("TCP connections cannot be taken (%s); UDP goes on", error.strerror)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            self._full = False
            key = self.key(listener.address, peer[0])
            self._make_room(key or peer[0], MOST_OF_ONE if key else None)
            self._counts.tcp_connections += 1
            task = loop.create_task(self._serve(connection, peer[0], listener.address))
            self._open[task] = key or peer[0]
            task.add_done_callback(partial(self._gone, connection))

    def _make_room(self, key: str, limit: int | None) -> None:
        """Ends the connection that was idle for longest where there are too many; of a peer with many, its own.

        Only where nobody is idle, one that waits for an answer has to go.
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

    def _gone(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._open.pop(task, None)
        self._busy.discard(task)
        connection.close()  # also where the task was ended before it began

    def _used(self) -> None:
        task = asyncio.current_task()
        if task in self._open:
            self._open[task] = self._open.pop(task)

    def _answered(self, task: asyncio.Task[None], pending: set[asyncio.Task[None]], one: asyncio.Task[None]) -> None:
        pending.discard(one)
        if not pending:
            self._busy.discard(task)

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
        own = asyncio.current_task()
        assert own is not None
        pending: set[asyncio.Task[None]] = set()
        answers = _Answers(writer)
        try:
            first = True
            while True:
                packet = await _read(reader, self._limits().tcp_idle, first)
                if first:
                    first = False
                    self.met(peer)
                self._used()
                reply = self._handle(packet, peer, local, True)
                if reply is None:
                    break
                if isinstance(reply, bytes):
                    await answers.send(reply)
                    continue
                task = self._spawn(answers.send_later(reply))
                pending.add(task)
                self._busy.add(own)
                task.add_done_callback(partial(self._answered, own, pending))
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


async def _read(reader: asyncio.StreamReader, idle: float, first: bool) -> bytes:
    """The next question. Raises TimeoutError where none begins within `idle` seconds, or none gets whole."""
    async with asyncio.timeout(min(idle, FIRST_SECONDS) if first else idle) as waiting:
        start = await reader.readexactly(1)
        if not first:
            waiting.reschedule(asyncio.get_running_loop().time() + WHOLE_SECONDS)
        length = start[0] << 8 | (await reader.readexactly(1))[0]
        return await reader.readexactly(length)


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
