"""Finds what may keep a client from its answer, in the state of the running vmdns, each with its remedy.

Pure: the facts, the snapshot and the status of the running vmdns come in as values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address, ip_interface

from vmdns.dns.name import display_name
from vmdns.state.facts import Adapter, DhcpServer, Fact, HostInterface, Machine, NatNetwork, Network
from vmdns.state.findings import OK, PROBLEM, WARNING, Finding
from vmdns.state.forwarding_findings import find_forwarding_findings
from vmdns.state.guests import SAME_MAC, Guest, find_shared_address, replug_command
from vmdns.state.networks import FIXED, LEASE, Address
from vmdns.state.problem import join_words
from vmdns.state.views import HostNetworks

# A guest that keeps its lease renews it after half of it: VirtualBox gives ten minutes.
ASKED_SECONDS = 900.0


@dataclass(frozen=True)
class DoctorInput:
    """Everything that `vmdns doctor` looks at.

    status: the running server's, None if none runs. now: in Unix seconds. guests: with the names of the running server.
    """

    status: Mapping[str, object] | None
    facts: tuple[Fact, ...]
    guests: tuple[Guest, ...]
    ways: HostNetworks
    now: float

    @property
    def simulated(self) -> bool:
        """Whether the networks are those of `vmdns demo`, whose guests do not ask and whose host is another one."""
        return bool(self.ways.loopback)

    @cached_property
    def listeners(self) -> frozenset[str]:
        """The addresses at which port 53 is answered."""
        if self.simulated:
            return frozenset(place.address for place in self.ways.places)
        return frozenset(str(one["address"]) for one in self.listed("listeners") if _is_open(one) and one["port"] == 53)

    @cached_property
    def failed_listeners(self) -> frozenset[str]:
        """The addresses at which port 53 was to be answered, and is not."""
        return frozenset(str(one["address"]) for one in self.listed("listeners")) - self.listeners

    def listed(self, key: str) -> Sequence[Mapping[str, object]]:
        """A list of the status."""
        found = (self.status or {}).get(key)
        return found if isinstance(found, list) else []

    def find_name_servers(self, network: Network) -> frozenset[str]:
        """The name servers that VirtualBox's DHCP server gives to guests on this network."""
        servers = (fact for fact in self.facts if isinstance(fact, DhcpServer) and fact.enabled)
        return frozenset(one for fact in servers if fact.network == network.dhcp_name for one in fact.name_servers)

    @cached_property
    def asked(self) -> dict[tuple[str, str], float]:
        """When each client last queried which address, in Unix seconds."""
        return {(str(one["address"]), str(one["at"])): float(str(one["time"])) for one in self.listed("askers")}


def _is_open(listener: Mapping[str, object]) -> bool:
    return listener["state"] == "listening"


def find_findings(inputs: DoctorInput) -> list[Finding]:
    """All findings: the server's, each network's, each running guest's; none twice.

    VBoxManage cannot change the VMs of a simulation, so there its command lines are left out.
    """
    found = dict.fromkeys([*_check_server(inputs), *_check_networks(inputs), *_check_guests(inputs)])
    if inputs.simulated:
        return [one._replace(command="") if one.command.startswith("VBoxManage") else one for one in found]
    return list(found)


# -- the server -----------------------------------------------------------------------------------------------


def _check_server(inputs: DoctorInput) -> Iterator[Finding]:
    status = inputs.status
    if status is None:
        yield Finding("vmdns", PROBLEM, "no vmdns runs, so no names are answered", "vmdns run")
        return
    yield Finding("vmdns", OK, f"vmdns {status['version']} runs")
    if status.get("config_error"):
        text = f"{status['config_error']}; the configuration before it stays in force"
        yield Finding("configuration", PROBLEM, text)
    for fault in _texts(status, "faults"):
        yield Finding("vmdns", PROBLEM, fault)
    for source in inputs.listed("sources"):
        if source["name"] == "hosts" and source["state"] == "failing":
            yield Finding("hosts file", WARNING, str(source["detail"]))
    yield from _check_listeners(inputs)
    yield from _check_virtualbox(status)
    yield from _check_upstreams(inputs)
    yield from find_forwarding_findings(status)


