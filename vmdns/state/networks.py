"""What is known of networks and of the host, indexed for the addresses of VMs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from vmdns.state.facts import (
    HOST_IF,
    Adapter,
    DhcpServer,
    Fact,
    HostInterface,
    Lease,
    Machine,
    NatNetwork,
    Neighbour,
    Network,
)
from vmdns.state.views import HostNetworks, index_host_networks, parse_interface

FIXED, LEASE = "fixed address", "lease"


class Address(NamedTuple):
    """One address of one adapter. since and until are Unix seconds, until 0 where nothing ends it."""

    address: str
    network: Network
    mac: str
    source: str
    why: str
    since: float = 0.0
    until: float = 0.0

    def origin(self, now: float) -> str:
        """Why the VM has this address, with what is left of a lease."""
        return f"{self.why}, {max(0, round(self.until - now))} s left" if self.until else self.why


@dataclass(slots=True)
class NetworkIndex:
    """Leases, fixed addresses, prefixes and neighbours, made from all facts.

    A network's key is its `dhcp_name`; leases and fixed addresses are found by its `file_key` and a MAC. leases are the
    valid ones, the newest first. given has the MACs that an address was given to, as long as the lease file knows.
    owners maps a network and an address to the MAC and name of the online VM that has it by DHCP. hosts_own are the
    addresses of the host and of servers on a network. holders has the interfaces and MACs at which the host sees an
    address.
    """

    host: HostNetworks
    leases: dict[tuple[str, str], list[Lease]] = field(default_factory=dict)
    fixed: dict[tuple[str, str], str] = field(default_factory=dict)
    given: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    owners: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    prefixes: dict[str, list[IPv4Network]] = field(default_factory=dict)
    hosts_own: dict[str, set[str]] = field(default_factory=dict)
    neighbours: dict[str, list[Neighbour]] = field(default_factory=dict)
    holders: dict[str, set[tuple[str, str]]] = field(default_factory=dict)


@lru_cache(maxsize=4096)
def file_key(dhcp_name: str) -> str:
    """A DHCP server's network name as it comes back from a lease file's name.

    RTPathPurgeFilename puts `_` for what a file name cannot hold (RTPathPurgeFilename.cpp).
    """
    return re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", dhcp_name)


def index_networks(facts: Iterable[Fact], resolvers: tuple[str, ...], now: float) -> NetworkIndex:
    """Indexes the facts, which are in an order of their own. now in Unix seconds."""
    facts = list(facts)
    found = NetworkIndex(index_host_networks(facts, resolvers))
    interfaces = [fact for fact in facts if isinstance(fact, HostInterface)]
    vmnets = [(_parse_prefix(one.prefix), f"{HOST_IF}{one.name}") for one in interfaces if one.vmnet]
    for fact in facts:
        match fact:
            case Lease():
                at = ipv4(fact.address)
                network = fact.network or next((name for prefix, name in vmnets if prefix and at in prefix), "")
                if not network:  # of a network of macOS that is none of VirtualBox's
                    continue
                name = file_key(network)
                found.given.setdefault((name, fact.address), set()).add(fact.mac)
                if fact.until > now:
                    found.leases.setdefault((name, fact.mac), []).append(fact)
            case NatNetwork():
                prefix = _parse_prefix(fact.prefix)
                if prefix is not None and prefix.num_addresses > 2:
                    found.prefixes.setdefault(fact.name, []).append(prefix)
                    found.hosts_own.setdefault(fact.name, set()).add(str(prefix.network_address + 1))
            case DhcpServer() if fact.enabled:
                name = file_key(fact.network)
                for mac, address in fact.fixed:
                    if ipv4(address) is not None:
                        found.fixed[name, mac] = address
                        found.given.setdefault((name, address), set()).add(mac)
                found.hosts_own.setdefault(fact.network, set()).add(fact.address)
                prefix = _parse_prefix(f"{fact.address}/{fact.mask}")
                # An internal network is a wire that may carry other prefixes than its DHCP server's.
                if prefix is not None and fact.network.startswith(HOST_IF):
                    found.prefixes.setdefault(fact.network, []).append(prefix)
            case Neighbour():
                found.neighbours.setdefault(fact.mac, []).append(fact)
                found.holders.setdefault(fact.address, set()).add((fact.interface, fact.mac))
            case HostInterface():
                name = f"{HOST_IF}{fact.name}"
                found.hosts_own.setdefault(name, set()).add(fact.address)
                prefix = _parse_prefix(fact.prefix)
                if prefix is not None:
                    found.prefixes.setdefault(name, []).append(prefix)
            case _:
                pass
    for leases in found.leases.values():
        leases.sort(key=lambda one: (one.issued, one.until, one.address), reverse=True)
    for machine in (one for one in facts if isinstance(one, Machine) and one.online):
        for adapter in machine.adapters:
            given = find_dhcp_address(adapter, found)
            if given is not None:
                found.owners.setdefault((adapter.network.dhcp_name, given.address), (adapter.mac, machine.name))
    return found


def find_leases(adapter: Adapter, networks: NetworkIndex) -> list[Address]:
    """The valid leases of an adapter, the newest first."""
    network = adapter.network
    why = f"DHCP lease of {network.name}"
    leases = networks.leases.get((file_key(network.dhcp_name), adapter.mac), ()) if network.dhcp_name else ()
    return [Address(one.address, network, adapter.mac, LEASE, why, one.issued, one.until) for one in leases]


def find_dhcp_address(adapter: Adapter, networks: NetworkIndex) -> Address | None:
    """What VirtualBox's DHCP gives this adapter: the fixed address, else the newest lease.

    VBoxNetDHCP writes no lease for a fixed address, and keeps the older dynamic lease in its file: so a fixed
    address outranks every lease, and is as fresh as the newest of them.
    """
    network, leases = adapter.network, find_leases(adapter, networks)
    fixed = networks.fixed.get((file_key(network.dhcp_name), adapter.mac)) if network.dhcp_name else None
    if fixed is not None:
        why = f"fixed address in the DHCP server of {network.name}"
        return Address(fixed, network, adapter.mac, FIXED, why, leases[0].since if leases else 0.0)
    if not leases:
        return None
    others = sorted({one.address for one in leases[1:]} - {leases[0].address})
    if not others:
        return leases[0]
    note = f"; newer than {' and '.join(others)}, given to another client with this MAC"
    return leases[0]._replace(why=leases[0].why + note)


@lru_cache(maxsize=4096)
def ipv4(text: str) -> IPv4Address | None:
    """The address, None where the text is no IPv4 address."""
    try:
        return IPv4Address(text)
    except ValueError:
        return None


def _parse_prefix(text: str) -> IPv4Network | None:
    found = parse_interface(text)
    return found.network if found is not None and found.version == 4 else None
