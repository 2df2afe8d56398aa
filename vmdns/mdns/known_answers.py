"""Queries of multicast DNS whose known answers come in several packets (RFC 6762 section 7.2)."""

from __future__ import annotations

from dataclasses import dataclass

from vmdns.dns.message import TRUNCATED, Message
from vmdns.mdns.name_state import TTL, DrawRandom, KnownAnswer

LONGEST_WAIT = 2.0
MAX_WAITING, MAX_KNOWN = 64, 4096  # pending clients, and known answers of each

Peer = tuple[str, int]


@dataclass(slots=True)
class KnownAnswerQuery:
    """A query, and the records that its client has already (without their TTL). It is answered when due."""

    peer: Peer
    message: Message
    known: set[KnownAnswer]
    due: float
    latest: float


class KnownAnswerQueries:
    """The queries that wait for more known answers."""

    def __init__(self, draw: DrawRandom) -> None:
        self._draw = draw
        self._waiting: dict[Peer, KnownAnswerQuery] = {}

    def add(self, message: Message, peer: Peer, now: float) -> list[KnownAnswerQuery]:
        """Adds a packet of a query. Returns the queries to answer now."""
        known = {(one.key, one.type, one.rdata) for one in message.answers if one.ttl * 2 >= TTL}  # section 7.1
        ready: list[KnownAnswerQuery] = []
        query = self._waiting.pop(peer, None)
        if message.questions:
            ready += [query] if query is not None else []
            query = KnownAnswerQuery(peer, message, known, now, now + LONGEST_WAIT)
        elif query is None:
            return []
        query.known |= known
        if message.flags & TRUNCATED:
            room = len(self._waiting) < MAX_WAITING and len(query.known) < MAX_KNOWN
            query.due = min(now + self._draw(0.4, 0.5), query.latest) if room else now
        if query.due > now:
            self._waiting[peer] = query
        else:
            ready.append(query)
        return ready

    def next_due(self) -> float | None:
        """Returns when the first of them is due."""
        return min((query.due for query in self._waiting.values()), default=None)

    def take_due(self, now: float) -> list[KnownAnswerQuery]:
        """Removes and returns the queries that are due."""
        return [self._waiting.pop(peer) for peer, query in list(self._waiting.items()) if query.due <= now]
