"""The addresses and services of a VM that the clients of a view can use.

The first of these that gives something: an address on the client's own network; one that the client can reach by
routing; the host's address as the client sees it, if a port-forward rule leads to the VM; none, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from vmdns.state.addresses import Address
from vmdns.state.facts import Machine, Network, PortForward
from vmdns.state.services import find_service_name
from vmdns.state.views import HOST, HostNetworks, View

_ROUTED = ("hostonly", "bridged", "hostonlynetwork")
_ANY = ("", "0.0.0.0")


class VmService(NamedTuple):
    """One service of the VM for this view: `_name._protocol`, at this port of the VM's name."""

    name: str
    protocol: str
    port: int
    rule: PortForward


class VmView(NamedTuple):
    """What a view sees of a VM. forwarded: the addresses are the host's, and only the services lead to the VM."""

    addresses: tuple[str, ...]
    services: tuple[VmService, ...] = ()
    forwarded: bool = False
    why: str = ""


class Choice(NamedTuple):
    """Whether one address is in the answer to a client, and why. reason goes on after "ADDRESS is"."""

    address: str
    chosen: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.address} is {'chosen' if self.chosen else 'left out'}: it is {self.reason}"


def find_rules(
    machine: Machine, addresses: Sequence[Address], by_network: Mapping[str, Sequence[PortForward]]
) -> tuple[PortForward, ...]:
    """The port-forward rules that lead to a VM: those of its plain NAT, and of NAT Networks to one of its addresses."""
    found = [rule for adapter in machine.adapters if adapter.network.kind == "nat" for rule in adapter.forwards]
    for one in addresses:
        if one.network.kind == "natnetwork":
            found += [rule for rule in by_network.get(one.network.name, ()) if rule.guest_address == one.address]
    return tuple(dict.fromkeys(found))


def build_vm_view(
    name: str,
    addresses: Sequence[Address],
    forwards: Sequence[PortForward],
    attached: Sequence[Network],
    view: View,
    ways: HostNetworks,
) -> VmView:
    """What this view can use of a VM with these addresses and rules. attached: the networks of its adapters."""
    direct = _find_direct_addresses(addresses, view, ways)
    if direct:
        services = tuple(VmService(find_service_name(rule), rule.protocol, rule.guest_port, rule) for rule in forwards)
        return VmView(direct, services)
    through = [(rule, _find_rule_addresses(rule, view, ways)) for rule in forwards]
    usable = [(rule, entries) for rule, entries in through if entries]
    if usable:
        chosen = _cover_rules([entries for _, entries in usable])
        services = tuple(VmService(find_service_name(rule), rule.protocol, rule.host_port, rule) for rule, _ in usable)
        return VmView(chosen, services, forwarded=True)
    return VmView((), why=_explain_absence(name, addresses, forwards, attached, view))


def _find_direct_addresses(addresses: Sequence[Address], view: View, ways: HostNetworks) -> tuple[str, ...]:
    found: list[str] = []
    for family in (4, 6):
        among = [one for one in addresses if (":" in one.address) == (family == 6)]
        owns = [[one.address for one in among if ways.same_link(member, one.network)] for member in view.members]
        if len(owns) == 1 and owns[0]:
            found += owns[0]
            continue
        each = [
            own + [one.address for one in among if _is_routed(one.network, family == 6, member)]
            for own, member in zip(owns, view.members, strict=True)
        ]
        # What all of them can use, else what some can.
        common = [one.address for one in among if all(one.address in usable for usable in each)]
        found += common or [one.address for one in among if any(one.address in usable for usable in each)]
    return tuple(dict.fromkeys(found))


def is_reachable(network: Network, six: bool, view: View, ways: HostNetworks) -> bool:
    """Whether this view can use an address on this network, of IPv6 or IPv4, where it is the only one of its VM."""
    return any(ways.same_link(member, network) or _is_routed(network, six, member) for member in view.members)


def explain_choices(addresses: Sequence[Address], found: VmView, view: View, ways: HostNetworks) -> tuple[Choice, ...]:
    """Why this view gets the addresses in `found` (what `build_vm_view` gave for it) and not the others of the VM."""
    own = () if found.forwarded else found.addresses
    made = [Choice(one.address, one.address in own, _explain_choice(one, own, view, ways)) for one in addresses]
    for address in found.addresses if found.forwarded else ():
        ports = ", ".join(f"{one.rule.host_port} to its {one.rule.guest_port}" for one in found.services)
        where = "the gateway of the NAT Network" if address in ways.gateways.values() else "this computer's"
        made.append(Choice(address, True, f"{where}, and port-forward rules lead to the VM ({ports})"))
    return tuple(sorted(dict.fromkeys(made), key=lambda one: not one.chosen))