def _texts(status: Mapping[str, object], key: str) -> list[str]:
    found = status.get(key)
    return [str(one) for one in found] if isinstance(found, list) else []


def _check_listeners(inputs: DoctorInput) -> Iterator[Finding]:
    addresses: dict[tuple[str, str, str], list[str]] = {}
    for one in inputs.listed("listeners"):
        where, detail = str(one["address"]), str(one["detail"])
        if _is_open(one) and (one["port"] == 53 or inputs.simulated):
            continue
        if detail:
            text, _, remedy = detail.removeprefix(f"{where} ").partition(": ")
            # What comes before the command is the reason, or what changes less than the command.
            before = remedy.partition("`")[0].rstrip("; (")
            key = PROBLEM, f"{text}: {before}" if before else text, _find_command(remedy)
        else:
            # The user chose it.
            key = WARNING, f"is answered at port {one['port']} only, which guests and most systems never ask", ""
        addresses.setdefault(key, []).append(where)
    for (level, text, command), where_all in addresses.items():
        yield Finding("port 53", level, f"{join_words(where_all)} {text}", command)
    if inputs.listeners and not inputs.simulated:
        yield Finding("port 53", OK, f"answered at {', '.join(sorted(inputs.listeners))}")


def _find_command(text: str) -> str:
    """The command in backquotes in a sentence."""
    parts = text.split("`")
    return parts[1] if len(parts) > 2 else ""


def _check_virtualbox(status: Mapping[str, object]) -> Iterator[Finding]:
    box = status.get("virtualbox")
    if not isinstance(box, Mapping):
        return
    if box["state"] == "ok":
        how = "simulated" if box["reader"] == "simulation" else f"read through {box['reader']}"
        yield Finding("VirtualBox", OK, f"{box['version']}, {how}")
    else:
        detail = str(box["detail"]).removeprefix("VirtualBox").lstrip(": ")
        yield Finding("VirtualBox", PROBLEM, detail or "is not read")


def _check_upstreams(inputs: DoctorInput) -> Iterator[Finding]:
    servers = inputs.listed("upstreams")
    if not servers:
        text = "none is known, so names outside of the VMs' zones are not answered; name one:"
        yield Finding("upstreams", PROBLEM, text, "vmdns run --upstream ADDRESS")
    silent = [one for one in servers if one.get("silent") or (one["failed"] and not one["answered"])]
    for one in silent:
        # Another one answers in its place.
        level = PROBLEM if len(silent) == len(servers) else WARNING
        yield Finding("upstream", level, f"{one['address']}: {one['error'] or 'does not answer'}")
    for sentence in _texts(inputs.status or {}, "left_out"):
        yield Finding("upstream", WARNING, sentence)


# -- networks -------------------------------------------------------------------------------------------------


def _check_networks(inputs: DoctorInput) -> Iterator[Finding]:
    servers = {fact.network: fact for fact in inputs.facts if isinstance(fact, DhcpServer)}
    used = {adapter.network for _, adapter in _online_adapters(inputs)}
    networks = [fact for fact in inputs.facts if isinstance(fact, NatNetwork | HostInterface)]
    for fact in sorted(networks, key=repr):
        if isinstance(fact, NatNetwork) and fact.enabled:
            network = Network("natnetwork", fact.name)
            yield from _check_name_servers(
                inputs, f"NAT Network {fact.name}", servers.get(fact.name), network in used, fact.name
            )
        elif isinstance(fact, HostInterface):
            server = servers.get(f"HostInterfaceNetworking-{fact.name}")
            network = Network("hostonly", fact.name)
            yield from _check_name_servers(inputs, f"host-only {fact.name}", server, network in used, fact.name)
    yield from _find_shared_address(inputs)
    yield from _find_same_mac(inputs)
    yield from _find_same_address(inputs)


