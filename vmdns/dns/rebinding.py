"""DNS rebinding: public names that point into the user's own networks.

A web page may give its own name the address of a VM or of the host, and so reach it past the browser's
same-origin rule. So an answer from outside may not hold addresses that only mean something here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from functools import lru_cache

from vmdns.dns.message import AAAA, CNAME, HTTPS, SVCB, A, parse_name
from vmdns.dns.name import to_text

MAX_WITHHELD = 64
WITHHELD_SECONDS = 3600.0  # after that, a name that nobody asks for any more is forgotten

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
        "64:ff9b:1::/48",  # local NAT64 (RFC 8215)
    )
)
# Prefixes of addresses that hold an IPv4 address, and where it begins: mapped and compatible (RFC 4291 section 2.5.5),
# NAT64 (RFC 6052 section 2.1), 6to4 (RFC 3056).
_HOLDS_IPV4 = tuple(
    (ipaddress.ip_network(prefix), start)
    for prefix, start in (("::ffff:0:0/96", 12), ("::/96", 12), ("64:ff9b::/96", 12), ("2002::/16", 2))
)
_HINT_SIZES = {4: 4, 6: 16}  # service parameters ipv4hint and ipv6hint (RFC 9460 section 14.3.2)


@lru_cache(maxsize=4096)
def is_private(packed: bytes) -> bool:
    """Whether this address (4 or 16 bytes) is private, loopback, link-local or the like, also embedded in IPv6."""
    address = ipaddress.ip_address(packed)
    if any(address in network for network in _INNER):
        return True
    start = next((start for network, start in _HOLDS_IPV4 if address in network), None)
    return start is not None and is_private(packed[start : start + 4])


def find_addresses(kind: int, rdata: bytes) -> Iterator[bytes]:
    """The addresses, packed, that a client may connect to because of this record: also those in the hints of service
    parameters (RFC 9460 section 2.2). Raises ValueError and IndexError."""
    if kind in (A, AAAA):
        yield rdata
    if kind not in (SVCB, HTTPS):
        return
    _, at = parse_name(rdata, 2, {})
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


def find_target(kind: int, rdata: bytes) -> bytes | None:
    """The wire name, in lower case, that a client looks up next; None if there is none."""
    if kind == CNAME:
        return rdata.lower()
    return parse_name(rdata, 2, {})[0].lower() if kind in (SVCB, HTTPS) else None


class WithheldNames:
    """Names whose answers were withheld lately, with when they were last asked for; the oldest are forgotten first.

    Times are of a monotonic clock, in seconds.
    """

    def __init__(self) -> None:
        self._names: dict[bytes, float] = {}

    def add(self, name: bytes, now: float) -> bool:
        """Notes a wire name. Returns whether it was not there."""
        last = self._names.pop(name, None)
        self._names[name] = now
        if len(self._names) > MAX_WITHHELD:
            del self._names[next(iter(self._names))]
        return last is None or now - last >= WITHHELD_SECONDS

    def names(self, now: float) -> list[str]:
        """The names of the last hour, the newest last. Any thread may call this."""
        return [to_text(name) for name, last in list(self._names.items()) if now - last < WITHHELD_SECONDS]
