"""Questions outside the local zones, their answers, and the cache of those.

Time is a monotonic clock's, in seconds, and comes in as an argument. An answer past its TTL is kept for a day more and
given only when no upstream answers (RFC 8767).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from vmdns.dns import message as wire
from vmdns.dns.limits import Limits
from vmdns.dns.query import NOT_OFFERED_TYPES, NOT_QUERY_TYPES, Query, encode_response

_NO_DATA = NOT_QUERY_TYPES | NOT_OFFERED_TYPES
# RFC 8767 section 4: the TTL of a stale answer, in seconds.
STALE_TTL = 30
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


class Question(NamedTuple):
    """What is asked of an upstream: two queries with an equal Question get the same answer.

    name is in wire form and lower case. DO and CD belong to it, since they change what comes back
    (RFC 4035 section 3.2); nothing else of a query does, no client subnet above all (RFC 7871 section 11.1).
    """

    name: bytes
    type: int
    dnssec_ok: bool
    checking_disabled: bool

    @classmethod
    def of(cls, query: Query) -> Question:
        return cls(query.key, query.type, query.dnssec_ok, query.checking_disabled)


@dataclass(slots=True)  # not frozen, which would take three times as long to make; nobody changes one
class Forwarded:
    """A rebuilt answer, NOERROR or NXDOMAIN with its records, or a failure; and how many seconds it may be kept (0: not
    at all).

    error is an Extended DNS Error to send with it (RFC 8914): a code and a text.
    """

    rcode: int
    answer: tuple[wire.Record, ...] = ()
    authority: tuple[wire.Record, ...] = ()
    ttl: int = 0
    authentic: bool = False
    error: tuple[int, str] | None = None

    def aged(self, seconds: int) -> Forwarded:
        """The same, that many seconds later (RFC 1035 section 7.3, RFC 2308 section 5)."""
        return self._with_ttls(lambda ttl: max(ttl - seconds, 0))

    def stale(self, why: str) -> Forwarded:
        """The same as a stale answer, after its TTL (RFC 8767 section 4)."""
        error = wire.EDE_STALE_NXDOMAIN if self.rcode == wire.NXDOMAIN else wire.EDE_STALE, why
        return replace(self._with_ttls(lambda ttl: STALE_TTL), authentic=False, error=error)

    def _with_ttls(self, change: Callable[[int], int]) -> Forwarded:
        answer, authority = (
            tuple(record._replace(ttl=change(record.ttl)) for record in section)
            for section in (self.answer, self.authority)
        )
        return replace(self, answer=answer, authority=authority)


def check_forwardable(query: Query) -> Forwarded | None:
    """The failure for a query that is never forwarded: meta types, other classes, and queries without RD.

    Without RD the cache is not used either: it would show what other clients have queried.
    """
    if query.cls == wire.IN and query.type in NOT_QUERY_TYPES:
        return Forwarded(wire.FORMERR, error=(wire.EDE_INVALID_QUERY_TYPE, f"type {query.type} is not one to ask for"))
    if query.cls != wire.IN or query.type in _NO_DATA:
        return Forwarded(wire.REFUSED, error=(wire.EDE_OTHER, "this class or type is not forwarded"))
    if not query.recursion_desired:
        return Forwarded(wire.REFUSED, error=(wire.EDE_NOT_AUTHORITATIVE, "not ours, and recursion was not asked for"))
    return None


def encode_answer(query: Query, found: Forwarded, limit: int) -> bytes:
    """The response in at most `limit` bytes."""
    # RFC 6840 section 5.8: AD is for those who asked for it, by AD or by DO.
    wants_ad = bool(query.flags & 0x0020) or query.dnssec_ok
    return encode_response(
        query,
        found.rcode,
        limit=limit,
        authentic=found.authentic and wants_ad,
        answer=found.answer,
        authority=found.authority,
        extended_error=found.error,
    )


_Key = tuple[bytes, int, bool, bool]  # a Question, or what is equal to one


class _CacheEntry(NamedTuple):
    reply: Forwarded
    since: float
    size: int


class ForwardedCache:
    """Replies by question, the oldest out first; failures by question, for a short time.

    One thread changes it; any thread may call `get` and `failure`. config: what the replies depend on.
    """

    def __init__(self, limits: Limits, config: object = None) -> None:
        self.limits = limits
        self.config = config
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
        denied = reply.rcode == wire.NXDOMAIN and not reply.answer
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
