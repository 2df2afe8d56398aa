"""The addresses of a VM: set by the user, from VirtualBox's DHCP, Guest Additions and the host's neighbour table.

All are joined by MAC. What the host knows outranks what a guest claims, unless the claim is newer; what cannot be true
is left out, and is a `Problem` of the VM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_interface

from vmdns.dns.name import to_label
from vmdns.state.facts import HOST_IF, Adapter, Machine, PortForward
from vmdns.state.findings import Problem
from vmdns.state.networks import LEASE, Address, NetworkIndex, file_key, find_dhcp_address, find_leases, ipv4

# Guest Additions report every 10 s; within this many seconds they are taken to be at work still.
ALIVE_SECONDS = 30.0

ADDITIONS, NEIGHBOUR, FORWARD = "guest additions", "neighbour table", "port-forward rule"
BY_USER = "vmdns/address"  # the key of a VM's extra data by which the user sets its addresses

SAME_MACHINE_ID = (
    "if one VM is a copy of the other, both have one machine-id and so ask DHCP for one address: in the copy, as root, "
    "run `rm /etc/machine-id; systemd-machine-id-setup` and reboot"
)
_CHANGE = "give it another address in the guest"
NO_MACHINE = Problem("which is no address of a machine", _CHANGE)
OF_HOST = Problem("which is an address of the host", _CHANGE)


def find_addresses(machine: Machine, networks: NetworkIndex) -> tuple[tuple[Address, ...], tuple[Problem, ...]]:
    """The addresses of one VM, in the order of its adapters, and why others were left out; none unless it is online."""
    if not machine.online:
        return (), ()
    chosen: list[Address] = []
    refused: list[Problem] = []
    own = {one.mac for one in machine.adapters}
    by_user = _parse_set_addresses(machine, networks, refused)
    for adapter in machine.adapters:
        if not adapter.cable:
            number = adapter.slot + 1
            command = f"VBoxManage controlvm {machine.uuid} setlinkstate{number} on"
            refused.append(Problem(f"the cable of its adapter {number} is not connected", command=command))
            continue
        mine = by_user.get(adapter.slot, [])
        families = {":" in one.address for one in mine}
        # Where the user set an address, other reports of its family do not matter, be they right or wrong.
        others = _find_reported(machine, adapter, networks, own, [] if False in families else refused)
        chosen += mine + [one for one in others if (":" in one.address) not in families]
    return tuple(dict.fromkeys(chosen)), tuple(dict.fromkeys(refused))


def _find_reported(
    machine: Machine, adapter: Adapter, networks: NetworkIndex, own: set[str], refused: list[Problem]
) -> list[Address]:
    """What DHCP, Guest Additions and the neighbour table have of an adapter. own are the MACs of its VM."""
    given = find_dhcp_address(adapter, networks)
    if given is not None and given.source == LEASE:
        found = check_placement(IPv4Address(given.address), adapter, networks)
        if found:
            refused.append(Problem(f"DHCP gave it {given.address}, {found.text}", found.remedy))
            given = None
    claims = _find_claims(machine, adapter, networks, own, refused)
    confirmed = None if given is None else _find_confirmed_lease(given, adapter, networks, claims)
    if given is not None and confirmed is not None:
        others = f"since Guest Additions report {confirmed.address}, its lease before that"
        refused.append(Problem(f"another client with its MAC was given {given.address}; it is not used, {others}"))
        given = confirmed
    return _add_neighbours(adapter, networks, _merge_claims(given, claims), own, refused)


def _find_confirmed_lease(
    given: Address, adapter: Adapter, networks: NetworkIndex, claims: list[Address]
) -> Address | None:
    """The older lease that Guest Additions still report, although the MAC was given a newer one since.

    Any guest on the network can ask its DHCP server for an address under another VM's MAC. Only the VM itself writes
    its guest properties, so a lease that both confirm is better proof. None if there is no such lease.
    """
    if given.source != LEASE or any(claim.address == given.address for claim in claims):
        return None
    claimed = {claim.address for claim in claims if claim.since >= given.since - ALIVE_SECONDS}
    return next((one for one in find_leases(adapter, networks) if one.address in claimed), None)


def _find_claims(
    machine: Machine, adapter: Adapter, networks: NetworkIndex, own: set[str], refused: list[Problem]
) -> list[Address]:
    """What Guest Additions report of this adapter, as far as it can be true."""
    claims: dict[str, Address] = {}
    for report in machine.reports:
        if report.mac != adapter.mac or report.address in claims:
            continue
        claimed = ipv4(report.address)
        if claimed is None:
            refused.append(Problem("Guest Additions report what is no IPv4 address"))
            continue
        found = find_objection(claimed, adapter, networks, own)
        if found:
            refused.append(Problem(f"Guest Additions report {report.address}, {found.text}", found.remedy))
            continue
        why = "reported by Guest Additions"
        claims[report.address] = Address(report.address, adapter.network, adapter.mac, ADDITIONS, why, report.since)
    return list(claims.values())


def _merge_claims(given: Address | None, claims: list[Address]) -> list[Address]:
    """The newer wins where they disagree, the better (what DHCP gave) where they are equally new.

    VBoxNetDHCP writes whole seconds: a report within that second may be older.
    """
    if given is None:
        return claims
    others = [claim for claim in claims if claim.address != given.address]
    if len(others) < len(claims) or not claims:
        return [given, *others]
    if max(claim.since for claim in claims) >= given.since + 1:
        note = f"; newer than the {given.source} {given.address}"
        return [claim._replace(why=claim.why + note) for claim in claims]
    return [given._replace(why=f"{given.why}; newer than {claims[0].address} of Guest Additions")]


def _add_neighbours(
    adapter: Adapter, networks: NetworkIndex, known: list[Address], own: set[str], refused: list[Problem]
) -> list[Address]:
    """What is known, and what the host saw of this adapter on its links.

    Of IPv4 addresses the newest counts, if it is newer than what is known: an older one may be what the VM had before.
    """
    if adapter.network.kind not in ("bridged", "hostonly"):
        return known
    system = networks.host.find_system_name(adapter.network.name)
    sixes = []
    newest = max((one.since for one in known), default=-1.0)
    for one in sorted(networks.neighbours.get(adapter.mac, ()), key=lambda one: (-one.since, one.address)):
        if system is not None and one.interface != system:
            continue
        seen = Address(one.address, adapter.network, adapter.mac, NEIGHBOUR, "seen on the host's link", one.since)
        address = ipv4(one.address)
        if address is None:
            if not networks.host.owns(one.address):
                sixes.append(seen)
        elif any(other.address == one.address for other in known):
            newest = max(newest, one.since)
        elif one.since > newest:
            found = find_objection(address, adapter, networks, own)
            if found:
                refused.append(Problem(f"the neighbour table has {one.address}, {found.text}", found.remedy))
            else:
                known, newest = [seen], one.since
    return known + sorted(sixes)


# -- set by the user --------------------------------------------------------------------------------------------


def _parse_set_addresses(machine: Machine, networks: NetworkIndex, refused: list[Problem]) -> dict[int, list[Address]]:
    """The addresses that the user set, by the slots of the adapters they belong to.

    An address belongs to the first adapter whose network has a prefix with it, else to the first on which it is
    possible; plain NAT comes last, as nobody reaches an address there. An adapter whose cable is unplugged has none.
    """
    found: dict[int, list[Address]] = {}
    plugged = [adapter for adapter in machine.adapters if adapter.cable]
    for text in machine.set_addresses if plugged else ():
        try:
            address = ip_address(text)
        except ValueError:
            remedy = "write addresses like 192.168.56.10, separated by commas"
            with suppress(ValueError):
                remedy = f"write {ip_interface(text).ip}, without a prefix length"
            refused.append(Problem(f"{BY_USER} is set to {text!r}, which is no IP address", remedy))
            continue
        objections = [(_check_set_address(address, adapter, networks), adapter) for adapter in plugged]
        possible = [adapter for objection, adapter in objections if objection is None]
        if possible:
            best = min(possible, key=lambda one: (_rank_adapter(address, one, networks), one.slot))
            one = Address(str(address), best.network, best.mac, BY_USER, f"set by {BY_USER}")
            found.setdefault(best.slot, []).append(one)
        else:
            prefixes = [one for adapter in plugged for one in networks.prefixes.get(adapter.network.dhcp_name, ())]
            where = " or ".join(dict.fromkeys(map(str, prefixes))) or "a network of the VM"
            why = next(objection.text for objection, _ in objections if objection is not None)
            problem = f"{BY_USER} is set to {address}, {why}"
            refused.append(Problem(problem, f"it should be a free address of {where}"))
    return found


def _check_set_address(address: IPv4Address | IPv6Address, adapter: Adapter, networks: NetworkIndex) -> Problem | None:
    if isinstance(address, IPv4Address):
        return check_placement(address, adapter, networks, set_by_user=True)
    if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
        return NO_MACHINE
    return OF_HOST if networks.host.owns(str(address)) else None


def _rank_adapter(address: IPv4Address | IPv6Address, adapter: Adapter, networks: NetworkIndex) -> int:
    prefixes = networks.prefixes.get(adapter.network.dhcp_name, [])
    if adapter.network.kind == "bridged":
        prefixes, _ = _find_links(adapter, networks)
    if isinstance(address, IPv4Address) and any(_is_usable_in(prefix, address) for prefix in prefixes):
        return 0
    return 2 if adapter.network.kind == "nat" else 1


# -- port-forward rules of NAT Networks -------------------------------------------------------------------------


def find_forward_hints(
    machine: Machine,
    label: str,
    known: Sequence[Address],
    forwards: Mapping[str, Sequence[PortForward]],
    networks: NetworkIndex,
) -> list[Address]:
    """Addresses of adapters that have none in `known`, from rules whose name is the VM's DNS label.

    forwards: the rules by NAT Network. A rule names an address, not a VM. That it is meant for a certain VM is certain
    only where the rule has the VM's name; that only one running VM of the network lacks an address proves nothing.
    Not used: addresses that DHCP gave to another MAC, and rules that disagree.
    """
    found = []
    for adapter in machine.adapters if machine.online else ():
        if adapter.network.kind != "natnetwork" or not adapter.cable or any(one.mac == adapter.mac for one in known):
            continue
        rules = [rule for rule in forwards.get(adapter.network.name, ()) if to_label(rule.name) == label]
        addresses = {rule.guest_address for rule in rules}
        address = ipv4(addresses.pop()) if len(addresses) == 1 else None
        if address is None or check_placement(address, adapter, networks):
            continue
        if networks.given.get((file_key(adapter.network.dhcp_name), str(address)), {adapter.mac}) - {adapter.mac}:
            continue
        why = f"port-forward rule {rules[0].name!r} of {adapter.network.name}"
        found.append(Address(str(address), adapter.network, adapter.mac, FORWARD, why))
    return found


# -- what cannot be true ----------------------------------------------------------------------------------------
#
# An address of another network, of this computer, one that VirtualBox's DHCP gave to another running VM, or that this
# computer sees at another machine (T1 of the threats in docs/security.md). The texts of these problems go on after the
# address.


def find_objection(address: IPv4Address, adapter: Adapter, networks: NetworkIndex, own: set[str]) -> Problem | None:
    """Why a report that this adapter has this address is not used; None if it is. own are the MACs of its VM."""
    text, name = str(address), adapter.network.dhcp_name
    found = check_placement(address, adapter, networks)
    if found:
        return found
    mac, owner = networks.owners.get((name, text), (adapter.mac, "")) if name else (adapter.mac, "")
    if mac != adapter.mac:
        return Problem(f"which VirtualBox's DHCP gave to another VM ({owner})", SAME_MACHINE_ID)
    if adapter.network.kind in ("bridged", "hostonly"):
        # A guest with two adapters on one link may answer for both of its addresses by either.
        system = networks.host.find_system_name(adapter.network.name)
        seen = {mac for interface, mac in networks.holders.get(text, ()) if system is None or interface == system}
        if seen and not seen & own:
            return Problem("which this computer sees at another machine", _CHANGE)
    return None


def check_placement(
    address: IPv4Address, adapter: Adapter, networks: NetworkIndex, *, set_by_user: bool = False
) -> Problem | None:
    """Why nobody can have this address on the network of this adapter; None if somebody can.

    set_by_user: the user may know a public address on a network whose prefix is not known here.
    """
    text = str(address)
    kind, name = adapter.network.kind, adapter.network.dhcp_name
    if not is_machine_address(address):
        return NO_MACHINE
    if text in networks.hosts_own.get(name, ()):
        return Problem("which is the address of the network's own server", _CHANGE)
    # Other kinds of network are closed: there a guest may well have an address that the host has elsewhere.
    if kind == "bridged":
        return OF_HOST if networks.host.owns(text) else _check_lan(address, adapter, networks)
    if kind == "nat" and int(address) & 0xFF in (2, 3, 4) and int(address) >> 16 == 0x0A00:
        # 10.0.2.2 to 10.0.2.4; the next slot's 10.0.3.2, ...
        return Problem("which is an address of VirtualBox's NAT itself", _CHANGE)
    prefixes = networks.prefixes.get(name, ()) if name else ()
    if prefixes:
        if any(_is_usable_in(prefix, address) for prefix in prefixes):
            return None
        others = " or ".join(dict.fromkeys(map(str, prefixes)))
        remedy = f"have the guest ask by DHCP, or give it an address of {others}"
        return Problem(f"which is not on {adapter.network.name}", remedy)
    if address.is_global and not set_by_user:
        return Problem("which is a public address", "if the VM really has it, set it in vmdns/address of the VM")
    return None


def is_machine_address(address: IPv4Address) -> bool:
    """Neither loopback, link-local, multicast nor reserved (RFC 6890 section 2.2.2), nor what a packet cannot come from
    (RFC 1122 section 3.2.1.3)."""
    number = int(address)
    return number >> 24 not in (0, 127) and number >> 16 != 0xA9FE and number >> 24 < 224


def _find_links(adapter: Adapter, networks: NetworkIndex) -> tuple[list[IPv4Network], list[IPv4Network]]:
    """The prefixes of the host's interface that an adapter is bridged to, and those of its other interfaces."""
    system = networks.host.find_system_name(adapter.network.name)
    here, others = list[IPv4Network](), list[IPv4Network]()
    for place in networks.host.places:
        prefix = place.at.network
        if isinstance(prefix, IPv4Network) and prefix.num_addresses > 1:
            (here if place.interface == system else others).append(prefix)
    return here, others


def _check_lan(address: IPv4Address, adapter: Adapter, networks: NetworkIndex) -> Problem | None:
    """On a LAN with an address of the host, other prefixes are allowed too, but not those of the host's other networks.

    Without an address of the host there, its other networks prove little: both cables may lead to the same switch.
    """
    here, others = _find_links(adapter, networks)
    if any(address in prefix for prefix in here):
        return None if any(_is_usable_in(prefix, address) for prefix in here) else NO_MACHINE
    elsewhere = others if here else []
    for name, prefixes in networks.prefixes.items():
        if here or name.startswith(HOST_IF):
            elsewhere += prefixes
    if not any(address in prefix for prefix in elsewhere):
        return None
    remedy = f"have the guest ask by DHCP on {adapter.network.name}, or attach its adapter to that network"
    return Problem("which is on another network of this computer", remedy)


def _is_usable_in(prefix: IPv4Network, address: IPv4Address) -> bool:
    """Whether a machine on this link can have this address; both of a /31 can (RFC 3021)."""
    if address not in prefix:
        return False
    return prefix.prefixlen >= 31 or address not in (prefix.network_address, prefix.broadcast_address)
