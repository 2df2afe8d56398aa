"""Which names with which addresses are answered by multicast DNS on which link of the host."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from typing import NamedTuple

import idna

from vmdns.dns.name import to_wire
from vmdns.state.facts import Network
from vmdns.state.guests import Guest
from vmdns.state.snapshot import Snapshot
from vmdns.state.views import INNER


class Link(NamedTuple):
    """One interface of the host: its addresses, and the names (wire form, lower case) that are answered on it.

    A link without names is only queried. guests_only: only guests of this host are on it.
    """

    prefixes: tuple[IPv4Interface | IPv6Interface, ...]
    names: dict[bytes, tuple[str, ...]]
    guests_only: bool = False

    def contains(self, address: str) -> bool:
        """Whether the address is on this link; an IPv6 link-local address always is."""
        at = ip_address(address.partition("%")[0])
        return any(at in prefix.network for prefix in self.prefixes) or (at.version == 6 and at.is_link_local)


def find_links(snapshot: Snapshot, relay: bool, publish_names: bool = True) -> dict[str, Link]:
    """Returns the links by interface name.

    Only names of two labels below `local`, each with its addresses on that network (RFC 6762 sections 3 and 14). relay:
    also links without VMs, to query them. publish_names: whether names of VMs are answered at all.
    """
    host = snapshot.host_networks
    prefixes: dict[str, list[IPv4Interface | IPv6Interface]] = {}
    for place in host.places:
        if not place.at.ip.is_loopback and place.at.network.num_addresses > 1:
            prefixes.setdefault(place.interface, []).append(place.at)
    found: dict[str, Link] = {}
    for interface, here in prefixes.items():
        if all(one.version == 6 for one in here):
            continue
        network = host.networks.get(interface)
        if network is not None and not (network.kind == "bridged" and snapshot.policy.lan == "off"):
            link = Link(tuple(here), {}, guests_only=network.kind != "bridged")
            if publish_names:
                link.names.update(_names(snapshot, network, link))
            if publish_names or relay:
                found[interface] = link
        elif relay and not INNER.match(interface):
            found[interface] = Link(tuple(here), {})
    return found


def _names(snapshot: Snapshot, network: Network, link: Link) -> Iterator[tuple[bytes, tuple[str, ...]]]:
    """Yields the names of VMs on a link, each with its addresses there."""
    for guest in snapshot.guests:
        here = dict.fromkeys(
            one.address
            for one in guest.addresses
            if link.contains(one.address) and snapshot.host_networks.same_link(network, one.network)
        )
        for name in _local_names(guest, snapshot) if here else ():
            yield name, tuple(here)


def _local_names(guest: Guest, snapshot: Snapshot) -> list[bytes]:
    found = []
    for relative in guest.named.names:
        name = to_wire(".".join((*relative, "local")))
        if len(relative) == 1 and snapshot.owned.get(name) == guest.machine.uuid:
            found.append(name)
            if relative[0].startswith("xn--"):
                found.append(to_wire(f"{idna.ulabel(relative[0])}.local"))  # RFC 6762 section 16: UTF-8 as it is
    return found
