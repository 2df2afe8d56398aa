"""Finds what may keep a client from its answer, in the state of the running vmdns, each with its remedy.

Pure: the facts, the snapshot and the status of the running vmdns come in as values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address, ip_interface

from vmdns.dns.name import display_name
from vmdns.state.facts import Adapter, DhcpServer, Fact, HostInterface, Machine, NatNetwork, Network
from vmdns.state.findings import (
    OK,
    PROBLEM,
    WARNING,
    Finding,
    Problem,
    Status,
    find_server_findings,
    join_words,
    list_of,
    quote_for_shell,
)
from vmdns.state.guests import SAME_MAC, Guest, replug_command
from vmdns.state.networks import FIXED, LEASE, Address
from vmdns.state.snapshot import Snapshot

# A guest that keeps its lease renews it after half of it: VirtualBox gives ten minutes.
QUERY_SECONDS = 900.0


@dataclass(frozen=True)
class DoctorInput:
    """Everything that `vmdns doctor` looks at.

    status: the running server's, None if none runs. snapshot: with the names of the running server. now: in Unix
    seconds.
    """

    status: Status | None
    facts: tuple[Fact, ...]
    snapshot: Snapshot
    now: float

    @property
    def simulated(self) -> bool:
        """Whether the networks are those of `vmdns demo`, whose guests do not ask and whose host is another one."""
        return bool(self.snapshot.host_networks.loopback)

    @cached_property
    def listeners(self) -> frozenset[str]:
        """The addresses at which port 53 is answered."""
        if self.simulated:
            return frozenset(place.address for place in self.snapshot.host_networks.places)
        listed = list_of(self.status, "listeners")
        return frozenset(str(one["address"]) for one in listed if one["state"] == "listening" and one["port"] == 53)

    @cached_property
    def last_queries(self) -> dict[tuple[str, str], float]:
        """When each client last queried which address, in Unix seconds."""
        listed = list_of(self.status, "askers")
        return {(str(one["address"]), str(one["at"])): float(str(one["time"])) for one in listed}

    @cached_property
    def servers(self) -> dict[str, DhcpServer]:
        """VirtualBox's DHCP servers by the network's name."""
        return {fact.network: fact for fact in self.facts if isinstance(fact, DhcpServer)}

    @cached_property
    def vmnets(self) -> dict[Network, str]:
        """The host-only networks of macOS, whose DHCP server is the system's, with the host's address on each."""
        found = (fact for fact in self.facts if isinstance(fact, HostInterface) and fact.vmnet)
        return {Network("hostonly", fact.name): fact.address for fact in found}

    @cached_property
    def online(self) -> list[tuple[Machine, Adapter]]:
        """The adapters of VMs that run."""
        machines = sorted((fact for fact in self.facts if isinstance(fact, Machine)), key=lambda one: one.uuid)
        return [(machine, adapter) for machine in machines if machine.online for adapter in machine.adapters]


def find_findings(inputs: DoctorInput) -> list[Finding]:
    """All findings: the server's, each network's, each running guest's; none twice.

    VBoxManage cannot change the VMs of a simulation, so there its command lines are left out.
    """
    about_server = find_server_findings(inputs.status, inputs.simulated)
    found = dict.fromkeys([*about_server, *_check_networks(inputs), *_check_guests(inputs)])
    if inputs.simulated:
        return [one._replace(command="") if one.command.startswith("VBoxManage") else one for one in found]
    return list(found)


# -- networks -------------------------------------------------------------------------------------------------


def _check_networks(inputs: DoctorInput) -> Iterator[Finding]:
    for fact in sorted((one for one in inputs.facts if isinstance(one, NatNetwork | HostInterface)), key=repr):
        if isinstance(fact, HostInterface):
            yield from _check_name_servers(inputs, Network("hostonly", fact.name))
        elif fact.enabled:
            yield from _check_name_servers(inputs, Network("natnetwork", fact.name))
    for address, networks in inputs.snapshot.host_networks.advertised.items():
        if len(networks) > 1:
            names = " and ".join(network.name for network in networks)
            text = f"{names} share {address}: vmdns cannot tell their guests apart"
            yield Finding("NAT Networks", WARNING, text, "vmdns wire --apply")
    yield from _find_same_mac(inputs)
    for (address, _), problem in inputs.snapshot.shared.items():
        if problem.remedy != SAME_MAC:  # that is a finding already
            yield _make_finding(f"address {address}", PROBLEM, problem)


def _check_name_servers(inputs: DoctorInput, network: Network) -> Iterator[Finding]:
    subject, server = network.title, inputs.servers.get(network.dhcp_name)
    wire = f"vmdns wire --network {quote_for_shell(network.name)} --apply"
    if server is None or not server.enabled:
        what = "has no DHCP server" if server is None else "has its DHCP server switched off"
        if network.kind == "natnetwork":
            yield Finding(subject, WARNING, f"{what}: VirtualBox makes it when the network first starts", wire)
        elif server is None:
            # What its guests ask is looked at one by one.
            who = "macOS gives its guests their settings" if network in inputs.vmnets else what
            address = inputs.vmnets.get(network) or join_words(inputs.snapshot.host_networks.on(network))
            where = f"{address or 'the address of vmdns'} is the DNS server"
            yield Finding(subject, OK, f"{who}; guests in which {where} ask vmdns")
        else:
            command = f"VBoxManage dhcpserver modify --network={quote_for_shell(server.network)} --enable"
            yield Finding(subject, WARNING, what, command)
        return
    level = PROBLEM if any(adapter.network == network for _, adapter in inputs.online) else WARNING
    if not server.name_servers:
        yield Finding(subject, level, "its DHCP server names no DNS server", wire)
    wrong: list[str] = []
    for address in server.name_servers:
        trap = _explain_trap(address, server)
        if trap or not inputs.snapshot.host_networks.owns(address):
            wrong.append(f"{address}, which {trap or 'is no address of this computer'}")
        elif inputs.status is None or address in inputs.listeners:
            yield Finding(subject, OK, f"its guests are given {address}, which is vmdns")
        elif all(one["address"] != address for one in list_of(inputs.status, "listeners")):
            text = f"its guests are given {address}, where vmdns does not listen: add it to listen (--listen), or"
            yield Finding(subject, level, f"{text} leave listen out")
        # A listener that failed is a finding of its own.
    if wrong:
        yield Finding(subject, level, f"its guests are given {join_words(wrong)}", wire)


def _explain_trap(address: str, server: DhcpServer) -> str:
    """The two addresses that VirtualBox 7.2 hands out where this computer's own resolver is at a loopback address."""
    if address == server.address:
        return "is their DHCP server and answers no DNS"
    if address == str(ip_interface(f"{server.address}/{server.mask}").network.network_address + 3):
        return "VirtualBox also gives to the first of them"
    return "is the guest itself" if ip_address(address).is_loopback else ""


