"""The facts that sources report, as frozen values: two looks at the same world compare equal. Times are Unix seconds.

An address belongs to one adapter, and an adapter to one network: so a name can have another answer for another client.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from typing import Any, cast, get_args, get_type_hints

# States in which a VM has its addresses: FirstOnline..LastOnline of MachineState (VirtualBox SDK reference).
ONLINE_STATES = frozenset(
    {
        "Running", "Paused", "Stuck", "Teleporting", "LiveSnapshotting", "Starting", "Stopping", "Saving", "Restoring",
        "TeleportingPausedVM", "TeleportingIn", "DeletingSnapshotOnline", "DeletingSnapshotPaused",
        "OnlineSnapshotting",
    }
)  # fmt: skip
HOST_IF = "HostInterfaceNetworking-"  # before an interface's name: its DHCP server's network (networkName)
# How tables and sentences call a kind of network.
_TITLES = {
    "nat": ("NAT", "NAT"),
    "natnetwork": ("NAT Network", "NAT Network"),
    "bridged": ("bridged", "the LAN of"),
    "hostonly": ("host-only", "the host-only network"),
    "intnet": ("internal", "the internal network"),
    "host": ("host", "the host"),
}


@dataclass(frozen=True, slots=True)
class Network:
    """What an adapter is attached to.

    kind: nat, natnetwork, bridged, hostonly (an adapter, or on macOS since 7.0 a network), intnet, generic, cloud or
    null. name: VirtualBox's own name of the NAT Network, host interface, host-only or internal network; empty for NAT.
    """

    kind: str
    name: str = ""

    @property
    def title(self) -> str:
        """As VirtualBox's window calls it: `NAT Network lab`."""
        return f"{_TITLES.get(self.kind, (self.kind,))[0]} {self.name}".strip()

    @property
    def phrase(self) -> str:
        """As a sentence names it: `the LAN of eth0`."""
        return f"{_TITLES.get(self.kind, (self.kind,))[-1]} {self.name}".strip()

    @property
    def dhcp_name(self) -> str:
        """The `IDHCPServer.networkName` that serves this network; empty where VirtualBox runs none."""
        if self.kind in ("natnetwork", "intnet"):
            return self.name
        if self.kind in ("hostonly", "bridged"):
            # On macOS the name of a bridged interface goes on with what people call it, `en0: Wi-Fi`.
            return f"{HOST_IF}{self.name.partition(': ')[0]}"
        return ""


@dataclass(frozen=True, slots=True)
class PortForward:
    """One port-forward rule of plain NAT or of a NAT Network: protocol is tcp or udp, an empty host_address means every
    address of the host, an empty guest_address the one that plain NAT's own DHCP gave."""

    name: str
    protocol: str
    host_address: str
    host_port: int
    guest_address: str
    guest_port: int


@dataclass(frozen=True, slots=True)
class Adapter:
    """One enabled network adapter. slot counts from 0, mac is 12 lower-case hex digits."""

    slot: int
    mac: str
    network: Network
    cable: bool = True
    forwards: tuple[PortForward, ...] = ()


@dataclass(frozen=True, slots=True)
class GuestReport:
    """A report of Guest Additions on one interface (`/VirtualBox/GuestInfo/Net/<n>/*`). A claim of the guest."""

    mac: str
    address: str
    since: float


@dataclass(frozen=True, slots=True)
class Machine:
    """One registered VM. state is the name of VirtualBox's MachineState; '' for an inaccessible VM.

    state_changed: when the VM last changed its state, in whole seconds (IMachine.lastStateChange); 0.0 if unknown.
    registration_index: its place in VirtualBox's list of VMs, lower is older. adapters and reports matter for an online
    VM only. set_addresses: what the user set in `vmdns/address`, as it is written there.
    """

    uuid: str
    name: str
    state: str = ""
    groups: tuple[str, ...] = ("/",)
    adapters: tuple[Adapter, ...] = ()
    reports: tuple[GuestReport, ...] = ()
    names: tuple[str, ...] = ()
    ignored: bool = False
    accessible: bool = True
    state_changed: float = 0.0
    set_addresses: tuple[str, ...] = ()
    registration_index: int = 0

    @property
    def online(self) -> bool:
        """Whether the VM has addresses now."""
        return self.state in ONLINE_STATES


