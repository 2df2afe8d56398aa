"""VirtualBox's NAT Networks and DHCP servers: read from VirtualBox.xml, which is never translated, and changed by
VBoxManage as settings (plan.py).

VirtualBox replaces the file as a whole with each change, before the call that made the change returns
(VirtualBox::i_saveSettings; Settings.cpp: buildDHCPServers, readDHCPServers, buildNATNetworks).

vmdns sets options in a group, because VirtualBox rewrites those of the whole server each time a NAT Network starts
(NATNetwork::i_updateDnsOptions), and a group for all guests outranks them (Dhcpd/Config.cpp). A DHCP server reads its
settings when it starts, so a running one is restarted; it keeps its leases.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

from vmdns.files import read_regular
from vmdns.host.plan import Setting
from vmdns.state.external_data import MAC_WILDCARD_FOR_ALL, MAX_BYTES, find_name_servers, is_true, parse_xml
from vmdns.state.facts import HOST_IF

GROUP = "vmdns"
_REGISTRY = "{*}Global/{*}NetserviceRegistry/"
# VBoxManage's names of a DHCP server's addresses, and those in VirtualBox.xml.
ADDRESSES = {"server-ip": "IPAddress", "netmask": "networkMask", "lower-ip": "lowerIP", "upper-ip": "upperIP"}
_BETWEEN_RENAMES_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class NatNetworkSettings:
    """A NAT Network. dhcp: whether it has a DHCP server; loopback: offset from its first address to the one that
    VirtualBox up to 7.1 maps to the host's 127.0.0.1 (0 for none)."""

    name: str
    network: IPv4Network
    enabled: bool
    dhcp: bool
    loopback: int


@dataclass(frozen=True, slots=True)
class DhcpSettings:
    """A DHCP server, by the name of its network: its addresses by VBoxManage's names for them, options of the whole
    server as VirtualBox's text, and groups.

    A group for all guests is a mapping from option number to VirtualBox's text; any other is {"else": its XML}.
    others lists elements for single guests; name_servers are those that an ordinary guest gets.
    """

    network: str
    addresses: Mapping[str, str]
    enabled: bool
    options: Mapping[str, str]
    groups: Mapping[str, dict[str, str]]
    others: Sequence[str]
    name_servers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """The networks in VirtualBox.xml: NAT Networks in their order, and DHCP servers by the network's name."""

    nat: Sequence[NatNetworkSettings] = ()
    servers: Mapping[str, DhcpSettings] = field(default_factory=dict)

    def own_group(self, network: str) -> dict[str, str] | None:
        """The group of vmdns in the DHCP server of a network; None without one."""
        server = self.servers.get(network)
        return None if server is None else server.groups.get(GROUP)


def parse_networks(data: bytes) -> NetworkSettings:
    """Parses VirtualBox.xml; a damaged network is left out. Raises ValueError for anything else."""
    root = parse_xml(data)
    nat = []
    for one in root.iterfind(_REGISTRY + "{*}NATNetworks/{*}NATNetwork"):
        with suppress(ValueError):
            nat.append(_parse_nat(one))
    servers = map(_parse_server, root.iterfind(_REGISTRY + "{*}DHCPServers/{*}DHCPServer"))
    return NetworkSettings(nat, {one.network: one for one in servers})


def _parse_nat(element: xml.Element) -> NatNetworkSettings:
    network = IPv4Network(element.get("network", ""), strict=False)
    mappings = element.iterfind("{*}Mappings/{*}Loopback4")
    offset = next((one.get("offset", "") for one in mappings if one.get("address") == "127.0.0.1"), "")
    return NatNetworkSettings(
        name=element.get("networkName", ""),
        network=network,
        enabled=is_true(element.get("enabled", "1")),
        dhcp=is_true(element.get("needDhcp", "1")),
        loopback=int(offset) if offset.isdecimal() and int(offset) < network.num_addresses else 0,
    )


