"""Which upstreams are queried for which names, and which names are never forwarded."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from vmdns.dns.cache import ForwardedCache
from vmdns.dns.forwarded_answer import Question
from vmdns.dns.name import to_text
from vmdns.dns.upstreams import Upstream, Upstreams, closest_domain
from vmdns.server.lookup import Lookup
from vmdns.server.upstream_server import UpstreamServer

_ROOT = b"\0"

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class RouteConfig:
    """The configuration that answers depend on: upstreams by domain, domains whose names may have private addresses,
    and the local zones. All names are wire names in lower case."""

    default: tuple[Upstream, ...] = ()
    domains: Mapping[bytes, tuple[Upstream, ...]] = field(default_factory=dict)
    trusted: frozenset[bytes] = frozenset()
    zones: frozenset[bytes] = frozenset()

    @property
    def upstreams(self) -> set[Upstream]:
        return {*self.default, *(one for servers in self.domains.values() for one in servers)}


def make_route_config(
    upstreams: Upstreams, own: frozenset[tuple[str, int]], zones: frozenset[bytes], problems: list[str]
) -> RouteConfig:
    """Returns the usable part of the configuration. own: the server's own listeners, which are never queried. Appends a
    sentence for each upstream that is left out.

    The root among trusted names or domains would match every name.
    """
    default = usable_servers(upstreams.default, own, problems)
    domains = {key: usable_servers(servers, own, problems) for key, servers in upstreams.domains.items()}
    return RouteConfig(default, domains, (upstreams.search | upstreams.domains.keys()) - {_ROOT}, zones)


class ForwardRoutes:
    """The route of each name, with the answers of these upstreams. It is replaced as a whole, so that threads use it
    without a lock.

    cached_for: the configuration whose answers the cache has: the last one with upstreams.
    """

    def __init__(
        self,
        config: RouteConfig,
        cache: ForwardedCache,
        server: Callable[[Upstream], UpstreamServer],
        cached_for: RouteConfig | None = None,
    ) -> None:
        self.config = config
        self.cache = cache
        self.cached_for = cached_for
        self.in_flight: dict[Question, Lookup] = {}
        made = {one: server(one) for one in config.upstreams}
        self.servers: Mapping[Upstream, UpstreamServer] = made
        self._default = tuple(made[one] for one in config.default)
        self._domains = {key: tuple(made[one] for one in servers) for key, servers in config.domains.items()}

    def of(self, name: bytes) -> tuple[UpstreamServer, ...]:
        """Returns the servers to query for a name, in the configured order. Empty where its domain has no usable one:
        such names are not forwarded elsewhere."""
        if not self._domains:
            return self._default
        domain = closest_domain(name, self._domains)
        return self._default if domain is None else self._domains[domain]

    def is_own(self, name: bytes) -> bool:
        """Whether a name lies in a local zone, and in no more specific forwarded domain."""
        zone = closest_domain(name, self.config.zones)
        if zone is None:
            return False
        domain = closest_domain(name, self._domains)
        return domain is None or len(domain) <= len(zone)

    def trusts(self, name: bytes) -> bool:
        """Whether a name may have private addresses."""
        return bool(self.config.trusted) and closest_domain(name, self.config.trusted) is not None

    def domains_by_server(self) -> Iterable[tuple[UpstreamServer, list[str]]]:
        """Returns each server with the domains that it is queried for."""
        found: dict[Upstream, list[str]] = {one: ["."] for one in self.config.default}
        for key, servers in self.config.domains.items():
            for one in servers:
                found.setdefault(one, []).append(to_text(key))
        return [(self.servers[one], names) for one, names in found.items()]


def usable_servers(
    servers: Iterable[Upstream], own: frozenset[tuple[str, int]], problems: list[str]
) -> tuple[Upstream, ...]:
    """Returns the servers that can be queried, each once. Appends a sentence to `problems` for each that is left
    out."""
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
        elif is_own_listener(one, own):
            problems.append(f"The upstream {one} is left out: vmdns itself listens there, and would ask itself.")
        else:
            kept[one] = None
    return tuple(kept)


def is_own_listener(upstream: Upstream, own: frozenset[tuple[str, int]]) -> bool:
    """Whether vmdns itself listens there."""
    port = upstream.port
    try:
        address = _plain(ipaddress.ip_address(upstream.address))
    except ValueError:
        return False
    if address.is_unspecified:
        # Packets to 0.0.0.0 or :: go to this host (RFC 1122 section 3.2.1.3).
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
