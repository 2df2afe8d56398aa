"""Limits per client: queries from one address, bytes to addresses that are not verified, and forwarded queries.

Loopback is not limited. The host's other addresses, which guests of NAT share, are charged for uncached answers only. A
VM has limits of its own, by an address that it is known to have; all other addresses of a network share them, since a
host on a link can take any address there. A response to a client that is no guest has at most three times the bytes of
its query.

An address can be forged. So queries from verified clients, by TCP or by a cookie, have limits of their own for each
address: a flood in a client's name takes nothing from these.

Several threads change the counters without a lock: at worst a query is not counted.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from ipaddress import ip_address, ip_network

from vmdns.dns.limits import Limits
from vmdns.dns.query import minimum_query_size, strip_records
from vmdns.server.flood_filter import MUTE_SECONDS, FloodFilter
from vmdns.server.rate_limit import MAKING, REFUSED_FORWARD, Bucket, ClientAccount, SendDecision, to_stranger
from vmdns.state.snapshot import Snapshot

MOST_ACCOUNTS = 4096  # some 600 bytes each: 2.5 MB
MAX_CLIENTS = 4096
MOST_VERIFIED = 4096  # some 200 bytes each: 0.8 MB
VERIFIED_SECONDS = 3600.0
STRANGERS_IPV4, STRANGERS_IPV6 = 24, 56  # bits of an address by which strangers share limits
MOST_SILENCED = 64  # dropped queries of one client, until the kernel is to drop them
VERIFIED_SHARE = 4  # a verified address that is no known guest's has a quarter of a guest's limits
QUERIES_PER_FORWARD = 25  # one query in this many may be forwarded: 200 of 5,000 a second


class ClientUsage:
    """What one client, or all clients of a network, have used."""

    __slots__ = ("account", "forwards", "in_flight", "key", "muted_until", "share", "silenced")

    def __init__(self, key: str, rate: float, share: int, now: float) -> None:
        self.key = key
        self.share = share  # its limits are a guest's, divided by this
        self.silenced = 0  # dropped queries since it was last muted
        self.muted_until = 0.0
        self.account = ClientAccount(rate, now)
        self.forwards = Bucket(rate / QUERIES_PER_FORWARD, 2 * rate / QUERIES_PER_FORWARD, now)
        self.in_flight: deque[float] = deque()  # latest ends of its forwarded queries


class Client:
    """A client at one address, which queries one of the host's. from_host: the host itself, or guests of NAT behind it;
    stranger: no guest of this host; unanswerable: an address that no response may go to."""

    __slots__ = ("from_host", "lookup_client", "peer", "stranger", "unanswerable", "usage")

    def __init__(
        self, usage: ClientUsage, lookup_client: str, peer: str, *, from_host: bool, stranger: bool, unanswerable: bool
    ) -> None:
        self.usage = usage
        self.lookup_client = lookup_client
        self.peer = peer
        self.from_host = from_host
        self.stranger = stranger
        self.unanswerable = unanswerable

    def charge_uncached(self) -> None:
        """Charges a query whose answer was not cached."""
        self.usage.account.work.charge(MAKING)

    def charge_refused_forward(self) -> None:
        """Charges a query beyond the limit of forwards, so that a flood of them is dropped soon."""
        self.usage.account.work.charge(REFUSED_FORWARD)


class VerifiedClients:
    """Addresses whose owner has shown, by TCP or by a cookie, that responses reach it; oldest first. now is a monotonic
    clock in seconds."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def add(self, address: str, now: float) -> None:
        """Marks an address as verified for an hour. Drops the oldest where there are too many."""
        self._until.pop(address, None)
        while len(self._until) >= MOST_VERIFIED:
            self._until.pop(next(iter(self._until), ""), None)
        self._until[address] = now + VERIFIED_SECONDS

    def has(self, address: str, now: float) -> bool:
        """Whether an address is verified."""
        return self._until.get(address, 0.0) > now

    def __len__(self) -> int:
        return len(self._until)


