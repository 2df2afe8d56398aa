"""Any bytes of a lease file give leases that a DHCP server can have given, in bounds, or are Damaged."""

from __future__ import annotations

import re
from ipaddress import IPv4Address

from vmdns.sources.leasefile import MAX_LEASES, Damaged, Entries, parse_leases


def check(data: bytes) -> None:
    known: Entries = {}
    try:
        found = parse_leases(data, "lab", known)
    except Damaged as error:
        assert str(error).isprintable(), "a reason that is no line of text"
        return
    assert len(found) <= MAX_LEASES
    for lease in found:
        assert lease.network == "lab"
        assert re.fullmatch("[0-9a-f]{12}", lease.mac)
        address = IPv4Address(lease.address)
        assert not (address.is_unspecified or address.is_loopback or address.is_multicast)
        assert str(address) == lease.address
        assert 0 <= lease.issued <= lease.until
    assert parse_leases(data, "lab", known) == found, "entries that are known are something else"
    # With a comment it is not as VirtualBox writes it, and a parser of XML reads all of it.
    assert not known or parse_leases(data + b"<!---->", "lab") == found, "read quickly it is something else"
