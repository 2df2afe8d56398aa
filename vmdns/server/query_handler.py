"""Answers queries from UDP and TCP: from the local zones, from an upstream or a link, or with an error."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from vmdns.dns.forwarded_answer import EDE_OTHER
from vmdns.dns.limits import Limits
from vmdns.dns.message import AAAA, NXDOMAIN, REFUSED, SERVFAIL, A, Record, address_record
from vmdns.dns.query import Query, encode_response
from vmdns.server.client_limits import Client, ClientLimits
from vmdns.server.counters import Counters
from vmdns.server.external_names import ExternalNames
from vmdns.state.authoritative import Reply, answer_query
from vmdns.state.name_rules import LookupState, is_lookup_allowed
from vmdns.state.snapshot import AccessRight, Snapshot

log = logging.getLogger(__name__)

EDE_PROHIBITED = 18
OVER_BUDGET = EDE_OTHER, "too many lookups by multicast DNS; try again in a second"


class QueryHandler:
    """Answers queries of UDP and TCP. current gives the current snapshot, limits the limits; counts are those since the
    start."""

    def __init__(
        self,
        current: Callable[[], Snapshot],
        external: ExternalNames,
        clients: ClientLimits,
        limits: Callable[[], Limits],
    ) -> None:
        self._current = current
        self._external = external
        self._clients = clients
        self._limits = limits
        self.counts = Counters()

    def answer_locally(self, query: Query, peer: str, local: str, limit: int) -> tuple[bytes | None, Reply | None]:
        """Returns the response if the local zones give one at once, else None; and the reply of the local zones."""
        snapshot = self._current()
        right = snapshot.right(local, peer)
        if right is AccessRight.UNKNOWN:
            return None, None
        if right is AccessRight.NOTHING:
            return self._refuse(query, limit, f"{peer} is no guest of this host"), None
        reply = answer_query(query, snapshot, snapshot.view(local, peer))
        may = right is AccessRight.ALL
        links = self._external.links
        if may and links is not None and reply is not None and self.may_exist_on_link(query, reply, snapshot):
            state = links.state(query.key, self._budget_key(query, peer, local))
            if state is LookupState.OVER_BUDGET:
                return self._lookup_limit_reached(query, limit), reply
            if state is LookupState.LOOKUP:
                return None, reply
        if reply is not None and (reply.chase is None or not may or not query.recursion_desired):
            self.counts.answered += 1
            return self._render(query, reply, limit, may), reply
        if not may:
            return self._refuse(query, limit, f"{peer} may ask for local names only"), None
        return None, reply

    def answer_external(
        self, query: Query, reply: Reply | None, peer: str, local: str, limit: int
    ) -> bytes | Awaitable[bytes]:
        """Returns the response, or what to await for it, where an upstream, another host on a link or the neighbour
        table has to be asked."""
        if self._current().right(local, peer) is not AccessRight.ALL:
            return self._or_servfail(query, limit, self._answer_after_admission(query, peer, local, limit))
        client = self._clients.client(local, peer, query.verified)
        if reply is not None and reply.chase is None:
            return self._or_servfail(
                query, limit, self._answer_from_links(query, reply, self._budget_key(query, peer, local), limit)
            )
        self.counts.forwarded += 1
        if reply is None:
            cached = self._external.cached(query, limit)
            if cached is not None:
                return cached
        if not self._clients.may_forward(client):
            return self.forward_limit_reached(query, limit, client)
        if reply is not None and reply.chase is not None:
            coming = self._external.chase(query, reply, reply.chase, limit)
        else:
            coming = self._external.forward(query, limit)
        return self._or_servfail(query, limit, self._until_answered(client, coming))

    async def _until_answered(self, client: Client | None, response: Awaitable[bytes]) -> bytes:
        """Awaits a forwarded response, counted for the client."""
        self._clients.count_forward(client)
        try:
            return await response
        finally:
            self._clients.end_forward(client)

    def forward_limit_reached(self, query: Query, limit: int, client: Client | None) -> bytes:
        if client is not None:
            client.charge_refused_forward()
        self.counts.failed += 1
        return encode_response(query, SERVFAIL, limit=limit, extended_error=(EDE_OTHER, "too many forwarded queries"))

    async def _answer_after_admission(self, query: Query, peer: str, local: str, limit: int) -> bytes:
        """Answers an unknown neighbour on a LAN, once its packet has shown whether it is a VM."""
        await self._external.admit(peer)
        response, reply = self.answer_locally(query, peer, local, limit)
        if response is not None:
            return response
        if self._current().right(local, peer) is not AccessRight.ALL:
            return self._refuse(query, limit, f"{peer} is no guest of this host")
        coming = self.answer_external(query, reply, peer, local, limit)
        return coming if isinstance(coming, bytes) else await coming

    def may_exist_on_link(self, query: Query, reply: Reply, snapshot: Snapshot) -> bool:
        """Whether another host on a link may have a name that no VM has: a VM that is off keeps its name."""
        absent = reply.rcode == NXDOMAIN and not reply.answer and query.key not in snapshot.absent
        return absent and self._external.links is not None and query.type in (A, AAAA) and is_lookup_allowed(query.key)

    def _budget_key(self, query: Query, peer: str, local: str) -> str:
        """Returns the key of a client's lookup budget; '' for this computer itself."""
        client = self._clients.client(local, peer, query.verified)
        return "" if client is None else client.lookup_client

    async def _answer_from_links(self, query: Query, reply: Reply, client: str, limit: int) -> bytes:
        """Answers a name in `local` from the host's links (left to the server by RFC 6762 section 22.1)."""
        found = await self._external.links.find(query.key, client) if self._external.links is not None else ()
        if found is None:
            return self._lookup_limit_reached(query, limit)
        self.counts.answered += 1
        if found:
            ttl, rdatas = self._limits().ttl, map(address_record, found)
            records = tuple(Record(query.name, kind, ttl, rdata) for kind, rdata in rdatas if kind == query.type)
            reply = Reply(answer=records, authority=() if records else reply.authority, authoritative=False)
        return self._render(query, reply, limit, recursion_available=True)

    def _lookup_limit_reached(self, query: Query, limit: int) -> bytes:
        """Whether the name exists is not known, so it is not denied."""
        self.counts.failed += 1
        return encode_response(query, SERVFAIL, limit=limit, extended_error=OVER_BUDGET)

    def _refuse(self, query: Query, limit: int, why: str) -> bytes:
        self.counts.refused += 1
        return encode_response(
            query, REFUSED, limit=limit, recursion_available=False, extended_error=(EDE_PROHIBITED, why)
        )

    async def _or_servfail(self, query: Query, limit: int, response: Awaitable[bytes]) -> bytes:
        try:
            return await response
        except Exception:
            log.exception("a query could not be forwarded")
            self.counts.failed += 1
            return encode_response(query, SERVFAIL, limit=limit)

    def _render(self, query: Query, reply: Reply, limit: int, recursion_available: bool) -> bytes:
        return encode_response(
            query,
            reply.rcode,
            limit=limit,
            authoritative=reply.authoritative,
            recursion_available=recursion_available,
            answer=reply.answer,
            authority=reply.authority,
            extended_error=reply.extended_error,
        )
