"""Addresses that a user set for a VM in its extra data, `vmdns/address`: each belongs to one of its adapters."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface

from vmdns.state.address_check import BY_USER, Objection, check_placement, is_on_network
from vmdns.state.facts import Adapter, Machine
from vmdns.state.networks import NetworkIndex
from vmdns.state.problem import Problem


def parse_set_addresses(machine: Machine, networks: NetworkIndex) -> tuple[dict[int, list[str]], list[Problem]]:
    """The addresses by the slots of the adapters they belong to, and what is wrong with the others.

    An address belongs to the first adapter whose network has a prefix with it, else to the first on which it is
    possible; plain NAT comes last, as nobody reaches an address there. An adapter whose cable is unplugged has none.
    """
    found: dict[int, list[str]] = {}
    problems = []
    plugged = [adapter for adapter in machine.adapters if adapter.cable]
    for text in machine.set_addresses if plugged else ():
        address = _address(text)
        if isinstance(address, Problem):
            problems.append(address)
            continue
        ranked = [(_rank(address, adapter, networks), adapter) for adapter in plugged]
        slot = min(((rank, adapter.slot) for rank, adapter in ranked if isinstance(rank, int)), default=None)
        if slot is not None:
            found.setdefault(slot[1], []).append(str(address))
        else:
            objection = next(rank for rank, _ in ranked if isinstance(rank, Objection))
            remedy = f"it should be a free address of {_prefixes(plugged, networks) or 'a network of the VM'}"
            problems.append(Problem(f"{BY_USER} is set to {address}, {objection.reason}", remedy))
    return found, problems


def _address(text: str) -> IPv4Address | IPv6Address | Problem:
    try:
        return ip_address(text)
    except ValueError:
        pass
    remedy = "write addresses like 192.168.56.10, separated by commas"
    with suppress(ValueError):
        remedy = f"write {ip_interface(text).ip}, without a prefix length"
    return Problem(f"{BY_USER} is set to {text!r}, which is no IP address", remedy)


def _rank(address: IPv4Address | IPv6Address, adapter: Adapter, networks: NetworkIndex) -> int | Objection:
    """How well an address fits an adapter, 0 best; or why it does not."""
    last = 2 if adapter.network.kind == "nat" else 1
    if isinstance(address, IPv6Address):
        unusable = address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified
        if unusable:
            return Objection("which is no address of a machine")
        return Objection("which is an address of the host") if str(address) in networks.interfaces else last
    objection = check_placement(address, adapter, networks, set_by_user=True)
    if objection is not None:
        return objection
    return 0 if is_on_network(address, adapter, networks) else last


def _prefixes(adapters: list[Adapter], networks: NetworkIndex) -> str:
    """The prefixes of these adapters' networks, as far as they are known."""
    found = [prefix for adapter in adapters for prefix in networks.prefixes.get(adapter.network.dhcp_name, ())]
    return " or ".join(dict.fromkeys(map(str, found)))
