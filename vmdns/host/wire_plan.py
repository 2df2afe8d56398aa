"""Plans for `vmdns wire`: the address of vmdns that guests of each VirtualBox network get, and how.

A NAT Network of VirtualBox 7.2 reaches any address of the host that is not loopback, so each gets one of its own,
which tells vmdns where a query comes from. Up to 7.1 it reaches the host's 127.0.0.1 through its loopback mapping. A
host-only network reaches the host's address on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from vmdns.host.loopback_address import RESOLVER_ADDRESS
from vmdns.host.vbox_dhcp import DhcpServerSettings, NatNetworkSettings, NetworkSettings, find_group, parse_address
from vmdns.host.virtualbox_networks import GROUP, host_only, server_value, title
from vmdns.state.facts import HostInterface
from vmdns.state.views import GIVEN

DHCP_SERVER, LOWER, DHCP_GROUP, LOOPBACK = "dhcp-server", "dhcp-lower-ip", "dhcp-group", "loopback-address"
_LIBSLIRP = (7, 2)  # the version that replaced the engine of NAT Networks


class WantedSetting(NamedTuple):
    """A setting, by kind and name (virtualbox_networks.setting_factory), and its new value."""

    kind: str
    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class WireState:
    """The state of the host and VirtualBox, and what may be changed.

    interfaces are the host-only ones, vmnets the host-only networks of macOS. resolvers are the host's name servers, as
    VirtualBox sees them. hosts are addresses that guests behind NAT reach, the best first. given are the host's
    addresses in 198.18.53.0/24, ours those that vmdns added. groups are the networks in whose DHCP vmdns made its
    group. may: whether an address can be added to the host.
    """

    version: tuple[int, ...]
    networks: NetworkSettings
    zones: tuple[str, ...]
    interfaces: tuple[HostInterface, ...] = ()
    vmnets: tuple[HostInterface, ...] = ()
    resolvers: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    given: frozenset[str] = frozenset()
    ours: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    may: bool = True


@dataclass(slots=True)
class NetworkRow:
    """One network, by its DHCP server's name: the name servers of its guests now, the planned one (empty: none), the
    settings for it, and notes for the user."""

    network: str
    kind: str
    now: tuple[str, ...] = ()
    server: str = ""
    want: list[WantedSetting] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        kinds = {"natnetwork": "NAT Network ", "hostonlynetwork": "host-only network ", "intnet": "internal "}
        return kinds.get(self.kind, "") + title(self.network)


def plan_networks(look: WireState) -> list[NetworkRow]:
    """All networks, in VirtualBox's order."""
    servers = look.networks.servers
    found: list[NetworkRow] = []
    own = dict(_own_addresses(look))
    for net in look.networks.nat:
        row = NetworkRow(net.name, "natnetwork", _now(servers.get(net.name)))
        _nat(row, net, look, own.get(net.name, ""))
        found.append(row)
    for interface in look.interfaces:
        name = host_only(interface.name)
        row = NetworkRow(name, "hostonly", _now(servers.get(name)))
        _host_only(row, interface, look)
        found.append(row)
    for vmnet in look.vmnets:
        note = f"macOS gives its guests their settings, which cannot be changed: enter {_own(vmnet)} in the guest"
        found.append(NetworkRow(vmnet.name, "hostonlynetwork", notes=[note]))
    known = {row.network for row in found}
    for server in servers.values():
        if server.network not in known and server.enabled and not server.network.startswith(host_only("")):
            note = "an internal network: this computer is not on it, so its guests cannot reach vmdns"
            found.append(NetworkRow(server.network, "intnet", _now(server), notes=[note]))
    return found


def _now(server: DhcpServerSettings | None) -> tuple[str, ...]:
    return server.name_servers if server is not None and server.enabled else ()


def _own_addresses(look: WireState) -> Iterator[tuple[str, str]]:
    """An address for each NAT Network: the one it has already, else the lowest free one."""
    servers = look.networks.servers
    owners: dict[str, str] = {}
    for net in look.networks.nat:
        group = find_group(servers, net.name, GROUP) or {}
        mine = group.get("6", "")
        if mine not in owners and (at := parse_address(mine)) and at in GIVEN and mine != RESOLVER_ADDRESS:
            owners[mine] = net.name
    used = {one for server in servers.values() for one in server.name_servers}
    foreign = look.given - look.ours  # of another user's vmdns, or set by someone else
    free = (str(one) for one in GIVEN.hosts() if str(one) not in {*owners, *used, *foreign, RESOLVER_ADDRESS})
    by_network = {name: one for one, name in owners.items()}
    for net in look.networks.nat:
        yield net.name, by_network.get(net.name) or next(free, "")


