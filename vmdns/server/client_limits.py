"""Limits per client: queries from one address, bytes to addresses that are not verified, and forwarded queries.

Loopback is not limited. The host's other addresses, which guests of NAT share, are charged for uncached answers only. A
VM has limits of its own, by an address that it is known to have; all other addresses of a network share them, since a
host on a link can take any address there. A response to a client that is no guest has at most three times the bytes of
its query.

An address can be forged. So queries from verified clients, by TCP or by a cookie, have limits of their own for each
address: a flood in a client's name takes nothing from these.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address, ip_network

from vmdns.dns.limits import Limits
from vmdns.dns.query import strip_records
from vmdns.state.snapshot import Snapshot

# A cached answer costs 1, an uncached one UNCACHED more: it takes five to twenty times as long.
CACHED, UNCACHED = 1.0, 4.0
REFUSED_FORWARD = 20.0  # besides, for a query beyond the limit of forwards: SERVFAIL with its reason is expensive
QUERIES_PER_FORWARD = 25  # one query in this many may be forwarded: 200 of 5,000 a second
SLIP = 3  # one in SLIP queries beyond the rate gets an empty response with TC: a real client retries by TCP
MAX_SILENCED = 64  # dropped queries of one client, until the kernel is to drop them
MUTE_SECONDS = 0.2

# To an address that is not verified, beside three bytes for each received one (amplification by 3 gains an attacker
# nothing). Old musl knows no TCP, so a guest that is never verified gets some four long answers a second.
FACTOR = 3
ALLOWANCE = 2_000.0  # bytes a second
ALLOWANCE_BURST = 65_536.0  # bytes

MAX_USAGES = 4096  # some 600 bytes each: 2.5 MB
MAX_CLIENTS = 4096
MAX_VERIFIED = 4096  # some 200 bytes each: 0.8 MB
VERIFIED_SECONDS = 3600.0
VERIFIED_SHARE = 4  # a verified address that is no known guest's has a quarter of a guest's limits
STRANGERS_IPV4, STRANGERS_IPV6 = 24, 56  # bits of an address by which strangers share limits


class SendDecision(Enum):
    """What becomes of a response: sent whole, sent empty with TC, or dropped."""

    SEND, TRUNCATE, DROP = range(3)


class Bucket:
    """A number of tokens that refills: `rate` a second, up to `burst`. Times are in seconds; time that goes back counts
    as none."""

    __slots__ = ("_at", "burst", "rate", "tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self.tokens = burst
        self._at = now

    def refill(self, now: float, more: float = 0.0) -> float:
        """Adds the tokens of the time since the last call, and some more. Returns how many there are."""
        self.tokens = min(self.burst, self.tokens + max(0.0, now - self._at) * self.rate + more)
        self._at = now
        return self.tokens

    def take(self, now: float, amount: float) -> bool:
        """Takes that many tokens if there are enough. Returns whether it did."""
        if self.refill(now) < amount:
            return False
        self.tokens -= amount
        return True


class ClientUsage:
    """What one client, or all clients of a network, have used.

    rate is in cached answers a second. An address that is not verified gets at most 3 bytes for each byte that came
    from it, and ALLOWANCE_BURST + ALLOWANCE * t in t seconds besides.
    """

    __slots__ = ("_bytes", "_refused", "_truncated", "forwards", "in_flight", "muted_until", "network", "share", "work")

    def __init__(self, network: str, rate: float, share: int, now: float) -> None:
        self.network = network
        self.share = share  # its limits are a guest's, divided by this
        self.work = Bucket(rate, rate, now)
        self.forwards = Bucket(rate / QUERIES_PER_FORWARD, 2 * rate / QUERIES_PER_FORWARD, now)
        self.in_flight: deque[float] = deque()  # latest ends of its forwarded queries
        self.muted_until = 0.0
        self._bytes = Bucket(ALLOWANCE, ALLOWANCE_BURST, now)
        self._truncated = False
        self._refused = 0

    def admit(self, now: float) -> SendDecision:
        """Returns whether one more query is answered: SEND; else TRUNCATE for one in SLIP, and DROP."""
        if self.work.take(now, CACHED):
            return SendDecision.SEND
        self._refused += 1
        # While it is muted, the kernel has dropped two in three already.
        return SendDecision.TRUNCATE if now < self.muted_until or self._refused % SLIP == 0 else SendDecision.DROP

    def count_dropped(self, now: float, mute: Callable[[str], bool]) -> None:
        """Has the kernel mute the client for MUTE_SECONDS after MAX_SILENCED dropped queries. Its tokens do not refill
        in that time."""
        if self._refused % MAX_SILENCED == 0 and mute(self.network):
            self.muted_until = now + MUTE_SECONDS
            self.work.tokens -= self.work.rate * MUTE_SECONDS

    def release(self, now: float, received: int, sent: int) -> SendDecision:
        """Returns what becomes of a response of `sent` bytes to a query of `received`, for an address that is not
        verified.

        Beyond the allowance each second response is truncated, the first of them too: a client that knows TCP retries
        by TCP, and is verified then.
        """
        if self._bytes.refill(now, FACTOR * received) >= sent:
            self._bytes.tokens -= sent
            self._truncated = False
            return SendDecision.SEND
        self._truncated = not self._truncated
        if self._truncated:
            self._bytes.tokens -= received  # a truncated response is about as long as its query
            return SendDecision.TRUNCATE
        return SendDecision.DROP


@dataclass(slots=True)
class Client:
    """A client at one address. from_host: the host itself, or guests of NAT behind it; stranger: no guest of this host;
    unanswerable: an address that no response may go to; lookup_client: whose budget its multicast DNS lookups use."""

    usage: ClientUsage
    lookup_client: str
    peer: str
    from_host: bool
    stranger: bool
    unanswerable: bool


class ClientLimits:
    """The limits of all clients, in the UDP thread. current gives the current snapshot; now is a monotonic clock in
    seconds."""

    def __init__(
        self, current: Callable[[], Snapshot], limits: Limits, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits
        self._current = current
        self._now = now
        # Addresses whose owner has shown, by TCP or by a cookie, that responses reach it, and until when.
        self._verified: dict[str, float] = {}
        self._clients: dict[tuple[str, str, bool], Client | None] = {}
        self._usages: dict[str, ClientUsage] = {}

    def forget_clients(self) -> None:
        """Drops what a new snapshot may change about clients; what they used stays. Any thread may call this."""
        self._clients = {}

    def client(self, local: str, peer: str, verified: bool = False) -> Client | None:
        """Returns the client at `peer` that queries the host's address `local`; None where it is not limited. verified:
        whether the query came by TCP or with a valid cookie."""
        clients = self._clients  # before the lookup: what is found by an old snapshot goes with the dict
        try:
            return clients[local, peer, verified]
        except KeyError:
            if len(clients) >= MAX_CLIENTS:
                clients.clear()
            found = clients[local, peer, verified] = self._find(local, peer, verified)
            return found

    def client_key(self, peer: str) -> str:
        """Returns the address or network whose limits a client shares; '' where it is not limited. Any thread may call
        this."""
        try:
            address = ip_address(peer.partition("%")[0])
        except ValueError:
            return ""
        if address.is_loopback:
            return ""
        snapshot = self._current()
        if snapshot.host_networks.owns(peer) or snapshot.is_guest(peer):
            return peer
        bits = STRANGERS_IPV4 if address.version == 4 else STRANGERS_IPV6
        return str(ip_network(f"{address}/{bits}", strict=False))

    def _find(self, local: str, peer: str, verified: bool) -> Client | None:
        key = self.client_key(peer)
        if not key:
            return None
        snapshot = self._current()
        host = snapshot.host_networks
        from_host = host.owns(peer)
        stranger = not from_host and not snapshot.is_guest(peer) and host.is_trusted(local, peer) is not True
        address = ip_address(peer.partition("%")[0])
        place = host.place_of(peer, local)
        # A response to it would reach many hosts, or none.
        unanswerable = address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255"
        if place is not None and address.version == 4 and place.at.network.prefixlen < 31:
            unanswerable = unanswerable or address == place.at.network.broadcast_address
        if verified and not from_host:  # no other host can have an address of the host's
            usage = self._usage_of(f"{peer} verified", peer, 1 if key == peer else VERIFIED_SHARE)
        else:
            usage = self._usage_of(key, key, 1)
        # Verified queries of a VM have a budget of their own, so that a flood in its name leaves it its lookups.
        lookup_client = (snapshot.vm_at(peer) or key) + (" verified" if verified else "")
        return Client(usage, lookup_client, peer, from_host, stranger, unanswerable)

    def _usage_of(self, key: str, network: str, share: int) -> ClientUsage:
        rate = float(self.limits.asker_rate) / share
        found = self._usages.pop(key, None)
        if found is None or found.work.rate != rate:
            if len(self._usages) >= MAX_USAGES:
                del self._usages[next(iter(self._usages))]
            found = ClientUsage(network, rate, share, self._now())
        self._usages[key] = found
        return found

    # -- one query --------------------------------------------------------------------------------------------

    def admit(self, client: Client, port: int, mute: Callable[[str], bool]) -> SendDecision:
        """Returns whether a datagram of this client is answered. port is its source port: 0 can get no response.
        mute(network) has the kernel drop most datagrams from there."""
        if port == 0 or client.unanswerable:
            return SendDecision.DROP
        now = self._now()
        decision = client.usage.admit(now)
        if decision is not SendDecision.SEND:
            client.usage.count_dropped(now, mute)
        return decision

    def verify_address(self, peer: str) -> None:
        """Marks an address as verified for an hour. Drops the oldest where there are too many."""
        self._verified.pop(peer, None)
        if len(self._verified) >= MAX_VERIFIED:
            del self._verified[next(iter(self._verified))]
        self._verified[peer] = self._now() + VERIFIED_SECONDS

    def limit_response(self, client: Client | None, response: bytes, received: int) -> bytes:
        """Returns what is sent of a UDP response to a query of `received` bytes: all of it, a truncated one, or
        nothing."""
        if client is None or client.from_host or not response:
            return response
        now = self._now()
        if self._verified.get(client.peer, 0.0) > now:
            return response
        if client.stranger:
            decision = SendDecision.SEND if len(response) <= FACTOR * received else SendDecision.TRUNCATE
        else:
            decision = client.usage.release(now, received, len(response))
        if decision is SendDecision.SEND:
            return response
        return strip_records(response) if decision is SendDecision.TRUNCATE else b""

    # -- forwarded queries -------------------------------------------------------------------------------------

    def may_forward(self, client: Client | None) -> bool:
        """Whether a query of this client may be forwarded: not too often, and at most half of all pending ones."""
        if client is None:
            return True
        usage, now = client.usage, self._now()
        while usage.in_flight and usage.in_flight[0] < now:
            usage.in_flight.popleft()
        few = len(usage.in_flight) < max(1, self.limits.outstanding // 2 // usage.share)
        return few and usage.forwards.refill(now) >= 1

    def begin_forward(self, client: Client | None) -> None:
        """Counts a forwarded query."""
        if client is not None:
            client.usage.forwards.tokens -= 1
            client.usage.in_flight.append(self._now() + self.limits.query_timeout + 1)

    def end_forward(self, client: Client | None) -> None:
        """Ends one of the client's forwarded queries."""
        if client is not None and client.usage.in_flight:
            client.usage.in_flight.popleft()
