"""Queries the host's links for a name that vmdns does not know: a printer's, or the host's own.

A client that uses vmdns as its DNS server may send all queries for `.local` to it by unicast and multicast none
(nss-mdns does, once `local` has a SOA record). A lookup is one name, for both address types; it takes one query, and a
second one where nobody answers at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address

from vmdns.dns.message import AAAA, NSEC, RESPONSE, A, Message, ParsedRecord
from vmdns.mdns.links import Link
from vmdns.mdns.packets import encode_questions, has_type
from vmdns.state.name_rules import LookupState

# Queries a second, first and repeated ones alike, and lookups pending at once.
CLIENT_QUERIES, ALL_QUERIES = 10, 20
CLIENT_LOOKUPS = 8
EXCESSIVE_SECONDS = 5.0  # how long a client that exceeded its budget is limited
MAX_REFUSED = 256  # clients whose refused lookups are counted
MAX_WAITERS = 256  # clients' queries that wait for all lookups together

ABSENT_SECONDS = 60.0
FOUND_SECONDS = 5.0
MAX_RESULTS = 2048  # ABSENT_SECONDS of ALL_QUERIES, and some; about 200 bytes each

WAIT_SECONDS = 1.0
SILENT_WAIT_SECONDS = 0.3  # where nobody has answered any query for ACTIVE_SECONDS
ACTIVE_SECONDS = 300.0

REPEAT_SECONDS = 0.25  # a packet may be lost
OTHER_FAMILY_SECONDS = 0.1  # from the addresses of one family to those of the other


class QueryBudget:
    """How many queries are sent to the links, for each client and for all. Times are in seconds."""

    def __init__(self) -> None:
        self._sent: tuple[tuple[float, str], ...] = ()  # queries of the last second, with their clients
        self._refused: dict[str, tuple[float, int]] = {}  # queries of a client in the second that began then
        self._excessive_until: dict[str, float] = {}

    def allows(self, client: str, now: float) -> bool:
        """Whether a client may cause one more query.

        One that exceeded its budget lately may use no more than what it leaves to all other clients. So several clients
        that flood, or one that counts as several (by two addresses, or by UDP and TCP), leave a share to the rest.
        """
        recent = [one for at, one in self._sent if at > now - 1.0]
        used, left = recent.count(client), ALL_QUERIES - len(recent)
        excessive = now < self._excessive_until.get(client, now)
        return used < CLIENT_QUERIES and left > (used if excessive else 0)

    def charge(self, client: str, now: float) -> None:
        """Counts a query that is sent for this client."""
        self._sent = (*(one for one in self._sent if one[0] > now - 1.0), (now, client))

    def refuse(self, client: str, now: float) -> None:
        """Counts a refused lookup: a client that wanted as many as its budget within a second wants too much."""
        begun, refused = self._refused.get(client, (now, 0))
        if now - begun >= 1.0:
            begun, refused = now, 0
        if len(self._refused) >= MAX_REFUSED:
            self._refused, self._excessive_until = {}, {}
        self._refused[client] = begun, refused + 1
        if refused + 1 >= CLIENT_QUERIES:
            self._excessive_until[client] = now + EXCESSIVE_SECONDS


@dataclass(slots=True)
class _Lookup:
    """A pending lookup, the client that it is charged to, and its answers so far."""

    client: str
    answer: asyncio.Future[tuple[str, ...]]
    addresses: dict[str, None] = field(default_factory=dict)
    types: set[int] = field(default_factory=set)  # that were answered or denied


class LinkQuerier:
    """Lookups on the host's links. Names are wire names in lower case.

    send(packet) multicasts it on all links; results_dropped is called when a name that was absent may exist now; now is
    a monotonic clock in seconds.
    """

    def __init__(
        self,
        send: Callable[[bytes], None],
        results_dropped: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._results_dropped = results_dropped
        self._now = now
        self._budget = QueryBudget()
        self._pending: dict[bytes, _Lookup] = {}
        self._results: dict[bytes, tuple[float, tuple[str, ...]]] = {}  # until when, and the addresses
        self._active_until = float("-inf")
        self._waiters = 0

    def state(self, name: bytes, client: str) -> LookupState:
        """Returns what a query of this client for the name needs. Any thread may call this."""
        found = self._find_result(name)
        if found is not None:
            return LookupState.LOOKUP if found else LookupState.ABSENT
        if self._waiters >= MAX_WAITERS:
            return LookupState.OVER_BUDGET
        if name in self._pending:
            return LookupState.LOOKUP
        now = self._now()
        lookups = sum(one.client == client for one in tuple(self._pending.values()))
        if lookups < CLIENT_LOOKUPS and self._budget.allows(client, now):
            return LookupState.LOOKUP
        self._budget.refuse(client, now)
        return LookupState.OVER_BUDGET

    def _find_result(self, name: bytes) -> tuple[str, ...] | None:
        """The addresses that a recent lookup found, () for nobody; None where there was no lookup."""
        until, found = self._results.get(name, (float("-inf"), ()))
        return found if until > self._now() else None

    async def find(self, name: bytes, client: str) -> tuple[str, ...] | None:
        """Returns the addresses from the first response, () for none; None where the budgets allow no lookup."""
        state, known = self.state(name, client), self._find_result(name)
        if state is LookupState.OVER_BUDGET or known is not None:
            return known
        lookup = self._pending.get(name) or self._begin(name, client)
        self._waiters += 1
        try:
            return await asyncio.shield(lookup.answer)
        finally:
            self._waiters -= 1

    def _begin(self, name: bytes, client: str) -> _Lookup:
        loop = asyncio.get_running_loop()
        lookup = self._pending[name] = _Lookup(client, loop.create_future())
        wait = WAIT_SECONDS if self._now() < self._active_until else SILENT_WAIT_SECONDS
        loop.call_later(REPEAT_SECONDS, self._repeat, name, lookup)
        loop.call_later(wait, self._end, name, lookup)
        self._query(name, lookup)
        return lookup

    def _query(self, name: bytes, lookup: _Lookup) -> None:
        self._budget.charge(lookup.client, self._now())
        self._send(encode_questions([(name, A), (name, AAAA)]))

    def _repeat(self, name: bytes, lookup: _Lookup) -> None:
        unanswered = not lookup.addresses and not lookup.answer.done()
        if unanswered and self._budget.allows(lookup.client, self._now()):
            self._query(name, lookup)

    def _end(self, name: bytes, lookup: _Lookup) -> None:
        if lookup.answer.done():
            return
        del self._pending[name]
        found = tuple(lookup.addresses)
        self._results.pop(name, None)
        if len(self._results) >= MAX_RESULTS:
            del self._results[next(iter(self._results))]
        self._results[name] = self._now() + (FOUND_SECONDS if found else ABSENT_SECONDS), found
        lookup.answer.set_result(found)

    def drop_results(self) -> None:
        """Drops all results after a link has changed."""
        self._results = {}
        self._results_dropped()

    def receive(self, message: Message, link: Link) -> None:
        """Handles a message that a host on that link sent from port 5353."""
        if not message.flags & RESPONSE:
            return
        self._active_until = self._now() + ACTIVE_SECONDS
        records = message.answers + message.additionals
        for record in records:
            lookup = self._pending.get(record.key)
            if lookup is not None and record.ttl:
                _add_answer(record, lookup, link)
            elif record.ttl and record.type in (A, AAAA) and self._results.get(record.key, (0.0, ("",)))[1] == ():
                del self._results[record.key]
                self._results_dropped()
        for name in dict.fromkeys(record.key for record in records):
            lookup = self._pending.get(name)
            if lookup is not None and lookup.types >= {A, AAAA}:
                self._end(name, lookup)
            elif lookup is not None and lookup.addresses:
                asyncio.get_running_loop().call_later(OTHER_FAMILY_SECONDS, self._end, name, lookup)


def _add_answer(record: ParsedRecord, lookup: _Lookup, link: Link) -> None:
    if record.type == NSEC:
        lookup.types |= {kind for kind in (A, AAAA) if not has_type(record, kind)}
    elif record.type in (A, AAAA):
        address = ip_address(record.rdata)
        # A client on another link cannot use an IPv6 link-local address.
        if link.contains(str(address)) and not address.is_link_local:
            lookup.addresses[str(address)] = None
            lookup.types.add(record.type)
