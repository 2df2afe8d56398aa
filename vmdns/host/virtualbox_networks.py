"""Settings (plan.py) of VirtualBox's networks: a DHCP group of vmdns, and the DHCP server.

A group, because VirtualBox rewrites the options of the whole server each time a NAT Network starts
(NATNetwork::i_updateDnsOptions), and a group for all guests outranks them (Dhcpd/Config.cpp). A DHCP server reads its
settings when it starts, so a running one is restarted; it keeps its leases.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vmdns.host import elevation
from vmdns.host.loopback_address import LoopbackAddress
from vmdns.host.plan import Setting
from vmdns.host.vbox_dhcp import NetworkSettings, find_group, parse_networks, parse_started_group
from vmdns.regular_file import read_regular
from vmdns.state.xml_tree import MAX_BYTES

GROUP = "vmdns"
_HOST_ONLY = "HostInterfaceNetworking-"
_BETWEEN_RENAMES_SECONDS = 0.05


class DhcpServerNotRunning(OSError):
    """The DHCP server is not running."""


class VBoxManageCall(Protocol):
    """Runs VBoxManage and returns its output. Raises `DhcpServerNotRunning` for E_FAIL, OSError otherwise."""

    def __call__(self, *arguments: str) -> str: ...


@dataclass(frozen=True, slots=True)
class VirtualBox:
    """One user's VirtualBox: its settings folder, the path of VBoxManage, and how to run it."""

    home: Path
    program: str
    call: VBoxManageCall

    def networks(self) -> NetworkSettings:
        """Reads VirtualBox.xml. Raises OSError."""
        file = self.home / "VirtualBox.xml"
        try:
            try:
                data = read_regular(file, MAX_BYTES)
            except FileNotFoundError:
                time.sleep(_BETWEEN_RENAMES_SECONDS)  # VirtualBox moves the old file away before the new one comes
                data = read_regular(file, MAX_BYTES)
            return parse_networks(data)
        except FileNotFoundError:
            raise OSError(f"there is no {file}; start VirtualBox once, or name its folder with --vbox-home") from None
        except ValueError as error:
            raise OSError(f"{file} cannot be understood: {error}") from None

    def modify(self, network: str, arguments: Sequence[str]) -> None:
        """Changes the DHCP server of a network, and restarts it if it runs."""
        self.call(*modify_arguments(network, arguments))
        self.restart(network)

    def restart(self, network: str) -> bool:
        """Restarts the DHCP server of a network if it is running. Returns whether it is."""
        try:
            self.call(*restart_arguments(network))
        except DhcpServerNotRunning:
            return False
        return True

    def refresh(self, network: str) -> bool:
        """Restarts a DHCP server that was started with another version of our group. Returns whether it did."""
        try:
            then = parse_started_group(read_regular(self.home / f"{network}-Dhcpd.config", MAX_BYTES), GROUP)
        except (OSError, ValueError):
            return False  # it never started
        return then != find_group(self.networks().servers, network, GROUP) and self.restart(network)

    def shown(self, arguments: Sequence[str]) -> str:
        """The command line as a user would type it."""
        return elevation.format_command([self.program, *arguments], elevated=False)


def modify_arguments(network: str, arguments: Sequence[str]) -> list[str]:
    """The arguments of VBoxManage that change a DHCP server."""
    return ["dhcpserver", "modify", f"--network={network}", *arguments]


def restart_arguments(network: str) -> list[str]:
    """The arguments of VBoxManage that restart a DHCP server; they fail with E_FAIL if it is not running."""
    return ["dhcpserver", "restart", f"--network={network}"]


def title(network: str) -> str:
    """The user's name of a DHCP server's network."""
    return f"host-only {network[len(_HOST_ONLY) :]}" if network.startswith(_HOST_ONLY) else network


def host_only(interface: str) -> str:
    """The name of the DHCP server's network of a host-only interface (IHostNetworkInterface.networkName)."""
    return _HOST_ONLY + interface


