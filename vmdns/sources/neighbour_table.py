"""Which entries of the host's neighbour table are facts.

Left out is what is no address of a machine that others could use: multicast, link-local, and of IPv6 the temporary
ones (RFC 8981) as far as they can be told. Nothing in a neighbour table marks them, so of several addresses that one
MAC has under one /64 those count that are made to stay: the one made of the MAC (RFC 4291 appendix A), and those whose
first 32 of the lower 64 bits are zero, which people and DHCPv6 give. Where there are none of these, the one that was
seen first counts alone: a temporary one goes out of use in days, and then the next takes its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from vmdns.state.facts import Neighbour

MOST = 4096  # entries; of more the newest are taken

_MAC = re.compile("[0-9a-f]{12}")


class Entry(NamedTuple):
    """An entry of the table that is in use: the system's name of the interface, 12 hex digits, and the address."""

    interface: str
    mac: str
    address: str


class Neighbours:
    """Remembers when each entry was first seen."""

    def __init__(self) -> None:
        self._since: dict[Entry, float] = {}

    def facts(self, entries: Iterable[Entry], now: float) -> dict[str, Neighbour]:
        """All entries there are now, as facts by their keys `neighbour:<interface> <address>`. now in Unix seconds."""
        before = self._since
        self._since = {entry: before.get(entry, now) for entry in entries if usable(entry)}
        lasting = _lasting(self._since)
        if len(lasting) > MOST:
            lasting = sorted(lasting, key=lambda entry: (-self._since[entry], entry))[:MOST]
        return {
            f"neighbour:{entry.interface} {entry.address}": Neighbour(*entry, since=self._since[entry])
            for entry in sorted(lasting)
        }


def usable(entry: Entry) -> bool:
    """Whether one machine has this address, and others can use it."""
    if not _MAC.fullmatch(entry.mac) or int(entry.mac[:2], 16) & 1 or not int(entry.mac, 16):
        return False
    try:
        at = ip_address(entry.address)
    except ValueError:
        return False
    return not (at.is_link_local or at.is_multicast or at.is_unspecified or at.is_loopback)


def _lasting(since: dict[Entry, float]) -> list[Entry]:
    found = []
    links: dict[tuple[str, str, int], list[tuple[Entry, int]]] = {}
    for entry in since:
        at = ip_address(entry.address)
        if isinstance(at, IPv6Address):
            network, host = divmod(int(at), 1 << 64)
            links.setdefault((entry.interface, entry.mac, network), []).append((entry, host))
        else:
            found.append(entry)
    for (_, mac, _), among in links.items():
        stay = [entry for entry, host in among if host == _made_of(mac) or not host >> 32]
        found += stay or [min((entry for entry, _ in among), key=lambda entry: (since[entry], entry))]
    return found


def _made_of(mac: str) -> int:
    """The interface identifier that is made of a MAC (modified EUI-64)."""
    return int(f"{int(mac[:2], 16) ^ 2:02x}{mac[2:6]}fffe{mac[6:]}", 16)
