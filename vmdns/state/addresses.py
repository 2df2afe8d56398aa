"""The addresses of a VM: from VirtualBox's DHCP, Guest Additions and the host's neighbour table.

All are joined by MAC.

What the host knows outranks what a guest claims, unless the claim is fresher; what cannot be true (address_check.py) is
left out, and is a `Problem` of the VM.
"""

from __future__ import annotations

from typing import NamedTuple

from vmdns.state.address_check import BY_USER, check_placement, find_objection, system_interface
from vmdns.state.facts import Adapter, Lease, Machine, Network
from vmdns.state.networks import NetworkIndex, file_key, ipv4
from vmdns.state.problem import Problem
from vmdns.state.set_address import parse_set_addresses

# Guest Additions report every 10 s; within this many seconds they are taken to be at work still.
ALIVE_SECONDS = 30.0

FIXED, LEASE, ADDITIONS, NEIGHBOUR = "fixed address", "lease", "guest additions", "neighbour table"
FORWARD = "port-forward rule"


class Address(NamedTuple):
    """One address of one adapter. since and until are Unix seconds, until 0 where nothing ends it."""

    address: str
    network: Network
    mac: str
    source: str
    why: str
    since: float
    until: float = 0.0


class FoundAddresses(NamedTuple):
    """The addresses of a VM, in the order of its adapters; why others were left out."""

    addresses: tuple[Address, ...]
    refused: tuple[Problem, ...]


def find_dhcp_address(adapter: Adapter, networks: NetworkIndex) -> Address | None:
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
    return _make_lease_address(newest, adapter, why)


def _freshness(lease: Lease) -> tuple[float, float, str]:
    return lease.issued, lease.until, lease.address


def _make_lease_address(lease: Lease, adapter: Adapter, why: str) -> Address:
    return Address(lease.address, adapter.network, adapter.mac, LEASE, why, lease.issued, lease.until)


def _find_confirmed_lease(
    by_dhcp: Address, adapter: Adapter, networks: NetworkIndex, claims: list[Address]
) -> Address | None:
    """The older lease that Guest Additions still report, although the MAC was given a newer one since.

    Any guest on the network can ask its DHCP server for an address under another VM's MAC. Only the VM itself writes
    its guest properties, so a lease that both confirm is better proof. None if there is no such lease.
    """
    if not claims or by_dhcp.source != LEASE or any(claim.address == by_dhcp.address for claim in claims):
        return None
    claimed = {claim.address for claim in claims if claim.since >= by_dhcp.since - ALIVE_SECONDS}
    key = (file_key(adapter.network.dhcp_name), adapter.mac)
    found = (one for one in networks.leases.get(key, ()) if one.until > networks.now and one.address in claimed)
    older = max(found, key=_freshness, default=None)
    return None if older is None else _make_lease_address(older, adapter, f"DHCP lease of {adapter.network.name}")


def find_addresses(machine: Machine, networks: NetworkIndex) -> FoundAddresses:
    """The addresses of one VM; none unless it is online."""
    if not machine.online:
        return FoundAddresses((), ())
    chosen: list[Address] = []
    refused: list[Problem] = []
    own = frozenset(one.mac for one in machine.adapters)
    by_user, wrong = parse_set_addresses(machine, networks)
    refused += wrong
    for adapter in machine.adapters:
        if not adapter.cable:
            number = adapter.slot + 1
            command = f"VBoxManage controlvm {machine.uuid} setlinkstate{number} on"
            refused.append(Problem(f"the cable of its adapter {number} is not connected", command=command))
            continue
        mine = [
            Address(text, adapter.network, adapter.mac, BY_USER, f"set by {BY_USER}", 0.0)
            for text in by_user.get(adapter.slot, ())
        ]
        families = {":" in one.address for one in mine}
        # Where the user set an address, other reports of its family do not matter, be they right or wrong.
        others = _find_reported(machine, adapter, networks, own, [] if False in families else refused)
        chosen += mine + [one for one in others if (":" in one.address) not in families]
    return FoundAddresses(tuple(dict.fromkeys(chosen)), tuple(dict.fromkeys(refused)))


def _find_reported(
    machine: Machine, adapter: Adapter, networks: NetworkIndex, own: frozenset[str], refused: list[Problem]
) -> list[Address]:
    """What DHCP, Guest Additions and the neighbour table have of an adapter. own are the MACs of its VM."""
    by_dhcp = find_dhcp_address(adapter, networks)
    if by_dhcp is not None and by_dhcp.source == LEASE:
        leased = ipv4(by_dhcp.address)
        assert leased is not None
        found = check_placement(leased, adapter, networks)
        if found:
            refused.append(Problem(f"DHCP gave it {by_dhcp.address}, {found.reason}", found.remedy))
            by_dhcp = None
    claims = _find_claims(machine, adapter, networks, own, refused)
    confirmed = None if by_dhcp is None else _find_confirmed_lease(by_dhcp, adapter, networks, claims)
    if by_dhcp is not None and confirmed is not None:
        others = f"since Guest Additions report {confirmed.address}, its lease before that"
        refused.append(Problem(f"another client with its MAC was given {by_dhcp.address}; it is not used, {others}"))
        by_dhcp = confirmed
    return _find_neighbours(adapter, networks, _merge_claims(by_dhcp, claims), own, refused)


def _find_claims(
    machine: Machine, adapter: Adapter, networks: NetworkIndex, own: frozenset[str], refused: list[Problem]
) -> list[Address]:
    """What Guest Additions report of this adapter, as far as it can be true."""
    claims: list[Address] = []
    for report in machine.reports:
        if report.mac != adapter.mac or any(one.address == report.address for one in claims):
            continue
        claimed = ipv4(report.address)
        if claimed is None:
            refused.append(Problem("Guest Additions report what is no IPv4 address"))
            continue
        found = find_objection(claimed, adapter, networks, own)
        if found:
            refused.append(Problem(f"Guest Additions report {report.address}, {found.reason}", found.remedy))
            continue
        why = "reported by Guest Additions"
        claims.append(Address(report.address, adapter.network, adapter.mac, ADDITIONS, why, report.since))
    return claims


def _merge_claims(given: Address | None, claims: list[Address]) -> list[Address]:
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


def _find_neighbours(
    adapter: Adapter, networks: NetworkIndex, known: list[Address], own: frozenset[str], refused: list[Problem]
) -> list[Address]:
    """What is known, and what the host saw of this adapter on its links.

    Of IPv4 addresses the newest counts, if it is newer than what is known: an older one may be what the VM had before.
    """
    if adapter.network.kind not in ("bridged", "hostonly"):
        return known
    system = system_interface(adapter, networks)
    here = sorted(
        (one for one in networks.neighbours.get(adapter.mac, ()) if system is None or one.interface == system),
        key=lambda one: (-one.since, one.address),
    )
    why = "seen on the host's link"
    sixes = []
    newest = max((one.since for one in known), default=-1.0)
    for one in here:
        seen = Address(one.address, adapter.network, adapter.mac, NEIGHBOUR, why, one.since)
        address = ipv4(one.address)
        if address is None:
            if one.address not in networks.interfaces:
                sixes.append(seen)
        elif any(other.address == one.address for other in known):
            newest = max(newest, one.since)
        elif one.since > newest:
            found = find_objection(address, adapter, networks, own)
            if found:
                refused.append(Problem(f"the neighbour table has {one.address}, {found.reason}", found.remedy))
                continue
            known, newest = [seen], one.since
    return known + sorted(sixes)
