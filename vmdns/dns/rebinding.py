"""DNS rebinding: public names that point into the user's own networks.

A web page may give its own name the address of a VM or of the host, and so reach it past the browser's
same-origin rule. So an answer from outside may not hold addresses that only mean something here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from functools import lru_cache

from vmdns.dns.message import AAAA, CNAME, HTTPS, SVCB, A, skip_name

_INNER = tuple(
    ipaddress.ip_network(prefix)
    for prefix in (
        "0.0.0.0/8",  # this host (RFC 791, RFC 1122 section 3.2.1.3): Linux takes it for 127.0.0.1
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # carrier-grade NAT, and overlay networks (RFC 6598)
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, and the metadata service of clouds (RFC 3927)
        "172.16.0.0/12",
        "192.168.0.0/16",
        "198.18.53.0/24",  # vmdns's own addresses for NAT Networks; the rest of 198.18.0.0/15 is left to proxies
        "::/128",
        "::1/128",
        "fc00::/7",  # unique local (RFC 4193)
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local, deprecated (RFC 3879)
    )
)
# Prefixes whose last 32 bits are an IPv4 address: mapped and compatible (RFC 4291 section 2.5.5), NAT64
# (RFC 6052 section 2.1, RFC 8215).
_HOLDS_IPV4 = tuple(ipaddress.ip_network(prefix) for prefix in ("::ffff:0:0/96", "::/96", "64:ff9b::/96"))
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")
_6TO4 = ipaddress.ip_network("2002::/16")
_HINT_SIZES = {4: 4, 6: 16}  # service parameters ipv4hint and ipv6hint (RFC 9460 section 14.3.2)


def _find_prefixes() -> frozenset[tuple[int, bytes]]:
    """The first two bytes that such an address can have, with its length: almost no address from outside has them."""
    found = set()
    for network in (*_INNER, *_HOLDS_IPV4, _LOCAL_NAT64, _6TO4):
        first, last = (int.from_bytes(network[at].packed[:2], "big") for at in (0, -1))
        found |= {(network.max_prefixlen // 8, head.to_bytes(2, "big")) for head in range(first, last + 1)}
    return frozenset(found)


_HEADS = _find_prefixes()


def is_private(packed: bytes) -> bool:
    """Whether this address (4 or 16 bytes) is private, loopback, link-local or the like, also embedded in IPv6."""
    return (len(packed), packed[:2]) in _HEADS and _check_address(packed)


@lru_cache(maxsize=4096)
def _check_address(packed: bytes) -> bool:
    address = ipaddress.ip_address(packed)
    if any(address in network for network in _INNER if network.version == address.version):
        return True
    if len(packed) == 4:
        return False
    if any(address in network for network in _HOLDS_IPV4):
        return is_private(packed[12:])
    if address in _6TO4:
        return is_private(packed[2:6])
    return address in _LOCAL_NAT64


def find_addresses(kind: int, rdata: bytes) -> Iterator[bytes]:
    """The addresses, packed, that a client may connect to because of this record. Raises ValueError and IndexError."""
    if kind in (A, AAAA):
        yield rdata
    elif kind in (SVCB, HTTPS):
        yield from _parse_hints(rdata)


def _parse_hints(rdata: bytes) -> Iterator[bytes]:
    """The ipv4hint and ipv6hint parameters of a record with service parameters (RFC 9460 section 2.2)."""
    at = 2 + len(_parse_svcb_target(rdata))
    last = -1
    while at < len(rdata):
        key, length = int.from_bytes(rdata[at : at + 2], "big"), int.from_bytes(rdata[at + 2 : at + 4], "big")
        at += 4
        if key <= last or at + length > len(rdata):
            raise ValueError("service parameters")
        size = _HINT_SIZES.get(key)
        if size is not None:
            if length == 0 or length % size:
                raise ValueError("length of an address hint")
            yield from (rdata[first : first + size] for first in range(at, at + length, size))
        last, at = key, at + length


def _parse_svcb_target(rdata: bytes) -> bytes:
    return rdata[2 : skip_name(rdata, 2)]


def find_target(kind: int, rdata: bytes) -> bytes | None:
    """The wire name, in lower case, that a client looks up next; None if there is none."""
    if kind == CNAME:
        return rdata.lower()
    if kind in (SVCB, HTTPS):
        return _parse_svcb_target(rdata).lower()
    return None
