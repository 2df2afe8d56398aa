"""Plans for `vmdns wire`: the address of vmdns that guests of each VirtualBox network get, and how.

A NAT Network of VirtualBox 7.2 reaches any address of the host that is not loopback, so each gets one of its own,
which tells vmdns where a query comes from. Up to 7.1 it reaches the host's 127.0.0.1 through its loopback mapping. A
host-only network reaches the host's address on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

from vmdns.host.plan import Setting, Step
from vmdns.host.system_settings import RESOLVER_ADDRESS, LoopbackAddress
from vmdns.host.virtualbox_dhcp import (
    ADDRESSES,
    GROUP,
    DhcpGroup,
    DhcpLowerAddress,
    DhcpServerPresence,
    DhcpSettings,
    NatNetworkSettings,
    NetworkSettings,
    VirtualBox,
    title,
)
from vmdns.state.facts import HOST_IF, HostInterface
from vmdns.state.findings import quote_for_shell
from vmdns.state.networks import ipv4
from vmdns.state.views import GIVEN

_LIBSLIRP = (7, 2)  # the version that replaced the engine of NAT Networks


@dataclass(frozen=True, slots=True)
class WireState:
    """The state of the host and VirtualBox, and what may be changed.

    interfaces are the host-only ones. resolvers are the host's name servers, as VirtualBox sees them. hosts are
    addresses that guests behind NAT reach, the best first. given are the host's addresses in 198.18.53.0/24, ours those
    that vmdns added. groups are the networks in whose DHCP vmdns made its group. may: whether an address can be added
    to the host.
    """

    box: VirtualBox
    version: tuple[int, ...]
    networks: NetworkSettings
    zones: tuple[str, ...]
    interfaces: tuple[HostInterface, ...] = ()
    resolvers: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    given: frozenset[str] = frozenset()
    ours: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    may: bool = True

    @property
    def modern(self) -> bool:
        return self.version >= _LIBSLIRP


@dataclass(slots=True)
class NetworkRow:
    """One network, by its DHCP server's name: the name servers of its guests now, the planned one (empty: none), the
    settings for it with their values, the steps to them once they are planned, and notes for the user."""

    network: str
    kind: str
    now: tuple[str, ...] = ()
    server: str = ""
    want: list[tuple[Setting, Any]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        kinds = {"natnetwork": "NAT Network ", "intnet": "internal "}
        return kinds.get(self.kind, "") + title(self.network)


def plan_networks(look: WireState) -> list[NetworkRow]:
    """All networks, in VirtualBox's order."""
    servers = look.networks.servers
    found: dict[str, NetworkRow] = {}

    def add(network: str, kind: str) -> NetworkRow:
        server = servers.get(network)
        now = server.name_servers if server is not None and server.enabled else ()
        return found.setdefault(network, NetworkRow(network, kind, now))

    own = _own_addresses(look)
    for net in look.networks.nat:
        _plan_nat(add(net.name, "natnetwork"), net, look, own[net.name])
    for interface in look.interfaces:
        _plan_host_only(add(HOST_IF + interface.name, "hostonly"), interface, look)
    for server in servers.values():
        if server.network not in found and server.enabled and not server.network.startswith(HOST_IF):
            note = "an internal network: this computer is not on it, so its guests cannot reach vmdns"
            add(server.network, "intnet").notes.append(note)
    return list(found.values())


def _own_addresses(look: WireState) -> dict[str, str]:
    """An address for each NAT Network: the one it has already, else the lowest free one, else ''."""
    owners: dict[str, str] = {}
    for net in look.networks.nat:
        mine = (look.networks.own_group(net.name) or {}).get("6", "")
        if (at := ipv4(mine)) and at in GIVEN and mine != RESOLVER_ADDRESS:
            owners.setdefault(mine, net.name)
    used = {one for server in look.networks.servers.values() for one in server.name_servers}
    # Foreign addresses are those of another user's vmdns, or set by someone else.
    taken = {*owners, *used, *(look.given - look.ours), RESOLVER_ADDRESS}
    free = (str(one) for one in GIVEN.hosts() if str(one) not in taken)
    found = {name: address for address, name in owners.items()}
    return {net.name: found.get(net.name) or next(free, "") for net in look.networks.nat}