def _parse_server(element: xml.Element) -> DhcpSettings:
    keys = {child: child.tag.rpartition("}")[2] for child in element}
    return DhcpSettings(
        network=element.get("networkName", ""),
        addresses={name: element.get(key, "") for name, key in ADDRESSES.items()},
        enabled=is_true(element.get("enabled", "1")),
        options=_parse_options(element.iterfind("{*}Options/{*}Option")),
        groups={child.get("name", ""): _parse_group(child) for child, tag in keys.items() if tag == "Group"},
        others=[
            " ".join((tag, child.get("MACAddress", ""), child.get("vm-name", ""))).strip()
            for child, tag in keys.items()
            if tag not in ("Group", "Options")
        ],
        name_servers=find_name_servers(element),
    )


def _parse_options(elements: Any) -> dict[str, str]:
    return {one.get("name", ""): one.get("value", "") for one in elements}


def _parse_group(element: xml.Element) -> dict[str, str]:
    options, conditions = element.findall("{*}Option"), element.findall("{*}Condition")
    plain = len(options) + len(conditions) == len(element) and set(element.keys()) <= {"name"}
    plain = plain and all(one.get("encoding", "0") == "0" for one in options)
    match = [(is_true(one.get("inclusive", "")), one.get("type"), one.get("value")) for one in conditions]
    if plain and match == [(True, *MAC_WILDCARD_FOR_ALL)]:
        return _parse_options(options)
    return {"else": xml.tostring(element, encoding="unicode").strip()}


def parse_started_group(data: bytes) -> dict[str, str] | None:
    """The options of the group of vmdns in the file with which VirtualBox started a DHCP server; None without it.
    Raises ValueError for anything else (DHCPServer::i_writeDhcpdConfig)."""
    groups = (one for one in parse_xml(data).iterfind("Group") if one.get("name") == GROUP)
    return next((_parse_options(one.iterfind("Option")) for one in groups), None)


class DhcpServerNotRunning(OSError):
    """The DHCP server is not running."""


@dataclass(frozen=True, slots=True)
class VirtualBox:
    """One user's VirtualBox: its settings folder, the path of VBoxManage, and how to run it.

    call raises `DhcpServerNotRunning` where the restart of a DHCP server fails so, OSError otherwise.
    """

    home: Path
    program: str
    call: Callable[..., str]

    def read_networks(self) -> NetworkSettings:
        """Reads VirtualBox.xml. Raises OSError."""
        file = self.home / "VirtualBox.xml"
        try:
            try:
                return parse_networks(read_regular(file, MAX_BYTES))
            except FileNotFoundError:
                time.sleep(_BETWEEN_RENAMES_SECONDS)  # VirtualBox moves the old file away before the new one comes
                return parse_networks(read_regular(file, MAX_BYTES))
        except FileNotFoundError:
            raise OSError(f"there is no {file}; start VirtualBox once, or name its folder with --vbox-home") from None
        except ValueError as error:
            raise OSError(f"{file} cannot be understood: {error}") from None

    def restart_outdated(self, network: str) -> bool:
        """Restarts a DHCP server that runs with another version of our group, and returns whether it did."""
        try:
            then = parse_started_group(read_regular(self.home / f"{network}-Dhcpd.config", MAX_BYTES))
        except (OSError, ValueError):
            return False  # it never started
        if then != self.read_networks().own_group(network):
            with suppress(DhcpServerNotRunning):
                self.call(*_restart(network))
                return True
        return False


def _restart(network: str) -> list[str]:
    return ["dhcpserver", "restart", f"--network={network}"]


def title(network: str) -> str:
    """The user's name of a DHCP server's network."""
    return f"host-only {network[len(HOST_IF) :]}" if network.startswith(HOST_IF) else network