@dataclass(frozen=True, slots=True)
class DhcpGroupSetting:
    """The group `vmdns` in the DHCP of the network `name`, for all guests: option number -> VirtualBox's text."""

    name: str
    box: VirtualBox
    kind: str = field(default="dhcp-group", init=False)
    elevated: bool = field(default=False, init=False)

    def read(self) -> dict[str, str] | None:
        return find_group(self.box.networks().servers, self.name, GROUP)

    def write(self, value: Mapping[str, str] | None) -> None:
        for arguments in self._arguments(value):
            self.box.modify(self.name, arguments)

    def describe(self, before: Mapping[str, str] | None, after: Mapping[str, str] | None) -> str:
        if after is None:
            return f"take the DHCP group {GROUP} away from {title(self.name)}"
        domains = " and ".join(after.get("119", after.get("15", "")).split())
        return f"have the DHCP of {title(self.name)} hand out {after.get('6', 'no name server')}, and search {domains}"

    def commands(self, before: Any, after: Mapping[str, str] | None) -> Sequence[str]:
        lines = [modify_arguments(self.name, arguments) for arguments in self._arguments(after)]
        return [self.box.shown(one) for one in (*lines, restart_arguments(self.name))]

    def _arguments(self, value: Mapping[str, str] | None) -> list[list[str]]:
        group = f"--group={GROUP}"
        if value is None:
            return [[group, "--remove-config"]]
        # In one call, so that the group lacks its options as briefly as possible.
        arguments = [group, "--remove-config", group, "--incl-mac-wild=*"]
        for number, text in value.items():
            arguments += [f"--set-opt={number}", text]
        return [arguments]


@dataclass(frozen=True, slots=True)
class LowerAddressSetting:
    """The lowest address that the DHCP server of the network `name` gives to guests."""

    name: str
    box: VirtualBox
    kind: str = field(default="dhcp-lower-ip", init=False)
    elevated: bool = field(default=False, init=False)

    def read(self) -> str | None:
        server = self.box.networks().servers.get(self.name)
        return None if server is None else server.lower

    def write(self, value: str | None) -> None:
        if value is not None:  # it is removed with its server
            self.box.modify(self.name, [f"--lower-ip={value}"])

    def describe(self, before: str | None, after: str | None) -> str:
        return f"have the DHCP of {title(self.name)} give guests addresses from {after} on, instead of {before}"

    def commands(self, before: str | None, after: str | None) -> Sequence[str]:
        return [
            self.box.shown(modify_arguments(self.name, [f"--lower-ip={after}"])),
            self.box.shown(restart_arguments(self.name)),
        ]


@dataclass(frozen=True, slots=True)
class DhcpServerSetting:
    """The DHCP server of the NAT Network `name`, which VirtualBox creates only when the network first starts.

    Its value has VBoxManage's option names for the addresses, and in `since` what VirtualBox or the user added: once
    the network has started, the server has options of VirtualBox, and undo leaves it.
    """

    name: str
    box: VirtualBox
    kind: str = field(default="dhcp-server", init=False)
    elevated: bool = field(default=False, init=False)

    def read(self) -> dict[str, Any] | None:
        server = self.box.networks().servers.get(self.name)
        if server is None:
            return None
        more = [*(f"option {one}" for one in server.options), *(f"group {one}" for one in server.groups)]
        if not server.enabled:
            more.append("disabled")
        return server_value(server.address, server.mask, server.lower, server.upper, [*more, *server.others])

    def write(self, value: Mapping[str, Any] | None) -> None:
        try:
            self.box.call(*self._arguments(value))
        except OSError:
            # A call that timed out is tried again although it may have worked: then the second one fails.
            if self.read() != value:
                raise

    def describe(self, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
        if after is None:
            return f"take the DHCP server of {title(self.name)} away"
        return (
            f"make the DHCP server of {title(self.name)}, which VirtualBox would make when the network first starts: "
            f"at {after['server-ip']}, for guests {after['lower-ip']} to {after['upper-ip']}"
        )

    def commands(self, before: Any, after: Mapping[str, Any] | None) -> Sequence[str]:
        return [self.box.shown(self._arguments(after))]

    def _arguments(self, value: Mapping[str, Any] | None) -> list[str]:
        if value is None:
            return ["dhcpserver", "remove", f"--network={self.name}"]
        words = [f"--{key}={value[key]}" for key in ("server-ip", "netmask", "lower-ip", "upper-ip")]
        return ["dhcpserver", "add", f"--network={self.name}", *words, "--enable"]


def server_value(address: str, mask: str, lower: str, upper: str, since: Sequence[str] = ()) -> dict[str, Any]:
    """The value of `DhcpServerSetting`."""
    return {"server-ip": address, "netmask": mask, "lower-ip": lower, "upper-ip": upper, "since": list(since)}


def registry(box: VirtualBox) -> Callable[[str, str], Setting]:
    """Makes the settings of `vmdns wire` by kind and name. Raises KeyError for another kind."""

    def make(kind: str, name: str) -> Setting:
        match kind:
            case "loopback-address":
                return LoopbackAddress(name)
            case "dhcp-group":
                return DhcpGroupSetting(name, box)
            case "dhcp-lower-ip":
                return LowerAddressSetting(name, box)
            case "dhcp-server":
                return DhcpServerSetting(name, box)
        raise KeyError(kind)

    return make
