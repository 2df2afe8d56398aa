"""Whom a question goes to that our own zones do not answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from selectors import BaseSelector
from typing import Protocol

from vmdns.dns.forwarded_answer import Failure, Forwarded, Question
from vmdns.dns.message import Query
from vmdns.server.first_query import FirstTries
from vmdns.server.in_flight import Waiter
from vmdns.state.authoritative import Reply
from vmdns.state.link_lookups import State

# The response in so many bytes at most, once an upstream gave it.
Forward = Callable[[Query, int], Awaitable[bytes]]
# The same where it is known already.
Cached = Callable[[Query, int], bytes | None]
# The response where a reply of ours ends in an alias for a name of others.
Chase = Callable[[Query, Reply, bytes, int], Awaitable[bytes]]
# Waits until the peer with this address is known to be a guest, or for long enough.
Admit = Callable[[str], Awaitable[None]]
# What is known; else whether it was asked by the tries of the calling thread, and the waiter will be told.
Begin = Callable[[Question, Waiter, FirstTries], Forwarded | Failure | bool]


class LinkLookups(Protocol):
    """Lookups of `X.local` by multicast DNS on the host's links (mdns/transport.py has the details)."""

    def state(self, name: bytes, client: str) -> State: ...

    async def find(self, name: bytes, client: str) -> tuple[str, ...] | None: ...


@dataclass(slots=True)
class Others:
    """links looks up X.local on the host's links; there are no lookups where it is None. begin, tries (of a thread that
    waits in this way) and settle ask upstreams in the threads that receive datagrams; without them the event loop does
    it all."""

    forward: Forward
    cached: Cached
    chase: Chase
    admit: Admit
    links: LinkLookups | None = None
    begin: Begin | None = None
    tries: Callable[[BaseSelector], FirstTries | None] | None = None
    settle: Callable[[float], Awaitable[None]] | None = None
