"""Dependencies for names outside the local zones: forwarder, cache, mDNS querier."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from selectors import BaseSelector
from typing import Protocol

from vmdns.dns.forwarded_answer import Failure, Forwarded, Question
from vmdns.dns.query import Query
from vmdns.server.first_query import FirstQueries
from vmdns.server.in_flight import Waiter
from vmdns.state.authoritative import Reply
from vmdns.state.link_lookups import LookupState

# Gives the response in at most that many bytes, once an upstream has responded.
Forward = Callable[[Query, int], Awaitable[bytes]]
# Gives the response from the cache; None where there is none.
Cached = Callable[[Query, int], bytes | None]
# Completes a local reply that ends in an alias for an external name.
Chase = Callable[[Query, Reply, bytes, int], Awaitable[bytes]]
# Waits until the peer with this address is known to be a guest, or for long enough.
Admit = Callable[[str], Awaitable[None]]
# Gives a cached answer; else whether the calling thread sends a query, of whose result the waiter is notified.
Begin = Callable[[Question, Waiter, FirstQueries], Forwarded | Failure | bool]


class LinkLookups(Protocol):
    """Lookups of `X.local` by multicast DNS on the host's links (mdns/transport.py)."""

    def state(self, name: bytes, client: str) -> LookupState: ...

    async def find(self, name: bytes, client: str) -> tuple[str, ...] | None: ...


@dataclass(slots=True)
class ExternalNames:
    """links looks up X.local on the host's links; None turns that off. begin, first_queries (for a thread that waits
    with this selector) and settle send upstream queries from the UDP thread; without them the event loop does."""

    forward: Forward
    cached: Cached
    chase: Chase
    admit: Admit
    links: LinkLookups | None = None
    begin: Begin | None = None
    first_queries: Callable[[BaseSelector], FirstQueries | None] | None = None
    settle: Callable[[float], Awaitable[None]] | None = None
