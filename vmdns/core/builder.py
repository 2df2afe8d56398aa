"""Snapshots one after the other: a change costs as much as the names that it touches.

A `Builder` holds the facts and what was made of them. What it makes after any sequence of changes is what a new one
makes of the facts that are left: `build` is that.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from vmdns.core.address import ADDITIONS, FORWARD, NEIGHBOUR, addresses, given
from vmdns.core.common import Common, common, names_above
from vmdns.core.doubles import double
from vmdns.core.forward_hint import forward_hints
from vmdns.core.hosts import Hosts, digest
from vmdns.core.layers import Layers
from vmdns.core.model import Fact, HostName, Lease, Machine, NatNetwork, Neighbour, Network, PortForward
from vmdns.core.name import from_labels
from vmdns.core.naming import Naming, Relative, assign
from vmdns.core.networks import Networks, Owner, file_key, index
from vmdns.core.policy import Policy
from vmdns.core.problem import Problem
from vmdns.core.reach import rules
from vmdns.core.snapshot import Guest, Snapshot, numbered
from vmdns.core.view import Ways, ways
from vmdns.core.wire import AAAA, CNAME, PTR, A, soa_rdata
from vmdns.core.zones import reverse_name

# SOA timers (RFC 1035 section 3.3.13, values of RFC 6303 section 3); nothing transfers these zones.
_REFRESH, _RETRY, _EXPIRE = 3600, 1200, 604_800
_CLAIMED = (ADDITIONS, NEIGHBOUR, FORWARD)
_SINGLE = (Machine, HostName, Lease, Neighbour)  # facts of which there are many
_ENDED = 64  # so many ends of leases may be of no use, or as many as there are VMs
_MANY = 10_000  # names that are answered otherwise: to forget all answers is quicker than those
_AT_HAND = 1024  # VMs whose names are kept in wire form: a change needs them four times

Moved = tuple[Guest | None, Guest | None]
Place = tuple[str, str]  # a network's name for DHCP, and an address


@dataclass(frozen=True)
class Built:
    """A snapshot, and what is different in it: the names (wire) that are answered otherwise, None where it may be any;
    the VMs that answer otherwise, before and after, by UUID; how many VMs are other ones in whatever way."""

    snapshot: Snapshot
    names: frozenset[bytes] | None
    moved: Mapping[str, Moved] = field(default_factory=dict)
    others: int = 0


class Builder:
    """The facts by their keys, and the snapshot that they mean.

    hosts is the hosts file, digested for the policy; None where its lines are among the facts.
    """

    def __init__(self, policy: Policy, hosts: Hosts | None = None, like: Builder | None = None) -> None:
        """like: one before this, whose common nodes are taken where they must be the same."""
        self._policy = policy
        self._hosts = hosts
        self._facts: dict[object, Fact] = {}
        self._whole = True
        self._digested = Hosts()
        self._soa = b""
        self._machines: dict[str, Machine] = {}
        self._touched: set[str] = set()
        self._macs: set[str] = set()
        self._claimed: set[str] = set()  # addresses that the host or DHCP has elsewhere now
        self._common = Common()
        self._networks = Networks()
        self._like: Common | None = None
        if like is not None and not like._whole and like.fits(policy) and hosts is like._digested:
            self._like = like._common
        self._clear()

    def _clear(self) -> None:
        self._ways = Ways()
        self._seen_anew = True  # whether the ways are to be made anew
        self._changed: frozenset[bytes] | None = None
        self._moved: dict[str, Moved] = {}
        self._others = 0
        self._bridged: Counter[Network] = Counter()
        self._forwards: dict[str, tuple[PortForward, ...]] = {}
        self._naming = Naming({}, ())
        self._named: dict[str, object] = {}  # by UUID: what of a VM decides names
        self._attached: dict[str, _Attached] = {}
        self._by_mac: dict[str, tuple[str, ...]] = {}
        self._givers: dict[Place, tuple[tuple[str, str], ...]] = {}  # by UUIDs, with their MACs
        self._claimants: dict[str, tuple[str, ...]] = {}
        self._ends: list[tuple[float, str]] = []
        self._guests: Layers[str, Guest] = Layers()
        self._refused: dict[str, tuple[Problem, ...]] = {}
        self._refusals: tuple[str, ...] | None = ()
        self._doubles: dict[bytes, Problem] = {}
        self._owned: Layers[bytes, str] = Layers()
        self._pointers: Layers[bytes, tuple[tuple[str, str], ...]] = Layers()
        self._above: Layers[bytes, int] = Layers()
        self._absent: Layers[bytes, str] = Layers()

    # -- changes ----------------------------------------------------------------------------------------------

    def put(self, key: object, fact: Fact | None) -> None:
        """The fact under this key from now on; None takes it away. Not while steps are under way."""
        old = self._facts.get(key)
        if old == fact:
            return
        if fact is None:
            del self._facts[key]
        else:
            self._facts[key] = fact
        for one, held in ((old, False), (fact, True)):
            match one:
                case None:
                    pass
                case Machine():
                    self._touched.add(one.uuid)
                    if held:
                        self._machines[one.uuid] = one
                    elif self._machines.get(one.uuid) is one:  # it may stand under another key already
                        del self._machines[one.uuid]
                case Lease() | Neighbour():
                    self._macs.add(one.mac)
                    self._claimed.add(one.address)
                    self._index(one, held)
                case _:
                    self._whole = True

    def configure(self, policy: Policy) -> None:
        """Another policy from now on. Not while steps are under way."""
        if not self.fits(policy):
            self._whole = True
        self._seen_anew = self._seen_anew or policy.resolvers != self._policy.resolvers
        self._policy = policy

    def put_hosts(self, hosts: Hosts) -> None:
        """The hosts file, digested for the policy in force. Not while steps are under way."""
        self._hosts = hosts
        self._whole = True

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

    @property
    def hosts(self) -> Hosts | None:
        """The hosts file in force; None where its lines are among the facts."""
        return self._hosts

    @property
    def facts(self) -> dict[object, Fact]:
        """The facts by their keys, as they are now."""
        return self._facts.copy()

    def fits(self, policy: Policy) -> bool:
        """Whether another policy changes nothing that was made of VMs."""
        same = ("zones", "ttl", "records", "reserved_allowed", "forwarded")
        return all(getattr(policy, one) == getattr(self._policy, one) for one in same)

    def is_whole(self, now: float) -> bool:
        """Whether all must be made anew: networks, records or the hosts file changed, or the clock went back."""
        return self._whole or now < self._networks.now

    def _index(self, fact: Lease | Neighbour, held: bool) -> None:
        if isinstance(fact, Lease):
            key = file_key(fact.network), fact.mac
            leases = self._networks.leases.setdefault(key, [])
            if held:
                leases.append(fact)
            else:
                leases.remove(fact)
                if not leases:
                    del self._networks.leases[key]
            return
        neighbours = self._networks.neighbours.setdefault(fact.mac, [])
        if held:
            neighbours.append(fact)
        else:
            neighbours.remove(fact)
            if not neighbours:
                del self._networks.neighbours[fact.mac]
        holders = self._networks.holders.setdefault(fact.address, {})
        if held:
            holders[fact.interface] = fact.mac
        elif holders.get(fact.interface) == fact.mac:
            del holders[fact.interface]
        if not holders:
            del self._networks.holders[fact.address]

    # -- building ---------------------------------------------------------------------------------------------

    def build(self, now: float, serial: int) -> Built:
        """Makes the snapshot that the facts mean at this Unix time."""
        for _ in self.steps(now):
            pass
        return self.built(serial)

    def steps(self, now: float) -> Iterator[None]:
        """The work of a build, a VM or so a step. Steps that are not taken to their end are taken back by the next."""
        whole = self.is_whole(now)
        self._whole = True
        if whole:
            yield from self._start_anew(now)
        self._networks.now = now
        machines, self._touched = self._touched, set()
        touched = machines.copy()
        for mac in self._macs:
            touched.update(self._by_mac.get(mac, ()))
        self._macs = set()
        for address in self._claimed:
            touched.update(self._claimants.get(address, ()))
        self._claimed = set()
        while self._ends and self._ends[0][0] <= now:
            touched.add(heapq.heappop(self._ends)[1])
        bridged = set(self._bridged)
        dirty = set(touched)
        for uuid in touched:
            self._attach(uuid, dirty)
            yield
        dirty |= self._assign_names(machines)
        yield
        others: dict[str, Moved] = {}
        for uuid in dirty:
            before, after = self._guests.get(uuid), self._make(uuid)
            if before != after:
                others[uuid] = before, after
            yield
        # First all that goes: what one VM leaves another may take.
        changed: set[bytes] = set()
        moved: dict[str, Moved] = {}
        going: dict[str, Guest | None] = {}
        for uuid, (before, after) in others.items():
            if after is not None and _place(before) == _place(after):
                self._set(uuid, after)
                continue
            going[uuid] = after
            if before is not None:
                self._remove(uuid, before)
            if _answers(before) != _answers(after):
                moved[uuid] = before, after
                changed.update(self.names_of(before), self.names_of(after))
            yield
        for uuid, after in going.items():
            if after is not None:
                self._add(uuid, after)
            yield
        if self._seen_anew or set(self._bridged) != bridged:
            seen_before = self._ways
            self._ways = ways(self._networks.facts, sorted(self._bridged, key=repr), self._policy.resolvers)
            self._seen_anew = False
            whole = whole or self._ways != seen_before
        while self._ends and not self._is_end(*self._ends[0]):
            heapq.heappop(self._ends)
            yield
        for layers in (self._above, self._owned, self._pointers, self._absent, self._guests):
            layers.merge()  # before `built` would, as that is one step
            yield
        self._moved, self._others = moved, len(others)
        self._changed = None if whole or len(changed) > _MANY else frozenset(changed)
        self._whole = False

    def built(self, serial: int) -> Built:
        """What the steps made, after the last of them."""
        return Built(self._snapshot(serial), self._changed, self._moved, self._others)

    def let_go(self) -> Iterator[None]:
        """Lets go of all that it holds, a bit a step: at once that takes longer than anything else here. It is of no
        use afterwards, but what was built is."""
        for name in list(vars(self)):
            value = vars(self).pop(name)
            pieces = list(value.values()) if isinstance(value, dict | Layers) else []
            del value
            while pieces:
                pieces.pop()
                yield

    def _start_anew(self, now: float) -> Iterator[None]:
        """Networks, records, the hosts file or the policy changed: that may matter to every VM."""
        lines = [fact for fact in self._facts.values() if isinstance(fact, HostName)]
        hosts = self._hosts if self._hosts is not None else digest(lines, self._policy.apexes, self._policy.ttl)
        self._digested = hosts
        yield
        if self._like is not None:
            self._common, self._like = self._like, None
        else:
            self._common = yield from common(self._policy, hosts)
        yield
        kept = self._networks
        facts = [fact for fact in self._facts.values() if not isinstance(fact, _SINGLE)]
        facts.sort(key=repr)
        yield
        self._networks = index(facts, now)
        self._networks.leases, self._networks.neighbours, self._networks.holders = (
            kept.leases, kept.neighbours, kept.holders,
        )  # fmt: skip
        self._clear()
        self._forwards = {fact.name: fact.forwards for fact in facts if isinstance(fact, NatNetwork) and fact.enabled}
        self._touched = set(self._machines)
        self._soa = soa_rdata(
            b"\x05vmdns" + self._policy.own[0],
            b"\x0ahostmaster" + self._policy.own[0],
            0, _REFRESH, _RETRY, _EXPIRE, self._policy.ttl,
        )  # fmt: skip
        yield

    def _attach(self, uuid: str, dirty: set[str]) -> None:
        """Learns which adapters have which MACs and what DHCP gave them. Adds all VMs whose addresses may change.

        An address that DHCP gave to one VM is not believed of another: so a change there concerns who claims it.
        """
        before = self._attached.pop(uuid, _NOT_ATTACHED)
        machine = self._machines.get(uuid)
        after = _NOT_ATTACHED if machine is None else self._look(machine)
        if after is not _NOT_ATTACHED:
            self._attached[uuid] = after
        _move(self._by_mac, uuid, before.macs, after.macs)
        _move(self._claimants, uuid, before.claims, after.claims)
        if before.bridged != after.bridged:
            self._bridged.subtract(before.bridged)
            self._bridged.update(after.bridged)
            self._bridged = +self._bridged
        macs = dict(after.given)
        for place in dict(before.given) | macs:
            others = (pair for pair in self._givers.pop(place, ()) if pair[0] != uuid)
            givers = (*others, (uuid, macs[place])) if place in macs else tuple(others)
            if givers:
                self._givers[place] = givers
            owner = self._owner(*min(givers)) if givers else None
            if owner != self._networks.owners.get(place):
                dirty.update(self._claimants.get(place[1], ()))
                if owner is not None:
                    self._networks.owners[place] = owner
                else:
                    del self._networks.owners[place]
        if after.until:
            heapq.heappush(self._ends, (after.until, uuid))
            # Leases that were renewed stand there until the day on which they would have ended.
            if len(self._ends) > 2 * len(self._attached) + _ENDED:
                self._ends = [(one.until, of) for of, one in self._attached.items() if one.until]
                heapq.heapify(self._ends)

    def _owner(self, uuid: str, mac: str) -> Owner:
        machine = self._machines.get(uuid)
        return Owner(mac, machine.name if machine is not None else "")

    def _assign_names(self, changed: Iterable[str]) -> set[str]:
        """Assigns the names of all VMs again if one of these changed in what names depend on.

        Returns the UUIDs of the VMs whose names or notes changed.
        """
        again = False
        for uuid in changed:
            machine = self._machines.get(uuid)
            named = None if machine is None else _decides_names(machine)
            if self._named.get(uuid) != named:
                again = True
                self._named.pop(uuid, None)
                if named is not None:
                    self._named[uuid] = named
        if not again:
            return set()
        before, self._naming = self._naming, assign(self._machines.values(), self._common.reserved, self._policy.zones)
        old, new = before.by_uuid, self._naming.by_uuid
        return {uuid for uuid in old.keys() | new.keys() if old.get(uuid) != new.get(uuid)}

    def _look(self, machine: Machine) -> _Attached:
        if not machine.online:
            return _NOT_ATTACHED
        networks = self._networks
        found: dict[Place, str] = {}
        claims = {report.address for report in machine.reports}
        until = 0.0
        for adapter in machine.adapters:
            address = given(adapter, networks)
            if address is not None:
                found.setdefault((adapter.network.dhcp_name, address.address), adapter.mac)
            claims.update(one.address for one in networks.neighbours.get(adapter.mac, ()))
            if adapter.network.kind == "natnetwork":
                claims.update(rule.guest_address for rule in self._forwards.get(adapter.network.name, ()))
            for lease in networks.leases.get((file_key(adapter.network.dhcp_name), adapter.mac), ()):
                if lease.until > networks.now:
                    until = min(until or lease.until, lease.until)
        return _Attached(
            tuple({adapter.mac: None for adapter in machine.adapters}),
            tuple(claims),
            tuple(found.items()),
            tuple({one.network: None for one in machine.adapters if one.network.kind == "bridged"}),
            until,
        )

    def _make(self, uuid: str) -> Guest | None:
        """What a VM is now."""
        machine, named = self._machines.get(uuid), self._naming.by_uuid.get(uuid)
        if machine is None or named is None:
            return None
        found = addresses(machine, self._networks)
        hints = forward_hints(machine, named.label, found.addresses, self._forwards, self._networks)
        known = (*found.addresses, *hints)
        forwards = rules(machine, known, self._forwards) if machine.online else ()
        return Guest(machine, named, known, found.refused, forwards)

    def _set(self, uuid: str, guest: Guest) -> None:
        self._guests.put(uuid, guest)
        if self._refused.get(uuid, ()) != guest.refused:
            self._refused.pop(uuid, None)
            self._refusals = None
            if guest.refused:
                self._refused[uuid] = guest.refused

    def _remove(self, uuid: str, guest: Guest) -> None:
        self._guests.drop(uuid)
        if self._refused.pop(uuid, None):
            self._refusals = None
        for owner in self._owners(guest):
            if not guest.machine.online:
                self._absent.drop(owner)
            elif self._owned.get(owner) == uuid:
                self._owned.drop(owner)
                self._count_above(owner, -1)
        for pointer in {reverse_name(one.address) for one in guest.addresses}:
            held = self._pointers.get(pointer) or ()
            left = tuple(pair for pair in held if pair[1] != uuid)
            if len(held) > 1:
                self._double(pointer, left)
            if left:
                self._pointers.put(pointer, left)
            elif held:
                self._pointers.drop(pointer)
                self._count_above(pointer, -1)

    def _add(self, uuid: str, guest: Guest) -> None:
        self._set(uuid, guest)
        machine = guest.machine
        for owner in self._owners(guest):
            if not machine.online:
                self._absent.put(owner, f"VM {machine.name!r} is not running ({machine.state})")
                continue
            node = self._common.nodes.get(owner, {})
            if not (CNAME in node or A in node or AAAA in node):
                self._owned.put(owner, uuid)
                self._count_above(owner, 1)
        for address in {one.address: None for one in guest.addresses if one.network.kind != "nat"}:
            pointer = reverse_name(address)
            if PTR in self._common.nodes.get(pointer, {}):
                continue
            held = self._pointers.get(pointer) or ()
            if not held:
                self._count_above(pointer, 1)
            now = tuple(sorted((*held, (address, uuid)), key=self._precedence))
            self._pointers.put(pointer, now)
            if held:
                self._double(pointer, now)

    def _precedence(self, pair: tuple[str, str]) -> tuple[bool, str, str]:
        """What VirtualBox's DHCP gave comes before what guests claim, whoever claims it."""
        address, uuid = pair
        guest = self._guests.get(uuid)
        assert guest is not None
        claimed = all(one.source in _CLAIMED for one in guest.addresses if one.address == address)
        return claimed, address, uuid

    def _double(self, pointer: bytes, held: tuple[tuple[str, str], ...]) -> None:
        """Notes whether those at this address are on one network."""
        guests = [guest for _, uuid in held if (guest := self._guests.get(uuid)) is not None]
        found = double(held[0][0], guests) if len(guests) > 1 else None
        if found != self._doubles.get(pointer):
            self._refusals = None
            if found:
                self._doubles[pointer] = found
            else:
                del self._doubles[pointer]

    def _owners(self, guest: Guest) -> tuple[bytes, ...]:
        """The wire names of a VM in all zones."""
        return _owners(guest.named.names, self._policy.own)

    def names_of(self, guest: Guest | None) -> Iterator[bytes]:
        """The names (wire) at which a VM is answered."""
        if guest is not None:
            yield from self._owners(guest)
            yield from (reverse_name(one.address) for one in guest.addresses)

    def _count_above(self, owner: bytes, number: int) -> None:
        for above in names_above(owner, self._policy.apexes):
            count = (self._above.get(above) or 0) + number
            if count:
                self._above.put(above, count)
            else:
                self._above.drop(above)

    def _snapshot(self, serial: int) -> Snapshot:
        if self._refusals is None:
            named = ((self._guests.get(uuid), texts) for uuid, texts in sorted(self._refused.items()))
            refused = (f"VM {one.machine.name!r}: {text}" for one, texts in named if one for text in texts)
            self._refusals = (*refused, *(str(one) for _, one in sorted(self._doubles.items())))
        policy = self._policy
        return Snapshot(
            serial=serial,
            ttl=policy.ttl,
            own=policy.own,
            zones=policy.apexes,
            forwarded=policy.forwarded,
            nodes=self._common.nodes,
            late=self._common.late,
            above=self._above.given(),
            owned=self._owned.given(),
            pointers=self._pointers.given(),
            outside=self._digested.outside,
            soa=numbered(self._soa, serial),
            absent=self._absent.given(),
            by_uuid=self._guests.given(),
            ways=self._ways,
            wildcards=policy.wildcards,
            lan=policy.lan,
            problems=(*self._naming.problems, *self._refusals),
            looked=policy.looked,
            valid_until=self._ends[0][0] if self._ends else 0.0,
        )

    def _is_end(self, until: float, uuid: str) -> bool:
        held = self._attached.get(uuid)
        return held is not None and held.until == until


