"""Why an adapter cannot have an address that something reports of it (T1 of the threats in docs/security.md).

What cannot be true is not used: an address of another network, of this computer, one that VirtualBox's DHCP gave to
another running VM, or that this computer sees at another machine. The text of a `Problem` made here goes on after the
address.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from vmdns.state.facts import Adapter
from vmdns.state.findings import Problem
from vmdns.state.networks import HOST_IF, NetworkIndex

SAME_MACHINE_ID = (
    "if one VM is a copy of the other, both have one machine-id and so ask DHCP for one address: in the copy, as root, "
    "run `rm /etc/machine-id; systemd-machine-id-setup` and reboot"
)
_CHANGE = "give it another address in the guest"
NO_MACHINE = Problem("which is no address of a machine", _CHANGE)
OF_HOST = Problem("which is an address of the host", _CHANGE)


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


def is_on_network(address: IPv4Address, adapter: Adapter, networks: NetworkIndex) -> bool:
    """Whether the address is in a prefix that the adapter's network is known to have."""
    prefixes = networks.prefixes.get(adapter.network.dhcp_name, [])
    if adapter.network.kind == "bridged":
        prefixes, _ = _find_links(adapter, networks)
    return any(_is_usable_in(prefix, address) for prefix in prefixes)


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
