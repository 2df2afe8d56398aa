"""The view of a query: clients that get the same answers, known by the addresses the query came from and came to.

The engines of NAT and NAT Network hide the guest: its packets reach the host's server from the host itself, so there
only the address the query came to can name the network, which is the one that the network's DHCP hands out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network
from typing import NamedTuple

from vmdns.state.facts import (
    DhcpServer,
    Fact,
    HostAddress,
    HostInterface,
    LoopbackNetwork,
    Machine,
    NatNetwork,
    Network,
)

# Addresses that vmdns gives the host, one for each NAT Network (RFC 2544's range, which no real network uses).
GIVEN = ip_network("198.18.53.0/24")

HOST = Network("host")
NAT = Network("nat")

# Interfaces that lead to containers or tunnels: their addresses are not the host's to anybody else, unless a network of
# VirtualBox is on them, as on the bridges that vmnet makes for host-only networks (macOS).
INNER = re.compile(r"(docker|br-|virbr|veth|lxc|cni|flannel|podman|tun|tap|wg|utun|bridge1\d\d)")


class View(NamedTuple):
    """The networks (HOST among them) whose clients are indistinguishable, and the host's address that they queried."""

    members: tuple[Network, ...] = (HOST,)
    local: str = "127.0.0.1"


class HostPlace(NamedTuple):
    """One address of the host: the interface as the system calls it, and the network that it is on: a LAN like any
    other where no VM is bridged to it."""

    interface: str
    at: IPv4Interface | IPv6Interface
    network: Network

    @property
    def address(self) -> str:
        return str(self.at.ip)


@dataclass(frozen=True)
class HostNetworks:
    """By which of its addresses the host can be reached, from which networks.

    places are the host's addresses, without link-local ones. networks maps an interface (the system's name) to the
    host-only or bridged network that it is, systems a name that VirtualBox has for an interface to the system's.
    advertised maps an address of the host to the NAT Networks that hand it out as their name server, gateways a NAT
    Network to its gateway, loopback a loopback address to the network that it represents. resolvers are the host's own
    name servers.
    """

    places: tuple[HostPlace, ...] = ()
    networks: Mapping[str, Network] = field(default_factory=dict)
    systems: Mapping[str, str] = field(default_factory=dict)
    advertised: Mapping[str, tuple[Network, ...]] = field(default_factory=dict)
    gateways: Mapping[str, str] = field(default_factory=dict)
    resolvers: tuple[str, ...] = ()
    loopback: Mapping[str, Network] = field(default_factory=dict)

    @cached_property
    def _addresses(self) -> frozenset[str]:
        return frozenset(place.address for place in self.places)

    def owns(self, address: str) -> bool:
        """Whether it is an address of the host."""
        return address in self._addresses or _is_loopback(address)

    def find_system_name(self, name: str) -> str | None:
        """The system's name of an interface, from VirtualBox's: on macOS that is `en0: Wi-Fi`."""
        return self.systems.get(name) or self.systems.get(name.partition(": ")[0])

    def place_of(self, address: str, local: str = "") -> HostPlace | None:
        """The host's own address on the link that this address is on: `local` if it is one of several."""
        try:
            wanted = ip_address(address.partition("%")[0])
        except ValueError:
            return None
        found = [place for place in self.places if wanted in place.at.network]
        return next((one for one in found if one.address == local), next(iter(found), None))

    def on(self, network: Network) -> tuple[str, ...]:
        """The host's IPv4 addresses on a host-only or bridged network."""
        return tuple(one.address for one in self.places if one.at.version == 4 and one.network == network)

    @cached_property
    def reachable(self) -> tuple[str, ...]:
        """The host's IPv4 addresses that a guest behind NAT can reach, those of its LAN first."""
        own = self._own_addresses()
        outer = [one for one in own if one.interface in self.networks or not INNER.match(one.interface)]
        outer.sort(key=lambda one: (one.network.kind == "hostonly", one.at.network.prefixlen == 32, int(one.at.ip)))
        return tuple(place.address for place in outer)

    def guest_addresses(self, lan: bool) -> tuple[str, ...]:
        """The addresses of the host at which guests ask; lan: whether those of bridged networks are among them."""
        own = self._own_addresses()
        used = {name for name, network in self.networks.items() if lan or network.kind == "hostonly"}
        found = [one.address for one in own if one.interface in used or one.at.ip in GIVEN]
        name_servers = {*self.advertised, *self.resolvers}
        return tuple(dict.fromkeys(found + [one.address for one in own if one.address in name_servers]))

    def _own_addresses(self) -> list[HostPlace]:
        return [one for one in self.places if one.at.version == 4 and not one.at.ip.is_loopback]

    def is_trusted(self, local: str, peer: str) -> bool | None:
        """Whether a client may query everything: the host, and guests of networks that nobody else is on.

        None for a neighbour on a LAN, where it takes more to recognise a guest.
        """
        if _is_loopback(local) or peer == local or self.owns(peer):
            return True
        place = self.place_of(peer, local)
        if place is None:
            return False
        return True if place.network.kind == "hostonly" else None

    def same_link(self, one: Network, other: Network) -> bool:
        """Whether two networks are one: the same, or interfaces of the host that are on the same LAN."""
        if one == other:
            return one.kind != "nat"
        if one.kind != "bridged" or other.kind != "bridged":
            return False
        mine, others = ({place.at.network for place in self.places if place.network == it} for it in (one, other))
        return bool(mine & others)

    def view(self, local: str, peer: str) -> View:
        """The view of a client that asked from `peer` at the host's address `local`."""
        if local in self.loopback:
            network = self.loopback[local]
            return View((network,), self.find_address_towards(network))
        if _is_loopback(local):
            # Where the host's first name server is a loopback address, VirtualBox's engines pass queries on to it.
            passed = bool(self.resolvers) and _is_loopback(self.resolvers[0])
            return View((HOST, NAT) if passed else (HOST,), local)
        if peer == local or self.owns(peer):
            # From the host itself, or from a guest behind a NAT engine.
            advertised = self.advertised.get(local, ())
            return View(advertised if advertised and local not in self.resolvers else (*advertised, HOST, NAT), local)
        place = self.place_of(peer, local) or next((one for one in self.places if one.address == local), None)
        return View((Network("bridged") if place is None else place.network,), local)

    def find_address_towards(self, network: Network) -> str:
        """The host's address at which guests of this network ask; empty where there is none."""
        if network == HOST:
            return "127.0.0.1"
        if network.kind in ("hostonly", "bridged"):
            return next(iter(self.on(network)), "")
        for address, networks in self.advertised.items():
            if network in networks:
                return address
        outward = [one for one in self.resolvers if self.owns(one) and not _is_loopback(one)]
        return next(iter((*outward, *self.reachable)), "") if network.kind in ("nat", "natnetwork") else ""


