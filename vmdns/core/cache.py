"""The cache of forwarded answers. Time is a monotonic clock's, in seconds, and comes in as an argument.

An answer past its TTL is kept for a day more and given only when it cannot be had anew (RFC 8767).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from vmdns.core import wire
from vmdns.core.forwarded import Forwarded, Question
from vmdns.core.limits import Limits

# RFC 8767 section 5: how long past its TTL an answer may still be given. One to three days are advised.
MOST_STALE = 86_400.0
MOST_FAILURES = 4096
# Entries differ in size, so their bytes are bounded too: cache_entries times this.
BYTES_AN_ENTRY = 2048
# What CPython takes beside the bytes of a record: the tuple, and the heads of two bytes objects.
_RECORD_OVERHEAD = 180
_ENTRY_OVERHEAD = 700
# Stands for the type under which an NXDOMAIN is kept: it holds for every type (RFC 2308 section 5, RFC 8020).
_EVERY_TYPE = -1


@dataclass(slots=True)
class _Entry:
    reply: Forwarded
    since: float
    size: int
    age: int
    aged: Forwarded


class Cache:
    """Replies by question, the least recently used out first; failures by question, for a short time."""

    def __init__(self, limits: Limits) -> None:
        self.hits = 0
        self.misses = 0
        self.size = 0
        self._limits = limits
        self._entries: OrderedDict[Question, _Entry] = OrderedDict()
        self._failures: OrderedDict[Question, tuple[float, tuple[int, str]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def configure(self, limits: Limits) -> None:
        """Puts other limits in force; entries over the new bounds go at once, longer TTLs as they come."""
        self._limits = limits
        self._shrink()

    def clear(self) -> None:
        """Forgets everything: the upstreams are others now, and may know other things."""
        self._entries.clear()
        self._failures.clear()
        self.size = 0

    def get(self, question: Question, now: float) -> Forwarded | None:
        """The reply with its TTLs counted down, or None where there is none that is still good."""
        for key in self._keys(question):
            entry = self._entries.get(key)
            if entry is not None:
                age = int(now - entry.since)
                if age < entry.reply.ttl:
                    self._entries.move_to_end(key)
                    return self._aged(entry, age)
        return None

    def stale(self, question: Question, now: float, why: str) -> Forwarded | None:
        """The newest reply past its time, TTL 30 and an Extended DNS Error with this text; None after a day."""
        found = [entry for key in self._keys(question) if (entry := self._entries.get(key)) is not None]
        last = max(found, key=lambda entry: entry.since, default=None)
        if last is None or now - last.since >= last.reply.ttl + MOST_STALE:
            return None
        return last.reply.stale(why)

    def has_stale(self, question: Question, now: float) -> bool:
        """Whether `stale` knows something."""
        return any(key in self._entries for key in self._keys(question)) and self.stale(question, now, "") is not None

    def put(self, question: Question, reply: Forwarded, now: float) -> None:
        """Keeps a reply in place of what was known; one of TTL 0 only ends what was known before."""
        for key in self._keys(question):
            self._drop(key)
        self._failures.pop(question, None)
        if reply.ttl <= 0:
            return
        if reply.rcode == wire.NXDOMAIN and not reply.answer:
            question = question._replace(type=_EVERY_TYPE)
        records = reply.answer + reply.authority
        size = _ENTRY_OVERHEAD + sum(len(one.owner) + len(one.rdata) + _RECORD_OVERHEAD for one in records)
        self._entries[question] = _Entry(reply, now, size, 0, reply)
        self.size += size
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
        """Remembers that no upstream had an answer (RFC 9520 section 3.2); a reply that was known stays."""
        self._failures.pop(question, None)
        self._failures[question] = (now + seconds, error)
        if len(self._failures) > MOST_FAILURES:
            self._failures.popitem(last=False)

    def forget_failures(self) -> None:
        """For when a server that was dead answers again."""
        self._failures.clear()

    @staticmethod
    def _keys(question: Question) -> Iterator[Question]:
        yield question
        yield question._replace(type=_EVERY_TYPE)

    @staticmethod
    def _aged(entry: _Entry, age: int) -> Forwarded:
        # Counted down once a second and entry, not once a query.
        if age != entry.age:
            entry.age, entry.aged = age, entry.reply.aged(age)
        return entry.aged

    def _drop(self, key: Question) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size -= entry.size

    def _shrink(self) -> None:
        most = self._limits.cache_entries
        while self._entries and (len(self._entries) > most or self.size > most * BYTES_AN_ENTRY):
            self.size -= self._entries.popitem(last=False)[1].size
