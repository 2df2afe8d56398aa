"""Queries of multicast DNS whose known answers come in several packets (RFC 6762 section 7.2)."""

from __future__ import annotations

from dataclasses import dataclass

from vmdns.dns.mdns_message import MdnsMessage, ReceivedRecord
from vmdns.mdns.name_state import TTL, Lots

LONGEST_WAIT = 2.0
MOST_WAITING, MOST_KNOWN = 64, 4096  # askers who are waited for, and how many known answers of each

Peer = tuple[str, int]


@dataclass(slots=True)
class Asked:
    """A query, and the records that its asker knows already (their TTL left out). It is answered when due."""

    peer: Peer
    message: MdnsMessage
    known: set[ReceivedRecord]
    due: float
    latest: float


class Asking:
    """The queries that are not to be answered yet."""

    def __init__(self, lots: Lots) -> None:
        self._lots = lots
        self._waiting: dict[Peer, Asked] = {}

    def join(self, message: MdnsMessage, peer: Peer, now: float) -> list[Asked]:
        """A packet that is no response; returns what is to be answered now."""
        known = {one._replace(ttl=0) for one in message.answers if one.ttl * 2 >= TTL}  # section 7.1
        ready: list[Asked] = []
        asked = self._waiting.pop(peer, None)
        if message.questions:
            ready += [asked] if asked is not None else []
            asked = Asked(peer, message, known, now, now + LONGEST_WAIT)
        elif asked is None:
            return []
        asked.known |= known
        if message.truncated:
            room = len(self._waiting) < MOST_WAITING and len(asked.known) < MOST_KNOWN
            asked.due = min(now + self._lots(0.4, 0.5), asked.latest) if room else now
        if asked.due > now:
            self._waiting[peer] = asked
        else:
            ready.append(asked)
        return ready

    def due(self) -> float | None:
        """When the first of them is to be answered."""
        return min((asked.due for asked in self._waiting.values()), default=None)

    def ripe(self, now: float) -> list[Asked]:
        """Those that are to be answered now, once."""
        return [self._waiting.pop(peer) for peer, asked in list(self._waiting.items()) if asked.due <= now]
