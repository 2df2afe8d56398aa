"""Queries the host's links for a name that vmdns does not know: a printer's, or the host's own.

A client that uses vmdns as its DNS server may send all queries for `.local` to it by unicast and multicast none
(nss-mdns does, once `local` has a SOA record).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address

from vmdns.dns.message import AAAA, NSEC, A, ParsedRecord
from vmdns.mdns.links import Link
from vmdns.mdns.packets import encode_questions, parse_packet
from vmdns.state.link_lookups import LinkLookups, LookupState

REPEAT_SECONDS = 0.25  # a packet may be lost
OTHER_FAMILY_SECONDS = 0.1  # from the addresses of one family to those of the other


@dataclass(slots=True)
class _Lookup:
    """A pending lookup, and its answers so far."""

    answer: asyncio.Future[tuple[str, ...]]
    addresses: dict[str, None] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)  # types that were answered or denied


class LinkQuerier:
    """Lookups on the host's links. send(packet) multicasts it on all of them; results_dropped is called when a name
    that was absent may exist now; now is a monotonic clock in seconds."""

    def __init__(
        self,
        send: Callable[[bytes], None],
        results_dropped: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._results_dropped = results_dropped
        self._now = now
        self._lookups = LinkLookups()
        self._pending: dict[bytes, _Lookup] = {}

    def state(self, name: bytes, client: str) -> LookupState:
        """Returns what a query of this client for a wire name (lower case) needs. Any thread may call this."""
        return self._lookups.state(name, client, self._now())

    async def find(self, name: bytes, client: str) -> tuple[str, ...] | None:
        """Returns the addresses from the first response, () for none; None where the budgets allow no lookup."""
        loop, lookups, now = asyncio.get_running_loop(), self._lookups, self._now()
        state = lookups.state(name, client, now)
        known = lookups.result(name, now)
        if state is LookupState.OVER_BUDGET or known is not None:
            return known
        lookup = self._pending.get(name)
        if lookup is None:
            lookup = self._pending[name] = _Lookup(loop.create_future())
            loop.call_later(REPEAT_SECONDS, self._repeat, name, lookup)
            loop.call_later(lookups.wait(now), self._end, name, lookup)
            lookups.begin(name, client, now)
            self._send(encode_questions([(name, A), (name, AAAA)]))
        lookups.waiters += 1
        try:
            return await asyncio.shield(lookup.answer)
        finally:
            lookups.waiters -= 1

    def forget_results(self) -> None:
        """Drops all results after a link has changed."""
        self._lookups.forget_results()
        self._results_dropped()

    def _repeat(self, name: bytes, lookup: _Lookup) -> None:
        unanswered = not lookup.addresses and not lookup.answer.done()
        if unanswered and self._lookups.repeat(name, self._now()):
            self._send(encode_questions([(name, A), (name, AAAA)]))

    def _end(self, name: bytes, lookup: _Lookup) -> None:
        if lookup.answer.done():
            return
        del self._pending[name]
        found = tuple(lookup.addresses)
        self._lookups.end(name, found, self._now())
        lookup.answer.set_result(found)

    def receive(self, packet: bytes, link: Link) -> None:
        """Handles a packet that a host on that link sent from port 5353."""
        message = parse_packet(packet) if packet[2:3] >= b"\x80" else None  # a response, not a query
        if message is None:
            return
        self._lookups.response(self._now())
        records = (*message.answers, *message.additionals)
        for record in records:
            lookup = self._pending.get(record.key)
            if lookup is not None and record.ttl:
                self._note(record, lookup, link)
            elif lookup is None and record.ttl and record.type in (A, AAAA) and self._lookups.appeared(record.key):
                self._results_dropped()
        for name in dict.fromkeys(record.key for record in records):
            lookup = self._pending.get(name)
            if lookup is not None and lookup.settled >= {A, AAAA}:
                self._end(name, lookup)
            elif lookup is not None and lookup.addresses:
                asyncio.get_running_loop().call_later(OTHER_FAMILY_SECONDS, self._end, name, lookup)

    def _note(self, record: ParsedRecord, lookup: _Lookup, link: Link) -> None:
        if record.type == NSEC:
            lookup.settled |= {kind for kind in (A, AAAA) if not _has_type(record, kind)}
        elif record.type in (A, AAAA):
            address = ip_address(record.rdata)
            # A client on another link cannot use an IPv6 link-local address.
            if link.contains(str(address)) and not address.is_link_local:
                lookup.addresses[str(address)] = None
                lookup.settled.add(record.type)


def _has_type(nsec: ParsedRecord, kind: int) -> bool:
    """Whether the NSEC record has that type, A or AAAA, in the first block of its bitmap (RFC 4034 section 4.1.2)."""
    bitmap = nsec.rdata[len(nsec.key) :]
    if not nsec.rdata.startswith(nsec.key) or bitmap[:1] != b"\0" or len(bitmap) < 2:
        return True  # malformed
    block = bitmap[2 : 2 + bitmap[1]]
    return kind >> 3 < len(block) and bool(block[kind >> 3] & 0x80 >> (kind & 7))
