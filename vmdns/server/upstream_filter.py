"""Which upstreams can be asked: literal addresses that are not our own listeners."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from vmdns.dns.upstreams import Upstream

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def usable(servers: Iterable[Upstream], own: frozenset[tuple[str, int]], problems: list[str]) -> tuple[Upstream, ...]:
    """The servers that can be asked, each once. Appends one sentence to `problems` for each that is left out."""
    kept: dict[Upstream, None] = {}
    for one in servers:
        try:
            address = ipaddress.ip_address(one.address)
        except ValueError:
            problems.append(f"The upstream {one.address} is left out: an IP address is expected.")
            continue
        if not 0 < one.port < 65536:
            problems.append(f"The upstream {one} is left out: a port is a number from 1 to 65535.")
        elif address.is_multicast or str(address) == "255.255.255.255":
            problems.append(f"The upstream {one} is left out: it is no address of a single server.")
        elif is_own(one, own):
            problems.append(f"The upstream {one} is left out: vmdns itself listens there, and would ask itself.")
        else:
            kept[one] = None
    return tuple(kept)


def is_own(upstream: Upstream, own: frozenset[tuple[str, int]]) -> bool:
    """Whether vmdns itself listens there."""
    port = upstream.port
    try:
        address = _plain(ipaddress.ip_address(upstream.address))
    except ValueError:
        return False
    if address.is_unspecified:
        # What is sent to 0.0.0.0 or :: goes to this very host (RFC 1122 section 3.2.1.3).
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    for text, bound in own:
        listener = _plain(ipaddress.ip_address(text))
        if bound != port:
            continue
        if listener == address:
            return True
        if listener.is_unspecified and listener.version == address.version and _is_local(address):
            return True
    return False


def _plain(address: _Address) -> _Address:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_local(address: _Address) -> bool:
    """Whether the address is this host's: only then can a socket be bound to it."""
    if address.is_loopback:
        return True
    try:
        with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
            return True
    except OSError:
        return False
