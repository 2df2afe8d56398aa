"""Why an adapter cannot have an address that something reports of it (T1 of the threats in docs/security.md).

What cannot be true is not used: an address of another network, of this computer, one that VirtualBox's DHCP gave to
another running VM, or that this computer sees at another machine.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from vmdns.state.facts import Adapter
from vmdns.state.networks import HOST_IF, NetworkIndex

BY_USER = "vmdns/address"  # the key of a VM's extra data by which the user sets its addresses
SAME_MACHINE_ID = (
    "if one VM is a copy of the other, both have one machine-id and so ask DHCP for one address: in the copy, as root, "
    "run `rm /etc/machine-id; systemd-machine-id-setup` and reboot"
)
_CHANGE = "give it another address in the guest"


class Objection(NamedTuple):
    """Why an address is not used, as it goes on after the address, and what to do."""

    reason: str
    remedy: str = _CHANGE


def find_objection(
    address: IPv4Address, adapter: Adapter, networks: NetworkIndex, own: frozenset[str]
) -> Objection | None:
    """Why a report that this adapter has this address is not used; None if it is. own are the MACs of its VM."""
    text, name = str(address), adapter.network.dhcp_name
    found = check_placement(address, adapter, networks)
    if found:
        return found
    owner = networks.owners.get((name, text)) if name else None
    if owner is not None and owner.mac != adapter.mac:
        return Objection(f"which VirtualBox's DHCP gave to another VM ({owner.name})", SAME_MACHINE_ID)
    if adapter.network.kind in ("bridged", "hostonly"):
        # A guest with two adapters on one link may answer for both of its addresses by either.
        holders = networks.holders.get(text, {})
        system = system_interface(adapter, networks)
        seen = {mac for interface, mac in holders.items() if system is None or interface == system}
        if seen and not seen & own:
            return Objection("which this computer sees at another machine")
    return None


def check_placement(
    address: IPv4Address, adapter: Adapter, networks: NetworkIndex, *, set_by_user: bool = False
) -> Objection | None:
    """Why nobody can have this address on the network of this adapter; None if somebody can.

    set_by_user: the user may know a public address on a network whose prefix is not known here.
    """
    text = str(address)
    kind, name = adapter.network.kind, adapter.network.dhcp_name
    if not is_machine_address(address):
        return Objection("which is no address of a machine")
    if text in networks.hosts_own.get(name, ()):
        return Objection("which is the address of the network's own server")
    # Other kinds of network are closed: there a guest may well have an address that the host has elsewhere.
    if kind == "bridged":
        if text in networks.interfaces:
            return Objection("which is an address of the host")
        return _check_lan(address, adapter, networks)
    if kind == "nat" and int(address) & 0xFF in (2, 3, 4) and int(address) >> 16 == 0x0A00:
        # 10.0.2.2 to 10.0.2.4; the next slot's 10.0.3.2, ...
        return Objection("which is an address of VirtualBox's NAT itself")
    prefixes = networks.prefixes.get(name, ()) if name else ()
    if prefixes:
        if any(_is_usable_in(prefix, address) for prefix in prefixes):
            return None
        others = " or ".join(dict.fromkeys(str(prefix) for prefix in prefixes))
        remedy = f"have the guest ask by DHCP, or give it an address of {others}"
        return Objection(f"which is not on {adapter.network.name}", remedy)
    if address.is_global and not set_by_user:
        return Objection("which is a public address", "if the VM really has it, set it in vmdns/address of the VM")
    return None


def is_on_network(address: IPv4Address, adapter: Adapter, networks: NetworkIndex) -> bool:
    """Whether the address is in a prefix that the adapter's network is known to have."""
    prefixes = networks.prefixes.get(adapter.network.dhcp_name, [])
    if adapter.network.kind == "bridged":
        prefixes = networks.links.get(system_interface(adapter, networks) or "", [])
    return any(_is_usable_in(prefix, address) for prefix in prefixes)


def is_machine_address(address: IPv4Address) -> bool:
    """Neither loopback, link-local, multicast nor reserved (RFC 6890 section 2.2.2), nor what a packet cannot come from
    (RFC 1122 section 3.2.1.3). By numbers: it is asked for each of thousands of leases."""
    number = int(address)
    return number >> 24 not in (0, 127) and number >> 16 != 0xA9FE and number >> 24 < 224


def system_interface(adapter: Adapter, networks: NetworkIndex) -> str | None:
    """The system's name of the interface that an adapter is bridged to."""
    name = adapter.network.name
    return networks.systems.get(name) or networks.systems.get(name.partition(": ")[0])  # macOS: `en0: Wi-Fi`


def _check_lan(address: IPv4Address, adapter: Adapter, networks: NetworkIndex) -> Objection | None:
    """On a LAN with an address of the host, other prefixes are allowed too, but not those of the host's other networks.

    Without an address of the host there, its other networks prove little: both cables may lead to the same switch.
    """
    system = system_interface(adapter, networks)
    here = networks.links.get(system, ()) if system is not None else ()
    if any(address in prefix for prefix in here):
        usable = any(_is_usable_in(prefix, address) for prefix in here)
        return None if usable else Objection("which is no address of a machine")
    others = [
        prefix for name, among in networks.prefixes.items() if here or name.startswith(HOST_IF) for prefix in among
    ]
    if here:
        others += [prefix for interface, among in networks.links.items() if interface != system for prefix in among]
    if not any(address in prefix for prefix in others):
        return None
    return Objection(
        "which is on another network of this computer",
        f"have the guest ask by DHCP on {adapter.network.name}, or attach its adapter to that network",
    )


def _is_usable_in(prefix: IPv4Network, address: IPv4Address) -> bool:
    """Whether a machine on this link can have this address; both of a /31 can (RFC 3021)."""
    if address not in prefix:
        return False
    return prefix.prefixlen >= 31 or address not in (prefix.network_address, prefix.broadcast_address)