def _explain_choice(one: Address, own: Sequence[str], view: View, ways: HostNetworks) -> str:
    network, six = one.network, ":" in one.address
    on = f"on {describe_network(network)}"
    if network.kind == "nat":
        return "inside of the VM's own NAT, which nobody else reaches"
    linked = [member for member in view.members if ways.same_link(member, network)]
    users = linked or [member for member in view.members if _is_routed(network, six, member)]
    if one.address not in own:
        if not users:
            by = " by IPv6" if six and network.kind in _ROUTED else ""
            return f"{on}, which {_describe_clients(view.members)} cannot reach{by}"
        if len(view.members) == 1:
            return f"{on}, and the client has a nearer one on its own network"
        return f"{on}, which only {_describe_clients(users)} can reach"
    if linked and len(view.members) == 1:
        return f"{on}, the client's own network"
    return f"{on}, which {_describe_clients(users)} can reach"


def _describe_clients(members: Sequence[Network]) -> str:
    return _join_words("this computer" if one == HOST else f"guests on {describe_network(one)}" for one in members)


def _is_routed(network: Network, six: bool, client: Network) -> bool:
    if client.kind not in ("host", "nat", "natnetwork"):
        return False
    # NAT engines of VirtualBox have IPv6 of their own only where it was switched on.
    return network.kind in _ROUTED and (client == HOST or not six)


def _find_rule_addresses(rule: PortForward, view: View, ways: HostNetworks) -> tuple[str, ...]:
    """The host's addresses at which this view can use a rule, the best first."""
    each = [_find_member_addresses(rule, member, view.local, ways) for member in view.members]
    common = tuple(one for one in each[0] if all(one in entries for entries in each))
    return common or next((entries for entries in each if entries), ())


def _find_member_addresses(rule: PortForward, client: Network, local: str, ways: HostNetworks) -> tuple[str, ...]:
    everywhere = rule.host_address in _ANY
    inward = everywhere or rule.host_address.startswith("127.")
    outward = tuple(one for one in ways.reachable if everywhere or one == rule.host_address)
    outward = tuple(sorted(outward, key=lambda one: one != local))
    match client.kind:
        case "host":
            return ((("127.0.0.1" if everywhere else rule.host_address),) if inward else ()) + outward
        case "natnetwork":
            # The gateway of a NAT Network passes ports other than 53 on to the host's 127.0.0.1 (VirtualBox 7.2).
            gateway = ways.gateways.get(client.name, "") if inward and rule.host_port != 53 else ""
            return outward + ((gateway,) if gateway else ())
        case "nat":
            return outward
        case "hostonly" | "bridged":
            return tuple(one for one in outward if one in ways.on(client))
    return ()


def _cover_rules(entries: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """As few of the host's addresses as lead to all of the rules."""
    chosen: list[str] = []
    left = list(entries)
    while left:
        every = dict.fromkeys(entry for among in left for entry in among)
        best = max(every, key=lambda entry: sum(entry in among for among in left))
        chosen.append(best)
        left = [among for among in left if best not in among]
    return tuple(chosen)


def _explain_absence(
    name: str, addresses: Sequence[Address], forwards: Sequence[PortForward], attached: Sequence[Network], view: View
) -> str:
    on = _join_words(describe_network(network) for network in attached)
    client = (
        "the host"
        if view.members[0] == HOST
        else f"a client on {_join_words(describe_network(one) for one in view.members)}"
    )
    if forwards:
        return f"{name}'s forwarded ports are at addresses of the host that {client} cannot reach"
    if not attached:
        return f"{name} has no network adapter"
    if all(network.kind == "nat" for network in attached):
        return f"{name} is on {on} alone, where nobody can reach it: add a port-forward rule or another adapter"
    if not any(one.network.kind != "nat" for one in addresses):
        return f"VM {name!r} runs, but no address of it is known yet"
    return f"{name} is on {on}, which {client} cannot reach"


def describe_network(network: Network) -> str:
    """A network as VirtualBox's window calls it, with the article where a sentence needs one."""
    kinds = {
        "nat": "NAT", "natnetwork": "NAT Network", "hostonly": "the host-only network", "bridged": "the LAN of",
        "intnet": "the internal network", "hostonlynetwork": "the host-only network", "host": "the host",
    }  # fmt: skip
    return f"{kinds.get(network.kind, network.kind)} {network.name}".strip()


def _join_words(parts: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(parts))