@dataclass(frozen=True, slots=True)
class NatNetwork:
    """A NAT Network: prefix like 10.0.2.0/24, and its port-forward rules."""

    name: str
    prefix: str
    enabled: bool = True
    forwards: tuple[PortForward, ...] = ()


@dataclass(frozen=True, slots=True)
class DhcpServer:
    """VirtualBox's DHCP server of one network; fixed pairs a MAC with its fixed address, name_servers is what it hands
    out as option 6."""

    network: str
    address: str
    mask: str
    enabled: bool = True
    fixed: tuple[tuple[str, str], ...] = ()
    name_servers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostInterface:
    """A host-only interface of VirtualBox, by VirtualBox's name; prefix like 192.168.56.1/24.

    vmnet: it is a host-only network of macOS, which the system's vmnet makes and whose guests the system's own DHCP
    server serves.
    """

    name: str
    prefix: str
    vmnet: bool = False

    @property
    def address(self) -> str:
        """The address without the prefix length."""
        return self.prefix.partition("/")[0]


@dataclass(frozen=True, slots=True)
class HostAddress:
    """An address that the host has: the system's name of the interface, a prefix like 192.168.1.20/24, and the name by
    which VirtualBox knows the interface where that is another one (Windows)."""

    interface: str
    prefix: str
    alias: str = ""


@dataclass(frozen=True, slots=True)
class LoopbackNetwork:
    """A loopback address of the host that represents a network (`vmdns demo`): queries to it are answered as those of
    a guest on that network."""

    address: str
    network: Network


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry of the host's neighbour table: which MAC has this address on this interface, first seen at since.
    Link-local and temporary addresses are left out."""

    interface: str
    mac: str
    address: str
    since: float


@dataclass(frozen=True, slots=True)
class Lease:
    """One acknowledged entry of a lease file; network is the `IDHCPServer.networkName`.

    macOS has one file for all of its networks, which names neither the network nor when a lease was given: then network
    is '', and issued 0.0.
    """

    network: str
    mac: str
    address: str
    issued: float
    until: float


@dataclass(frozen=True, slots=True)
class HostName:
    """One address of one name in the host's hosts file; canonical: it is the first name of its line."""

    name: str
    address: str
    canonical: bool = True


Fact = Machine | NatNetwork | DhcpServer | HostInterface | HostAddress | LoopbackNetwork | Neighbour | Lease | HostName
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Fact)}


def to_json(fact: Fact) -> dict[str, Any]:
    """The fact as JSON values, with its kind under `is`."""
    return {"is": type(fact).__name__, **asdict(fact)}


def from_json(value: dict[str, Any]) -> Fact:
    """The inverse of `to_json`. Raises KeyError, TypeError or ValueError on anything else."""
    values = value.copy()
    return cast(Fact, _from_json(_KINDS[values.pop("is")], values))


def _from_json(kind: Any, value: Any) -> Any:
    """A value of this type, of which JSON has lists for tuples and objects for dataclasses."""
    inner, items = _type_parts(kind)
    if inner and isinstance(value, dict):
        return kind(**{name: _from_json(inner[name], item) for name, item in value.items()})
    if items and isinstance(value, list | tuple):
        kinds = items[:1] * len(value) if items[-1] is Ellipsis else items
        return tuple([_from_json(one, item) for one, item in zip(kinds, value, strict=True)])
    if inner or items or not isinstance(value, (int, float) if kind is float else kind):
        raise TypeError(f"{kind} is expected, not {value!r}")
    return float(value) if kind is float else value


@cache
def _type_parts(kind: Any) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """The types of a dataclass's fields, and those of a tuple's items."""
    return get_type_hints(kind) if is_dataclass(kind) else {}, get_args(kind)
