"""The nodes that no VM has a part in: apexes, the user's records, the host's hosts file."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from vmdns.dns.builtin_zones import LOCALHOST, reverse_name
from vmdns.dns.message import AAAA, CNAME, NS, PTR, A, Node, Record, RRset, address_record
from vmdns.dns.name import join_labels, split_labels, to_wire
from vmdns.state.facts import HostName
from vmdns.state.hosts_names import HostsIndex, is_below_any, is_blocking_address
from vmdns.state.name_rules import RESERVED, Reservation
from vmdns.state.policy import Policy

_BARE_LOCAL = ("127.0.0.1", "::1")


@dataclass(frozen=True)
class StaticRecords:
    """nodes go before VMs (apexes without their SOA, the user's records), late come after them (the hosts file);
    reserved are the labels that no VM may take, with the reason."""

    nodes: Mapping[bytes, Node] = field(default_factory=dict)
    late: Mapping[bytes, Node] = field(default_factory=dict)
    reserved: Mapping[str, Reservation] = field(default_factory=dict)


def build_static_records(policy: Policy, hosts: HostsIndex) -> StaticRecords:
    """What the policy and the hosts file mean on their own."""
    apexes = policy.apexes
    zones = policy.own
    first = _Nodes(policy.ttl)
    server = b"\x05vmdns" + zones[0]
    for apex in apexes:
        first.put(apex, NS, server)
    for zone in zones:
        first.nodes[b"\x05vmdns" + zone] = {}  # its address is the one that the client queried
    for address in _BARE_LOCAL:
        first.put(LOCALHOST, *address_record(address))
        first.put(reverse_name(address), PTR, LOCALHOST)
        first.put(b"\x01*" + LOCALHOST, *address_record(address))  # RFC 6761 section 6.3
    _add_records(first, policy.records, zones)
    late = _Nodes(policy.ttl)
    _add_hosts_file(late, hosts.inside, zones, apexes, first.nodes)
    return StaticRecords(first.finished(apexes), late.finished(apexes), _reserved(policy, hosts.inside))


class _Nodes:
    """Nodes under construction. What is added first keeps its place."""

    def __init__(self, ttl: int) -> None:
        self._ttl = ttl
        self.nodes: dict[bytes, dict[int, tuple[int, dict[bytes, None]]]] = {}

    def put(self, owner: bytes, kind: int, rdata: bytes, ttl: int | None = None) -> None:
        """Adds one record. A record set has one TTL, that of its first record (RFC 2181 section 5.2).

        A CNAME is alone at its name (RFC 2181 section 10.1): what came first stays.
        """
        node = self.nodes.setdefault(owner, {})
        if node and (kind == CNAME or CNAME in node):
            return
        if kind not in node:
            node[kind] = (self._ttl if ttl is None else ttl, {})
        node[kind][1][rdata] = None

    def point(self, address: str, owner: bytes) -> None:
        """One PTR for each address: the first name that claims it (RFC 1035 section 3.5)."""
        pointer = reverse_name(address)
        if PTR not in self.nodes.get(pointer, ()):
            self.put(pointer, PTR, owner)

    def finished(self, apexes: frozenset[bytes]) -> dict[bytes, Node]:
        nodes: dict[bytes, Node] = {}
        for owner, node in self.nodes.items():
            nodes[owner] = {kind: RRset(ttl, tuple(rdatas)) for kind, (ttl, rdatas) in node.items()}
        for owner in self.nodes:
            for above in names_above(owner, apexes):
                nodes.setdefault(above, {})
        return nodes


def names_above(owner: bytes, apexes: Container[bytes]) -> list[bytes]:
    """The names between a name and the apex of its zone.

    They exist, without records of their own (RFC 4592 section 2.2.2). None for a name that is in no zone of ours.
    """
    found = []
    while owner not in apexes:
        if not owner[0]:
            return []
        owner = owner[1 + owner[0] :]
        found.append(owner)
    return found[:-1]


def _add_records(first: _Nodes, records: Iterable[Record], zones: tuple[bytes, ...]) -> None:
    servers = {b"\x05vmdns" + zone for zone in zones}
    for record in records:
        if record.owner not in servers or record.type not in (A, AAAA, CNAME):
            first.put(record.owner, record.type, record.rdata, record.ttl)
    for record in records:
        wildcard = record.owner.startswith(b"\x01*")
        if record.type in (A, AAAA) and record.owner.endswith(zones[0]) and not wildcard:
            first.point(str(ip_address(record.rdata)), record.owner)


def _add_hosts_file(
    late: _Nodes,
    hosts: Iterable[HostName],
    zones: tuple[bytes, ...],
    apexes: frozenset[bytes],
    taken: Mapping[bytes, Mapping[int, object]],
) -> None:
    """Adds lines that `digest` kept: their names and addresses make sense."""
    for host in hosts:
        owner = to_wire(host.name)
        kind, rdata = address_record(host.address)
        if owner in apexes:
            continue
        somewhere = not is_blocking_address(host.address)
        bare = len(split_labels(owner)) == 1
        wanted = [owner] if bare or is_below_any(owner, apexes) else []
        if bare and somewhere:
            wanted += [owner[:-1] + zone for zone in zones]
        for name in wanted:
            if name not in taken:
                late.put(name, kind, rdata)
        if host.canonical and somewhere and PTR not in taken.get(reverse_name(host.address), ()):
            late.point(host.address, owner)


def _reserved(policy: Policy, hosts: Iterable[HostName]) -> dict[str, Reservation]:
    """Labels that no VM may take, with the reason.

    A line of the hosts file whose address leads to no other machine, such as 127.0.0.1, reserves nothing.
    """
    reserved = dict.fromkeys(RESERVED, Reservation("a reserved name"))
    for owner in {record.owner for record in policy.records if record.type in (A, AAAA, CNAME)}:
        parts = split_labels(owner)
        for zone in policy.zones:
            depth = zone.count(".") + 1
            if len(parts) == depth + 1 and join_labels(parts[1:]) == to_wire(zone):
                name = parts[0].decode("ascii", "replace")
                remedy = "rename the VM, or remove the record"
                reserved.setdefault(name, Reservation("among the records of the configuration", remedy))
    lines: dict[str, list[HostName]] = {}
    for host in hosts:
        name = host.name.lower().rstrip(".")
        for zone in policy.zones:
            name = name.removesuffix("." + zone)
        if "." not in name and not is_blocking_address(host.address):
            lines.setdefault(name, []).append(host)
    for name, found in lines.items():
        why = f"in this computer's hosts file ({found[0].address} {found[0].name})"
        addresses = frozenset(str(ip_address(host.address)) for host in found)
        reserved.setdefault(name, Reservation(why, "remove that line from the hosts file, or rename the VM", addresses))
    return {name: why for name, why in reserved.items() if name not in policy.reserved_allowed}
