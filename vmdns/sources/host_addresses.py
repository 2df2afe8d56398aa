"""The host's own addresses as facts: those that a socket can be bound to, without link-local ones."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from typing import Any, NamedTuple

from vmdns.state.facts import HostAddress


class InterfaceAddress(NamedTuple):
    """An address of an interface: without a scope, its prefix length in bits."""

    interface: str
    address: str
    length: int


def address_facts(
    entries: Iterable[InterfaceAddress], aliases: Mapping[str, str] | None = None
) -> dict[str, HostAddress]:
    """Facts by their keys `address:<interface> <prefix>`. aliases maps interfaces to VirtualBox's names for them."""
    found = {}
    for entry in entries:
        try:
            at: IPv4Interface | IPv6Interface = ip_interface(f"{entry.address}/{entry.length}")
        except ValueError:
            continue
        if at.ip.is_link_local or at.ip.is_multicast or at.ip.is_unspecified:
            continue
        fact = HostAddress(entry.interface, at.with_prefixlen, (aliases or {}).get(entry.interface, ""))
        found[f"address:{fact.interface} {fact.prefix}"] = fact
    return dict(sorted(found.items()))


def parse_psutil(addresses: Mapping[str, Iterable[Any]], stats: Mapping[str, Any]) -> list[InterfaceAddress]:
    """The addresses of interfaces that are up, from `psutil.net_if_addrs` and `psutil.net_if_stats`."""
    found = []
    for name, entries in addresses.items():
        if name in stats and not stats[name].isup:
            continue
        for one in entries:
            if one.family in (socket.AF_INET, socket.AF_INET6):
                text = one.address.partition("%")[0]
                found.append(InterfaceAddress(name, text, _length(text, one.netmask)))
    return found


def _length(address: str, mask: str | None) -> int:
    """The prefix length of a mask. Windows reports none for IPv6: there a link has 64 bits (RFC 4291, 2.5.4)."""
    at = ip_address(address)
    if not mask:
        return at.max_prefixlen if at.is_loopback or at.version == 4 else 64
    return int(ip_address(mask.partition("%")[0])).bit_count()
