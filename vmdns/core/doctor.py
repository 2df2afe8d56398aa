"""What may keep an asker from its answer, found in what is known: one line each, with one command that mends it.

Pure: the facts, what the running vmdns says of itself and what was gathered on this host come in as values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from typing import NamedTuple

from vmdns.core.model import Adapter, DhcpServer, Fact, HostInterface, Machine, NatNetwork, Network
from vmdns.core.snapshot import Guest
from vmdns.core.view import Ways

OK, WARNING, PROBLEM = "ok", "warning", "problem"

# A guest that keeps its lease renews it after half of it: VirtualBox gives ten minutes.
ASKED_SECONDS = 900.0


class Finding(NamedTuple):
    """One thing that was looked at: whether it is well, in one sentence, and the command that mends it."""

    subject: str
    level: str
    text: str
    command: str = ""


@dataclass(frozen=True)
class Host:
    """What was gathered on this host. None or empty where it could not be found out.

    zones_answered: for each zone whether this host's own resolver asks vmdns for it. firewall: the name of one that is
    on and does not let DNS in, and the command that lets it. answers_local: upstreams that answer names in `local`.
    encrypted: what sends this host's DNS past its resolver. system: sys.platform. asking: the command that makes this
    host ask vmdns.
    """

    zones_answered: Mapping[str, bool] = field(default_factory=dict)
    firewall: tuple[str, str] | None = None
    answers_local: tuple[str, ...] = ()
    encrypted: tuple[str, ...] = ()
    system: str = "linux"
    asking: str = "vmdns host --apply"


@dataclass(frozen=True)
class Patient:
    """Everything that is looked at. status is the running server's (None: none runs), now in Unix seconds, products
    the operating systems that Guest Additions report, by UUID."""

    status: Mapping[str, object] | None
    facts: tuple[Fact, ...]
    guests: tuple[Guest, ...]
    ways: Ways
    host: Host
    now: float
    products: Mapping[str, str] = field(default_factory=dict)

    @property
    def listeners(self) -> frozenset[str]:
        """The addresses at which port 53 is answered."""
        return frozenset(str(one["address"]) for one in self._listed("listeners") if one["port"] == 53 and _open(one))

    def _listed(self, key: str) -> Sequence[Mapping[str, object]]:
        found = (self.status or {}).get(key)
        return found if isinstance(found, list) else []

    @property
    def asked(self) -> dict[tuple[str, str], float]:
        """When who asked where, in Unix seconds."""
        return {(str(one["address"]), str(one["at"])): float(str(one["time"])) for one in self._listed("askers")}


def _open(listener: Mapping[str, object]) -> bool:
    return listener["state"] == "listening"


def examine(patient: Patient) -> list[Finding]:
    """All findings: the host's, each network's, each running guest's."""
    return [*_host(patient), *_networks(patient), *_guests(patient)]


# -- the host -------------------------------------------------------------------------------------------------


def _host(patient: Patient) -> Iterator[Finding]:
    status = patient.status
    if status is None:
        yield Finding("vmdns", PROBLEM, "no vmdns runs: nobody answers", "vmdns run")
    else:
        yield Finding("vmdns", OK, f"vmdns {status['version']} runs")
        yield from _listeners(patient)
        yield from _virtualbox(status)
        yield from _upstreams(patient)
    host = patient.host
    for zone, answered in host.zones_answered.items():
        if answered:
            yield Finding("this computer", OK, f"asks vmdns for names in {zone}")
        elif status is not None:
            if host.system != "linux" and zone == "local":
                continue  # there multicast DNS has it
            yield Finding("this computer", WARNING, f"does not ask vmdns for names in {zone}", host.asking)
    if host.firewall is not None:
        name, command = host.firewall
        yield Finding("this computer", PROBLEM, f"{name} does not let guests' questions in", command)
    for server in host.answers_local:
        text = f"the upstream {server} answers names in local itself; vmdns never asks it for them, but others might"
        yield Finding("upstream", WARNING, text)
    for what in host.encrypted:
        yield Finding("this computer", WARNING, f"{what} sends questions past the system's resolver, so past vmdns")


def _listeners(patient: Patient) -> Iterator[Finding]:
    for one in patient._listed("listeners"):
        where, detail = str(one["address"]), str(one["detail"])
        if _open(one) and one["port"] == 53:
            continue
        text = detail.partition(": ")[0] if detail else f"{where} is answered at port {one['port']}, not 53"
        yield Finding(f"port 53 of {where}", PROBLEM, text, _quoted(detail))
    if patient.listeners:
        yield Finding("port 53", OK, f"answered at {', '.join(sorted(patient.listeners))}")


def _quoted(text: str) -> str:
    """The command that a sentence holds in backquotes."""
    parts = text.split("`")
    return parts[1] if len(parts) > 2 else ""


