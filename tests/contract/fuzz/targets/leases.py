"""Any bytes of a lease file give leases that a DHCP server can have given, in bounds, or are InvalidLeaseFile."""

from __future__ import annotations

import re
from ipaddress import IPv4Address

from vmdns.sources.lease_file import MAX_LEASES, InvalidLeaseFile, parse_bootpd_leases, parse_leases
from vmdns.state.facts import Lease


def check(data: bytes) -> None:
    _check(parse_bootpd_leases(data), "")
    try:
        found = parse_leases(data, "lab")
    except InvalidLeaseFile as error:
        assert str(error).isprintable(), "a reason that is no line of text"
        return
    _check(found, "lab")


def _check(found: tuple[Lease, ...], network: str) -> None:
    assert len(found) <= MAX_LEASES
    for lease in found:
        assert lease.network == network
        assert re.fullmatch("[0-9a-f]{12}", lease.mac)
        address = IPv4Address(lease.address)
        assert not (address.is_unspecified or address.is_loopback or address.is_multicast)
        assert str(address) == lease.address
        assert 0 <= lease.issued <= lease.until
