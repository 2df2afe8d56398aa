"""Who may cost how much: questions from one address, bytes to addresses that nobody has proven, questions for others.

Loopback is free of all of it. The host's other addresses, behind which are the guests of NAT, are counted by what takes
making. A VM is counted for itself, by an address that it is known to have; all others of a network together, since
whoever is on a link can have any address there. Who is no guest of ours gets three bytes for one at most.

Anybody may send in the name of an address. So questions whose sender is proven, by TCP or by a cookie, are counted by
themselves, for each address: a flood in somebody's name takes nothing from these.

Counters are changed by several threads without a lock: at worst a question goes uncounted.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from ipaddress import ip_address, ip_network

from vmdns.dns.limits import Limits
from vmdns.dns.truncation import cut, least_query
from vmdns.server.flood_filter import MUTE_SECONDS, Mute
from vmdns.server.rate_limit import IN_VAIN, MAKING, Account, Bucket, Verdict, to_stranger
from vmdns.state.snapshot import Snapshot

MOST_ACCOUNTS = 4096  # some 600 bytes each: 2.5 MB
MOST_ASKERS = 4096
MOST_VERIFIED = 4096  # some 200 bytes each: 0.8 MB
VERIFIED_SECONDS = 3600.0
STRANGERS_IPV4, STRANGERS_IPV6 = 24, 56  # bits of an address by which strangers are counted together
MOST_SILENCED = 64  # questions of one asker that are read in vain, until the kernel is told to drop them
PROVEN_SHARE = 4  # an address that is proven and no known guest's has a quarter of a guest's bounds to itself
MISSES = 25  # of so many questions one may be for others and not known: 200 of 5,000 a second


class Counted:
    """What one asker, or all of a network, costs."""

    __slots__ = ("account", "key", "misses", "muted_until", "share", "silenced", "under_way")

    def __init__(self, key: str, rate: float, share: int, now: float) -> None:
        self.key = key
        self.share = share  # of a guest's bounds it has one part of so many
        self.silenced = 0  # questions since it was last muted
        self.muted_until = 0.0
        self.account = Account(rate, now)
        self.misses = Bucket(rate / MISSES, 2 * rate / MISSES, now)
        self.under_way: deque[float] = deque()  # when those end at the latest that others were asked


class Asker:
    """Somebody at one address, asking at one of the host's. own: the host, or guests of NAT behind it; stranger: no
    guest of this host; silent: what no answer may be sent to. lookup_client: what its lookups by multicast DNS are
    counted by: one VM with all its addresses, or one network."""

    __slots__ = ("counted", "lookup_client", "own", "peer", "silent", "stranger")

    def __init__(
        self, counted: Counted, lookup_client: str, peer: str, *, own: bool, stranger: bool, silent: bool
    ) -> None:
        self.counted = counted
        self.lookup_client = lookup_client
        self.peer = peer
        self.own = own
        self.stranger = stranger
        self.silent = silent

    def charge(self) -> None:
        """Its question did not stand ready."""
        self.counted.account.work.charge(MAKING)

    def charge_in_vain(self) -> None:
        """It asked for others once too often: a flood of that is to end in silence soon."""
        self.counted.account.work.charge(IN_VAIN)


class VerifiedClients:
    """The addresses whose owner has shown, by TCP or a cookie of ours, that what is sent there reaches it; the one
    verified longest ago first. now is a monotonic clock in seconds."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def add(self, address: str, now: float) -> None:
        """Takes it for verified for an hour; the oldest is dropped where there are too many."""
        self._until.pop(address, None)
        while len(self._until) >= MOST_VERIFIED:
            self._until.pop(next(iter(self._until), ""), None)
        self._until[address] = now + VERIFIED_SECONDS

    def has(self, address: str, now: float) -> bool:
        """Whether it is verified."""
        return self._until.get(address, 0.0) > now

    def __len__(self) -> int:
        return len(self._until)