def _virtualbox(status: Mapping[str, object]) -> Iterator[Finding]:
    box = status.get("virtualbox")
    if not isinstance(box, Mapping):
        return
    if box["state"] == "ok":
        yield Finding("VirtualBox", OK, f"{box['version']}, read through {box['reader']}")
    else:
        yield Finding("VirtualBox", PROBLEM, str(box["detail"]) or "is not read", "VBoxManage list vms")


def _upstreams(patient: Patient) -> Iterator[Finding]:
    servers = patient._listed("upstreams")
    if not servers:
        text = "no server is known that other questions could be forwarded to"
        yield Finding("upstreams", PROBLEM, text, "vmdns run --upstream ADDRESS")
    for one in servers:
        if one.get("silent") or (one["failed"] and not one["answered"]):
            yield Finding("upstream", PROBLEM, f"{one['address']} {one['error'] or 'does not answer'}")


# -- networks -------------------------------------------------------------------------------------------------


def _networks(patient: Patient) -> Iterator[Finding]:
    servers = {fact.network: fact for fact in patient.facts if isinstance(fact, DhcpServer)}
    used = {adapter.network for _, adapter in _online(patient)}
    for fact in sorted(patient.facts, key=repr):
        if isinstance(fact, NatNetwork) and fact.enabled:
            network = Network("natnetwork", fact.name)
            yield from _handed(patient, f"NAT Network {fact.name}", servers.get(fact.name), network in used, fact.name)
        elif isinstance(fact, HostInterface):
            server = servers.get(f"HostInterfaceNetworking-{fact.name}")
            network = Network("hostonly", fact.name)
            yield from _handed(patient, f"host-only {fact.name}", server, network in used, fact.name)
    yield from _shared(patient)
    yield from _twins(patient)


def _handed(patient: Patient, subject: str, server: DhcpServer | None, used: bool, name: str) -> Iterator[Finding]:
    wire = f"vmdns wire --network {_shell(name)} --apply"
    level = PROBLEM if used else WARNING
    if server is None or not server.enabled:
        what = "has no DHCP server" if server is None else "has its DHCP server switched off"
        if subject.startswith("NAT"):
            yield Finding(subject, WARNING, f"{what}: VirtualBox makes it when the network first starts", wire)
        elif server is None:
            yield Finding(subject, WARNING, f"{what}: enter the address of vmdns in its guests", "vmdns status")
        else:
            command = f"VBoxManage dhcpserver modify --network={_shell(server.network)} --enable"
            yield Finding(subject, WARNING, what, command)
        return
    if not server.name_servers:
        yield Finding(subject, level, "its DHCP server names no DNS server", wire)
        return
    for address in server.name_servers:
        trap = _trap(address, server)
        if trap:
            yield Finding(subject, level, f"its guests are given {address}, {trap}", wire)
        elif not patient.ways.owns(address):
            yield Finding(subject, level, f"its guests are given {address}, which is no address of this computer", wire)
        elif patient.status is not None and address not in patient.listeners:
            yield Finding(
                subject, level, f"its guests are given {address}, where vmdns does not answer", "vmdns status"
            )
        else:
            yield Finding(subject, OK, f"its guests are given {address}, which is vmdns")


def _trap(address: str, server: DhcpServer) -> str:
    """The two addresses that VirtualBox 7.2 hands out where this computer's own resolver is at a loopback address."""
    if address == server.address:
        return "which is their DHCP server and answers no DNS"
    at = ip_interface(f"{server.address}/{server.mask}")
    if address == str(at.network.network_address + 3):
        return "which VirtualBox also gives to the first of them"
    if ip_address(address).is_loopback:
        return "which is the guest itself"
    return ""


def _shared(patient: Patient) -> Iterator[Finding]:
    for address, networks in patient.ways.handed.items():
        if len(networks) > 1:
            names = " and ".join(network.name for network in networks)
            text = f"{names} share {address}: vmdns cannot tell their guests apart"
            yield Finding("NAT Networks", WARNING, text, "vmdns wire --apply")


def _twins(patient: Patient) -> Iterator[Finding]:
    seen: dict[tuple[Network, str], Machine] = {}
    for machine, adapter in _online(patient):
        other = seen.setdefault((adapter.network, adapter.mac), machine)
        if other is not machine and adapter.network.kind != "nat":
            text = f"has the MAC address of {other.name!r} on {adapter.network.name}, and so its lease"
            number = adapter.slot + 1
            command = f"VBoxManage controlvm {machine.uuid} poweroff && VBoxManage modifyvm {machine.uuid}"
            yield Finding(f"VM {machine.name!r}", PROBLEM, text, f"{command} --mac-address{number}=auto")


