"""The addresses and services of a VM that the clients of a view can use.

The first of these that gives something: an address on the client's own network; one that the client can reach by
routing; the host's address as the client sees it, if a port-forward rule leads to the VM; none, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vmdns.dns.name import to_label
from vmdns.state.facts import Machine, Network, PortForward
from vmdns.state.findings import join_words
from vmdns.state.guests import Guest
from vmdns.state.networks import Address
from vmdns.state.views import HOST, HostNetworks, View

_ROUTED = ("hostonly", "bridged")

# Service names of IANA's registry (RFC 6335), for the ports that people forward.
_BY_PORT = {
    21: "ftp", 22: "ssh", 23: "telnet", 25: "smtp", 53: "domain", 80: "http", 88: "kerberos", 110: "pop3", 143: "imap",
    389: "ldap", 443: "https", 445: "microsoft-ds", 636: "ldaps", 1433: "ms-sql-s", 1883: "mqtt", 3306: "mysql",
    3389: "ms-wbt-server", 5432: "postgresql", 5672: "amqp", 5900: "rfb", 5985: "wsman", 6379: "redis",
    8080: "http-alt", 27017: "mongodb",
}  # fmt: skip
# What people call those services in a rule's name.
_ALIASES = {"rdp": "ms-wbt-server", "vnc": "rfb", "dns": "domain", "postgres": "postgresql", "mssql": "ms-sql-s"}
MAX_SERVICE = 15  # RFC 6335 section 5.1


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


def find_rules(
    machine: Machine, addresses: Sequence[Address], by_network: Mapping[str, Sequence[PortForward]]
) -> tuple[PortForward, ...]:
    """The port-forward rules that lead to a VM: those of its plain NAT, and of NAT Networks to one of its addresses."""
    found = [rule for adapter in machine.adapters if adapter.network.kind == "nat" for rule in adapter.forwards]
    for one in addresses:
        if one.network.kind == "natnetwork":
            found += [rule for rule in by_network.get(one.network.name, ()) if rule.guest_address == one.address]
    return tuple(dict.fromkeys(found))


def find_service_name(rule: PortForward) -> str:
    """The label before `_tcp` or `_udp` in a rule's SRV record (RFC 2782): its name where that is a service, else the
    service of the guest's port, else the rule's name."""
    named = to_label(rule.name)
    named = _ALIASES.get(named, named)
    if named in _BY_PORT.values():
        return named
    # A name that VirtualBox's window made up ("Rule 1") still distinguishes two rules.
    short = re.sub(r"[^a-z0-9-]", "", named)[:MAX_SERVICE].strip("-")
    return _BY_PORT.get(rule.guest_port) or short or f"port-{rule.guest_port}"


def build_vm_view(guest: Guest, view: View, host: HostNetworks) -> VmView:
    """What this view can use of a VM."""
    direct = _find_direct_addresses(guest.addresses, view, host)
    if direct:
        rules = guest.forwards
        return VmView(
            direct, tuple(VmService(find_service_name(one), one.protocol, one.guest_port, one) for one in rules)
        )
    through = {rule: _find_rule_addresses(rule, view, host) for rule in guest.forwards}
    usable = {rule: addresses for rule, addresses in through.items() if addresses}
    if usable:
        services = tuple(VmService(find_service_name(one), one.protocol, one.host_port, one) for one in usable)
        return VmView(_cover_rules(list(usable.values())), services, forwarded=True)
    return VmView((), why=_explain_absence(guest, view))


def _find_direct_addresses(addresses: Sequence[Address], view: View, host: HostNetworks) -> tuple[str, ...]:
    found: list[str] = []
    for family in (False, True):
        among = [one for one in addresses if (":" in one.address) == family]
        owns = [[one.address for one in among if host.same_link(member, one.network)] for member in view.members]
        if len(owns) == 1 and owns[0]:
            found += owns[0]
            continue
        each = [
            own + [one.address for one in among if _is_routed(one, member)]
            for own, member in zip(owns, view.members, strict=True)
        ]
        # What all of them can use, else what some can.
        common = [one.address for one in among if all(one.address in usable for usable in each)]
        found += common or [one.address for one in among if any(one.address in usable for usable in each)]
    return tuple(dict.fromkeys(found))


def _is_routed(one: Address, client: Network) -> bool:
    # NAT engines of VirtualBox have IPv6 of their own only where it was switched on.
    clients = ("host",) if ":" in one.address else ("host", "nat", "natnetwork")
    return one.network.kind in _ROUTED and client.kind in clients


def _find_rule_addresses(rule: PortForward, view: View, host: HostNetworks) -> tuple[str, ...]:
    """The host's addresses at which this view can use a rule, the best first."""
    each = [_find_member_addresses(rule, member, view.local, host) for member in view.members]
    common = tuple(one for one in each[0] if all(one in addresses for addresses in each))
    return common or next((addresses for addresses in each if addresses), ())


