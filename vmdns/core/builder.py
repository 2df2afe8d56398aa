"""Snapshots one after the other: a change costs as much as the names that it touches.

A `Builder` holds the facts and what was made of them. What it makes after any sequence of changes is what a new one
makes of the facts that are left: `build` is that.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from vmdns.core.address import ADDITIONS, NEIGHBOUR, Networks, addresses, file_key, given, index
from vmdns.core.common import Common, common, names_above
from vmdns.core.hosts import Hosts, digest
from vmdns.core.model import Fact, HostName, Lease, Machine, NatNetwork, Neighbour, Network, PortForward
from vmdns.core.name import from_labels
from vmdns.core.naming import Naming, assign
from vmdns.core.policy import Policy
from vmdns.core.reach import rules
from vmdns.core.snapshot import Guest, Snapshot
from vmdns.core.view import Ways, ways
from vmdns.core.wire import AAAA, CNAME, PTR, A, soa_rdata
from vmdns.core.zones import reverse_name

# SOA timers (RFC 1035 section 3.3.13, values of RFC 6303 section 3); nothing transfers these zones.
_REFRESH, _RETRY, _EXPIRE = 3600, 1200, 604_800
_CLAIMED = (ADDITIONS, NEIGHBOUR)

Moved = tuple[Guest | None, Guest | None]


@dataclass(frozen=True)
class Built:
    """A snapshot, and what is different in it: the names (wire) that are answered otherwise, None where it may be any;
    the VMs before and after, by UUID."""

    snapshot: Snapshot
    names: frozenset[bytes] | None
    moved: Mapping[str, Moved] = field(default_factory=dict)


class Builder:
    """The facts by their keys, and the snapshot that they mean."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._hosts: Hosts | None = None
        self._facts: dict[object, Fact] = {}
        self._whole = True
        self._digested = Hosts()
        self._soa = b""
        self._machines: dict[str, Machine] = {}
        self._touched: set[str] = set()
        self._macs: set[str] = set()
        self._common = Common()
        self._networks = Networks()
        self._ways = Ways()
        self._bridged: Counter[Network] = Counter()
        self._forwards: dict[str, tuple[PortForward, ...]] = {}
        self._naming = Naming({}, ())
        self._inputs: dict[str, object] = {}
        self._attached: dict[str, _Attached] = {}
        self._by_mac: dict[str, set[str]] = {}
        self._givers: dict[tuple[str, str], dict[str, str]] = {}
        self._claimants: dict[str, set[str]] = {}
        self._ends: list[tuple[float, str]] = []
        self._guests: dict[str, Guest] = {}
        self._refused: dict[str, tuple[str, ...]] = {}
        self._owned: dict[bytes, Guest] = {}
        self._pointers: dict[bytes, tuple[tuple[str, Guest], ...]] = {}
        self._above: Counter[bytes] = Counter()
        self._absent: dict[bytes, str] = {}

    # -- changes ----------------------------------------------------------------------------------------------

    def put(self, key: object, fact: Fact | None) -> None:
        """The fact under this key from now on; None takes it away."""
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
                    elif fact is None or not isinstance(fact, Machine) or fact.uuid != one.uuid:
                        self._machines.pop(one.uuid, None)
                case Lease() | Neighbour():
                    self._macs.add(one.mac)
                    if not self._whole:
                        self._index(one, held)
                case _:
                    self._whole = True

    def configure(self, policy: Policy) -> None:
        """Another policy from now on."""
        self._policy = policy
        self._whole = True

    def put_hosts(self, hosts: Hosts) -> None:
        """The hosts file, digested for the policy in force."""
        self._hosts = hosts
        self._whole = True

    def _index(self, fact: Lease | Neighbour, held: bool) -> None:
        if isinstance(fact, Lease):
            leases = self._networks.leases.setdefault((file_key(fact.network), fact.mac), [])
            if held:
                leases.append(fact)
            else:
                leases.remove(fact)
            return
        neighbours = self._networks.neighbours.setdefault(fact.mac, [])
        if held:
            neighbours.append(fact)
        else:
            neighbours.remove(fact)

    # -- building ---------------------------------------------------------------------------------------------

    def build(self, now: float, serial: int) -> Built:
        """Makes the snapshot that the facts mean at this Unix time."""
        # Anew as well where the clock went back, or where the last time did not come to its end.
        whole = self._whole or now < self._networks.now
        self._whole = True
        if whole:
            self._start_anew(now)
        self._networks.now = now
        touched, self._touched = self._touched, set()
        for mac in self._macs:
            touched |= self._by_mac.get(mac, set())
        self._macs = set()
        while self._ends and self._ends[0][0] <= now:
            touched.add(heapq.heappop(self._ends)[1])
        bridged = set(self._bridged)
        dirty = self._attach(touched)
        self._name(touched, dirty)
        moved = {uuid: change for uuid in dirty if (change := self._make(uuid)) is not None}
        if set(self._bridged) != bridged and not whole:
            self._ways = ways(self._networks.facts, self._machines.values(), self._policy.resolvers)
            whole = True
        names = frozenset(
            name for pair in moved.values() if _answers(pair[0]) != _answers(pair[1]) for name in self._names(*pair)
        )
        self._whole = False
        return Built(self._snapshot(serial), None if whole else names, moved)

    def _start_anew(self, now: float) -> None:
        """Networks, records, the hosts file or the policy changed: that may matter to every VM."""
        facts = sorted((fact for fact in self._facts.values() if not isinstance(fact, Machine | HostName)), key=repr)
        lines = (fact for fact in self._facts.values() if isinstance(fact, HostName))
        hosts = digest(lines, self._policy.apexes, self._policy.ttl) if self._hosts is None else self._hosts
        self._digested = hosts
        self._common = common(self._policy, hosts)
        self._networks = index(facts, now)
        self._ways = ways(self._networks.facts, self._machines.values(), self._policy.resolvers)
        self._forwards = {fact.name: fact.forwards for fact in facts if isinstance(fact, NatNetwork) and fact.enabled}
        self._naming = Naming({}, ())
        for state in (
            self._inputs, self._attached, self._by_mac, self._givers, self._claimants, self._guests, self._refused,
            self._owned, self._pointers, self._above, self._absent, self._ends, self._bridged,
        ):  # fmt: skip
            state.clear()
        self._touched = set(self._machines)
        self._soa = soa_rdata(
            b"\x05vmdns" + self._policy.own[0],
            b"\x0ahostmaster" + self._policy.own[0],
            0, _REFRESH, _RETRY, _EXPIRE, self._policy.ttl,
        )  # fmt: skip

    def _attach(self, touched: Iterable[str]) -> set[str]:
        """Learns which adapters have which MACs and what DHCP gave them. Returns all VMs whose addresses may change.

        An address that DHCP gave to one VM is not believed of another: so a change there concerns who claims it.
        """
        dirty = set(touched)
        for uuid in touched:
            before = self._attached.pop(uuid, _NOT_ATTACHED)
            machine = self._machines.get(uuid)
            after = _NOT_ATTACHED if machine is None else self._look(machine)
            if after is not _NOT_ATTACHED:
                self._attached[uuid] = after
            _move(self._by_mac, uuid, before.macs, after.macs)
            _move(self._claimants, uuid, before.claims, after.claims)
            self._bridged.subtract(before.bridged)
            self._bridged.update(after.bridged)
            self._bridged = +self._bridged
            for place in before.given.keys() | after.given.keys():
                givers = self._givers.setdefault(place, {})
                givers.pop(uuid, None)
                if place in after.given:
                    givers[uuid] = after.given[place]
                owner = givers[min(givers)] if givers else ""
                if owner != self._networks.owners.get(place, ""):
                    dirty |= self._claimants.get(place[1], set())
                    if owner:
                        self._networks.owners[place] = owner
                    else:
                        del self._networks.owners[place]
                if not givers:
                    del self._givers[place]
            if after.until:
                heapq.heappush(self._ends, (after.until, uuid))
        return dirty

    def _look(self, machine: Machine) -> _Attached:
        if not machine.online:
            return _NOT_ATTACHED
        networks = self._networks
        found: dict[tuple[str, str], str] = {}
        claims = {report.address for report in machine.reports}
        until = 0.0
        for adapter in machine.adapters:
            address = given(adapter, networks)
            if address is not None:
                found.setdefault((adapter.network.dhcp_name, address.address), adapter.mac)
            claims.update(one.address for one in networks.neighbours.get(adapter.mac, ()))
            for lease in networks.leases.get((file_key(adapter.network.dhcp_name), adapter.mac), ()):
                if lease.until > networks.now:
                    until = min(until or lease.until, lease.until)
        return _Attached(
            frozenset(adapter.mac for adapter in machine.adapters),
            frozenset(claims),
            found,
            tuple({one.network: None for one in machine.adapters if one.network.kind == "bridged"}),
            until,
        )

    def _name(self, touched: Iterable[str], dirty: set[str]) -> None:
        """Gives names anew where a VM came, went, or wants other ones."""
        changed = False
        for uuid in touched:
            machine = self._machines.get(uuid)
            wanted = None
            if machine is not None:
                wanted = (machine.name, machine.groups, machine.names, machine.ignored, machine.accessible)
            if self._inputs.get(uuid) != wanted:
                changed = True
                if wanted is None:
                    del self._inputs[uuid]
                else:
                    self._inputs[uuid] = wanted
        if not changed:
            return
        before = self._naming.by_uuid
        self._naming = assign(self._machines.values(), self._common.reserved, self._policy.zones)
        after = self._naming.by_uuid
        dirty.update(uuid for uuid in before.keys() | after.keys() if before.get(uuid) != after.get(uuid))

    def _make(self, uuid: str) -> Moved | None:
        """Makes a VM anew. Returns it before and after, None where it is as it was."""
        machine, named = self._machines.get(uuid), self._naming.by_uuid.get(uuid)
        before, after = self._guests.get(uuid), None
        if machine is not None and named is not None:
            found = addresses(machine, self._networks)
            forwards = rules(machine, found.addresses, self._forwards) if machine.online else ()
            after = Guest(machine, named, found.addresses, found.refused, forwards)
        if before == after:
            return None
        if before is not None:
            self._remove(uuid, before)
        if after is not None:
            self._add(uuid, after)
        return before, after

    def _remove(self, uuid: str, guest: Guest) -> None:
        del self._guests[uuid]
        self._refused.pop(uuid, None)
        for owner in self._owners(guest):
            if self._owned.get(owner) is guest:
                del self._owned[owner]
                self._count_above(owner, -1)
            elif not guest.machine.online:
                self._absent.pop(owner, None)
        for pointer in {reverse_name(one.address) for one in guest.addresses}:
            held = self._pointers.get(pointer, ())
            left = tuple(pair for pair in held if pair[1] is not guest)
            if left:
                self._pointers[pointer] = left
            elif held:
                del self._pointers[pointer]
                self._count_above(pointer, -1)

    def _add(self, uuid: str, guest: Guest) -> None:
        self._guests[uuid] = guest
        if guest.refused:
            self._refused[uuid] = guest.refused
        machine = guest.machine
        for owner in self._owners(guest):
            if not machine.online:
                self._absent[owner] = f"VM {machine.name!r} is not running ({machine.state})"
                continue
            node = self._common.nodes.get(owner, {})
            if not (CNAME in node or A in node or AAAA in node):
                self._owned[owner] = guest
                self._count_above(owner, 1)
        for address in {one.address: None for one in guest.addresses if one.network.kind != "nat"}:
            pointer = reverse_name(address)
            if PTR in self._common.nodes.get(pointer, {}):
                continue
            held = self._pointers.get(pointer, ())
            if not held:
                self._count_above(pointer, 1)
            self._pointers[pointer] = tuple(sorted((*held, (address, guest)), key=_precedence))

    def _owners(self, guest: Guest) -> list[bytes]:
        """The wire names of a VM in all zones."""
        below = [from_labels([part.encode("ascii") for part in relative])[:-1] for relative in guest.named.names]
        return [relative + zone for relative in below for zone in self._policy.own]

    def _names(self, *guests: Guest | None) -> Iterator[bytes]:
        for guest in guests:
            if guest is not None:
                yield from self._owners(guest)
                yield from (reverse_name(one.address) for one in guest.addresses)

    def _count_above(self, owner: bytes, number: int) -> None:
        for above in names_above(owner, self._policy.apexes):
            self._above[above] += number
            if not self._above[above]:
                del self._above[above]

    def _snapshot(self, serial: int) -> Snapshot:
        refused = (
            f"VM {self._guests[uuid].machine.name!r}: {text}"
            for uuid in sorted(self._refused)
            for text in self._refused[uuid]
        )
        policy = self._policy
        return Snapshot(
            ttl=policy.ttl,
            own=policy.own,
            zones=policy.apexes,
            forwarded=policy.forwarded,
            nodes=self._common.nodes,
            late=self._common.late,
            above=self._above.copy(),
            owned=self._owned.copy(),
            pointers=self._pointers.copy(),
            outside=self._digested.outside,
            soa=self._soa,
            absent=self._absent.copy(),
            by_uuid=self._guests.copy(),
            ways=self._ways,
            wildcards=policy.wildcards,
            lan=policy.lan,
            problems=(*self._naming.problems, *refused),
            looked=policy.looked,
            valid_until=self._until(),
        ).numbered(serial)

    def _until(self) -> float:
        while self._ends:
            until, uuid = self._ends[0]
            held = self._attached.get(uuid)
            if held is not None and held.until == until:
                return until
            heapq.heappop(self._ends)
        return 0.0


