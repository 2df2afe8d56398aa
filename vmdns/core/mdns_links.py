"""Which names with which addresses multicast DNS answers for on which link of the host."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address
from typing import NamedTuple

import idna

from vmdns.core.model import Network
from vmdns.core.name import labels, to_wire
from vmdns.core.snapshot import Guest, Snapshot
from vmdns.core.view import INNER

LOCAL = to_wire("local")


class Link(NamedTuple):
    """One interface of the host: its addresses, and the names (wire form, lower case) that are answered for on it.

    Without names, others on the link are only asked.
    """

    prefixes: tuple[IPv4Interface | IPv6Interface, ...]
    names: dict[bytes, tuple[str, ...]]

    def holds(self, address: str) -> bool:
        """Whether the address is on this link; one of IPv6 that is valid on a link alone always is."""
        at = _parsed(address)
        return any(at in prefix.network for prefix in self.prefixes) or (at.version == 6 and at.is_link_local)


@lru_cache(maxsize=16384)
def _parsed(address: str) -> IPv4Address | IPv6Address:
    return ip_address(address.partition("%")[0])


def links(snapshot: Snapshot, relay: bool) -> dict[str, Link]:
    """The links by interface. relay: those too where no VM is, to ask others there.

    Only names of two labels below `local`, each with its addresses of that very network (RFC 6762 sections 3 and 14).
    """
    ways = snapshot.ways
    prefixes: dict[str, list[IPv4Interface | IPv6Interface]] = {}
    for place in ways.places:
        if not place.at.ip.is_loopback and place.at.network.num_addresses > 1:
            prefixes.setdefault(place.interface, []).append(place.at)
    found: dict[str, Link] = {}
    for interface, here in prefixes.items():
        if all(one.version == 6 for one in here):
            continue
        network = ways.networks.get(interface)
        if network is not None and not (network.kind == "bridged" and snapshot.lan == "off"):
            found[interface] = Link(tuple(here), _names(snapshot, network, Link(tuple(here), {})))
        elif relay and not INNER.match(interface):
            found[interface] = Link(tuple(here), {})
    return found


def _names(snapshot: Snapshot, network: Network, link: Link) -> dict[bytes, tuple[str, ...]]:
    names: dict[bytes, tuple[str, ...]] = {}
    same = lru_cache(maxsize=None)(lambda other: snapshot.ways.same_link(network, other))
    for guest in snapshot.guests:
        addresses = tuple(one.address for one in guest.addresses if same(one.network) and link.holds(one.address))
        for name in _local_names(guest, snapshot) if addresses else ():
            names[name] = addresses
    return names


def _local_names(guest: Guest, snapshot: Snapshot) -> list[bytes]:
    found = []
    for relative in guest.named.names:
        name = to_wire(".".join((*relative, "local")))
        if len(relative) == 1 and snapshot.owned.get(name) is guest:
            found.append(name)
            if relative[0].startswith("xn--"):
                found.append(to_wire(f"{idna.ulabel(relative[0])}.local"))  # RFC 6762 section 16: UTF-8 as it is
    return found


def may_ask(name: bytes) -> bool:
    """Whether others on a link may have this name: two labels below `local`, and no service."""
    parts = labels(name)
    return len(parts) == 2 and parts[1] == b"local" and not parts[0].startswith(b"_")
