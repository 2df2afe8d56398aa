"""Which addresses a VM has: what VirtualBox's DHCP gave, Guest Additions report and the host's neighbours are.

All are joined by MAC.

What the host knows outranks what a guest claims, unless the claim is fresher; what cannot be true (another network, the
host's own address, an address that VirtualBox leased to another running VM, or that the host sees at another machine)
is left out and said (T1 of the threats in docs/security.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import NamedTuple

from vmdns.core.model import (
    Adapter,
    DhcpServer,
    Fact,
    HostAddress,
    HostInterface,
    Lease,
    Machine,
    NatNetwork,
    Neighbour,
    Network,
)

_HOST_IF = "HostInterfaceNetworking-"
# Guest Additions report every 10 s; within this many seconds they are taken to be at work still.
ALIVE_SECONDS = 30.0

FIXED, LEASE, ADDITIONS, NEIGHBOUR = "fixed address", "lease", "guest additions", "neighbour table"


class Address(NamedTuple):
    """One address of one adapter. since and until are Unix seconds, until 0 where nothing ends it."""

    address: str
    network: Network
    mac: str
    source: str
    why: str
    since: float
    until: float = 0.0


class Found(NamedTuple):
    """The addresses of a VM, in the order of its adapters; why others were left out."""

    addresses: tuple[Address, ...]
    refused: tuple[str, ...]


@dataclass(slots=True)
class Networks:
    """Leases, fixed addresses, prefixes and neighbours by network, made from all facts.

    facts are those about networks and the host. owners says which MAC DHCP gave an address to (by network and
    address), among VMs that are online. links are the prefixes of the host's interfaces, holders the MACs at which it
    sees an address, by interface. now is the Unix time at which leases are judged.
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
    owners: dict[tuple[str, str], str] = field(default_factory=dict)
    links: dict[str, list[IPv4Network]] = field(default_factory=dict)
    holders: dict[str, dict[str, str]] = field(default_factory=dict)


@lru_cache(maxsize=4096)
def file_key(dhcp_name: str) -> str:
    """A DHCP server's network name as it comes back from a lease file's name.

    RTPathPurgeFilename puts `_` for what a file name cannot hold (RTPathPurgeFilename.cpp).
    """
    return re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", dhcp_name)


def index(facts: Iterable[Fact], now: float) -> Networks:
    """Everything that `addresses` needs to know about networks, but for the owners. now in Unix seconds."""
    found = Networks(facts=tuple(one for one in facts if not isinstance(one, Lease | Neighbour)), now=now)
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
                    if _ipv4(address) is not None:
                        found.fixed[name, mac] = address
                found.hosts_own.setdefault(fact.network, set()).add(fact.address)
                prefix = _network(f"{fact.address}/{fact.mask}")
                # An internal network is a wire that may carry other prefixes than its DHCP server's.
                if prefix is not None and fact.network.startswith(_HOST_IF):
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
                name = f"{_HOST_IF}{fact.name}"
                own = fact.prefix.partition("/")[0]
                found.hosts_own.setdefault(name, set()).add(own)
                found.interfaces.add(own)
                prefix = _network(fact.prefix)
                if prefix is not None:
                    found.prefixes.setdefault(name, []).append(prefix)
            case _:
                pass
    return found