@dataclass(frozen=True, slots=True)
class _Attached:
    """What a VM that is online has to do with others: its MACs, the addresses it claims, those that DHCP gave it (by
    network and address, with the MAC), the interfaces it is bridged to, and when its first lease ends."""

    macs: frozenset[str] = frozenset()
    claims: frozenset[str] = frozenset()
    given: Mapping[tuple[str, str], str] = field(default_factory=dict)
    bridged: tuple[Network, ...] = ()
    until: float = 0.0


_NOT_ATTACHED = _Attached()


def _answers(guest: Guest | None) -> object:
    return None if guest is None else guest.answers


def _move(among: dict[str, set[str]], uuid: str, before: frozenset[str], after: frozenset[str]) -> None:
    """In an index of VMs by something they have: takes one out, and puts it in where it is now."""
    for key in before - after:
        among[key].discard(uuid)
        if not among[key]:
            del among[key]
    for key in after - before:
        among.setdefault(key, set()).add(uuid)


def _precedence(pair: tuple[str, Guest]) -> tuple[bool, str, str]:
    """What VirtualBox's DHCP gave comes before what guests claim, whoever claims it."""
    address, guest = pair
    claimed = all(one.source in _CLAIMED for one in guest.addresses if one.address == address)
    return claimed, address, guest.machine.uuid


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