@dataclass(frozen=True)
class _DhcpSetting(Setting):
    """A setting of the DHCP server of the network `name`."""

    elevated = False
    box: VirtualBox

    @abstractmethod
    def options(self, value: Any) -> Sequence[str]:
        """The options of `VBoxManage dhcpserver modify` that set this value."""

    def commands(self, value: Any) -> Sequence[Sequence[str]]:
        modify = ["dhcpserver", "modify", f"--network={self.name}", *self.options(value)]
        return [[self.box.program, *modify], [self.box.program, *_restart(self.name)]]

    def write(self, value: Any) -> None:
        with suppress(DhcpServerNotRunning):
            for _, *arguments in self.commands(value):
                self.box.call(*arguments)


class DhcpGroup(_DhcpSetting):
    """The group `vmdns`, for all guests: option number -> VirtualBox's text."""

    kind = "dhcp-group"

    def read(self) -> dict[str, str] | None:
        return self.box.read_networks().own_group(self.name)

    def options(self, value: Mapping[str, str] | None) -> Sequence[str]:
        # In one call, so that the group lacks its options as briefly as possible.
        options = [f"--group={GROUP}", "--remove-config"]
        if value is not None:
            options += [f"--group={GROUP}", "--incl-mac-wild=*"]
            for number, text in value.items():
                options += [f"--set-opt={number}", text]
        return options

    def describe(self, before: Any, after: Mapping[str, str] | None) -> str:
        if after is None:
            return f"take the DHCP group {GROUP} away from {title(self.name)}"
        domains = " and ".join(after.get("119", after.get("15", "")).split())
        return f"have the DHCP of {title(self.name)} hand out {after.get('6', 'no name server')}, and search {domains}"


class DhcpLowerAddress(_DhcpSetting):
    """The lowest address that the DHCP server gives to guests."""

    kind = "dhcp-lower-ip"

    def read(self) -> str | None:
        server = self.box.read_networks().servers.get(self.name)
        return None if server is None else server.addresses["lower-ip"]

    def options(self, value: str) -> Sequence[str]:
        return [f"--lower-ip={value}"]

    def describe(self, before: str | None, after: str | None) -> str:
        return f"have the DHCP of {title(self.name)} give guests addresses from {after} on, instead of {before}"


class DhcpServerPresence(_DhcpSetting):
    """The DHCP server of a NAT Network, which VirtualBox creates only when the network first starts.

    Its value has VBoxManage's option names for the addresses, and in `since` what VirtualBox or the user added: once
    the network has started, the server has options of VirtualBox, and undo leaves it.
    """

    kind = "dhcp-server"

    def read(self) -> dict[str, Any] | None:
        server = self.box.read_networks().servers.get(self.name)
        if server is None:
            return None
        since = [*(f"option {one}" for one in server.options), *(f"group {one}" for one in server.groups)]
        return {**server.addresses, "since": [*since, *([] if server.enabled else ["disabled"]), *server.others]}

    def options(self, value: Mapping[str, Any] | None) -> Sequence[str]:
        return [] if value is None else [*(f"--{key}={value[key]}" for key in ADDRESSES), "--enable"]

    def commands(self, value: Mapping[str, Any] | None) -> Sequence[Sequence[str]]:
        verb = "remove" if value is None else "add"
        return [[self.box.program, "dhcpserver", verb, f"--network={self.name}", *self.options(value)]]

    def write(self, value: Mapping[str, Any] | None) -> None:
        try:
            super().write(value)
        except OSError:
            # A call that timed out is tried again although it may have worked: then the second one fails.
            if self.read() != value:
                raise

    def describe(self, before: Any, after: Mapping[str, Any] | None) -> str:
        if after is None:
            return f"take the DHCP server of {title(self.name)} away"
        return (
            f"make the DHCP server of {title(self.name)}, which VirtualBox would make when the network first starts: "
            f"at {after['server-ip']}, for guests {after['lower-ip']} to {after['upper-ip']}"
        )


SETTINGS = (DhcpGroup, DhcpLowerAddress, DhcpServerPresence)
