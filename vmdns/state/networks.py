"""What is known of networks and of the host, indexed for the addresses of VMs: leases, fixed addresses, prefixes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import NamedTuple

from vmdns.state.facts import DhcpServer, Fact, HostAddress, HostInterface, Lease, NatNetwork, Neighbour

HOST_IF = "HostInterfaceNetworking-"


class AddressOwner(NamedTuple):
    """The VM that VirtualBox's DHCP gave an address to: the MAC of its adapter, and its name."""

    mac: str
    name: str


@dataclass(slots=True)
class NetworkIndex:
    """Leases, fixed addresses, prefixes and neighbours by network, made from all facts.

    facts are those about networks and the host. owners maps an address to the VM that DHCP gave it to (by network and
    address), among those that are online. links are the prefixes of the host's interfaces, holders the MACs at which it
    sees an address, by interface. now is the Unix time at which leases are compared.
    """

    facts: tuple[Fact, ...] = ()
    now: float = 0.0
    leases: dict[tuple[str, str], list[Lease]] = field(default_factory=dict)
    fixed: dict[tuple[str, str], str] = field(default_factory=dict)
    prefixes: dict[str, list[IPv4Network]] = field(default_factory=dict)
    hosts_own: dict[str, set[str]] = field(default_factory=dict)
    interfaces: set[str] = field(default_factory=set)
    systems: dict[str, str] = field(default_factory=dict)
    neighbours: dict[str, list[Neighbour]] = field(default_factory=dict)
    owners: dict[tuple[str, str], AddressOwner] = field(default_factory=dict)
    links: dict[str, list[IPv4Network]] = field(default_factory=dict)
    holders: dict[str, dict[str, str]] = field(default_factory=dict)


@lru_cache(maxsize=4096)
def file_key(dhcp_name: str) -> str:
    """A DHCP server's network name as it comes back from a lease file's name.

    RTPathPurgeFilename puts `_` for what a file name cannot hold (RTPathPurgeFilename.cpp).
    """
    return re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", dhcp_name)


def index_networks(facts: Iterable[Fact], now: float) -> NetworkIndex:
    """Everything that `addresses` needs to know about networks, but for the owners. now in Unix seconds."""
    found = NetworkIndex(facts=tuple(one for one in facts if not isinstance(one, Lease | Neighbour)), now=now)
    for fact in facts:
        match fact:
            case Lease():
                found.leases.setdefault((file_key(fact.network), fact.mac), []).append(fact)
            case NatNetwork():
                prefix = _network(fact.prefix)
                if prefix is not None and prefix.num_addresses > 2:
                    found.prefixes.setdefault(fact.name, []).append(prefix)
                    found.hosts_own.setdefault(fact.name, set()).add(str(prefix.network_address + 1))
            case DhcpServer() if fact.enabled:
                name = file_key(fact.network)
                for mac, address in fact.fixed:
                    if ipv4(address) is not None:
                        found.fixed[name, mac] = address
                found.hosts_own.setdefault(fact.network, set()).add(fact.address)
                prefix = _network(f"{fact.address}/{fact.mask}")
                # An internal network is a wire that may carry other prefixes than its DHCP server's.
                if prefix is not None and fact.network.startswith(HOST_IF):
                    found.prefixes.setdefault(fact.network, []).append(prefix)
            case HostAddress():
                found.interfaces.add(fact.prefix.partition("/")[0])
                found.systems[fact.interface] = fact.interface
                prefix = _network(fact.prefix)
                if prefix is not None and prefix.num_addresses > 1:
                    found.links.setdefault(fact.interface, []).append(prefix)
                if fact.alias:
                    found.systems[fact.alias] = fact.interface
            case Neighbour():
                found.neighbours.setdefault(fact.mac, []).append(fact)
                found.holders.setdefault(fact.address, {})[fact.interface] = fact.mac
            case HostInterface():
                name = f"{HOST_IF}{fact.name}"
                own = fact.prefix.partition("/")[0]
                found.hosts_own.setdefault(name, set()).add(own)
                found.interfaces.add(own)
                prefix = _network(fact.prefix)
                if prefix is not None:
                    found.prefixes.setdefault(name, []).append(prefix)
            case _:
                pass
    return found


def ipv4(text: str) -> IPv4Address | None:
    """The address, None where the text is no IPv4 address."""
    try:
        return IPv4Address(text)
    except ValueError:
        return None


def _network(text: str) -> IPv4Network | None:
    try:
        return IPv4Interface(text).network
    except ValueError:
        return None
