"""Facts in, snapshot out: the one place that decides what is answered.

`build` is a pure function of the facts, the policy and the time, and gives the same snapshot for any order of facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

from vmdns.core.address import ADDITIONS, addresses, index
from vmdns.core.hosts import Hosts, below_one_of, digest, is_nowhere
from vmdns.core.model import Fact, HostName, Machine, NatNetwork
from vmdns.core.name import from_labels, labels, to_wire
from vmdns.core.naming import RESERVED, Naming, assign
from vmdns.core.node import Node, RRset, address_record
from vmdns.core.reach import rules
from vmdns.core.records import owners
from vmdns.core.snapshot import Guest, Snapshot
from vmdns.core.view import ways
from vmdns.core.wire import AAAA, CNAME, NS, PTR, SOA, A, Record, soa_rdata
from vmdns.core.zones import BUILT_IN, LOCALHOST, reverse_name

# SOA timers (RFC 1035 section 3.3.13, values of RFC 6303 section 3); nothing transfers these zones.
_REFRESH, _RETRY, _EXPIRE = 3600, 1200, 604_800
_NOTHING: Mapping[int, tuple[bytes, ...]] = {}
_BARE_LOCAL = ("127.0.0.1", "::1")


@dataclass(frozen=True)
class Policy:
    """What the user decided. zones as text; wildcards: whether names below a VM are answered as the VM's.

    resolvers are the addresses of the host's own name servers, which may be vmdns itself: VirtualBox passes them on
    to guests. lan says who is answered on a LAN: off, guests, names or all. looked is False until VirtualBox was
    looked at once: until then a name that is not there may yet be.
    """

    zones: tuple[str, ...] = ("local", "vm.internal")
    ttl: int = 5
    records: tuple[Record, ...] = ()
    reserved_allowed: frozenset[str] = frozenset()
    resolvers: tuple[str, ...] = ()
    wildcards: bool = True
    lan: str = "guests"
    forwarded: frozenset[bytes] = frozenset()
    looked: bool = True

    @property
    def apexes(self) -> frozenset[bytes]:
        """The apexes (wire names) of all zones that are answered here."""
        own = {to_wire(zone) for zone in self.zones}
        return frozenset((BUILT_IN - self.forwarded) | own)


def build(facts: Iterable[Fact], policy: Policy, now: float, serial: int, hosts: Hosts | None = None) -> Snapshot:
    """Makes the snapshot that these facts mean at this Unix time.

    hosts is the hosts file where it was digested before; otherwise its lines are among the facts.
    """
    machines: list[Machine] = []
    lines: list[HostName] = []
    others: list[Fact] = []
    for fact in facts:
        if isinstance(fact, Machine):
            machines.append(fact)
        elif isinstance(fact, HostName):
            lines.append(fact)
        else:
            others.append(fact)
    machines.sort(key=lambda machine: machine.uuid)
    if hosts is None:
        hosts = digest(lines, policy.apexes, policy.ttl)
    others.sort(key=repr)
    networks = index(others, machines, now)
    naming = assign(machines, _reserved(policy, hosts.inside), policy.zones)
    found = {machine.uuid: addresses(machine, networks) for machine in machines if machine.uuid in naming.by_uuid}
    forwards = {fact.name: fact.forwards for fact in others if isinstance(fact, NatNetwork) and fact.enabled}
    guests = tuple(
        Guest(
            machine,
            naming.by_uuid[machine.uuid],
            found[machine.uuid].addresses,
            found[machine.uuid].refused,
            rules(machine, found[machine.uuid].addresses, forwards) if machine.online else (),
        )
        for machine in machines
        if machine.uuid in naming.by_uuid
    )
    zones = tuple(to_wire(zone) for zone in policy.zones)
    table = _Table(zones, policy.ttl, policy.apexes)
    table.add_apexes(serial)
    table.add_records(policy.records)
    absent = table.add_guests(guests)
    table.add_hosts(hosts.inside)
    return Snapshot(
        serial=serial,
        ttl=policy.ttl,
        own=zones,
        zones=table.apexes,
        forwarded=policy.forwarded,
        nodes=table.finished(),
        owned=table.owned,
        pointers={key: tuple(pairs) for key, pairs in table.pointers.items()},
        outside=hosts.outside,
        soa=table.soa,
        absent=absent,
        guests=guests,
        ways=ways(others, machines, policy.resolvers),
        wildcards=policy.wildcards,
        lan=policy.lan,
        problems=_problems(naming, guests),
        looked=policy.looked,
        valid_until=networks.until,
    )


def with_serial(snapshot: Snapshot, serial: int) -> Snapshot:
    """What `build` makes of the same facts with another serial."""
    soa = snapshot.soa[:-20] + (serial & 0xFFFFFFFF).to_bytes(4, "big") + snapshot.soa[-16:]
    nodes = dict(snapshot.nodes)
    for apex in snapshot.zones:
        nodes[apex] = {**nodes[apex], SOA: RRset(nodes[apex][SOA].ttl, (soa,))}
    return replace(snapshot, serial=serial, soa=soa, nodes=nodes)


def _problems(naming: Naming, guests: Iterable[Guest]) -> tuple[str, ...]:
    refused = (f"VM {guest.machine.name!r}: {text}" for guest in guests for text in guest.refused)
    return (*naming.problems, *refused)


def _reserved(policy: Policy, hosts: Iterable[HostName]) -> dict[str, str]:
    """Labels that no VM may take, with the reason."""
    reserved = dict.fromkeys(RESERVED, "a reserved name")
    for host in hosts:
        name = host.name.lower().rstrip(".")
        for zone in policy.zones:
            name = name.removesuffix("." + zone)
        if "." not in name:
            reserved.setdefault(name, "in the host's hosts file")
    for owner in owners(policy.records, frozenset({A, AAAA, CNAME})):
        parts = labels(owner)
        for zone in policy.zones:
            depth = zone.count(".") + 1
            if len(parts) == depth + 1 and from_labels(parts[1:]) == to_wire(zone):
                reserved.setdefault(parts[0].decode("ascii", "replace"), "among the records of the configuration")
    return {name: why for name, why in reserved.items() if name not in policy.reserved_allowed}


class _Table:
    """Nodes under construction. What is added first keeps its place: records, then VMs, then the hosts file."""

    def __init__(self, zones: tuple[bytes, ...], ttl: int, apexes: frozenset[bytes]) -> None:
        self.zones = zones
        self.ttl = ttl
        self.apexes = apexes
        self.soa = b""
        self.owned: dict[bytes, Guest] = {}
        self.pointers: dict[bytes, list[tuple[str, Guest]]] = {}
        self._nodes: dict[bytes, dict[int, tuple[int, dict[bytes, None]]]] = {}

    def put(self, owner: bytes, kind: int, rdata: bytes, ttl: int | None = None) -> None:
        """Adds one record. A record set has one TTL, that of its first record (RFC 2181 section 5.2).

        A CNAME is alone at its name (RFC 2181 section 10.1): what came first stays.
        """
        node = self._nodes.setdefault(owner, {})
        if node and (kind == CNAME or CNAME in node):
            return
        if kind not in node:
            node[kind] = (self.ttl if ttl is None else ttl, {})
        node[kind][1][rdata] = None

    def has(self, owner: bytes, *kinds: int) -> bool:
        return any(kind in self._nodes.get(owner, ()) for kind in kinds)

    def add_apexes(self, serial: int) -> None:
        server = b"\x05vmdns" + self.zones[0]
        self.soa = soa_rdata(server, b"\x0ahostmaster" + self.zones[0], serial, _REFRESH, _RETRY, _EXPIRE, self.ttl)
        for apex in self.apexes:
            self.put(apex, SOA, self.soa)
            self.put(apex, NS, server)
        for zone in self.zones:
            self._nodes[b"\x05vmdns" + zone] = {}  # its address is the one that the asker asked at
        for address in _BARE_LOCAL:
            self.put(LOCALHOST, *address_record(address))
            self.put(reverse_name(address), PTR, LOCALHOST)
            self.put(b"\x01*" + LOCALHOST, *address_record(address))  # RFC 6761 section 6.3

    def add_records(self, records: Iterable[Record]) -> None:
        servers = {b"\x05vmdns" + zone for zone in self.zones}
        for record in records:
            if record.owner not in servers or record.type not in (A, AAAA, CNAME):
                self.put(record.owner, record.type, record.rdata, record.ttl)
        for record in records:
            wildcard = record.owner.startswith(b"\x01*")
            if record.type in (A, AAAA) and record.owner.endswith(self.zones[0]) and not wildcard:
                self._point(str(ip_address(record.rdata)), record.owner)

    def add_guests(self, guests: Sequence[Guest]) -> dict[bytes, str]:
        absent: dict[bytes, str] = {}
        for guest in guests:
            for relative in guest.named.names:
                below = [part.encode("ascii") for part in relative]
                for zone in self.zones:
                    owner = from_labels(below)[:-1] + zone
                    if not guest.machine.online:
                        absent.setdefault(owner, f"VM {guest.machine.name!r} is not running ({guest.machine.state})")
                        continue
                    node = self._nodes.get(owner, {})
                    if not (CNAME in node or A in node or AAAA in node):
                        self.owned.setdefault(owner, guest)
        # What VirtualBox's DHCP gave comes before what guests claim, whoever claims it.
        pointed = [(one.source == ADDITIONS, one.address, guest) for guest in guests for one in guest.addresses]
        for _, address, guest in sorted(pointed, key=lambda item: item[:2]):
            pointer = reverse_name(address)
            if not self.has(pointer, PTR):
                self.pointers.setdefault(pointer, []).append((address, guest))
        return absent

    def add_hosts(self, hosts: Iterable[HostName]) -> None:
        """Adds lines that `digest` kept: their names and addresses make sense."""
        ours = {*self._nodes, *self.owned}
        for host in hosts:
            owner = to_wire(host.name)
            kind, rdata = address_record(host.address)
            if owner in self.apexes:
                continue
            somewhere = not is_nowhere(host.address)
            bare = len(labels(owner)) == 1
            wanted = [owner] if bare or below_one_of(owner, self.apexes) else []
            if bare and somewhere:
                wanted += [owner[:-1] + zone for zone in self.zones]
            for name in wanted:
                if name not in ours:
                    self.put(name, kind, rdata)
            if host.canonical and somewhere:
                self._point(host.address, owner)

    def _point(self, address: str, owner: bytes) -> None:
        """One PTR for each address: the first name that claims it (RFC 1035 section 3.5)."""
        pointer = reverse_name(address)
        if not self.has(pointer, PTR):
            self.put(pointer, PTR, owner)

    def finished(self) -> dict[bytes, Node]:
        nodes: dict[bytes, Node] = {
            owner: {kind: RRset(ttl, tuple(rdatas)) for kind, (ttl, rdatas) in node.items()}
            for owner, node in self._nodes.items()
        }
        for owner in (*self._nodes, *self.owned, *self.pointers):
            # Names above a name exist, without records of their own (RFC 4592 section 2.2.2).
            above = owner
            while above not in self.apexes and above[0]:
                above = above[1 + above[0] :]
                if above in nodes or above in self.owned or not below_one_of(above, self.apexes):
                    break
                nodes[above] = {}
        return nodes