def _find_same_mac(inputs: DoctorInput) -> Iterator[Finding]:
    seen: dict[tuple[Network, str], Machine] = {}
    for machine, adapter in inputs.online:
        other = seen.setdefault((adapter.network, adapter.mac), machine)
        if other is not machine and adapter.network.kind != "nat":
            where = f"the MAC address of {other.name!r} on {adapter.network.name}"
            command = f"VBoxManage modifyvm {machine.uuid} --mac-address{adapter.slot + 1}=auto"
            text = f"has {where}, and so its lease; shut it down, then"
            yield Finding(f"VM {machine.name!r}", PROBLEM, text, command)


# -- guests ---------------------------------------------------------------------------------------------------


def _check_guests(inputs: DoctorInput) -> Iterator[Finding]:
    for guest in (one for one in inputs.snapshot.guests if one.machine.online):
        subject = f"VM {guest.machine.name!r}"
        found = [
            *(_make_finding(subject, WARNING, one, "it ") for one in guest.named.problems),
            *(_make_finding(subject, PROBLEM, one) for one in guest.refused),
            *_check_reachable(subject, guest),
            *_check_queries(subject, guest, inputs),
        ]
        yield from found
        # Those that share an address are a finding of their own.
        if not found and not any((one.address, one.network) in inputs.snapshot.shared for one in guest.addresses):
            where = ", ".join(one.address for one in guest.addresses) or "ports forwarded on this computer"
            yield Finding(subject, OK, f"is {display_name(guest.named.label)} at {where}")


def _make_finding(subject: str, level: str, problem: Problem, start: str = "") -> Finding:
    text = "; ".join(filter(None, (problem.text, problem.remedy)))
    return Finding(subject, level, start + text, problem.command)


def _check_reachable(subject: str, guest: Guest) -> Iterator[Finding]:
    problem, adapters = guest.find_problem(), guest.machine.adapters
    unplugged = sum(not adapter.cable for adapter in adapters)
    # What is refused, unplugged cables included, is a reason of its own.
    if problem is not None and len(guest.refused) <= unplugged and (unplugged < len(adapters) or not adapters):
        yield _make_finding(subject, WARNING if adapters else PROBLEM, problem, "it ")


def _check_queries(subject: str, guest: Guest, inputs: DoctorInput) -> Iterator[Finding]:
    """Whether the guest sent queries lately, where that is known: on networks that do not hide it. A DHCP server of
    VirtualBox's that does not name vmdns is a finding of its own."""
    if inputs.status is None or inputs.simulated:
        return
    for one in guest.addresses:
        addresses = [
            address for address in inputs.snapshot.host_networks.on(one.network) if address in inputs.listeners
        ]
        if one.network.kind not in ("hostonly", "bridged") or not addresses or ":" in one.address:
            continue
        server = inputs.servers.get(one.network.dhcp_name)
        # What gives its guests their settings, and does not name vmdns.
        other = "macOS" if one.network in inputs.vmnets else "no DHCP server" if server is None else ""
        other = "its router" if one.network.kind == "bridged" else other
        given = server.name_servers if server is not None and server.enabled else ()
        if not other and set(given).isdisjoint(addresses):
            continue
        last = max(inputs.last_queries.get((one.address, address), 0.0) for address in addresses)
        if inputs.now - last > QUERY_SECONDS:
            yield _make_silent_finding(subject, one, guest.machine, addresses[0], other)


def _make_silent_finding(subject: str, one: Address, machine: Machine, address: str, other: str) -> Finding:
    text = f"{one.address} has not asked vmdns lately"
    if other:
        return Finding(subject, WARNING, f"{text}: {other} names its DNS server, so set {address} in the guest")
    if one.source not in (LEASE, FIXED):
        why = "its address is not from VirtualBox's DHCP"
        return Finding(subject, WARNING, f"{text}: {why}, so set {address} in the guest")
    slot = next((adapter.slot for adapter in machine.adapters if adapter.mac == one.mac), 0)
    text += "; it does once it has renewed its lease: restart it, or unplug its cable and plug it in"
    return Finding(subject, WARNING, text, replug_command(machine, slot))
