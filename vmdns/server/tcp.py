"""DNS over TCP: any number of queries on a connection, answered as soon as they are ready (RFC 7766 section 6.2.1.1).

A connection ends when it is idle, when its peer is done and all is answered, when the peer does not read, or to make
room for another one.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from vmdns.server.client_limits import ClientLimits
from vmdns.server.listeners import Listener
from vmdns.server.query_handler import Counters
from vmdns.server.wildcard import local_address

log = logging.getLogger(__name__)

PIPELINE = 100  # pending queries on one connection
SEND_SECONDS = 5.0  # timeout for a peer that does not read
FIRST_SECONDS = 3.0  # until the first query of a connection is complete
WHOLE_SECONDS = 5.0  # from the first byte of a query to its last
PAUSE_SECONDS = 0.1  # after accept() failed for lack of file descriptors
MAX_OF_ONE = 20  # connections of one guest, or of all strangers of one network

# Gives the response to a packet from a peer to the host's address; b"" for none.
Resolve = Callable[[bytes, str, str], asyncio.Future[bytes]]


@dataclass(slots=True)
class _Connection:
    """client: who is charged for it; pending: its queries that are not answered yet."""

    client: str
    pending: set[asyncio.Future[bytes]] = field(default_factory=set)


class TcpServer:
    """The TCP connections of all listeners, within the limits."""

    def __init__(self, resolve: Resolve, clients: ClientLimits, counts: Counters) -> None:
        self._resolve = resolve
        self._clients = clients
        self._counts = counts
        self._open: dict[asyncio.Task[None], _Connection] = {}  # least recently used first
        self._full = False

    def __len__(self) -> int:
        return len(self._open)

    async def accept(self, listener: Listener, is_open: Callable[[str], bool]) -> None:
        """Accepts connections until it is cancelled. is_open: whether there is a listener at an address."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peer = await loop.sock_accept(listener.tcp)
            except OSError as error:
                if not self._full:
                    self._full = True
                    log.warning("no TCP connections can be accepted (%s); UDP still works", error.strerror)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            self._full = False
            try:
                local = local_address(sock) if listener.wildcard else listener.address
            except OSError:  # it is closed already (macOS), or its interface is gone
                local = ""
            if not is_open(local):
                sock.close()
                continue
            key = self._clients.client_key(peer[0])
            connection = _Connection(key or peer[0])
            self._make_room(connection.client, MAX_OF_ONE if key else None)
            self._counts.tcp_connections += 1
            task = loop.create_task(self._serve(connection, sock, peer[0], local))
            self._open[task] = connection
            task.add_done_callback(partial(self._on_close, sock))

    def _make_room(self, client: str, limit: int | None) -> None:
        """Closes the connection that was idle for longest where there are too many; a client with many loses one of its
        own.

        A connection with pending queries is closed only if none is idle.
        """
        total = self._clients.limits.tcp_connections
        share = max(2, min(limit or total, total // 2))
        among = [task for task, one in self._open.items() if one.client == client]
        if len(among) < share:
            if len(self._open) < total:
                return
            among = list(self._open)
        task = next((task for task in among if not self._open[task].pending), among[0])
        del self._open[task]
        task.cancel()

    def _on_close(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._open.pop(task, None)
        sock.close()  # also where the task was cancelled before it started

    async def close(self, seconds: float) -> None:
        """Closes all connections, and waits at most this long for it."""
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    async def _serve(self, connection: _Connection, sock: socket.socket, peer: str, local: str) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader, writer = await asyncio.open_connection(sock=sock)
        except OSError:
            return
        pending, task = connection.pending, asyncio.current_task()
        assert task is not None

        def send(answer: asyncio.Future[bytes]) -> None:
            pending.discard(answer)
            if answer.cancelled() or writer.is_closing():
                return
            response = answer.result()
            if response:
                writer.write(len(response).to_bytes(2, "big") + response)
            else:
                writer.close()

        first = True
        try:
            while True:
                packet = await _read(reader, self._clients.limits.tcp_idle, first)
                first = False
                if task in self._open:
                    self._open[task] = self._open.pop(task)
                answer = self._resolve(packet, peer, local)
                pending.add(answer)
                answer.add_done_callback(send)
                if len(pending) >= PIPELINE:
                    await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                await _drain(writer)
        except (asyncio.IncompleteReadError, OSError):
            pass  # idle, gone, does not read, or closing after its last query
        except asyncio.CancelledError:
            for answer in pending:
                answer.cancel()
            raise
        finally:
            if pending and not writer.is_closing():
                await asyncio.wait(pending, timeout=self._clients.limits.query_timeout + 1)
            writer.close()
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await writer.wait_closed()
            except OSError:
                writer.transport.abort()


async def _drain(writer: asyncio.StreamWriter) -> None:
    """Waits until the peer reads. Ends the connection, and raises TimeoutError, where it does not."""
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await writer.drain()
    except TimeoutError:
        writer.transport.abort()
        raise


async def _read(reader: asyncio.StreamReader, idle: float, first: bool) -> bytes:
    """Returns the next message. Raises TimeoutError where none begins within `idle` seconds, or none is complete in
    time."""
    async with asyncio.timeout(min(idle, FIRST_SECONDS) if first else idle) as waiting:
        start = await reader.readexactly(1)
        if not first:
            waiting.reschedule(asyncio.get_running_loop().time() + WHOLE_SECONDS)
        length = start[0] << 8 | (await reader.readexactly(1))[0]
        return await reader.readexactly(length)
