"""The script of `vmdns demo`: the facts about a simulated VirtualBox and its host at any time.

Eight VMs on two NAT Networks with equal addresses, plain NAT, a host-only network and a bridged LAN. Five of them never
change, three change every few seconds, in rounds. Everything is a function of the time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vmdns.state.facts import (
    Adapter,
    DhcpServer,
    Fact,
    GuestReport,
    HostAddress,
    HostInterface,
    Lease,
    LoopbackNetwork,
    Machine,
    NatNetwork,
    Neighbour,
    Network,
    PortForward,
)

OFFICE, LAB = Network("natnetwork", "office"), Network("natnetwork", "lab")
NAT, HOSTONLY, LAN = Network("nat"), Network("hostonly", "vboxnet0"), Network("bridged", "enp3s0")

# Queries to these loopback addresses are answered like those of a guest on the network.
LOOPBACK = {"127.0.1.1": OFFICE, "127.0.1.2": LAB, "127.0.1.3": HOSTONLY, "127.0.1.4": LAN}

LEASE_SECONDS = 600.0  # the default of VirtualBox's DHCP server
RENEWAL_SECONDS = LEASE_SECONDS / 2  # a guest renews its lease after half of its time
ROUND_SECONDS = 48.0  # after which the script repeats
# Times of changes, in seconds after the start of the round.
BOOT, LEASED, MOVE, RENAME, STOP, MOVE_BACK, RENAME_BACK = EVENTS = (4.0, 7.0, 14.0, 21.0, 28.0, 35.0, 42.0)

_NETWORKS: tuple[Fact, ...] = (
    NatNetwork("office", "10.0.2.0/24", forwards=(PortForward("web", "tcp", "", 8080, "10.0.2.4", 80),)),
    NatNetwork("lab", "10.0.2.0/24"),
    DhcpServer(
        "office", "10.0.2.3", "255.255.255.0", fixed=(("080027000002", "10.0.2.10"),), name_servers=("198.18.53.1",)
    ),
    DhcpServer("lab", "10.0.2.3", "255.255.255.0", name_servers=("198.18.53.2",)),
    DhcpServer(HOSTONLY.dhcp_name, "192.168.56.100", "255.255.255.0", name_servers=("192.168.56.1",)),
    HostInterface("vboxnet0", "192.168.56.1/24"),
    *(LoopbackNetwork(address, network) for address, network in LOOPBACK.items()),
)
_HOST = (
    HostAddress("lo", "127.0.0.1/8"),
    HostAddress("lo", "198.18.53.1/32"),  # what `vmdns wire` gives each NAT Network
    HostAddress("lo", "198.18.53.2/32"),
    HostAddress("enp3s0", "192.168.1.20/24"),
    HostAddress("vboxnet0", "192.168.56.1/24"),
)


@dataclass(frozen=True)
class SceneFacts:
    """The facts of each source of the worker at one time."""

    virtualbox: tuple[Fact, ...]
    leases: tuple[Lease, ...]
    addresses: tuple[HostAddress, ...]
    neighbours: tuple[Neighbour, ...]


def _mac(number: int, slot: int = 0) -> str:
    return f"080027{slot:02x}{number:04x}"


def _vm(
    number: int, name: str, *networks: Network, group: str = "/", forwards: tuple[PortForward, ...] = ()
) -> Machine:
    adapters = tuple(
        Adapter(slot, _mac(number, slot), one, forwards=forwards if one == NAT else ())
        for slot, one in enumerate(networks)
    )
    return Machine(f"d3300000-0000-4000-8000-{number:012x}", name, "Running", (group,), adapters)


_BUILD_RULES = (
    PortForward("ssh", "tcp", "127.0.0.1", 2222, "", 22),
    PortForward("http", "tcp", "", 8081, "", 80),
)
_STEADY = (
    _vm(1, "web", OFFICE, group="/shop"),
    _vm(2, "db", OFFICE, HOSTONLY, group="/shop"),
    _vm(3, "서버", LAB),
    _vm(4, "build", NAT, forwards=_BUILD_RULES),
    _vm(5, "files", HOSTONLY),
)
_TEST, _STAGING, _MEDIA = _vm(6, "test", LAB), _vm(7, "staging", HOSTONLY), _vm(8, "media", LAN)


def scene_facts(seconds: float, start: float) -> SceneFacts:
    """The facts at a time in seconds after the start of the demo. start: its start in Unix seconds."""
    past, into = divmod(seconds, ROUND_SECONDS)
    begun = start + past * ROUND_SECONDS
    booted = start - 7200.0
    runs, renamed, moved = BOOT <= into < STOP, RENAME <= into < RENAME_BACK, MOVE <= into < MOVE_BACK
    machines = (
        *(replace(one, state_changed=booted) for one in _STEADY),
        replace(
            _TEST,
            state="Running" if runs else "PoweredOff",
            state_changed=begun + (BOOT if runs else STOP - ROUND_SECONDS if into < BOOT else STOP),
        ),
        replace(
            _STAGING,
            name="preview" if renamed else "staging",
            state_changed=booted,
            reports=(GuestReport(_mac(7), "192.168.56.20", booted + 20.0),),
        ),
        replace(_MEDIA, state_changed=booted),
    )
    renewed = start + seconds // RENEWAL_SECONDS * RENEWAL_SECONDS
    leases = [
        Lease(network.dhcp_name, mac, address, renewed, renewed + LEASE_SECONDS)
        for network, mac, address in (
            (OFFICE, _mac(1), "10.0.2.4"),
            (HOSTONLY, _mac(2, 1), "192.168.56.110"),
            (LAB, _mac(3), "10.0.2.4"),
            (HOSTONLY, _mac(5), "192.168.56.101"),
        )
    ]
    if LEASED <= into < STOP:
        # A different address in each round.
        issued = begun + LEASED
        leases.append(Lease("lab", _mac(6), f"10.0.2.{5 + past % 20:.0f}", issued, issued + LEASE_SECONDS))
    media = Neighbour(
        "enp3s0",
        _mac(8),
        "192.168.1.77" if moved else "192.168.1.42",
        begun + (MOVE if moved else MOVE_BACK if into >= MOVE_BACK else MOVE_BACK - ROUND_SECONDS),
    )
    return SceneFacts((*machines, *_NETWORKS), tuple(leases), _HOST, (media,))


def next_change(seconds: float) -> float:
    """The first time after this one at which something changes; both in seconds after the start."""
    past, into = divmod(seconds, ROUND_SECONDS)
    later = next((one for one in EVENTS if one > into), ROUND_SECONDS + EVENTS[0])
    return min(past * ROUND_SECONDS + later, (seconds // RENEWAL_SECONDS + 1) * RENEWAL_SECONDS)


def describe_client(address: str) -> str:
    """The kind of client that this loopback address stands for, in words."""
    network = LOOPBACK[address]
    where = {
        "natnetwork": f"NAT Network {network.name}",
        "hostonly": f"the host-only network {network.name}",
        "bridged": f"the LAN of {network.name}",
    }
    return f"a guest on {where[network.kind]}"
