"""Which upstreams are queried for which names, and which names are never forwarded."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from vmdns.dns.forwarded_answer import ForwardedCache, Question
from vmdns.dns.name import to_text
from vmdns.dns.upstreams import Upstream, Upstreams, closest_domain
from vmdns.server.upstream_server import UpstreamServer

if TYPE_CHECKING:
    from vmdns.server.forwarder import Lookup


class ForwardRoutes:
    """The route of each name, with the answers of these upstreams. It is replaced as a whole, so that threads use it
    without a lock.

    zones: the local zones (wire names, lower case). server gives the state of an upstream.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        zones: frozenset[bytes],
        cache: ForwardedCache,
        server: Callable[[Upstream], UpstreamServer],
    ) -> None:
        self.upstreams = upstreams
        self.zones = zones
        self.cache = cache
        self.in_flight: dict[Question, Lookup] = {}
        used = dict.fromkeys((*upstreams.default, *(one for servers in upstreams.domains.values() for one in servers)))
        self.servers: Mapping[Upstream, UpstreamServer] = {one: server(one) for one in used}
        self._trusted = (upstreams.search | upstreams.domains.keys()) - {b"\0"}  # the root would match every name

    def of(self, name: bytes) -> list[UpstreamServer]:
        """Returns the servers to query for a name: as configured, unresponsive ones last. Empty where its domain has no
        usable one: such names are not forwarded elsewhere."""
        domain = closest_domain(name, self.upstreams.domains)
        servers = self.upstreams.default if domain is None else self.upstreams.domains[domain]
        found = [self.servers[one] for one in servers]
        if sum(server.is_silent() for server in found):
            found.sort(key=lambda server: server.silent)
        return found

    def is_own(self, name: bytes) -> bool:
        """Whether a name lies in a local zone, and in no more specific forwarded domain."""
        zone = closest_domain(name, self.zones)
        if zone is None:
            return False
        domain = closest_domain(name, self.upstreams.domains)
        return domain is None or len(domain) <= len(zone)

    def trusts(self, name: bytes) -> bool:
        """Whether a name may have private addresses."""
        return closest_domain(name, self._trusted) is not None

    def domains_by_server(self) -> Iterable[tuple[UpstreamServer, list[str]]]:
        """Returns each server with the domains that it is queried for."""
        for one, server in self.servers.items():
            domains = [to_text(key) for key, servers in self.upstreams.domains.items() if one in servers]
            yield server, ["."] * (one in self.upstreams.default) + domains


def usable_upstreams(upstreams: Upstreams, own: frozenset[tuple[str, int]]) -> tuple[Upstreams, list[str]]:
    """Returns the upstreams that can be queried, each once, and a sentence for each that is left out.

    own: the addresses and ports of the server's listeners, which are never queried.
    """
    problems: dict[str, None] = {}

    def usable(servers: Iterable[Upstream]) -> tuple[Upstream, ...]:
        found = {one: _problem(one, own) for one in servers}
        problems.update((f"The upstream {why}", None) for why in found.values() if why)
        return tuple(one for one, why in found.items() if not why)

    domains = {key: usable(servers) for key, servers in upstreams.domains.items()}
    return replace(upstreams, default=usable(upstreams.default), domains=domains), list(problems)


def _problem(one: Upstream, own: frozenset[tuple[str, int]]) -> str:
    try:
        address = ipaddress.ip_address(one.address)
    except ValueError:
        return f"{one.address} is left out: an IP address is expected."
    if not 0 < one.port < 65536:
        return f"{one} is left out: a port is a number from 1 to 65535."
    if address.is_multicast or str(address) == "255.255.255.255":
        return f"{one} is left out: it is no address of a single server."
    if is_own_listener(one, own):
        return f"{one} is left out: vmdns itself listens there, and would ask itself."
    return ""


def is_own_listener(upstream: Upstream, own: frozenset[tuple[str, int]]) -> bool:
    """Whether vmdns itself listens there."""
    try:
        address = _parse_address(upstream.address)
    except ValueError:
        return False
    if address.is_unspecified:
        # Packets to 0.0.0.0 or :: go to this host (RFC 1122 section 3.2.1.3).
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    for listener in (_parse_address(text) for text, port in own if port == upstream.port):
        everywhere = listener.is_unspecified and listener.version == address.version
        if listener == address or (everywhere and _is_local(address)):
            return True
    return False


def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Raises ValueError. An IPv4 address that is mapped into IPv6 is given as IPv4."""
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def _is_local(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether the address is this host's: only then can a socket be bound to it."""
    if address.is_loopback:
        return True
    try:
        with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
            return True
    except OSError:
        return False