@dataclass(frozen=True, slots=True)
class _Attached:
    """What a VM that is online has to do with others: its MACs, the addresses it claims, those that DHCP gave it (each
    with the MAC), the interfaces it is bridged to, and when its first lease ends. In tuples, as 10,000 sets for one
    thing each take megabytes."""

    macs: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    given: tuple[tuple[Place, str], ...] = ()
    bridged: tuple[Network, ...] = ()
    until: float = 0.0


_NOT_ATTACHED = _Attached()


@lru_cache(maxsize=_AT_HAND)
def _owners(names: tuple[Relative, ...], zones: tuple[bytes, ...]) -> tuple[bytes, ...]:
    below = [from_labels([part.encode("ascii") for part in relative])[:-1] for relative in names]
    return tuple(relative + zone for relative in below for zone in zones)


def _decides_names(machine: Machine) -> object:
    return machine.name, machine.groups, machine.names, machine.ignored, machine.accessible


def _answers(guest: Guest | None) -> object:
    return None if guest is None else guest.answers


def _place(guest: Guest | None) -> object:
    """Where a VM stands among the others, by which names and addresses, and what is said of it there."""
    if guest is None:
        return None
    machine = guest.machine
    sources = [one.source for one in guest.addresses]
    return guest.answers, guest.named, sources, machine.name, "" if machine.online else machine.state


def _move(among: dict[str, tuple[str, ...]], uuid: str, before: tuple[str, ...], after: tuple[str, ...]) -> None:
    """In an index of VMs by something they have: takes one out, and puts it in where it is now."""
    if before == after:
        return
    for key in before:
        others = tuple(other for other in among.pop(key) if other != uuid)
        if others:
            among[key] = others
    for key in after:
        among[key] = (*among.get(key, ()), uuid)


def build(facts: Iterable[Fact], policy: Policy, now: float, serial: int, hosts: Hosts | None = None) -> Snapshot:
    """Makes the snapshot that these facts mean at this Unix time, in whatever order they come.

    hosts is the hosts file where it was digested before; otherwise its lines are among the facts.
    """
    builder = Builder(policy)
    if hosts is not None:
        builder.put_hosts(hosts)
    for key, fact in enumerate(facts):
        builder.put(key, fact)
    return builder.build(now, serial).snapshot