class Gate:
    """current gives the snapshot in force, limits the limits; now is a monotonic clock in seconds."""

    def __init__(
        self, current: Callable[[], Snapshot], limits: Callable[[], Limits], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._current = current
        self._limits = limits
        self._now = now
        self._verified = VerifiedClients()
        self._askers: dict[tuple[str, str, bool], Asker | None] = {}
        self._counted: dict[str, Counted] = {}

    def forget_askers(self) -> None:
        """Who is a guest may be otherwise from now on; what was used up stays used up."""
        self._askers = {}

    def asker(self, local: str, peer: str, proven: bool = False) -> Asker | None:
        """Who asks from `peer` at the host's address `local`; None for who is not counted. proven: whether the question
        came by TCP or with a cookie of ours."""
        askers = self._askers
        try:
            return askers[local, peer, proven]
        except KeyError:
            if len(askers) >= MOST_ASKERS:
                askers.clear()
            # Into what was there before it was looked up: if that is forgotten meanwhile, so is this.
            found = askers[local, peer, proven] = self._find(local, peer, proven)
            return found

    def key(self, local: str, peer: str) -> str:
        """What somebody is counted by: an address or a network; '' for who is not counted."""
        address = ip_address(peer.partition("%")[0])
        if address.is_loopback:
            return ""
        snapshot = self._current()
        if snapshot.ways.owns(peer) or snapshot.is_guest(peer):
            return peer
        bits = STRANGERS_IPV4 if address.version == 4 else STRANGERS_IPV6
        return str(ip_network(f"{address}/{bits}", strict=False))

    def _find(self, local: str, peer: str, proven: bool) -> Asker | None:
        try:
            key = self.key(local, peer)
        except ValueError:
            return None
        if not key:
            return None
        snapshot = self._current()
        own = snapshot.ways.owns(peer)
        stranger = not own and not snapshot.is_guest(peer) and snapshot.ways.trusted(local, peer) is not True
        address = ip_address(peer.partition("%")[0])
        place = snapshot.ways.place_of(peer, local)
        # One answer to it would be many, or would be for nobody (T13).
        silent = address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255"
        if place is not None and address.version == 4 and place.at.network.prefixlen < 31:
            silent = silent or address == place.at.network.broadcast_address
        if proven and not own:  # nobody else can have an address of the host's
            counted = self._count(f"{peer} proven", 1 if key == peer else PROVEN_SHARE)
        else:
            counted = self._count(key, 1)
        # Proven or not are two clients, so that what is sent in a VM's name leaves it its lookups.
        lookup_client = (snapshot.vm_at(peer) or key) + (" proven" if proven else "")
        return Asker(counted, lookup_client, peer, own=own, stranger=stranger, silent=silent)

    def _count(self, key: str, share: int) -> Counted:
        rate = float(self._limits().asker_rate) / share
        found = self._counted.pop(key, None)
        if found is None or found.account.work.rate != rate:
            while len(self._counted) >= MOST_ACCOUNTS:
                self._counted.pop(next(iter(self._counted), ""), None)
            found = Counted(key, rate, share, self._now())
        self._counted[key] = found
        return found

    # -- one question -----------------------------------------------------------------------------------------

    def admit(self, asker: Asker, port: int) -> Verdict:
        """Whether a datagram of this asker is answered: SEND; else CUT for one in three, and SILENCE. port is the one
        that it came from: 0 takes no answer."""
        if port == 0 or asker.silent:
            return Verdict.SILENCE
        now = self._now()
        verdict = asker.counted.account.admit(now)
        if verdict is Verdict.SILENCE and now < asker.counted.muted_until:
            return Verdict.CUT  # of what is sent, one in three comes through the kernel
        return verdict

    def floods(self, asker: Asker, mute: Mute) -> bool:
        """One more of its questions was too much: whether it is muted now, for a moment in which it gains nothing."""
        counted = asker.counted
        counted.silenced += 1
        if counted.silenced < MOST_SILENCED:
            return False
        counted.silenced = 0
        now = self._now()
        if not mute.add(counted.key, now):
            return False
        counted.muted_until = now + MUTE_SECONDS
        counted.account.work.charge(counted.account.work.rate * MUTE_SECONDS)
        return True

    def lift(self, mute: Mute) -> None:
        """Hears those again whose moment is over."""
        mute.lift(self._now())

    def prove(self, peer: str) -> None:
        """This address is its owner's."""
        self._verified.add(peer, self._now())

    def passes(self, asker: Asker | None, response: bytes, received: int = 0) -> bytes | None:
        """What is sent of a response, by UDP: it, a cut one, or nothing. received: the bytes of its query, 0 where
        that is not at hand any more; then as few as it must have had."""
        if asker is None or asker.own:
            return response
        now = self._now()
        if self._verified.has(asker.peer, now):
            return response
        received = received or least_query(response)
        if asker.stranger:
            verdict = to_stranger(received, len(response))
        else:
            verdict = asker.counted.account.release(now, received, len(response))
        if verdict is Verdict.SEND:
            return response
        return cut(response) if verdict is Verdict.CUT else None

    # -- questions for others ---------------------------------------------------------------------------------

    def may_miss(self, asker: Asker | None) -> bool:
        """Whether others may be asked for this asker: not too often, and not half of all that is under way."""
        if asker is None:
            return True
        counted, now = asker.counted, self._now()
        while counted.under_way and counted.under_way[0] < now:
            counted.under_way.popleft()
        few = len(counted.under_way) < max(1, self._limits().outstanding // 2 // counted.share)
        return few and counted.misses.level(now) >= 1

    def missed(self, asker: Asker | None) -> None:
        """Others were asked for this asker."""
        if asker is not None:
            asker.counted.misses.charge(1)
            asker.counted.under_way.append(self._now() + self._limits().query_timeout + 1)

    def met(self, asker: Asker | None) -> None:
        """One of those questions has its answer."""
        if asker is not None and asker.counted.under_way:
            asker.counted.under_way.popleft()
