"""A question that is not ours, and what is passed on as its answer: both are values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from vmdns.core import wire

# RFC 8914 section 4: the codes of Extended DNS Errors that forwarding gives.
EDE_STALE = 3
EDE_BLOCKED = 15
EDE_STALE_NXDOMAIN = 19
EDE_NO_REACHABLE_AUTHORITY = 22
EDE_NETWORK_ERROR = 23
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
    def of(cls, query: wire.Query) -> Question:
        return cls(query.key, query.type, query.dnssec_ok, query.checking_disabled)


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A rebuilt answer: NOERROR or NXDOMAIN with its records, and how many seconds it may be kept (0: not at all).

    error is an Extended DNS Error to tell with it (RFC 8914): a code and a text.
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
        """The same, given past its time because it could not be had anew (RFC 8767 section 4)."""
        return replace(
            self,
            answer=tuple(record._replace(ttl=STALE_TTL) for record in self.answer),
            authority=tuple(record._replace(ttl=STALE_TTL) for record in self.authority),
            authentic=False,
            error=(EDE_STALE_NXDOMAIN if self.rcode == wire.NXDOMAIN else EDE_STALE, why),
        )
