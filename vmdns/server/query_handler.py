"""What a question is answered with, whichever way it came: by our own zones, by others, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from vmdns.dns.forwarded_answer import EDE_OTHER
from vmdns.dns.limits import Limits
from vmdns.dns.message import AAAA, NXDOMAIN, REFUSED, SERVFAIL, A, Query, Record, respond
from vmdns.dns.rrset import address_record
from vmdns.server.client_limits import Asker, Gate
from vmdns.server.counters import Counts
from vmdns.server.external_names import Others
from vmdns.state.authoritative import Reply, answer
from vmdns.state.link_lookups import State, may_ask
from vmdns.state.snapshot import Right, Snapshot

log = logging.getLogger(__name__)

EDE_PROHIBITED = 18
OVER_BUDGET = EDE_OTHER, "too many lookups by multicast DNS; try again in a second"


class Decisions:
    """current gives the snapshot in force, limits the limits. counts are what was done since the start."""

    def __init__(
        self, current: Callable[[], Snapshot], others: Others, gate: Gate, limits: Callable[[], Limits]
    ) -> None:
        self._current = current
        self._others = others
        self._gate = gate
        self._limits = limits
        self.counts = Counts()

    def decide(self, query: Query, peer: str, local: str, limit: int) -> tuple[bytes | None, Reply | None]:
        """The response where it takes nobody else, else None; and what our zones say."""
        snapshot = self._current()
        right = snapshot.right(local, peer)
        if right is Right.UNKNOWN:
            return None, None
        if right is Right.NOTHING:
            return self._refuse(query, limit, f"{peer} is no guest of this host"), None
        reply = answer(query, snapshot, snapshot.view(local, peer))
        may = right is Right.ALL
        links = self._others.links
        if may and links is not None and reply is not None and self.may_be_elsewhere(query, reply, snapshot):
            state = links.state(query.key, self._client(query, peer, local))
            if state is State.OVER_BUDGET:
                return self._over_budget(query, limit), reply
            if state is State.LOOKUP:
                return None, reply
        if reply is not None and (reply.chase is None or not may or not query.recursion_desired):
            self.counts.answered += 1
            return self._render(query, reply, limit, may), reply
        if not may:
            return self._refuse(query, limit, f"{peer} may ask for local names only"), None
        return None, reply

    def onward(self, query: Query, reply: Reply | None, peer: str, local: str, limit: int) -> bytes | Awaitable[bytes]:
        """What takes others: an upstream, or to find out who asks."""
        if self._current().right(local, peer) is not Right.ALL:
            return self._surely(query, limit, self._later(query, peer, local, limit))
        asker = self._gate.asker(local, peer, query.proven)
        if reply is not None and reply.chase is None:
            return self._surely(query, limit, self._looked_up(query, reply, self._client(query, peer, local), limit))
        self.counts.forwarded += 1
        if reply is None:
            cached = self._others.cached(query, limit)
            if cached is not None:
                return cached
        if not self._gate.may_miss(asker):
            return self.too_many(query, limit, asker)
        if reply is not None and reply.chase is not None:
            coming = self._others.chase(query, reply, reply.chase, limit)
        else:
            coming = self._others.forward(query, limit)
        return self._surely(query, limit, self._counted(asker, coming))

    async def _counted(self, asker: Asker | None, response: Awaitable[bytes]) -> bytes:
        """What others say, counted for the asker."""
        self._gate.missed(asker)
        try:
            return await response
        finally:
            self._gate.met(asker)

    def too_many(self, query: Query, limit: int, asker: Asker | None) -> bytes:
        if asker is not None:
            asker.charge_in_vain()
        self.counts.failed += 1
        return respond(query, SERVFAIL, limit=limit, extended_error=(EDE_OTHER, "too many questions for others"))

    async def _later(self, query: Query, peer: str, local: str, limit: int) -> bytes:
        """A neighbour on a LAN that nothing is known of: its question itself may tell which VM it is."""
        await self._others.admit(peer)
        response, reply = self.decide(query, peer, local, limit)
        if response is not None:
            return response
        if self._current().right(local, peer) is not Right.ALL:
            return self._refuse(query, limit, f"{peer} is no guest of this host")
        coming = self.onward(query, reply, peer, local, limit)
        return coming if isinstance(coming, bytes) else await coming

    def may_be_elsewhere(self, query: Query, reply: Reply, snapshot: Snapshot) -> bool:
        """Whether others on the links may have a name that no VM has: a VM that is off has its name too."""
        absent = reply.rcode == NXDOMAIN and not reply.answer and query.key not in snapshot.absent
        return absent and self._others.links is not None and query.type in (A, AAAA) and may_ask(query.key)

    def _client(self, query: Query, peer: str, local: str) -> str:
        """What lookups of a client are counted by; '' for this computer itself."""
        asker = self._gate.asker(local, peer, query.proven)
        return "" if asker is None else asker.lookup_client

    async def _looked_up(self, query: Query, reply: Reply, client: str, limit: int) -> bytes:
        """What others on the host's links say of a name in `local` (left to the server by RFC 6762 section 22.1)."""
        found = await self._others.links.find(query.key, client) if self._others.links is not None else ()
        if found is None:
            return self._over_budget(query, limit)
        self.counts.answered += 1
        if found:
            ttl, rdatas = self._limits().ttl, map(address_record, found)
            records = tuple(Record(query.name, kind, ttl, rdata) for kind, rdata in rdatas if kind == query.type)
            reply = Reply(answer=records, authority=() if records else reply.authority, authoritative=False)
        return self._render(query, reply, limit, recursion_available=True)

    def _over_budget(self, query: Query, limit: int) -> bytes:
        """Whether the name exists is not known, so it is not denied."""
        self.counts.failed += 1
        return respond(query, SERVFAIL, limit=limit, extended_error=OVER_BUDGET)

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

    def _render(self, query: Query, reply: Reply, limit: int, recursion_available: bool) -> bytes:
        return respond(
            query,
            reply.rcode,
            limit=limit,
            authoritative=reply.authoritative,
            recursion_available=recursion_available,
            answer=reply.answer,
            authority=reply.authority,
            extended_error=reply.extended_error,
        )