def index_host_networks(facts: Iterable[Fact], resolvers: tuple[str, ...] = ()) -> HostNetworks:
    """Indexes the host's addresses and networks, in the order of the facts about them.

    resolvers: the addresses of its own name servers, in their order.
    """
    facts = list(facts)
    places: dict[tuple[str, IPv4Interface | IPv6Interface], None] = {}
    networks: dict[str, Network] = {}
    advertised: dict[str, list[Network]] = {}
    gateways: dict[str, str] = {}
    systems: dict[str, str] = {}
    for address in (one for one in facts if isinstance(one, HostAddress)):
        systems |= {address.interface: address.interface, address.alias or address.interface: address.interface}
        at = parse_interface(address.prefix)
        if at is not None and not at.ip.is_link_local:
            places[address.interface, at] = None
    known = bool(places)
    for interface in (one for one in facts if isinstance(one, HostInterface)):
        at = parse_interface(interface.prefix)
        if at is None or at.ip.is_link_local:
            continue
        # The system may have another name for it (Windows, macOS): then the address identifies it.
        found = next((system for system, one in places if one == at), None)
        name = found or interface.name
        networks[name] = Network("hostonly", interface.name)
        if found is not None:
            systems.setdefault(interface.name, found)
        # VirtualBox goes on naming an address that was changed or taken away: the system knows better.
        if not known:
            places[name, at] = None
            systems[name] = name
    online = (one for one in facts if isinstance(one, Machine) and one.online)
    attached = {adapter.network for machine in online for adapter in machine.adapters}
    for network in sorted((one for one in attached if one.kind == "bridged"), key=lambda one: one.name):
        found = systems.get(network.name) or systems.get(network.name.partition(": ")[0])
        if found is not None:
            networks.setdefault(found, network)
    for fact in facts:
        if isinstance(fact, NatNetwork) and fact.enabled:
            at = parse_interface(fact.prefix)
            if at is not None and at.network.num_addresses > 2:
                gateways[fact.name] = str(at.network.network_address + 1)
    for fact in facts:
        if isinstance(fact, DhcpServer) and fact.enabled and fact.network in gateways:
            for server in fact.name_servers:
                advertised.setdefault(server, []).append(Network("natnetwork", fact.network))
    ordered = sorted(places, key=lambda place: (place[0], place[1].version, place[1]))
    return HostNetworks(
        tuple(HostPlace(name, at, networks.get(name, Network("bridged", name))) for name, at in ordered),
        networks,
        systems,
        {server: tuple(sorted(among, key=lambda one: one.name)) for server, among in sorted(advertised.items())},
        gateways,
        resolvers,
        {fact.address: fact.network for fact in facts if isinstance(fact, LoopbackNetwork)},
    )


def parse_interface(text: str) -> IPv4Interface | IPv6Interface | None:
    """An address with its prefix; None where the text is none."""
    try:
        return ip_interface(text.partition("%")[0])
    except ValueError:
        return None


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
