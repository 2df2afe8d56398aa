"""The cache of forwarded answers. Time is a monotonic clock's, in seconds, and comes in as an argument.

An answer past its TTL is kept for a day more and given only when no upstream answers (RFC 8767).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from vmdns.dns import message
from vmdns.dns.forwarded_answer import Forwarded, Question
from vmdns.dns.limits import Limits

# RFC 8767 section 5: how long past its TTL an answer may still be given. One to three days are advised.
MOST_STALE = 86_400.0
MOST_FAILURES = 4096
# Entries differ in size, so their bytes are bounded too: cache_entries times this.
BYTES_AN_ENTRY = 2048
# What CPython takes beside the bytes of a record: the tuple, and the heads of two bytes objects.
_RECORD_OVERHEAD = 180
_ENTRY_OVERHEAD = 700
# The type under which an NXDOMAIN is cached: it is valid for every type (RFC 2308 section 5, RFC 8020).
_EVERY_TYPE = -1


_Key = tuple[bytes, int, bool, bool]  # a Question, or what is equal to one


@dataclass(slots=True)
class _CacheEntry:
    reply: Forwarded
    since: float
    size: int
    age: int
    aged: Forwarded


class ForwardedCache:
    """Replies by question, the least recently used out first; failures by question, for a short time."""

    def __init__(self, limits: Limits) -> None:
        self.hits = 0
        self.misses = 0
        self.size = 0
        self._most = limits.cache_entries
        self._entries: OrderedDict[_Key, _CacheEntry] = OrderedDict()
        self._failures: OrderedDict[Question, tuple[float, tuple[int, str]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def configure(self, limits: Limits) -> None:
        """Applies new limits; entries over the new bounds are removed at once, longer TTLs expire later."""
        self._most = limits.cache_entries
        self._shrink()

    def clear(self) -> None:
        """Removes all entries, when the upstreams have changed."""
        self._entries.clear()
        self._failures.clear()
        self.size = 0

    def get(self, question: Question, now: float) -> Forwarded | None:
        """The reply with its TTLs counted down; None if no entry is valid."""
        entries = self._entries
        for key in (question, (question[0], _EVERY_TYPE, question[2], question[3])):
            entry = entries.get(key)
            if entry is not None:
                age = int(now - entry.since)
                if age < entry.reply.ttl:
                    entries.move_to_end(key)
                    return self._aged(entry, age)
        return None

    def stale(self, question: Question, now: float, why: str) -> Forwarded | None:
        """The newest expired reply, with TTL 30 and an Extended DNS Error with this text; None after a day."""
        found = [entry for key in self._keys(question) if (entry := self._entries.get(key)) is not None]
        last = max(found, key=lambda entry: entry.since, default=None)
        if last is None or now - last.since >= last.reply.ttl + MOST_STALE:
            return None
        return last.reply.stale(why)

    def knows(self, question: Question) -> bool:
        """Whether there is an entry, expired or not."""
        entries = self._entries
        return question in entries or (question[0], _EVERY_TYPE, question[2], question[3]) in entries

    def put(self, question: Question, reply: Forwarded, now: float) -> None:
        """Caches a reply in place of the entry before; one of TTL 0 only removes that entry."""
        every = question[0], _EVERY_TYPE, question[2], question[3]
        self._drop(question)
        self._drop(every)
        if self._failures:
            self._failures.pop(question, None)
        if reply.ttl <= 0:
            return
        size = _ENTRY_OVERHEAD
        for one in reply.answer:
            size += len(one[0]) + len(one[3]) + _RECORD_OVERHEAD
        for one in reply.authority:
            size += len(one[0]) + len(one[3]) + _RECORD_OVERHEAD
        denied = reply.rcode == message.NXDOMAIN and not reply.answer
        self._entries[every if denied else question] = _CacheEntry(reply, now, size, 0, reply)
        self.size += size
        if len(self._entries) > self._most or self.size > self._most * BYTES_AN_ENTRY:
            self._shrink()

    def failure(self, question: Question, now: float) -> tuple[int, str] | None:
        """The Extended DNS Error of the last failure, while it is too early to try again (RFC 9520)."""
        found = self._failures.get(question)
        if found is None:
            return None
        if now >= found[0]:
            self._failures.pop(question, None)
            return None
        return found[1]

    def put_failure(self, question: Question, error: tuple[int, str], now: float, seconds: float) -> None:
        """Caches that no upstream had an answer (RFC 9520 section 3.2); a reply that was known stays."""
        self._failures.pop(question, None)
        self._failures[question] = (now + seconds, error)
        if len(self._failures) > MOST_FAILURES:
            self._failures.popitem(last=False)

    def forget_failures(self) -> None:
        """Removes the cached failures, when a server answers again."""
        self._failures.clear()

    @staticmethod
    def _keys(question: Question) -> Iterator[_Key]:
        yield question
        yield question[0], _EVERY_TYPE, question[2], question[3]

    @staticmethod
    def _aged(entry: _CacheEntry, age: int) -> Forwarded:
        # Counted down once a second and entry, not once a query.
        if age != entry.age:
            entry.age, entry.aged = age, entry.reply.aged(age)
        return entry.aged

    def _drop(self, key: _Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size -= entry.size

    def _shrink(self) -> None:
        most = self._most
        while self._entries and (len(self._entries) > most or self.size > most * BYTES_AN_ENTRY):
            self.size -= self._entries.popitem(last=False)[1].size