def _plan_nat(row: NetworkRow, net: NatNetworkSettings, look: WireState, own: str) -> None:
    server, first = look.networks.servers.get(net.name), net.network.network_address
    if not net.enabled:
        row.notes.append("the network is switched off in VirtualBox")
        return
    if not net.dhcp or (server is not None and not server.enabled):
        how = (
            f"VBoxManage natnetwork modify --netname {quote_for_shell(net.name)} --dhcp on"
            if not net.dhcp
            else f"VBoxManage dhcpserver modify --network={quote_for_shell(net.name)} --enable"
        )
        row.notes.append(f"its DHCP server is off, so guests are given nothing; switch it on: {how}")
        return
    if server is None and net.network.num_addresses < 8:
        row.notes.append(f"{net.network} has no room for a DHCP server, a name server and guests")
        return
    if look.modern and server is not None and server.addresses["server-ip"] in row.now:
        row.notes.append(f"{server.addresses['server-ip']}, given to guests now, is its DHCP server and answers no DNS")
    elif look.modern and str(first + 3) in row.now:
        row.notes.append(f"{first + 3}, given to guests now, is also the first guest's own address")
    if not look.modern and not net.loopback:
        row.notes.append(
            f"no address in it leads to this computer; make one: "
            f"VBoxManage natnetwork modify --netname {quote_for_shell(net.name)} --loopback-4 127.0.0.1=2"
        )
    elif not look.modern:
        row.server = str(first + net.loopback)
    elif own and (own in look.given or look.may):
        row.server = own
        row.want.append((LoopbackAddress(own), True))
    elif look.hosts:
        row.server = next((one for one in row.now if one in look.hosts), look.hosts[0])
        row.notes.append(
            f"shares {row.server} with other networks, so vmdns cannot tell them apart and gives only addresses that "
            "work for all; `vmdns wire --apply` in a terminal, which asks for your password, gives it its own address"
        )
    else:
        row.notes.append("this computer has no address that its guests could reach")
    if not row.server:
        return
    if server is None:
        # As VirtualBox makes it (NATNetwork::i_recalculateIpv4AddressAssignments), but never with a guest at the fourth
        # address, where the engine of 7.2 answers DNS itself while the host's resolver is loopback.
        at, last = first + (2 if look.modern else 3), net.network.broadcast_address - 1
        addresses = map(str, (at, net.network.netmask, first + 4, last))
        value = {**dict(zip(ADDRESSES, addresses, strict=True)), "since": []}
        row.want.append((DhcpServerPresence(net.name, look.box), value))
    elif look.modern:
        _raise_lower(row, server, first, look)
    _plan_group(row, server, look)


def _raise_lower(row: NetworkRow, server: DhcpSettings, first: IPv4Address, look: WireState) -> None:
    """Keeps guests off the fourth address where the engine answers at it: the first guest would have it too."""
    lower, upper = ipv4(server.addresses["lower-ip"]), ipv4(server.addresses["upper-ip"])
    loopback = bool(look.resolvers) and all((at := ipv4(one)) and at.is_loopback for one in look.resolvers)
    if loopback and lower and upper and lower <= first + 3 < upper:
        row.want.append((DhcpLowerAddress(server.network, look.box), str(first + 4)))


def _plan_host_only(row: NetworkRow, interface: HostInterface, look: WireState) -> None:
    if interface.vmnet:
        enter = f"enter {interface.address} in the guest"
        row.notes.append(f"macOS gives its guests their settings, which cannot be changed: {enter}")
        return
    server = look.networks.servers.get(row.network)
    if server is None or not server.enabled:
        verb = "has no DHCP server" if server is None else "has its DHCP server switched off"
        row.notes.append(f"{verb}, so guests get no settings from VirtualBox: enter {interface.address} in the guest")
        return
    row.server = interface.address
    _plan_group(row, server, look)


def _plan_group(row: NetworkRow, server: DhcpSettings | None, look: WireState) -> None:
    """Plans the DHCP group, unless a foreign group has its name.

    Its options are name server, domain, and search list (RFC 3397, which VirtualBox encodes from words). NetworkManager
    drops a lone domain where there is a search list, so the first zone is in both.
    """
    groups = server.groups if server is not None else {}
    if "else" in groups.get(GROUP, {}) and row.network not in look.groups:
        row.notes.append(
            f"its DHCP server has a group {GROUP} that is not vmdns'; take it away: "
            f"VBoxManage dhcpserver modify --network={quote_for_shell(row.network)} --group={GROUP} --remove-config"
        )
        row.server, row.want = "", []
        return
    options = {"6": row.server, "15": look.zones[0], "119": " ".join(look.zones)}
    row.want.append((DhcpGroup(row.network, look.box), options))
    for name, group in groups.items():
        if name.encode() < GROUP.encode() and ("6" in group or "else" in group):
            row.notes.append(f"the group {name} of its DHCP server comes before that of vmdns, and may outrank it")
    if server is not None and server.others:
        row.notes.append("single guests have settings of their own in its DHCP server, which may outrank vmdns'")
