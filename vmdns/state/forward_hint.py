"""The guest address of a NAT Network's port-forward rule as a hint to a VM's address, where nothing else is known.

A rule names an address, not a VM. That it is meant for a certain VM is certain only where the rule has the VM's name;
that only one running VM of the network lacks an address proves nothing, as a VM that has just started lacks one too,
and the rule may be for a VM that is off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vmdns.dns.name import to_label
from vmdns.state.address_check import check_placement
from vmdns.state.addresses import FORWARD, Address
from vmdns.state.facts import Machine, PortForward
from vmdns.state.networks import NetworkIndex, file_key, ipv4


def find_forward_hints(
    machine: Machine,
    name: str,
    known: Sequence[Address],
    forwards: Mapping[str, Sequence[PortForward]],
    networks: NetworkIndex,
) -> list[Address]:
    """Addresses of adapters that have none in `known`, from rules whose name is the VM's DNS label `name`.

    forwards: the rules by NAT Network. Not used: addresses that DHCP gave to another MAC, and rules that disagree.
    """
    found = []
    have = {one.mac for one in known}
    for adapter in machine.adapters if machine.online else ():
        if adapter.network.kind != "natnetwork" or not adapter.cable or adapter.mac in have:
            continue
        rules = [rule for rule in forwards.get(adapter.network.name, ()) if to_label(rule.name) == name]
        addresses = {rule.guest_address for rule in rules}
        address = ipv4(addresses.pop()) if len(addresses) == 1 else None
        if address is None or check_placement(address, adapter, networks):
            continue
        if _is_leased_to_another(str(address), adapter.mac, adapter.network.dhcp_name, networks):
            continue
        why = f"port-forward rule {rules[0].name!r} of {adapter.network.name}"
        found.append(Address(str(address), adapter.network, adapter.mac, FORWARD, why, 0.0))
    return found


def _is_leased_to_another(address: str, mac: str, network: str, networks: NetworkIndex) -> bool:
    """Whether DHCP gave the address to another adapter, now or as long as the lease file knows: of a VM that is off,
    too."""
    key = file_key(network)
    if any(one == address and where == key and other != mac for (where, other), one in networks.fixed.items()):
        return True
    return any(
        lease.address == address
        for (where, other), leases in networks.leases.items()
        if where == key and other != mac
        for lease in leases
    )