def _ipv4(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except ValueError:
        return None


def _network(text: str) -> IPv4Network | None:
    try:
        return IPv4Interface(text).network
    except ValueError:
        return None


def given(adapter: Adapter, networks: Networks) -> Address | None:
    """What VirtualBox's DHCP gives this adapter: the fixed address, else the newest lease that is still valid.

    VBoxNetDHCP writes no lease for a fixed address, and keeps the older dynamic lease in its file: so a fixed
    address outranks every lease, and is as fresh as the newest of them.
    """
    key = (file_key(adapter.network.dhcp_name), adapter.mac)
    if not key[0]:
        return None
    valid = [lease for lease in networks.leases.get(key, ()) if lease.until > networks.now]
    newest = max(valid, key=_freshness) if len(valid) > 1 else valid[0] if valid else None
    network = adapter.network
    if key in networks.fixed:
        since = newest.issued if newest else 0.0
        why = f"fixed address in the DHCP server of {network.name}"
        return Address(networks.fixed[key], network, adapter.mac, FIXED, why, since)
    if newest is None:
        return None
    why = f"DHCP lease of {network.name}"
    others = sorted({lease.address for lease in valid} - {newest.address}) if len(valid) > 1 else ()
    if others:
        why += f"; newer than {' and '.join(others)}, given to another client with this MAC"
    return _leased(newest, adapter, why)


def _freshness(lease: Lease) -> tuple[float, float, str]:
    return lease.issued, lease.until, lease.address


def _leased(lease: Lease, adapter: Adapter, why: str) -> Address:
    return Address(lease.address, adapter.network, adapter.mac, LEASE, why, lease.issued, lease.until)


def _confirmed(by_dhcp: Address, adapter: Adapter, networks: Networks, claims: list[Address]) -> Address | None:
    """The older lease that Guest Additions still report, although the MAC was given a newer one since.

    Whoever is on the network can ask its DHCP server for an address under another VM's MAC. Only the VM itself writes
    its guest properties: what both say is better proof than either. None where there is no such lease.
    """
    if not claims or by_dhcp.source != LEASE or any(claim.address == by_dhcp.address for claim in claims):
        return None
    claimed = {claim.address for claim in claims if claim.since >= by_dhcp.since - ALIVE_SECONDS}
    key = (file_key(adapter.network.dhcp_name), adapter.mac)
    found = (one for one in networks.leases.get(key, ()) if one.until > networks.now and one.address in claimed)
    older = max(found, key=_freshness, default=None)
    return None if older is None else _leased(older, adapter, f"DHCP lease of {adapter.network.name}")


def addresses(machine: Machine, networks: Networks) -> Found:
    """The addresses of one VM; none unless it is online."""
    if not machine.online:
        return Found((), ())
    chosen: list[Address] = []
    refused: list[str] = []
    own = frozenset(one.mac for one in machine.adapters)
    for adapter in machine.adapters:
        if not adapter.cable:
            refused.append(f"adapter {adapter.slot + 1}: its cable is not connected")
            continue
        by_dhcp = given(adapter, networks)
        if by_dhcp is not None and by_dhcp.source == LEASE:
            leased = _ipv4(by_dhcp.address)
            assert leased is not None
            objection = _misplaced(leased, adapter, networks)
            if objection:
                refused.append(f"DHCP gave it {by_dhcp.address}, {objection}")
                by_dhcp = None
        claims: list[Address] = []
        for report in machine.reports:
            if report.mac != adapter.mac or any(one.address == report.address for one in claims):
                continue
            claimed = _ipv4(report.address)
            if claimed is None:
                refused.append("Guest Additions report what is no IPv4 address")
                continue
            objection = _objection(claimed, adapter, networks, own)
            if objection:
                refused.append(f"Guest Additions report {report.address}, {objection}")
                continue
            why = "reported by Guest Additions"
            claims.append(Address(report.address, adapter.network, adapter.mac, ADDITIONS, why, report.since))
        confirmed = None if by_dhcp is None else _confirmed(by_dhcp, adapter, networks, claims)
        if by_dhcp is not None and confirmed is not None:
            others = f"since Guest Additions report {confirmed.address}, its lease before that"
            refused.append(f"somebody with its MAC was given {by_dhcp.address}, which is not believed {others}")
            by_dhcp = confirmed
        chosen += _seen(adapter, networks, _join(by_dhcp, claims), own, refused)
    return Found(tuple(dict.fromkeys(chosen)), tuple(refused))


def _join(given: Address | None, claims: list[Address]) -> list[Address]:
    """The fresher wins where they disagree, the better (what DHCP gave) where they are equally fresh.

    VBoxNetDHCP writes whole seconds: a report within that second may be older.
    """
    if given is None:
        return claims
    if not claims:
        return [given]
    others = [claim for claim in claims if claim.address != given.address]
    if len(others) < len(claims):
        return [given, *others]
    newest = max(claim.since for claim in claims)
    if newest >= given.since + 1:
        note = f"; newer than the {given.source} {given.address}"
        return [claim._replace(why=claim.why + note) for claim in claims]
    note = f"; newer than {claims[0].address} of Guest Additions"
    return [given._replace(why=given.why + note)]


def _system(adapter: Adapter, networks: Networks) -> str | None:
    """The system's name of the interface that an adapter is bridged to."""
    name = adapter.network.name
    return networks.systems.get(name) or networks.systems.get(name.partition(": ")[0])  # macOS: `en0: Wi-Fi`


def _seen(
    adapter: Adapter, networks: Networks, known: list[Address], own: frozenset[str], refused: list[str]
) -> list[Address]:
    """What is known, and what the host saw of this adapter on its links.

    Of IPv4 addresses the newest counts, if it is newer than what is known: an older one may be what the VM had before.
    """
    if adapter.network.kind not in ("bridged", "hostonly"):
        return known
    system = _system(adapter, networks)
    here = sorted(
        (one for one in networks.neighbours.get(adapter.mac, ()) if system is None or one.interface == system),
        key=lambda one: (-one.since, one.address),
    )
    why = "seen on the host's link"
    sixes = []
    newest = max((one.since for one in known), default=-1.0)
    for one in here:
        seen = Address(one.address, adapter.network, adapter.mac, NEIGHBOUR, why, one.since)
        address = _ipv4(one.address)
        if address is None:
            if one.address not in networks.interfaces:
                sixes.append(seen)
        elif any(other.address == one.address for other in known):
            newest = max(newest, one.since)
        elif one.since > newest:
            objection = _objection(address, adapter, networks, own)
            if objection:
                refused.append(f"the neighbour table has {one.address}, {objection}")
                continue
            known, newest = [seen], one.since
    return known + sorted(sixes)


def _objection(address: IPv4Address, adapter: Adapter, networks: Networks, own: frozenset[str]) -> str:
    """Why it is not believed that this adapter has this address; '' if it is. own are the MACs of its VM."""
    text, name = str(address), adapter.network.dhcp_name
    found = _misplaced(address, adapter, networks)
    if found:
        return found
    owner = networks.owners.get((name, text), adapter.mac) if name else adapter.mac
    if owner != adapter.mac:
        return "which VirtualBox's DHCP gave to another VM"
    if adapter.network.kind in ("bridged", "hostonly"):
        # A guest with two adapters on one link may answer for both of its addresses by either.
        holders = networks.holders.get(text, {})
        system = _system(adapter, networks)
        seen = {mac for interface, mac in holders.items() if system is None or interface == system}
        if seen and not seen & own:
            return "which this computer sees at another machine"
    return ""


def _misplaced(address: IPv4Address, adapter: Adapter, networks: Networks) -> str:
    """Why nobody can have this address on the network of this adapter; '' if somebody can."""
    text = str(address)
    kind, name = adapter.network.kind, adapter.network.dhcp_name
    if not _is_of_a_machine(address):
        return "which is no address of a machine"
    if text in networks.hosts_own.get(name, ()):
        return "which is the address of the network's own server"
    # Other kinds of network are closed: there a guest may well have an address that the host has elsewhere.
    if kind == "bridged":
        return (
            "which is an address of the host" if text in networks.interfaces else _elsewhere(address, adapter, networks)
        )
    if kind == "nat" and int(address) & 0xFF in (2, 3, 4) and int(address) >> 16 == 0x0A00:
        return "which is an address of VirtualBox's NAT itself"  # 10.0.2.2 to 10.0.2.4; the next slot's 10.0.3.2, ...
    prefixes = networks.prefixes.get(name, ()) if name else ()
    if prefixes:
        return "" if any(_holds(prefix, address) for prefix in prefixes) else f"which is not on {adapter.network.name}"
    return "which is a public address" if address.is_global else ""


def _is_of_a_machine(address: IPv4Address) -> bool:
    """Neither loopback, link-local, multicast nor reserved (RFC 6890 section 2.2.2), nor what a packet cannot come from
    (RFC 1122 section 3.2.1.3). By numbers: it is asked for each of thousands of leases."""
    number = int(address)
    return number >> 24 not in (0, 127) and number >> 16 != 0xA9FE and number >> 24 < 224


def _elsewhere(address: IPv4Address, adapter: Adapter, networks: Networks) -> str:
    """Of a LAN the host knows its own prefix there; others may be on it as well, but not those that are elsewhere.

    Where the host has no address there, its other networks say little: both of its cables may go to the same switch.
    """
    system = _system(adapter, networks)
    here = networks.links.get(system, ()) if system is not None else ()
    if any(address in prefix for prefix in here):
        return "" if any(_holds(prefix, address) for prefix in here) else "which is no address of a machine"
    others = [
        prefix for name, among in networks.prefixes.items() if here or name.startswith(_HOST_IF) for prefix in among
    ]
    if here:
        others += [prefix for interface, among in networks.links.items() if interface != system for prefix in among]
    return "which is on another network of this computer" if any(address in prefix for prefix in others) else ""


def _holds(prefix: IPv4Network, address: IPv4Address) -> bool:
    """Whether a machine on this link can have this address; both of a /31 can (RFC 3021)."""
    if address not in prefix:
        return False
    return prefix.prefixlen >= 31 or address not in (prefix.network_address, prefix.broadcast_address)
