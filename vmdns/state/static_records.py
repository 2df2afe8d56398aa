"""The nodes that no VM has a part in: apexes, the user's records, the host's hosts file."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address

from vmdns.dns.message import AAAA, CNAME, NS, PTR, A, Node, RRset, address_record
from vmdns.dns.name import LOCALHOST, reverse_name, split_labels, to_wire
from vmdns.dns.upstreams import closest_domain
from vmdns.state.facts import HostName
from vmdns.state.name_rules import RESERVED, Reservation
from vmdns.state.snapshot import Policy

# Names between these lines of a hosts file were written by vmdns itself and are not read.
BLOCK_BEGIN = "# vmdns: begin"
BLOCK_END = "# vmdns: end"

_LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
# A name in a hosts file, in lower case.
HOSTS_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*", re.ASCII)

# Names that are blocked, some 120 bytes each; and lines of other kinds, each of which a build looks at.
MAX_BLOCKED = 1_000_000
MAX_LINES = 50_000
_BLOCKED = frozenset({"0.0.0.0", "127.0.0.1", "::", "::1"})  # the addresses that block lists give names


# -- the hosts file -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class HostsIndex:
    """The hosts file, digested once: a block list of 230,000 names must cost a build nothing.

    outside has the nodes of names that are in no zone of ours (by wire name); inside are the lines whose names are
    bare or in a zone, or whose address gets a PTR record: those a build looks at. count is how many names were taken,
    each with one address. trouble says what was left out, if anything was; made_of identifies what it was made of.
    """

    outside: Mapping[bytes, Node] = field(default_factory=dict)
    inside: tuple[HostName, ...] = ()
    count: int = 0
    trouble: str = ""
    made_of: bytes = b""


def index_hosts(hosts: Iterable[HostName], zones: frozenset[bytes], ttl: int) -> HostsIndex:
    """Parts the lines of a hosts file, whose order does not matter; zones are the apexes (wire) answered here, ttl is
    in seconds. A name or an address that makes no sense is left out.

    Block lists never take the place of the user's own lines: either kind has its own bound.
    """
    outside: dict[bytes, Node] = {}
    alike: dict[object, Node] = {}  # equal nodes are one object: in a block list nearly all are
    own, blocked = dict[tuple[str, str], HostName](), dict[tuple[str, str], HostName]()
    count = left_out = 0
    for host in hosts:
        try:
            owner = to_wire(host.name)
            kind, rdata = address_record(host.address)
        except ValueError:
            continue
        blocks = host.address in _BLOCKED
        apart = owner[1 + owner[0]] != 0 and closest_domain(owner, zones) is None
        added = False
        if not apart or (host.canonical and not is_blocking_address(host.address)):
            lines, key = blocked if blocks else own, (host.name, host.address)
            added = key not in lines
            if added and len(lines) >= MAX_LINES:
                left_out += 1
                continue
            if added or host.canonical:
                lines[key] = host
        if apart:
            before = outside.get(owner, {})
            if not before and len(outside) >= MAX_BLOCKED + (0 if blocks else MAX_LINES):
                left_out += 1
                continue
            rdatas = before[kind].rdatas if kind in before else ()
            added = rdata not in rdatas
            if added:
                node = {**before, kind: RRset(ttl, tuple(sorted((*rdatas, rdata))))}
                outside[owner] = alike.setdefault(tuple(sorted(node.items())), node)
        count += added
    trouble = f"the hosts file has more names than vmdns keeps: {left_out:,} of them are left out" if left_out else ""
    inside = sorted((*own.values(), *blocked.values()), key=lambda host: (host.name, host.address))
    return HostsIndex(outside, tuple(inside), count, trouble)


@lru_cache(maxsize=4096)
def is_blocking_address(text: str) -> bool:
    """Whether an address leads to no other machine: loopback, unspecified, link-local, multicast or broadcast."""
    address = ip_address(text.partition("%")[0])
    if address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local:
        return True
    return text == "255.255.255.255"


# -- nodes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StaticRecords:
    """nodes go before VMs (apexes without their SOA, the user's records), late come after them (the hosts file);
    reserved are the labels that no VM may take, with the reason."""

    nodes: Mapping[bytes, Node]
    late: Mapping[bytes, Node]
    reserved: Mapping[str, Reservation]


@lru_cache(maxsize=1)  # 10,000 records take a quarter of a second
def build_static_records(policy: Policy, hosts: HostsIndex) -> StaticRecords:
    """What the policy and the hosts file mean on their own."""
    first, late = _Nodes(policy.ttl), _Nodes(policy.ttl)
    servers = [b"\x05vmdns" + zone for zone in policy.own]
    for apex in policy.apexes:
        first.put(apex, NS, servers[0])
    for server in servers:
        first.nodes[server] = {}  # its address is the one that the client queried
    for address in ("127.0.0.1", "::1"):
        first.put(LOCALHOST, *address_record(address))
        first.put(reverse_name(address), PTR, LOCALHOST)
        first.put(b"\x01*" + LOCALHOST, *address_record(address))  # RFC 6761 section 6.3
    for record in policy.records:
        if record.owner not in servers or record.type not in (A, AAAA, CNAME):
            first.put(record.owner, record.type, record.rdata, record.ttl)
    for record in policy.records:
        wildcard = record.owner.startswith(b"\x01*")
        if record.type in (A, AAAA) and record.owner.endswith(policy.own[0]) and not wildcard:
            first.point(str(ip_address(record.rdata)), record.owner)
    for host in hosts.inside:
        _add_host(late, host, policy, first.nodes)
    return StaticRecords(first.finish(policy.apexes), late.finish(policy.apexes), _find_reserved(policy, hosts))


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
        if not node or (kind != CNAME and CNAME not in node):
            node.setdefault(kind, (self._ttl if ttl is None else ttl, {}))[1][rdata] = None

    def point(self, address: str, owner: bytes) -> None:
        """One PTR for each address: the first name that claims it (RFC 1035 section 3.5)."""
        pointer = reverse_name(address)
        if PTR not in self.nodes.get(pointer, ()):
            self.put(pointer, PTR, owner)

    def finish(self, apexes: frozenset[bytes]) -> dict[bytes, Node]:
        """The nodes, with the empty ones above them."""
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


def _add_host(late: _Nodes, host: HostName, policy: Policy, taken: Mapping[bytes, Mapping[int, object]]) -> None:
    """Adds a line that `index_hosts` kept: its name and address make sense."""
    owner = to_wire(host.name)
    if owner in policy.apexes:
        return
    somewhere = not is_blocking_address(host.address)
    bare = len(split_labels(owner)) == 1
    wanted = [owner] if bare or closest_domain(owner, policy.apexes) else []
    if bare and somewhere:
        wanted += [owner[:-1] + zone for zone in policy.own]
    for name in wanted:
        if name not in taken:
            late.put(name, *address_record(host.address))
    if host.canonical and somewhere and PTR not in taken.get(reverse_name(host.address), ()):
        late.point(host.address, owner)


def _find_reserved(policy: Policy, hosts: HostsIndex) -> dict[str, Reservation]:
    """Labels that no VM may take, with the reason.

    A line of the hosts file whose address leads to no other machine, such as 127.0.0.1, reserves nothing.
    """
    reserved = dict.fromkeys(RESERVED, Reservation("a reserved name"))
    recorded = Reservation("among the records of the configuration", "rename the VM, or remove the record")
    for record in policy.records:
        owner, length = record.owner, 1 + record.owner[0]
        if record.type in (A, AAAA, CNAME) and owner[length:] in policy.own:
            reserved.setdefault(owner[1:length].decode("ascii", "replace"), recorded)
    lines: dict[str, list[HostName]] = {}
    for host in hosts.inside:
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
