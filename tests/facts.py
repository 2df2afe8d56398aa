"""A small world in few words: VMs, networks and leases as the facts that sources report."""

from __future__ import annotations

from ipaddress import ip_address

from vmdns.dns.message import A
from vmdns.dns.name import to_wire
from vmdns.state.facts import (
    Adapter,
    DhcpServer,
    GuestReport,
    HostAddress,
    HostInterface,
    Lease,
    Machine,
    NatNetwork,
    Network,
)
from vmdns.state.snapshot import Snapshot
from vmdns.state.views import View

NOW = 1_700_000_000.0

NAT = Network("nat")
LAB = Network("natnetwork", "lab")
OTHER = Network("natnetwork", "other")
HOSTONLY = Network("hostonly", "vboxnet0")
BRIDGED = Network("bridged", "eth0")
INTNET = Network("intnet", "wire")

# Askers on all of these networks at once, so that every address of a VM is one that some of them can use.
EVERYWHERE = View((LAB, OTHER, HOSTONLY, BRIDGED, INTNET), "192.168.56.1")

# What a host with all of these networks reports of them. Both NAT Networks have the same addresses.
NETWORKS = (
    NatNetwork("lab", "10.0.2.0/24"),
    NatNetwork("other", "10.0.2.0/24"),
    DhcpServer("lab", "10.0.2.3", "255.255.255.0"),
    DhcpServer("HostInterfaceNetworking-vboxnet0", "192.168.56.100", "255.255.255.0"),
    HostInterface("vboxnet0", "192.168.56.1/24"),
    HostAddress("eth0", "192.168.1.5/24"),
    HostAddress("eth0", "fe80::1/64"),
)


def uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def mac(number: int) -> str:
    return f"080027{number:06x}"


def vm(number: int, name: str = "web", *networks: Network, state: str = "Running", **more: object) -> Machine:
    """The VM of that number; its adapters, on LAB by default, have the MACs number, number + 256, ..."""
    adapters = tuple(Adapter(slot, mac(number + 256 * slot), one) for slot, one in enumerate(networks or (LAB,)))
    return Machine(uuid(number), name, state, **{"adapters": adapters, **more})  # type: ignore[arg-type]


def lease(
    number: int, address: str, network: Network = LAB, *, issued: float = NOW - 60, seconds: float = 600
) -> Lease:
    return Lease(network.dhcp_name, mac(number), address, issued, issued + seconds)


def report(number: int, address: str, since: float = NOW - 5) -> GuestReport:
    return GuestReport(mac(number), address, since)


def addresses(snapshot: Snapshot, name: str, kind: int = A, view: View = EVERYWHERE) -> list[str] | None:
    """The addresses of this type at a name; None where there is no such name."""
    node = snapshot.outside.get(to_wire(name)) or snapshot.find(to_wire(name), view)
    if node is None:
        return None
    return [str(ip_address(rdata)) for rdata in node[kind].rdatas] if kind in node else []
