"""The DNS server: UDP and TCP on every listener (RFC 1035 section 4.2, RFC 7766).

One thread answers UDP (`udp_queries`), the event loop TCP (`tcp`); both use the query handler. A packet can never raise
past these files: a malformed one gets FORMERR or no response, a fault of ours gives SERVFAIL.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from vmdns.dns.limits import Limits
from vmdns.dns.message import SERVFAIL
from vmdns.dns.query import Malformed, add_keepalive, encode_header_response, parse_query, udp_response_limit
from vmdns.server.client_limits import ClientLimits
from vmdns.server.cookies import Cookies
from vmdns.server.counters import Counters
from vmdns.server.external_names import ExternalNames
from vmdns.server.listeners import Listener
from vmdns.server.query_handler import QueryHandler
from vmdns.server.tcp import TcpConnections
from vmdns.server.udp_queries import UdpQueries
from vmdns.state.snapshot import Snapshot

log = logging.getLogger(__name__)

TCP_LIMIT = 65_535


class DnsServer:
    """Answers on its listeners from the current snapshot, and forwards queries for external names."""

    def __init__(self, current: Callable[[], Snapshot], external: ExternalNames, limits: Limits) -> None:
        self.limits = limits
        self.external = external
        self._cookies = Cookies()
        self._clients = ClientLimits(current, lambda: self.limits)
        self._handler = QueryHandler(current, external, self._clients, lambda: self.limits)
        self.datagrams = UdpQueries(current, self._handler, external, self._clients, self._cookies, self._spawn)
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: dict[Listener, asyncio.Task[None]] = {}
        self._connections = TcpConnections(self.handle, self._spawn, lambda: self.limits, self._handler.counts)
        self._connections.on_query, self._connections.client_key = (
            self._clients.verify_address,
            self._clients.client_key,
        )

    @property
    def listeners(self) -> list[Listener]:
        return list(self._accepting)

    @property
    def connections(self) -> int:
        """The number of open TCP connections."""
        return len(self._connections)

    @property
    def counts(self) -> Counters:
        """Counters since the start."""
        return self._handler.counts + self.datagrams.counts

    def open(self, listener: Listener, *, batches: bool = True) -> None:
        """Starts answering on a listener. batches: whether recvmmsg is used where the system has it."""
        self.datagrams.open(listener, batches=batches)
        self._accepting[listener] = asyncio.get_running_loop().create_task(self._connections.accept(listener))

    def close(self, listener: Listener) -> None:
        """Stops answering on a listener; open connections stay."""
        self._stop_listening(listener)
        listener.close()

    def _stop_listening(self, listener: Listener) -> None:
        self.datagrams.close(listener)
        self._accepting.pop(listener).cancel()
        # Before it is closed: its file number may be reused at once.
        asyncio.get_running_loop().remove_reader(listener.tcp)

    async def stop(self, grace: float = 1.0) -> None:
        """Closes everything; pending queries have `grace` seconds to be answered."""
        listeners = self.listeners
        for listener in listeners:
            self._stop_listening(listener)
        self.datagrams.resolve_pending()
        if self.external.settle is not None:
            self._spawn(self.external.settle(grace))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for listener in listeners:
            listener.close()
        for task in self._tasks:
            task.cancel()
        await self._connections.close(grace)

    def publish(self, snapshot: Snapshot) -> None:
        """Takes a new snapshot."""
        self._clients.forget_clients()
        self.datagrams.publish(snapshot)

    def handle(self, packet: bytes, peer: str, local: str, tcp: bool) -> bytes | Awaitable[bytes] | None:
        """Returns the response, what to await for it, or None for no response. Never raises. Runs in the event loop."""
        counts = self._handler.counts
        counts.queries += 1
        try:
            query = parse_query(packet)
        except Malformed as malformed:
            counts.malformed += 1
            return malformed.reply
        query = self._cookies.with_cookie(query, peer)
        if tcp:
            query = replace(add_keepalive(query, self.limits.tcp_idle), verified=True)
        limit = TCP_LIMIT if tcp else udp_response_limit(query)
        try:
            response, reply = self._handler.answer_locally(query, peer, local, limit)
            return self._handler.answer_external(query, reply, peer, local, limit) if response is None else response
        except Exception:
            log.exception("a query could not be answered")
            counts.failed += 1
            return encode_header_response(packet, SERVFAIL)

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        async def guarded() -> None:
            try:
                await work
            except OSError:
                self._handler.counts.failed += 1  # a peer that went away, or does not read
            except Exception:
                log.exception("a response could not be sent")
                self._handler.counts.failed += 1

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