def _nat(row: NetworkRow, net: NatNetworkSettings, look: WireState, own: str) -> None:
    server = look.networks.servers.get(net.name)
    if not net.enabled:
        row.notes.append("the network is switched off in VirtualBox")
        return
    if not net.dhcp or (server is not None and not server.enabled):
        how = (
            f"VBoxManage natnetwork modify --netname {_quoted(net.name)} --dhcp on"
            if not net.dhcp
            else f"VBoxManage dhcpserver modify --network={_quoted(net.name)} --enable"
        )
        row.notes.append(f"its DHCP server is off, so guests are given nothing; switch it on: {how}")
        return
    first = net.network.network_address
    modern = look.version >= _LIBSLIRP
    if server is None and net.network.num_addresses < 8:
        row.notes.append(f"{net.network} has no room for a DHCP server, a name server and guests")
        return
    if server is not None:
        _note_broken_servers(row, server, first, modern)
    if not modern:
        if not net.loopback:
            row.notes.append(
                f"no address in it leads to this computer; make one: "
                f"VBoxManage natnetwork modify --netname {_quoted(net.name)} --loopback-4 127.0.0.1=2"
            )
            return
        row.server = str(first + net.loopback)
    elif own and (own in look.given or look.may):
        row.server = own
        row.want.append(WantedSetting(LOOPBACK, own, True))
    elif look.hosts:
        row.server = next((one for one in row.now if one in look.hosts), look.hosts[0])
        row.notes.append(
            f"shares {row.server} with other networks, so vmdns cannot tell them apart and gives only addresses that "
            "work for all; `vmdns wire --apply` in a terminal, which asks for your password, gives it its own address"
        )
    else:
        row.notes.append("this computer has no address that its guests could reach")
        return
    if server is None:
        row.want.append(_new_server(net, modern))
    elif modern:
        _raise_lower(row, server, first, look)
    _group(row, server, look)


def _new_server(net: NatNetworkSettings, modern: bool) -> WantedSetting:
    """As VirtualBox makes it (NATNetwork::i_recalculateIpv4AddressAssignments), but never with a guest at the fourth
    address, where the engine of 7.2 answers DNS itself while the host's resolver is loopback."""
    first, last = net.network.network_address, net.network.broadcast_address
    at = first + (2 if modern else 3)
    value = server_value(str(at), str(net.network.netmask), str(first + 4), str(last - 1))
    return WantedSetting(DHCP_SERVER, net.name, value)


def _note_broken_servers(row: NetworkRow, server: DhcpServerSettings, first: IPv4Address, modern: bool) -> None:
    """Notes about name servers that VirtualBox hands out and that do not work."""
    fallback = str(first + 3)
    if modern and server.address in row.now:
        row.notes.append(f"{server.address}, given to guests now, is its DHCP server and answers no DNS")
    elif modern and fallback in row.now:
        row.notes.append(f"{fallback}, given to guests now, is also the first guest's own address")


def _raise_lower(row: NetworkRow, server: DhcpServerSettings, first: IPv4Address, look: WireState) -> None:
    """Keeps guests off the fourth address where the engine answers at it: the first guest would have it too."""
    lower, upper = parse_address(server.lower), parse_address(server.upper)
    loopback = bool(look.resolvers) and all((at := parse_address(one)) and at.is_loopback for one in look.resolvers)
    if loopback and lower and upper and lower <= first + 3 < upper:
        row.want.append(WantedSetting(LOWER, server.network, str(first + 4)))


def _host_only(row: NetworkRow, interface: HostInterface, look: WireState) -> None:
    server = look.networks.servers.get(row.network)
    if server is None or not server.enabled:
        verb = "has no DHCP server" if server is None else "has its DHCP server switched off"
        row.notes.append(f"{verb}, so guests get no settings from VirtualBox: enter {_own(interface)} in the guest")
        return
    row.server = _own(interface)
    _group(row, server, look)


def _own(interface: HostInterface) -> str:
    return interface.prefix.partition("/")[0]


def _group(row: NetworkRow, server: DhcpServerSettings | None, look: WireState) -> None:
    """Plans the DHCP group, unless a foreign group has its name."""
    there = (server.groups.get(GROUP) if server is not None else None) or {}
    if "else" in there and row.network not in look.groups:
        row.notes.append(
            f"its DHCP server has a group {GROUP} that is not vmdns'; take it away: "
            f"VBoxManage dhcpserver modify --network={_quoted(row.network)} --group={GROUP} --remove-config"
        )
        row.server, row.want = "", []
        return
    row.want.append(WantedSetting(DHCP_GROUP, row.network, options(row.server, look.zones)))
    if server is None:
        return
    for name, group in server.groups.items():
        if name.encode() < GROUP.encode() and ("6" in group or "else" in group):
            row.notes.append(f"the group {name} of its DHCP server comes before that of vmdns, and may outrank it")
    if server.others:
        row.notes.append("single guests have settings of their own in its DHCP server, which may outrank vmdns'")


def options(server: str, zones: Sequence[str]) -> dict[str, str]:
    """The DHCP options: name server, domain, and search list (RFC 3397, which VirtualBox encodes from words).

    NetworkManager drops a lone domain where there is a search list, so the first zone is in both.
    """
    return {"6": server, "15": zones[0], "119": " ".join(zones)}


def _quoted(name: str) -> str:
    return name if name.isidentifier() else f"'{name}'"