def _check_name_servers(
    inputs: DoctorInput, subject: str, server: DhcpServer | None, used: bool, name: str
) -> Iterator[Finding]:
    wire = f"vmdns wire --network {_quote_for_shell(name)} --apply"
    level = PROBLEM if used else WARNING
    if server is None or not server.enabled:
        what = "has no DHCP server" if server is None else "has its DHCP server switched off"
        if subject.startswith("NAT"):
            yield Finding(subject, WARNING, f"{what}: VirtualBox makes it when the network first starts", wire)
        elif server is None:
            addresses = join_words(inputs.ways.on(Network("hostonly", name))) or "the address of vmdns"
            yield Finding(subject, WARNING, f"{what}: set {addresses} as the DNS server in its guests")
        else:
            command = f"VBoxManage dhcpserver modify --network={_quote_for_shell(server.network)} --enable"
            yield Finding(subject, WARNING, what, command)
        return
    if not server.name_servers:
        yield Finding(subject, level, "its DHCP server names no DNS server", wire)
        return
    wrong: list[str] = []
    for address in server.name_servers:
        trap = _explain_trap(address, server)
        if trap:
            wrong.append(f"{address}, {trap}")
        elif not inputs.ways.owns(address):
            wrong.append(f"{address}, which is no address of this computer")
        elif inputs.status is None or address in inputs.listeners:
            yield Finding(subject, OK, f"its guests are given {address}, which is vmdns")
        elif address not in inputs.failed_listeners:  # else that is a finding of its own
            text = f"its guests are given {address}, where vmdns does not listen: add it to listen (--listen), or"
            yield Finding(subject, level, f"{text} leave listen out")
    if wrong:
        yield Finding(subject, level, f"its guests are given {join_words(wrong)}", wire)


def _explain_trap(address: str, server: DhcpServer) -> str:
    """The two addresses that VirtualBox 7.2 hands out where this computer's own resolver is at a loopback address."""
    if address == server.address:
        return "which is their DHCP server and answers no DNS"
    at = ip_interface(f"{server.address}/{server.mask}")
    if address == str(at.network.network_address + 3):
        return "which VirtualBox also gives to the first of them"
    if ip_address(address).is_loopback:
        return "which is the guest itself"
    return ""


def _find_shared_address(inputs: DoctorInput) -> Iterator[Finding]:
    for address, networks in inputs.ways.advertised.items():
        if len(networks) > 1:
            names = " and ".join(network.name for network in networks)
            text = f"{names} share {address}: vmdns cannot tell their guests apart"
            yield Finding("NAT Networks", WARNING, text, "vmdns wire --apply")


def _find_same_mac(inputs: DoctorInput) -> Iterator[Finding]:
    seen: dict[tuple[Network, str], Machine] = {}
    for machine, adapter in _online_adapters(inputs):
        other = seen.setdefault((adapter.network, adapter.mac), machine)
        if other is not machine and adapter.network.kind != "nat":
            text = (
                f"has the MAC address of {other.name!r} on {adapter.network.name}, and so its lease; shut it down, then"
            )
            command = f"VBoxManage modifyvm {machine.uuid} --mac-address{adapter.slot + 1}=auto"
            yield Finding(f"VM {machine.name!r}", PROBLEM, text, command)


def _find_same_address(inputs: DoctorInput) -> Iterator[Finding]:
    """VMs that have one address on one network; not those with one MAC, which `_find_same_mac` has."""
    at: dict[str, list[Guest]] = {}
    for guest in inputs.guests:
        for address in {one.address for one in guest.addresses if one.network.kind != "nat"}:
            at.setdefault(address, []).append(guest)
    for address, guests in sorted(at.items()):
        found = find_shared_address(address, guests) if len(guests) > 1 else None
        if found is not None and found.remedy != SAME_MAC:
            yield Finding(f"address {address}", PROBLEM, f"{found.text}; {found.remedy}")


def _online_adapters(inputs: DoctorInput) -> Iterator[tuple[Machine, Adapter]]:
    machines = sorted((fact for fact in inputs.facts if isinstance(fact, Machine)), key=lambda one: one.uuid)
    for machine in machines:
        for adapter in machine.adapters if machine.online else ():
            yield machine, adapter