def _find_member_addresses(rule: PortForward, client: Network, local: str, host: HostNetworks) -> tuple[str, ...]:
    everywhere = rule.host_address in ("", "0.0.0.0")
    inward = everywhere or rule.host_address.startswith("127.")
    outward = tuple(one for one in host.reachable if everywhere or one == rule.host_address)
    outward = tuple(sorted(outward, key=lambda one: one != local))
    match client.kind:
        case "host":
            return ((("127.0.0.1" if everywhere else rule.host_address),) if inward else ()) + outward
        case "natnetwork":
            # The gateway of a NAT Network passes ports other than 53 on to the host's 127.0.0.1 (VirtualBox 7.2).
            gateway = host.gateways.get(client.name, "") if inward and rule.host_port != 53 else ""
            return outward + ((gateway,) if gateway else ())
        case "nat":
            return outward
        case "hostonly" | "bridged":
            return tuple(one for one in outward if one in host.on(client))
    return ()


def _cover_rules(left: list[tuple[str, ...]]) -> tuple[str, ...]:
    """As few of the host's addresses as lead to all of the rules."""
    chosen: list[str] = []
    while left:
        every = dict.fromkeys(one for among in left for one in among)
        chosen.append(max(every, key=lambda one: sum(one in among for among in left)))
        left = [among for among in left if chosen[-1] not in among]
    return tuple(chosen)


# -- in words -------------------------------------------------------------------------------------------------


def explain_choices(guest: Guest, found: VmView, view: View, host: HostNetworks) -> list[tuple[str, str]]:
    """The addresses of a VM, those in `found` (what `build_vm_view` gave for the view) first, each with a sentence why
    the view gets it or not."""
    own = () if found.forwarded else found.addresses
    chosen, others = dict[tuple[str, str], None](), dict[tuple[str, str], None]()
    for address in found.addresses if found.forwarded else ():
        ports = ", ".join(f"{one.rule.host_port} to its {one.rule.guest_port}" for one in found.services)
        where = "the gateway of the NAT Network" if address in host.gateways.values() else "this computer's"
        reason = f"{where}, and port-forward rules lead to the VM ({ports})"
        chosen[address, f"{address} is chosen: it is {reason}"] = None
    for one in guest.addresses:
        among, verb = (chosen, "chosen") if one.address in own else (others, "left out")
        among[one.address, f"{one.address} is {verb}: it is {_explain_choice(one, own, view, host)}"] = None
    return [*chosen, *others]


def _explain_choice(one: Address, own: Sequence[str], view: View, host: HostNetworks) -> str:
    on = f"on {one.network.phrase}"
    if one.network.kind == "nat":
        return "inside of the VM's own NAT, which nobody else reaches"
    linked = [member for member in view.members if host.same_link(member, one.network)]
    users = linked or [member for member in view.members if _is_routed(one, member)]
    alone = len(view.members) == 1
    if one.address in own:
        return (
            f"{on}, the client's own network" if linked and alone else f"{on}, which {_name_clients(users)} can reach"
        )
    if not users:
        by = " by IPv6" if ":" in one.address and one.network.kind in _ROUTED else ""
        return f"{on}, which {_name_clients(view.members)} cannot reach{by}"
    if alone:
        return f"{on}, and the client has a nearer one on its own network"
    return f"{on}, which only {_name_clients(users)} can reach"


def _name_clients(members: Sequence[Network]) -> str:
    return join_words("this computer" if one == HOST else f"guests on {one.phrase}" for one in members)


def _explain_absence(guest: Guest, view: View) -> str:
    name = f"VM {guest.machine.name!r}"
    client = f"a client on {join_words(one.phrase for one in view.members)}"
    if view.members[0] == HOST:
        client = "the host"
    if guest.forwards:
        return f"the forwarded ports of {name} are at addresses of the host that {client} cannot reach"
    problem = guest.find_problem()
    if problem is None:
        on = join_words(adapter.network.phrase for adapter in guest.machine.adapters)
        return f"{name} is on {on}, which {client} cannot reach"
    return f"{name} {problem.text}"
