"""Questions outside the local zones, their answers, and the encoding of those answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from vmdns.dns import message as wire
from vmdns.dns.query import EDE_INVALID_QUERY_TYPE, NOT_OFFERED_TYPES, NOT_QUERY_TYPES, Query, encode_response

# RFC 8914 section 4: the codes of Extended DNS Errors that forwarding gives.
EDE_OTHER = 0
EDE_STALE = 3
EDE_BLOCKED = 15
EDE_STALE_NXDOMAIN = 19
EDE_NOT_AUTHORITATIVE = 20
EDE_NO_REACHABLE_AUTHORITY = 22
EDE_NETWORK_ERROR = 23
_NO_DATA = NOT_QUERY_TYPES | NOT_OFFERED_TYPES
# RFC 8767 section 4: the TTL of a stale answer, in seconds.
STALE_TTL = 30


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
    """A rebuilt answer: NOERROR or NXDOMAIN with its records, and how many seconds it may be kept (0: not at all).

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
        return replace(
            self,
            answer=tuple(record._replace(ttl=max(record.ttl - seconds, 0)) for record in self.answer),
            authority=tuple(record._replace(ttl=max(record.ttl - seconds, 0)) for record in self.authority),
        )

    def stale(self, why: str) -> Forwarded:
        """The same as a stale answer, after its TTL (RFC 8767 section 4)."""
        return replace(
            self,
            answer=tuple(record._replace(ttl=STALE_TTL) for record in self.answer),
            authority=tuple(record._replace(ttl=STALE_TTL) for record in self.authority),
            authentic=False,
            error=(EDE_STALE_NXDOMAIN if self.rcode == wire.NXDOMAIN else EDE_STALE, why),
        )


class Failure(NamedTuple):
    """No answer: the rcode, and an Extended DNS Error with the reason."""

    rcode: int
    error: tuple[int, str]


def check_forwardable(query: Query) -> Failure | None:
    """The failure for a query that is never forwarded: meta types, other classes, and queries without RD.

    Without RD the cache is not used either: it would show what other clients have queried.
    """
    if query.cls == wire.IN and query.type in NOT_QUERY_TYPES:
        return Failure(wire.FORMERR, (EDE_INVALID_QUERY_TYPE, f"type {query.type} is not one to ask for"))
    if query.cls != wire.IN or query.type in _NO_DATA:
        return Failure(wire.REFUSED, (EDE_OTHER, "this class or type is not forwarded"))
    if not query.recursion_desired:
        return Failure(wire.REFUSED, (EDE_NOT_AUTHORITATIVE, "not ours, and recursion was not asked for"))
    return None


def encode_answer(query: Query, found: Forwarded | Failure, limit: int) -> bytes:
    """The response in at most `limit` bytes."""
    if isinstance(found, Failure):
        return encode_response(query, found.rcode, limit=limit, extended_error=found.error)
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
