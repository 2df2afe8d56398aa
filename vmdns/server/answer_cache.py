"""Cache of encoded answers, cleared when a snapshot is published.

Keys and answers have the form of `packed_answers`; the name in a key is in lower case.
"""

from __future__ import annotations

import threading
import time

from vmdns.server.packed_answers import BODY, key_of, packed, unpacked
from vmdns.state.snapshot import AccessRight, Snapshot
from vmdns.state.views import View

MOST_ANSWERS = 50_000  # of all views together; some 330 bytes each: 16 MB
MOST_FORWARDED = 8_192
MOST_VIEWS = 1024  # unknown clients add no views, but interfaces come and go
FORWARDED_SECONDS = 1.0  # TTLs of forwarded answers count down in seconds
# Negative answers to names that another host on a link may have. Absence is cached for a minute
# (mdns/querier.py).
ABSENT_SECONDS = 10.0

ClientView = tuple[View, AccessRight]
_Entries = list[tuple[dict[bytes, bytes], bytes]]


class Answers:
    """The cached answers for one view, by key."""

    __slots__ = ("by_key",)

    def __init__(self) -> None:
        self.by_key: dict[bytes, bytes] = {}

    def find_other_case(self, key: bytes) -> bytes | None:
        """Returns the answer under the key in lower case, if that differs; the question is echoed as it was asked.

        Only the name is lowered: a type (65, HTTPS) may be a letter as well. A zero byte inside a label ends the name
        too early, which makes no other valid query's key: length bytes are no letters.
        """
        end = key.find(0, 10)
        name = key[10:end]
        lower = name.lower()
        if lower == name:
            return None
        answer = self.by_key.get(key[:10] + lower + key[end:])
        return None if answer is None else answer[: BODY + 10] + name + answer[BODY + end :]

    def find(self, query: bytes) -> bytes | None:
        """Returns the packed answer to a query (without its id), whatever the case of its name."""
        key = key_of(query)
        return self.by_key.get(key) or self.find_other_case(key)


class AnswerCache:
    """Cached answers for all views. The UDP thread reads them without a lock; changes are made under one.

    Each view has one `Answers` object. Publishing a snapshot clears everything; forwarded answers expire after a
    second, and names that no host on a link has after ten.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._views: dict[ClientView, Answers] = {}
        self._forwarded: _Entries = []
        self._absent: _Entries = []
        self._absent_until = 0.0
        self._count = 0
        self._snapshot: Snapshot | None = None
        self.next_second = 0.0

    def view(self, view: ClientView) -> Answers:
        """Returns the cached answers for one view."""
        found = self._views.get(view)
        if found is None:
            with self._lock:
                if len(self._views) >= MOST_VIEWS:
                    self._clear()
                    self._views.clear()
                found = self._views.setdefault(view, Answers())
        return found

    def store(self, view: ClientView, snapshot: Snapshot, query: bytes, response: bytes) -> None:
        """Stores an answer from this snapshot. Query and response without ids, the name in them in lower case."""
        answers, key, answer = self.view(view), key_of(query), packed(response)
        with self._lock:
            if snapshot is not self._snapshot or key in answers.by_key:
                return
            if self._count >= MOST_ANSWERS:
                self._clear()
            answers.by_key[key] = answer
            self._count += 1

    def store_forwarded(self, view: ClientView, query: bytes, response: bytes) -> None:
        """Stores a forwarded answer until the second is over."""
        answers, key, answer = self.view(view), key_of(query), packed(response)
        with self._lock:
            if len(self._forwarded) < MOST_FORWARDED:
                answers.by_key[key] = answer
                self._forwarded.append((answers.by_key, key))

    def store_absent(self, view: ClientView, snapshot: Snapshot, query: bytes, response: bytes) -> None:
        """Stores that no host on a link has a name, which no VM has in this snapshot."""
        answers, key, answer = self.view(view), key_of(query), packed(response)
        with self._lock:
            if snapshot is self._snapshot and len(self._absent) < MOST_FORWARDED:
                answers.by_key[key] = answer
                self._absent.append((answers.by_key, key))

    def drop_absent(self) -> None:
        """Drops names that were absent from the links, where they may exist now. Any thread may call this."""
        with self._lock:
            _drop(self._absent)

    def tick(self) -> None:
        """Drops expired answers. To be called before the cache is used."""
        now = time.monotonic()
        if now >= self.next_second:
            self.expire(now)

    def expire(self, now: float) -> None:
        """Drops the forwarded answers of the second before, and absent names every ten. now is of time.monotonic."""
        self.next_second = now + FORWARDED_SECONDS
        if now >= self._absent_until:
            self._absent_until = now + ABSENT_SECONDS
            self.drop_absent()
        if self._forwarded:
            with self._lock:
                _drop(self._forwarded)

    def publish(self, snapshot: Snapshot) -> None:
        """Clears the cache for a new snapshot."""
        with self._lock:
            self._snapshot = snapshot
            self._clear()

    def _clear(self) -> None:
        for answers in self._views.values():
            answers.by_key = {}
        self._forwarded.clear()
        self._absent.clear()
        self._count = 0


def _drop(entries: _Entries) -> None:
    for answers, key in entries:
        answers.pop(key, None)
    entries.clear()


def find(answers: Answers, packet: bytes) -> bytes | None:
    """Returns the cached answer (without its id) to a packet, whatever the case of its name."""
    found = answers.find(packet[2:])
    return None if found is None else unpacked(found)
