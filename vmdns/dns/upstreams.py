"""Upstreams: the servers that queries outside the local zones are forwarded to."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from vmdns.dns.name import to_wire

# Where systemd-resolved listens: its stub for programs, and its proxy (systemd-resolved.service(8)).
RESOLVED_STUB, RESOLVED_PROXY = "127.0.0.53", "127.0.0.54"


class Upstream(NamedTuple):
    """A server that answers recursively (RFC 9499 section 6): a literal address (with its zone id) and a port."""

    address: str
    port: int = 53

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def local(self) -> bool:
        """Whether this is a resolver that the user runs for the programs of this computer, at port 53 of loopback.

        What names mean is decided there. Not systemd-resolved, which passes on responses of the network's servers.
        """
        try:
            loopback = ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            return False
        return loopback and self.port == 53 and self.address not in (RESOLVED_STUB, RESOLVED_PROXY)


@dataclass(frozen=True, slots=True)
class Upstreams:
    """Where to forward: the servers for everything, and those of single domains (wire name, lower case).

    search has the host's search domains (wire names), and those that the user trusts. Answers from those domains and
    from the keys of `domains`
    may hold private addresses; from elsewhere they are taken for DNS rebinding. stub has the addresses that the host
    itself asks where those are not the default servers but a stub in front of them. proxy is a server on this host that
    asks all of these as the host does, each for its domains.
    """

    default: tuple[Upstream, ...] = ()
    domains: Mapping[bytes, tuple[Upstream, ...]] = field(default_factory=dict)
    search: frozenset[bytes] = frozenset()
    stub: tuple[str, ...] = ()
    proxy: Upstream | None = None

    def by_proxy(self, is_own: Callable[[Upstream], bool]) -> Upstreams:
        """The same with the proxy in place of the servers behind it.

        is_own: whether an upstream is one of our listeners. A proxy that forwards to one of them would be a loop.
        """
        if self.proxy is None or is_own(self.proxy) or any(map(is_own, self.default)):
            return self
        proxy = (self.proxy,)
        domains = {key: servers if any(map(is_own, servers)) else proxy for key, servers in self.domains.items()}
        return replace(self, default=proxy, domains=domains)

    @property
    def resolvers(self) -> tuple[str, ...]:
        """The addresses that the host itself asks, in its order: what VirtualBox passes on to guests behind NAT."""
        return self.stub or tuple(server.address for server in self.default)


def closest_domain(key: bytes, among: Container[bytes]) -> bytes | None:
    """The most specific of these wire names (lower case) that is the name itself or above it; None if none is."""
    while key not in among:
        if not key[0]:
            return None
        key = key[1 + key[0] :]
    return key


def wire_names(texts: Iterable[str]) -> frozenset[bytes]:
    """Domains in wire form, without the root and invalid names."""
    found = set()
    for text in texts:
        with suppress(ValueError):
            found.add(to_wire(text))
    return frozenset(found - {b"\0"})


def find_forwarded_domains(domains: Iterable[bytes], zones: Iterable[bytes]) -> frozenset[bytes]:
    """Of the host's search and routing domains those that would be answered here and have servers of their own.

    They lie below one of these zones (a company's corp.local below local), or in home.arpa, which the network's own
    resolver answers (RFC 8375 section 4). All are wire names in lower case.
    """
    apexes = frozenset(zones)
    own = apexes | {to_wire("home.arpa")}
    return frozenset(one for one in domains if one not in apexes and closest_domain(one, own) is not None)
