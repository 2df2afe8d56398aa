"""The host's hosts file, digested once: a block list of 230,000 names must cost a build nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address

from vmdns.dns.message import Node, RRset, address_record
from vmdns.dns.name import to_wire
from vmdns.state.facts import HostName

# Names between these lines of a hosts file were written by vmdns itself and are not read.
BLOCK_BEGIN = "# vmdns: begin"
BLOCK_END = "# vmdns: end"


# Names that are blocked, some 120 bytes each; and lines of other kinds, each of which a build looks at.
MOST_BLOCKED = 1_000_000
MOST_LINES = 50_000
_BLOCKED = frozenset({"0.0.0.0", "127.0.0.1", "::", "::1"})  # the addresses that block lists give names


@dataclass(frozen=True, slots=True)
class HostsIndex:
    """outside has the nodes of names that are in no zone of ours (by wire name); inside are the lines whose names are
    bare or in a zone, or whose address gets a PTR record: those a build looks at. count is how many names were taken,
    each with one address. trouble says what was left out, if anything was; made_of identifies what it was made of."""

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
    names = _HostsNames(ttl)
    own, blocked = dict[tuple[str, str], HostName](), dict[tuple[str, str], HostName]()
    count = left_out = 0
    for host in hosts:
        try:
            owner = to_wire(host.name)
            kind, rdata = address_record(host.address)
        except ValueError:
            continue
        blocks = host.address in _BLOCKED
        apart = owner[1 + owner[0]] != 0 and not is_below_any(owner, zones)
        added = False
        if not apart or (host.canonical and not is_blocking_address(host.address)):
            lines, key = blocked if blocks else own, (host.name, host.address)
            added = key not in lines
            if added and len(lines) >= MOST_LINES:
                left_out += 1
                continue
            if added or host.canonical:
                lines[key] = host
        if apart:
            most = MOST_BLOCKED + (0 if blocks else MOST_LINES)
            if len(names.nodes) >= most and owner not in names.nodes:
                left_out += 1
                continue
            added = names.put(owner, kind, rdata)
        count += added
    trouble = f"the hosts file has more names than vmdns keeps: {left_out:,} of them are left out" if left_out else ""
    inside = sorted((*own.values(), *blocked.values()), key=lambda host: (host.name, host.address))
    return HostsIndex(names.nodes, tuple(inside), count, trouble)


class _HostsNames:
    """Nodes by name, of which those that are alike are one object: in a block list nearly all are."""

    def __init__(self, ttl: int) -> None:
        self.nodes: dict[bytes, Node] = {}
        self._ttl = ttl
        self._alike: dict[tuple[tuple[int, tuple[bytes, ...]], ...], Node] = {}

    def put(self, owner: bytes, kind: int, rdata: bytes) -> bool:
        """Adds a record. Whether it is a new one."""
        key: tuple[tuple[int, tuple[bytes, ...]], ...] = ((kind, (rdata,)),)
        if (node := self.nodes.get(owner)) is not None:
            before = node[kind].rdatas if kind in node else ()
            if rdata in before:
                return False
            rdatas = {**{one: rrset.rdatas for one, rrset in node.items()}, kind: tuple(sorted((*before, rdata)))}
            key = tuple(sorted(rdatas.items()))
        alike = self._alike.get(key)
        if alike is None:
            alike = self._alike[key] = {one: RRset(self._ttl, some) for one, some in key}
        self.nodes[owner] = alike
        return True


def is_below_any(name: bytes, zones: frozenset[bytes]) -> bool:
    """Whether a wire name is at or below one of these apexes."""
    while name[0]:
        if name in zones:
            return True
        name = name[1 + name[0] :]
    return False


@lru_cache(maxsize=4096)
def is_blocking_address(text: str) -> bool:
    """Whether an address leads to no other machine: loopback, unspecified, link-local, multicast or broadcast."""
    address = ip_address(text.partition("%")[0])
    if address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local:
        return True
    return text == "255.255.255.255"