def _online(patient: Patient) -> Iterator[tuple[Machine, Adapter]]:
    machines = sorted((fact for fact in patient.facts if isinstance(fact, Machine)), key=lambda one: one.uuid)
    for machine in machines:
        for adapter in machine.adapters if machine.online else ():
            yield machine, adapter


# -- guests ---------------------------------------------------------------------------------------------------


def _guests(patient: Patient) -> Iterator[Finding]:
    for guest in patient.guests:
        machine = guest.machine
        if not machine.online:
            continue
        subject = f"VM {machine.name!r}"
        found = [*_cables(subject, machine), *_reachable(subject, guest), *_asks(subject, guest, patient)]
        yield from found
        if not found:
            yield Finding(subject, OK, f"is {guest.named.label} at {', '.join(one.address for one in guest.addresses)}")


def _cables(subject: str, machine: Machine) -> Iterator[Finding]:
    for adapter in machine.adapters:
        if not adapter.cable:
            number = adapter.slot + 1
            command = f"VBoxManage controlvm {machine.uuid} setlinkstate{number} on"
            yield Finding(subject, PROBLEM, f"the cable of its adapter {number} is not connected", command)


def _reachable(subject: str, guest: Guest) -> Iterator[Finding]:
    machine = guest.machine
    plugged = [adapter for adapter in machine.adapters if adapter.cable]
    useful = [one for one in guest.addresses if one.network.kind != "nat"]
    if not machine.adapters:
        command = f"VBoxManage controlvm {machine.uuid} poweroff && VBoxManage modifyvm {machine.uuid} --nic1=nat"
        yield Finding(subject, PROBLEM, "it has no network adapter", command)
    elif useful or guest.forwards or not plugged:
        return
    elif all(adapter.network.kind == "nat" for adapter in plugged):
        number = plugged[0].slot + 1
        command = f"VBoxManage controlvm {machine.uuid} natpf{number} ssh,tcp,,{_free_port(machine)},,22"
        yield Finding(subject, WARNING, "it is on NAT alone, where nobody can reach it", command)
    else:
        names = " and ".join(dict.fromkeys(_called(adapter.network) for adapter in plugged))
        text = f"no address of it is known on {names}: it has no lease, and no Guest Additions report one"
        command = f"VBoxManage controlvm {machine.uuid} setlinkstate{plugged[0].slot + 1} off"
        command += f" && VBoxManage controlvm {machine.uuid} setlinkstate{plugged[0].slot + 1} on"
        yield Finding(subject, WARNING, text, command)


def _free_port(machine: Machine) -> int:
    """A port that is the same each time and most likely free."""
    return 20_000 + int(machine.uuid.replace("-", "")[-6:], 16) % 10_000


def _asks(subject: str, guest: Guest, patient: Patient) -> Iterator[Finding]:
    """Whether the guest asked lately, where it can be told: on networks that do not hide it."""
    if patient.status is None:
        return
    for one in guest.addresses:
        doors = [address for address in patient.ways.on(one.network) if address in patient.listeners]
        if one.network.kind not in ("hostonly", "bridged") or not doors or ":" in one.address:
            continue
        last = max((patient.asked.get((one.address, door), 0.0) for door in doors), default=0.0)
        if patient.now - last > ASKED_SECONDS:
            row, command = _row(patient.products.get(guest.machine.uuid, ""), one.network, doors[0])
            yield Finding(subject, WARNING, f"{one.address} has not asked vmdns lately{row}", command)


def _row(product: str, network: Network, door: str) -> tuple[str, str]:
    """What such a guest needs (its row in the table of clients), and the command to give in it."""
    lower = product.lower()
    if "windows" in lower:
        return "; it does once it has renewed its lease, in Windows by", "ipconfig /renew"
    if network.kind == "bridged":
        return "; its router names its DNS server, so enter vmdns in the guest", f"resolvectl dns eth0 {door}"
    if "darwin" in lower or "mac" in lower:
        return "; it does once it has renewed its lease, in macOS by", "sudo ipconfig set en0 DHCP"
    return "; it does once it has renewed its lease, in a Linux guest by", "sudo networkctl renew eth0"


def _called(network: Network) -> str:
    kinds = {"natnetwork": "NAT Network ", "hostonly": "host-only ", "bridged": "the LAN of ", "intnet": "internal "}
    return f"{kinds.get(network.kind, '')}{network.name}" if network.name else "NAT"


def _shell(text: str) -> str:
    """A word of a command line, quoted where it must be; the same in all shells."""
    plain = text and all(char.isalnum() or char in "-_./" for char in text)
    return text if plain else '"' + text.replace('"', '\\"') + '"'


def is_well(findings: Iterable[Finding]) -> bool:
    """Whether nothing is a problem; a warning is none."""
    return all(one.level != PROBLEM for one in findings)
