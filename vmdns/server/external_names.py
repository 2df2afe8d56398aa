"""Dependencies for names outside the local zones: forwarder, cache, mDNS querier."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from vmdns.dns.forwarded_answer import Failure, Forwarded, Question
from vmdns.dns.query import Query
from vmdns.server.io_thread import IoThread
from vmdns.server.lookup import Waiter
from vmdns.state.authoritative import Reply
from vmdns.state.name_rules import LookupState

# Gives the response in at most that many bytes, once an upstream has responded.
Forward = Callable[[Query, int], Awaitable[bytes]]
# Gives the response from the cache; None where there is none.
Cached = Callable[[Query, int], bytes | None]
# Completes a local reply that ends in an alias for an external name.
Chase = Callable[[Query, Reply, bytes, int], Awaitable[bytes]]
# Waits until the peer with this address is known to be a guest, or for long enough.
Admit = Callable[[str], Awaitable[None]]
# Gives an answer that is known at once; else the waiter is called with it. For the UDP thread.
Find = Callable[[Question, Waiter], Forwarded | Failure | None]


class LinkLookups(Protocol):
    """Lookups of `X.local` by multicast DNS on the host's links (mdns/transport.py)."""

    def state(self, name: bytes, client: str) -> LookupState: ...

    async def find(self, name: bytes, client: str) -> tuple[str, ...] | None: ...


@dataclass(slots=True)
class ExternalNames:
    """links looks up X.local on the host's links; None turns that off. find, settle and thread are the forwarder's;
    without find the event loop forwards."""

    forward: Forward
    cached: Cached
    chase: Chase
    admit: Admit
    links: LinkLookups | None = None
    find: Find | None = None
    settle: Callable[[float], Awaitable[None]] | None = None
    thread: IoThread = field(default_factory=IoThread)
