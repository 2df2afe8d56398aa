"""Any hosts file gives sound names and addresses, and what is taken from it, written again, reads the same."""

from __future__ import annotations

from ipaddress import ip_address

from vmdns.dns.name import to_wire
from vmdns.sources.hosts_file import parse_hosts
from vmdns.state.static_records import index_hosts

ZONES = frozenset({to_wire("local"), to_wire("vm.internal")})


def check(data: bytes) -> None:
    found = list(parse_hosts(data))
    lines = []
    for one in found:
        assert str(ip_address(one.address)) == one.address
        assert one.name == one.name.lower()
        assert one.name.isascii()
        assert one.name.isprintable()
        assert not set(one.name) & set(" #")
        lines.append(f"{one.address} {one.name if one.canonical else 'x ' + one.name}\n")
    again = set(parse_hosts("".join(lines).encode()))
    assert all(one in again for one in found if one.name != "x")
    digested = index_hosts(found, ZONES, 5)
    assert digested.count == len({(one.name, one.address) for one in found})
    for owner, node in digested.outside.items():
        assert len(owner) <= 255
        assert all(len(rdata) in (4, 16) for rrset in node.values() for rdata in rrset.rdatas)
