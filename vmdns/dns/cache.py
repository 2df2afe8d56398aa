"""The cache of forwarded answers. Time is a monotonic clock's, in seconds, and comes in as an argument.

An answer past its TTL is kept for a day more and given only when no upstream answers (RFC 8767).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from vmdns.dns import message
from vmdns.dns.forwarded_answer import Forwarded, Question
from vmdns.dns.limits import Limits

# RFC 8767 section 5: how long past its TTL an answer may still be given. One to three days are advised.
MAX_STALE = 86_400.0
MAX_FAILURES = 4096
# Entries differ in size, so their bytes are bounded too: cache_entries times this.
BYTES_AN_ENTRY = 2048
# What CPython takes beside the bytes of a record: the tuple, and the heads of two bytes objects.
_RECORD_OVERHEAD = 180
_ENTRY_OVERHEAD = 700
# The type under which an NXDOMAIN is cached: it is valid for every type (RFC 2308 section 5, RFC 8020).
_EVERY_TYPE = -1

_Key = tuple[bytes, int, bool, bool]  # a Question, or what is equal to one


class _CacheEntry(NamedTuple):
    reply: Forwarded
    since: float
    size: int


class ForwardedCache:
    """Replies by question, the oldest out first; failures by question, for a short time.

    One thread changes it; any thread may call `get` and `failure`.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.size = 0
        self._entries: OrderedDict[_Key, _CacheEntry] = OrderedDict()
        self._failures: OrderedDict[Question, tuple[float, tuple[int, str]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, question: Question, now: float) -> Forwarded | None:
        """The reply with its TTLs counted down; None if no entry is valid."""
        for key in (question, (question[0], _EVERY_TYPE, question[2], question[3])):
            entry = self._entries.get(key)
            if entry is not None:
                age = int(now - entry.since)
                if age < entry.reply.ttl:
                    return entry.reply.aged(age) if age else entry.reply
        return None

    def stale(self, question: Question, now: float, why: str) -> Forwarded | None:
        """The newest expired reply, with TTL 30 and an Extended DNS Error with this text; None after a day."""
        entries = self._entries
        found = [entries[key] for key in (question, _every_type(question)) if key in entries]
        last = max(found, key=lambda entry: entry.since, default=None)
        if last is None or now - last.since >= last.reply.ttl + MAX_STALE:
            return None
        return last.reply.stale(why)

    def put(self, question: Question, reply: Forwarded, now: float) -> None:
        """Caches a reply in place of the entry before; one of TTL 0 only removes that entry."""
        every = _every_type(question)
        for key in (question, every):
            entry = self._entries.pop(key, None)
            if entry is not None:
                self.size -= entry.size
        self._failures.pop(question, None)
        if reply.ttl <= 0:
            return
        size = _ENTRY_OVERHEAD
        for section in (reply.answer, reply.authority):
            for record in section:
                size += len(record[0]) + len(record[3]) + _RECORD_OVERHEAD
        denied = reply.rcode == message.NXDOMAIN and not reply.answer
        self._entries[every if denied else question] = _CacheEntry(reply, now, size)
        self.size += size
        limit = self.limits.cache_entries
        while self._entries and (len(self._entries) > limit or self.size > limit * BYTES_AN_ENTRY):
            self.size -= self._entries.popitem(last=False)[1].size

    def failure(self, question: Question, now: float) -> tuple[int, str] | None:
        """The Extended DNS Error of the last failure, while it is too early to try again (RFC 9520)."""
        until, error = self._failures.get(question, (now, None))
        return error if now < until else None

    def put_failure(self, question: Question, error: tuple[int, str], now: float, seconds: float) -> None:
        """Caches that no upstream had an answer (RFC 9520 section 3.2); a reply that was known stays."""
        self._failures.pop(question, None)
        self._failures[question] = (now + seconds, error)
        if len(self._failures) > MAX_FAILURES:
            self._failures.popitem(last=False)

    def forget_failures(self) -> None:
        """Removes the cached failures, when a server answers again."""
        self._failures.clear()


def _every_type(question: Question) -> _Key:
    return question[0], _EVERY_TYPE, question[2], question[3]