# -- guests ---------------------------------------------------------------------------------------------------


def _check_guests(inputs: DoctorInput) -> Iterator[Finding]:
    counts = Counter(
        place for guest in inputs.guests for place in {(one.network, one.address) for one in guest.addresses}
    )
    for guest in inputs.guests:
        machine = guest.machine
        if not machine.online:
            continue
        subject = f"VM {machine.name!r}"
        found = [
            *_check_name(subject, guest), *_check_refused(subject, guest), *_check_reachable(subject, guest),
            *_check_queries(subject, guest, inputs),
        ]  # fmt: skip
        yield from found
        # Those that share an address are a finding of their own.
        alone = all(counts[one.network, one.address] == 1 for one in guest.addresses if one.network.kind != "nat")
        if not found and alone:
            places = [one.address for one in guest.addresses] or ["ports forwarded on this computer"]
            yield Finding(subject, OK, f"is {display_name(guest.named.label)} at {', '.join(places)}")


def _check_name(subject: str, guest: Guest) -> Iterator[Finding]:
    """The names that the VM should have and does not get."""
    for one in guest.named.problems:
        yield Finding(subject, WARNING, "; ".join(filter(None, (f"it {one.text}", one.remedy))), one.command)


def _check_refused(subject: str, guest: Guest) -> Iterator[Finding]:
    """What is reported of it and not used, and its unplugged cables (address.py)."""
    for one in guest.refused:
        yield Finding(subject, PROBLEM, "; ".join(filter(None, (one.text, one.remedy))), one.command)


def _check_reachable(subject: str, guest: Guest) -> Iterator[Finding]:
    problem = guest.find_problem()
    unplugged = sum(not adapter.cable for adapter in guest.machine.adapters)
    # What is refused, unplugged cables included, is a reason of its own.
    if problem is None or len(guest.refused) > unplugged or (unplugged and unplugged == len(guest.machine.adapters)):
        return
    level = WARNING if guest.machine.adapters else PROBLEM
    text = "; ".join(filter(None, (problem.text, problem.remedy)))
    yield Finding(subject, level, f"it {text}", problem.command)


def _check_queries(subject: str, guest: Guest, inputs: DoctorInput) -> Iterator[Finding]:
    """Whether the guest sent queries lately, where that is known: on networks that do not hide it, and that have guests
    ask vmdns. Those that do not are a finding of their own."""
    if inputs.status is None or inputs.simulated:
        return
    for one in guest.addresses:
        addresses = [address for address in inputs.ways.on(one.network) if address in inputs.listeners]
        if one.network.kind not in ("hostonly", "bridged") or not addresses or ":" in one.address:
            continue
        if one.network.kind == "hostonly" and inputs.find_name_servers(one.network).isdisjoint(addresses):
            continue
        last = max((inputs.asked.get((one.address, address), 0.0) for address in addresses), default=0.0)
        if inputs.now - last > ASKED_SECONDS:
            yield _make_silent_finding(subject, one, guest.machine, addresses[0])


def _make_silent_finding(subject: str, one: Address, machine: Machine, address: str) -> Finding:
    text = f"{one.address} has not asked vmdns lately"
    if one.network.kind == "bridged":
        return Finding(subject, WARNING, f"{text}: its router names its DNS server, so set {address} in the guest")
    if one.source not in (LEASE, FIXED):
        return Finding(
            subject, WARNING, f"{text}: its address is not from VirtualBox's DHCP, so set {address} in the guest"
        )
    slot = next((adapter.slot for adapter in machine.adapters if adapter.mac == one.mac), 0)
    text += "; it does once it has renewed its lease: restart it, or unplug its cable and plug it in"
    return Finding(subject, WARNING, text, replug_command(machine, slot))


def _quote_for_shell(text: str) -> str:
    """A word of a command line, quoted where it must be; the same in all shells."""
    plain = text and all(char.isalnum() or char in "-_./" for char in text)
    return text if plain else '"' + text.replace('"', '\\"') + '"'
