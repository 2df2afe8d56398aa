"""The host's hosts file, digested once: a block list of 150,000 names must cost a build nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address

from vmdns.core.model import HostName
from vmdns.core.name import labels, to_wire
from vmdns.core.node import Node, RRset, address_record

# Between these lines of a hosts file stand names that vmdns itself wrote there: they tell it nothing.
BLOCK_BEGIN = "# vmdns: begin"
BLOCK_END = "# vmdns: end"


@dataclass(frozen=True, slots=True)
class Hosts:
    """outside has the nodes of names that are in no zone of ours (by wire name); inside are the lines whose names are
    bare or in a zone, or whose address gets a PTR record: those a build looks at. count is how many lines there are."""

    outside: Mapping[bytes, Node] = field(default_factory=dict)
    inside: tuple[HostName, ...] = ()
    count: int = 0


def digest(hosts: Iterable[HostName], zones: frozenset[bytes], ttl: int) -> Hosts:
    """Parts the lines of a hosts file; zones are the apexes (wire) answered here, ttl is in seconds.

    A name or an address that makes no sense is left out.
    """
    outside: dict[bytes, dict[int, RRset]] = {}
    inside = []
    ordered = sorted(hosts, key=lambda host: (host.name, host.address, not host.canonical))
    for host in ordered:
        try:
            owner = to_wire(host.name)
            kind, rdata = address_record(host.address)
        except ValueError:
            continue
        bare = len(labels(owner)) == 1
        in_zone = below_one_of(owner, zones)
        if bare or in_zone or (host.canonical and not is_nowhere(host.address)):
            inside.append(host)
        if not bare and not in_zone:
            node = outside.setdefault(owner, {})
            before = node[kind].rdatas if kind in node else ()
            if rdata not in before:
                node[kind] = RRset(ttl, (*before, rdata))
    return Hosts(outside, tuple(inside), len(ordered))


def below_one_of(name: bytes, zones: frozenset[bytes]) -> bool:
    """Whether a wire name is at or below one of these apexes."""
    while name[0]:
        if name in zones:
            return True
        name = name[1 + name[0] :]
    return False


@lru_cache(maxsize=4096)
def is_nowhere(text: str) -> bool:
    """Whether an address leads to no other machine: loopback, unspecified, link-local, multicast or broadcast."""
    address = ip_address(text.partition("%")[0])
    if address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local:
        return True
    return text == "255.255.255.255"
