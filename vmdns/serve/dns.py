"""The DNS server: UDP and TCP on every listener (RFC 1035 section 4.2, RFC 7766).

A packet can never raise past this file: what cannot be read gets FORMERR or silence, what fails gets SERVFAIL.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable

from vmdns.core.answer import Reply, answer
from vmdns.core.limits import Limits
from vmdns.core.snapshot import Right, Snapshot
from vmdns.core.wire import (
    REFUSED,
    SERVFAIL,
    Malformed,
    Query,
    bare_reply,
    parse_query,
    respond,
    udp_limit,
)
from vmdns.serve.counts import Counts
from vmdns.serve.listeners import Listener
from vmdns.serve.tcp import Connections

log = logging.getLogger(__name__)

BURST = 64  # datagrams taken from a socket before others get their turn
TCP_LIMIT = 65_535
EDE_PROHIBITED = 18

MOST_ASKERS = 4096

Forward = Callable[[Query, int], Awaitable[bytes]]
Cached = Callable[[Query, int], bytes | None]
Chase = Callable[[Query, Reply, bytes, int], Awaitable[bytes]]
# Waits until the peer with this address is known to be a guest, or for long enough.
Admit = Callable[[str], Awaitable[None]]


class DnsServer:
    """Answers on its listeners from the current snapshot, and hands on what is not ours."""

    def __init__(
        self,
        current: Callable[[], Snapshot],
        cached: Cached,
        forward: Forward,
        chase: Chase,
        admit: Admit,
        limits: Limits,
    ) -> None:
        self._current = current
        self._cached = cached
        self._forward = forward
        self._chase = chase
        self._admit = admit
        self.limits = limits
        self.counts = Counts()
        self._listeners: dict[Listener, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = Connections(self.handle, self._spawn, lambda: self.limits, self.counts)
        # Who asked lately: (peer, the host's address that it asked at) -> when, in seconds of time.monotonic.
        self.askers: dict[tuple[str, str], float] = {}

    # -- listeners --------------------------------------------------------------------------------------------

    @property
    def listeners(self) -> list[Listener]:
        return list(self._listeners)

    @property
    def connections(self) -> int:
        """How many TCP connections are open."""
        return len(self._connections)

    def open(self, listener: Listener) -> None:
        """Answers on it from now on."""
        loop = asyncio.get_running_loop()
        loop.add_reader(listener.udp, self._read_udp, listener)
        self._listeners[listener] = loop.create_task(self._connections.accept(listener))

    def close(self, listener: Listener) -> None:
        """Answers on it no more; connections that are open stay."""
        self._deafen(listener)
        listener.close()

    def _deafen(self, listener: Listener) -> None:
        self._listeners.pop(listener).cancel()
        # Both before they are closed: their numbers may belong to other sockets the next moment.
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.udp)
        loop.remove_reader(listener.tcp)

    async def stop(self, grace: float = 1.0) -> None:
        """Closes everything; questions under way have `grace` seconds to be answered."""
        listeners = self.listeners
        for listener in listeners:
            self._deafen(listener)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for listener in listeners:
            listener.close()
        for task in self._tasks:
            task.cancel()
        await self._connections.close(grace)

    # -- one question -----------------------------------------------------------------------------------------

    def handle(self, packet: bytes, peer: str, local: str, tcp: bool) -> bytes | Awaitable[bytes] | None:
        """The response, one that is still to come, or None for silence. Never raises."""
        self.counts.queries += 1
        try:
            query = parse_query(packet)
        except Malformed as malformed:
            self.counts.malformed += 1
            return malformed.reply
        limit = TCP_LIMIT if tcp else udp_limit(query)
        try:
            self._note(peer, local)
            if self._current().right(local, peer) is Right.UNKNOWN:
                return self._surely(query, limit, self._later(query, peer, local, limit, tcp))
            return self._say(query, peer, local, limit, tcp)
        except Exception:
            log.exception("a question could not be answered")
            self.counts.failed += 1
            return bare_reply(packet, SERVFAIL)

    def _note(self, peer: str, local: str) -> None:
        if len(self.askers) >= MOST_ASKERS and (peer, local) not in self.askers:
            self.askers.clear()
        self.askers[peer, local] = time.monotonic()

    async def _later(self, query: Query, peer: str, local: str, limit: int, tcp: bool) -> bytes:
        """A neighbour on a LAN that nothing is known of: its question itself may tell which VM it is."""
        await self._admit(peer)
        reply = self._say(query, peer, local, limit, tcp)
        return reply if isinstance(reply, bytes) else await reply

    def _say(self, query: Query, peer: str, local: str, limit: int, tcp: bool) -> bytes | Awaitable[bytes]:
        snapshot = self._current()
        right = snapshot.right(local, peer)
        if right in (Right.NOTHING, Right.UNKNOWN):
            return self._refuse(query, limit, f"{peer} is no guest of this host")
        reply = answer(query, snapshot, snapshot.view(local, peer))
        may = right is Right.ALL
        if reply is not None and (reply.chase is None or not may or not query.recursion_desired):
            self.counts.answered += 1
            return self._render(query, reply, limit, tcp, may)
        if not may:
            return self._refuse(query, limit, f"{peer} may ask for local names only")
        self.counts.forwarded += 1
        if reply is not None and reply.chase is not None:
            return self._surely(query, limit, self._chase(query, reply, reply.chase, limit))
        return self._cached(query, limit) or self._surely(query, limit, self._forward(query, limit))

    def _refuse(self, query: Query, limit: int, why: str) -> bytes:
        self.counts.refused += 1
        return respond(query, REFUSED, limit=limit, recursion_available=False, extended_error=(EDE_PROHIBITED, why))

    async def _surely(self, query: Query, limit: int, response: Awaitable[bytes]) -> bytes:
        try:
            return await response
        except Exception:
            log.exception("a question could not be forwarded")
            self.counts.failed += 1
            return respond(query, SERVFAIL, limit=limit)

    def _render(self, query: Query, reply: Reply, limit: int, tcp: bool, recursion_available: bool) -> bytes:
        return respond(
            query,
            reply.rcode,
            limit=limit,
            authoritative=reply.authoritative,
            recursion_available=recursion_available,
            answer=reply.answer,
            authority=reply.authority,
            extended_error=reply.extended_error,
            keepalive=self.limits.tcp_idle if tcp else None,
        )

    # -- UDP --------------------------------------------------------------------------------------------------

    def _read_udp(self, listener: Listener) -> None:
        receive = listener.udp.recvfrom
        for _ in range(BURST):
            try:
                packet, peer = receive(4096)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # An ICMP error of an earlier response (Windows: WSAECONNRESET); the socket is fine.
                continue
            if peer[1] == 0 or (peer[1] == listener.port and peer[0] == listener.address):
                continue  # answering these would be a loop or a reflection
            reply = self.handle(packet, peer[0], listener.address, tcp=False)
            if isinstance(reply, bytes):
                self._send(listener.udp, reply, peer)
            elif reply is not None:
                self._spawn(self._finish_udp(listener.udp, reply, peer))

    async def _finish_udp(self, udp: socket.socket, reply: Awaitable[bytes], peer: tuple[str, int]) -> None:
        self._send(udp, await reply, peer)

    def _send(self, udp: socket.socket, reply: bytes, peer: tuple[str, int]) -> None:
        try:
            udp.sendto(reply, peer)
        except OSError:
            self.counts.failed += 1  # a full buffer or a peer that went away: it asks again

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        async def guarded() -> None:
            try:
                await work
            except OSError:
                self.counts.failed += 1  # a peer that went away, or does not read
            except Exception:
                log.exception("a response could not be sent")
                self.counts.failed += 1

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
