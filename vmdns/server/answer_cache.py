"""Cache of encoded answers by view, replaced when a snapshot is published.

Common queries and responses have one length here, so that a batch of datagrams is looked up and laid out in one step
(tests/bench/authoritative.py). The key of a query is what follows its id, its name in lower case, padded with zero
bytes, and the length of the datagram. A packed response is its length with the id, room for the id, what follows the
id, and zero bytes. Longer ones are not padded.
"""

from __future__ import annotations

import math
import struct
import time

from vmdns.dns.query import Query
from vmdns.state.snapshot import AccessRight, Snapshot
from vmdns.state.views import View

QUERY = 60  # bytes of the longest datagram with a common key; 58 of them follow the id
KEY = QUERY - 2 + 4
SENT = 128  # bytes of a packed response of the common length, with its head
ID = 8  # where the id is in it
BODY = ID + 2
NO_RESPONSE = bytes(SENT)  # for a query that gets no response

MAX_ANSWERS = 50_000  # of all views together; some 330 bytes each: 16 MB
MAX_EXPIRING = 8_192  # of each lifetime
FORWARDED_SECONDS = 1.0  # TTLs of forwarded answers count down in seconds
# Negative answers to names that another host on a link may have. Absence is cached for a minute
# (mdns/querier.py).
ABSENT_SECONDS = 10.0

ClientView = tuple[View, AccessRight]
Answers = dict[bytes, bytes]  # packed responses by key

_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<Q2x")
_HEADS = [_HEAD.pack(2 + length) for length in range(SENT - BODY + 1)]


def make_key(packet: bytes) -> bytes:
    """Returns the key of a query."""
    length = len(packet)
    if length <= QUERY:
        return packet[2:].ljust(QUERY - 2, b"\0") + _LENGTH.pack(length)
    return packet[2:] + b"\xff"  # no common key ends so: the lengths in them are small


def pack(response: bytes) -> bytes:
    """Packs a response."""
    length = len(response) - 2
    if length <= SENT - BODY:
        return (_HEADS[length] + response[2:]).ljust(SENT, b"\0")
    return _HEAD.pack(2 + length) + response[2:]


def unpack(packed: bytes, ident: bytes) -> bytes:
    """Returns a packed response with this id."""
    return ident + packed[BODY : ID + int.from_bytes(packed[:ID], "little")]


def find(answers: Answers, packet: bytes) -> bytes | None:
    """Returns the cached response to a query, whatever the case of its name."""
    key = make_key(packet)
    found = answers.get(key) or find_other_case(answers, key)
    return None if found is None else unpack(found, packet[:2])


def find_other_case(answers: Answers, key: bytes) -> bytes | None:
    """Returns the packed response under the key in lower case, with the name as it was asked.

    Only the name is lowered: a type (65, HTTPS) may be a letter as well. A zero byte inside a label ends the name too
    early, which makes no other valid query's key: length bytes are no letters.
    """
    end = key.find(0, 10)
    name = key[10:end]
    found = answers.get(key[:10] + name.lower() + key[end:])
    return None if found is None else found[: BODY + 10] + name + found[BODY + end :]


class AnswerCache:
    """Used in the UDP thread, except for `publish` and `drop_absent`, which other threads may call: each is one
    assignment."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._views: dict[ClientView, Answers] = {}
        self._count = 0
        self._expiring: dict[float, list[tuple[Answers, bytes]]] = {FORWARDED_SECONDS: [], ABSENT_SECONDS: []}
        self._due = {FORWARDED_SECONDS: 0.0, ABSENT_SECONDS: 0.0}
        self.next_expiry = 0.0

    def view(self, client_view: ClientView) -> Answers:
        """Returns the cached answers for one view."""
        return self._views.setdefault(client_view, {})

    def store(
        self,
        client_view: ClientView,
        snapshot: Snapshot,
        query: Query,
        packet: bytes,
        response: bytes,
        seconds: float = math.inf,
    ) -> None:
        """Stores an answer from this snapshot: until the next one, or for FORWARDED_SECONDS or ABSENT_SECONDS."""
        answers = self.view(client_view)  # first: what is published meanwhile replaces it
        if snapshot is not self._snapshot:
            return
        end = 12 + len(query.key)
        key = make_key(packet[:12] + query.key + packet[end:])
        if seconds < math.inf:
            entries = self._expiring[seconds]
            if len(entries) >= MAX_EXPIRING:
                return
            entries.append((answers, key))
        elif key not in answers:
            if self._count >= MAX_ANSWERS:
                for one in self._views.values():
                    one.clear()
                self._count = 0
            self._count += 1
        answers[key] = pack(response[:12] + query.key + response[end:])

    def drop_absent(self) -> None:
        """Has names that were absent from the links dropped before the next lookup, as they may exist now."""
        self._due[ABSENT_SECONDS] = self.next_expiry = 0.0

    def expire(self) -> None:
        """Drops expired answers. To be called before the cache is used."""
        now = time.monotonic()
        if now < self.next_expiry:
            return
        self.next_expiry = now + FORWARDED_SECONDS
        for seconds, entries in self._expiring.items():
            if now >= self._due[seconds]:
                self._due[seconds] = now + seconds
                for answers, key in entries:
                    answers.pop(key, None)
                entries.clear()

    def publish(self, snapshot: Snapshot) -> None:
        """Replaces the cache for a new snapshot."""
        self._snapshot, self._views, self._count = snapshot, {}, 0