class ClientLimits:
    """current gives the current snapshot, limits the limits; now is a monotonic clock in seconds."""

    def __init__(
        self, current: Callable[[], Snapshot], limits: Callable[[], Limits], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._current = current
        self._limits = limits
        self._now = now
        self._verified = VerifiedClients()
        self._clients: dict[tuple[str, str, bool], Client | None] = {}
        self._usages: dict[str, ClientUsage] = {}

    def forget_clients(self) -> None:
        """Drops what a new snapshot may change about clients; what they used stays."""
        self._clients = {}

    def client(self, local: str, peer: str, proven: bool = False) -> Client | None:
        """Returns the client at `peer` that queries the host's address `local`; None where it is not limited. proven:
        whether the query came by TCP or with a valid cookie."""
        clients = self._clients
        try:
            return clients[local, peer, proven]
        except KeyError:
            if len(clients) >= MAX_CLIENTS:
                clients.clear()
            # Into the dict that was there before the lookup: if it is replaced meanwhile, this entry goes with it.
            found = clients[local, peer, proven] = self._find(local, peer, proven)
            return found

    def client_key(self, local: str, peer: str) -> str:
        """Returns the address or network whose limits a client shares; '' where it is not limited."""
        address = ip_address(peer.partition("%")[0])
        if address.is_loopback:
            return ""
        snapshot = self._current()
        if snapshot.ways.owns(peer) or snapshot.is_guest(peer):
            return peer
        bits = STRANGERS_IPV4 if address.version == 4 else STRANGERS_IPV6
        return str(ip_network(f"{address}/{bits}", strict=False))

    def _find(self, local: str, peer: str, proven: bool) -> Client | None:
        try:
            key = self.client_key(local, peer)
        except ValueError:
            return None
        if not key:
            return None
        snapshot = self._current()
        from_host = snapshot.ways.owns(peer)
        stranger = not from_host and not snapshot.is_guest(peer) and snapshot.ways.is_trusted(local, peer) is not True
        address = ip_address(peer.partition("%")[0])
        place = snapshot.ways.place_of(peer, local)
        # A response to it would reach many hosts, or none.
        unanswerable = address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255"
        if place is not None and address.version == 4 and place.at.network.prefixlen < 31:
            unanswerable = unanswerable or address == place.at.network.broadcast_address
        if proven and not from_host:  # no other host can have an address of the host's
            usage = self._usage_of(f"{peer} proven", 1 if key == peer else VERIFIED_SHARE)
        else:
            usage = self._usage_of(key, 1)
        # Verified queries of a VM have a usage of their own, so that a flood in its name leaves it its lookups.
        lookup_client = (snapshot.vm_at(peer) or key) + (" proven" if proven else "")
        return Client(usage, lookup_client, peer, from_host=from_host, stranger=stranger, unanswerable=unanswerable)

    def _usage_of(self, key: str, share: int) -> ClientUsage:
        rate = float(self._limits().asker_rate) / share
        found = self._usages.pop(key, None)
        if found is None or found.account.work.rate != rate:
            while len(self._usages) >= MOST_ACCOUNTS:
                self._usages.pop(next(iter(self._usages), ""), None)
            found = ClientUsage(key, rate, share, self._now())
        self._usages[key] = found
        return found

    # -- one query --------------------------------------------------------------------------------------------

    def admit(self, client: Client, port: int) -> SendDecision:
        """Returns whether a datagram of this client is answered: SEND; else TRUNCATE for one in three, and DROP. port
        is its source port: 0 can get no response."""
        if port == 0 or client.unanswerable:
            return SendDecision.DROP
        now = self._now()
        verdict = client.usage.account.admit(now)
        if verdict is SendDecision.DROP and now < client.usage.muted_until:
            return SendDecision.TRUNCATE  # the kernel has dropped two in three already
        return verdict

    def mute_flood(self, client: Client, flood_filter: FloodFilter) -> bool:
        """Counts a dropped query. Returns whether the client is muted now, for MUTE_SECONDS in which its tokens do not
        refill."""
        usage = client.usage
        usage.silenced += 1
        if usage.silenced < MOST_SILENCED:
            return False
        usage.silenced = 0
        now = self._now()
        if not flood_filter.mute(usage.key, now):
            return False
        usage.muted_until = now + MUTE_SECONDS
        usage.account.work.charge(usage.account.work.rate * MUTE_SECONDS)
        return True

    def unmute(self, flood_filter: FloodFilter) -> None:
        """Unmutes the networks whose time is over."""
        flood_filter.unmute(self._now())

    def verify_address(self, peer: str) -> None:
        """Marks an address as verified."""
        self._verified.add(peer, self._now())

    def limit_response(self, client: Client | None, response: bytes, received: int = 0) -> bytes | None:
        """Returns what is sent of a UDP response: all of it, a truncated one, or None. received: the length of its
        query, 0 where it is not known any more; the shortest possible length is taken then."""
        if client is None or client.from_host:
            return response
        now = self._now()
        if self._verified.has(client.peer, now):
            return response
        received = received or minimum_query_size(response)
        if client.stranger:
            verdict = to_stranger(received, len(response))
        else:
            verdict = client.usage.account.release(now, received, len(response))
        if verdict is SendDecision.SEND:
            return response
        return strip_records(response) if verdict is SendDecision.TRUNCATE else None

    # -- forwarded queries -------------------------------------------------------------------------------------

    def may_forward(self, client: Client | None) -> bool:
        """Whether a query of this client may be forwarded: not too often, and at most half of all pending ones."""
        if client is None:
            return True
        usage, now = client.usage, self._now()
        while usage.in_flight and usage.in_flight[0] < now:
            usage.in_flight.popleft()
        few = len(usage.in_flight) < max(1, self._limits().outstanding // 2 // usage.share)
        return few and usage.forwards.level(now) >= 1

    def count_forward(self, client: Client | None) -> None:
        """Counts a forwarded query."""
        if client is not None:
            client.usage.forwards.charge(1)
            client.usage.in_flight.append(self._now() + self._limits().query_timeout + 1)

    def end_forward(self, client: Client | None) -> None:
        """Ends one of the client's forwarded queries."""
        if client is not None and client.usage.in_flight:
            client.usage.in_flight.popleft()
