"""Names that are answered here and never forwarded, whether or not a VM is behind them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address

from vmdns.dns.name import join_labels, to_wire
from vmdns.dns.upstreams import closest_domain

# Reverse zones of addresses that mean something on this host's networks alone (RFC 6303 section 4, RFC 7793 for
# shared address space left out: carriers answer it).
REVERSE = (
    "10.in-addr.arpa", *(f"{n}.172.in-addr.arpa" for n in range(16, 32)), "168.192.in-addr.arpa",
    "0.in-addr.arpa", "127.in-addr.arpa", "254.169.in-addr.arpa", "2.0.192.in-addr.arpa",
    "100.51.198.in-addr.arpa", "113.0.203.in-addr.arpa", "255.255.255.255.in-addr.arpa",
    "0." * 32 + "ip6.arpa", "1." + "0." * 31 + "ip6.arpa", "d.f.ip6.arpa", "8.e.f.ip6.arpa", "9.e.f.ip6.arpa",
    "a.e.f.ip6.arpa", "b.e.f.ip6.arpa", "8.b.d.0.1.0.0.2.ip6.arpa",
)  # fmt: skip

# RFC 6761 (localhost, invalid), RFC 6762 (local), RFC 7686 (onion), RFC 8375 (home.arpa), RFC 9462 (resolver.arpa).
SPECIAL = ("local", "localhost", "invalid", "onion", "home.arpa", "resolver.arpa")

BUILT_IN = frozenset(to_wire(name) for name in (*REVERSE, *SPECIAL))
LOCALHOST = to_wire("localhost")
RESOLVER = to_wire("resolver.arpa")
_HOME = to_wire("home.arpa")


def find_forwarded_domains(domains: Iterable[bytes], zones: Iterable[bytes]) -> frozenset[bytes]:
    """Of the host's search and routing domains those that would be answered here and have servers of their own.

    They lie below one of these zones (a company's corp.local below local), or in home.arpa, which the network's own
    resolver answers (RFC 8375 section 4). All are wire names in lower case.
    """
    apexes = frozenset(zones)
    found = set()
    for domain in domains:
        above = closest_domain(domain, apexes | {_HOME})
        if above is not None and domain not in apexes:
            found.add(domain)
    return frozenset(found)


@lru_cache(maxsize=4096)  # some 350 bytes each: of addresses that come and go few are worth it
def reverse_name(address: str) -> bytes:
    """The wire name under which an address has its PTR record (RFC 1035 section 3.5, RFC 3596 section 2.5)."""
    pointer = ip_address(address.partition("%")[0]).reverse_pointer
    return join_labels([part.encode("ascii") for part in pointer.split(".")])
