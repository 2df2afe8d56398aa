"""The DNS server: UDP and TCP on every listener (RFC 1035 section 4.2, RFC 7766).

Datagrams are taken by threads of their own (`datagrams`), TCP by the event loop (`tcp`); both ask `decisions`. A
packet can never raise past these files: what cannot be read gets FORMERR or silence, what fails gets SERVFAIL.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from vmdns.dns.limits import Limits
from vmdns.dns.message import SERVFAIL, Malformed, bare_reply, parse_query, udp_limit, with_keepalive
from vmdns.server.client_limits import Gate
from vmdns.server.cookies import Cookies
from vmdns.server.counters import Counts
from vmdns.server.external_names import Others
from vmdns.server.listeners import Listener
from vmdns.server.query_handler import Decisions
from vmdns.server.tcp import Connections
from vmdns.server.udp_queries import Datagrams
from vmdns.state.snapshot import Snapshot

log = logging.getLogger(__name__)

TCP_LIMIT = 65_535


class DnsServer:
    """Answers on its listeners from the current snapshot, and hands on to others what is not ours."""

    def __init__(self, current: Callable[[], Snapshot], others: Others, limits: Limits) -> None:
        self.limits = limits
        self.others = others
        self._cookies = Cookies()
        self._gate = Gate(current, lambda: self.limits)
        self._decisions = Decisions(current, others, self._gate, lambda: self.limits)
        self.datagrams = Datagrams(current, self._decisions, others, self._gate, self._cookies, self._spawn)
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: dict[Listener, asyncio.Task[None]] = {}
        self._connections = Connections(self.handle, self._spawn, lambda: self.limits, self._decisions.counts)
        self._connections.met, self._connections.key = self._gate.prove, self._gate.key

    @property
    def listeners(self) -> list[Listener]:
        return list(self._accepting)

    @property
    def connections(self) -> int:
        """How many TCP connections are open."""
        return len(self._connections)

    @property
    def counts(self) -> Counts:
        """What was done since the start."""
        return self._decisions.counts + self.datagrams.counts

    def open(self, listener: Listener, *, batches: bool = True) -> None:
        """Answers on it from now on. batches: whether datagrams are taken by the dozen where the system can."""
        self.datagrams.open(listener, batches=batches)
        self._accepting[listener] = asyncio.get_running_loop().create_task(self._connections.accept(listener))

    def close(self, listener: Listener) -> None:
        """Answers on it no more; connections that are open stay."""
        self._deafen(listener)
        listener.close()

    def _deafen(self, listener: Listener) -> None:
        self.datagrams.close(listener)
        self._accepting.pop(listener).cancel()
        # Before it is closed: its number may belong to another socket the next moment.
        asyncio.get_running_loop().remove_reader(listener.tcp)

    async def stop(self, grace: float = 1.0) -> None:
        """Closes everything; questions under way have `grace` seconds to be answered."""
        listeners = self.listeners
        for listener in listeners:
            self._deafen(listener)
        self.datagrams.go_on()
        if self.others.settle is not None:
            self._spawn(self.others.settle(grace))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for listener in listeners:
            listener.close()
        for task in self._tasks:
            task.cancel()
        await self._connections.close(grace)

    def publish(self, snapshot: Snapshot) -> None:
        """This snapshot is in force."""
        self._gate.forget_askers()
        self.datagrams.publish(snapshot)

    def handle(self, packet: bytes, peer: str, local: str, tcp: bool) -> bytes | Awaitable[bytes] | None:
        """The response, one that is still to come, or None for silence. Never raises. Runs in the event loop."""
        counts = self._decisions.counts
        counts.queries += 1
        try:
            query = parse_query(packet)
        except Malformed as malformed:
            counts.malformed += 1
            return malformed.reply
        query = self._cookies.told(query, peer)
        if tcp:
            query = replace(with_keepalive(query, self.limits.tcp_idle), proven=True)
        limit = TCP_LIMIT if tcp else udp_limit(query)
        try:
            response, reply = self._decisions.decide(query, peer, local, limit)
            return self._decisions.onward(query, reply, peer, local, limit) if response is None else response
        except Exception:
            log.exception("a question could not be answered")
            counts.failed += 1
            return bare_reply(packet, SERVFAIL)

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        async def guarded() -> None:
            try:
                await work
            except OSError:
                self._decisions.counts.failed += 1  # a peer that went away, or does not read
            except Exception:
                log.exception("a response could not be sent")
                self._decisions.counts.failed += 1

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
