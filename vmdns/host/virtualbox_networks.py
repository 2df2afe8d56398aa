"""What vmdns changes in VirtualBox's networks, as `Setting`s (plan.py): a DHCP group of its own, and the DHCP server.

A group, since VirtualBox writes the options of the whole server anew each time a NAT Network starts
(NATNetwork::i_updateDnsOptions), and a group for all guests outranks them (Dhcpd/Config.cpp). A DHCP server reads its
settings when it starts, so one that runs is restarted; it keeps its leases.
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
from vmdns.host.vbox_dhcp import Networks, own_group, parse, started_with
from vmdns.regular_file import read_regular
from vmdns.state.xml_tree import MAX_BYTES

GROUP = "vmdns"
_HOST_ONLY = "HostInterfaceNetworking-"
_BETWEEN_RENAMES_SECONDS = 0.05


class NotRunning(OSError):
    """The DHCP server does not run."""


class Call(Protocol):
    """Runs VBoxManage with arguments; its output. Raises `NotRunning` for result code E_FAIL, OSError otherwise."""

    def __call__(self, *arguments: str) -> str: ...


@dataclass(frozen=True, slots=True)
class VirtualBox:
    """One user's VirtualBox: its settings folder, the path of VBoxManage, and how to run it."""

    home: Path
    program: str
    call: Call

    def networks(self) -> Networks:
        """What VirtualBox.xml says now. Raises OSError."""
        file = self.home / "VirtualBox.xml"
        try:
            try:
                data = read_regular(file, MAX_BYTES)
            except FileNotFoundError:
                time.sleep(_BETWEEN_RENAMES_SECONDS)  # VirtualBox moves the old file away before the new one comes
                data = read_regular(file, MAX_BYTES)
            return parse(data)
        except FileNotFoundError:
            raise OSError(f"there is no {file}; start VirtualBox once, or name its folder with --vbox-home") from None
        except ValueError as error:
            raise OSError(f"{file} cannot be understood: {error}") from None

    def modify(self, network: str, arguments: Sequence[str]) -> None:
        """Changes the DHCP server of a network, and restarts it if it runs."""
        self.call(*modify(network, arguments))
        self.restart(network)

    def restart(self, network: str) -> bool:
        """Restarts the DHCP server of a network if it runs; whether it does."""
        try:
            self.call(*restart(network))
        except NotRunning:
            return False
        return True

    def refresh(self, network: str) -> bool:
        """Restarts a DHCP server that was started without our group as it is now, as after a crash before its restart;
        whether it was."""
        try:
            then = started_with(read_regular(self.home / f"{network}-Dhcpd.config", MAX_BYTES), GROUP)
        except (OSError, ValueError):
            return False  # it never started
        return then != own_group(self.networks().servers, network, GROUP) and self.restart(network)

    def shown(self, arguments: Sequence[str]) -> str:
        """The command line as a user would type it."""
        return elevation.shown([self.program, *arguments], elevated=False)


def modify(network: str, arguments: Sequence[str]) -> list[str]:
    """The arguments of VBoxManage that change a DHCP server."""
    return ["dhcpserver", "modify", f"--network={network}", *arguments]


def restart(network: str) -> list[str]:
    """The arguments of VBoxManage that restart a DHCP server; where it does not run they fail with E_FAIL."""
    return ["dhcpserver", "restart", f"--network={network}"]


def title(network: str) -> str:
    """The network of a DHCP server as the user knows it."""
    return f"host-only {network[len(_HOST_ONLY) :]}" if network.startswith(_HOST_ONLY) else network


def host_only(interface: str) -> str:
    """The name of the DHCP server's network of a host-only interface (IHostNetworkInterface.networkName)."""
    return _HOST_ONLY + interface


@dataclass(frozen=True, slots=True)
class DhcpGroup:
    """The group `vmdns` in the DHCP of the network `name`, for all guests: option number -> VirtualBox's text."""

    name: str
    box: VirtualBox
    kind: str = field(default="dhcp-group", init=False)
    elevated: bool = field(default=False, init=False)

    def read(self) -> dict[str, str] | None:
        return own_group(self.box.networks().servers, self.name, GROUP)

    def write(self, value: Mapping[str, str] | None) -> None:
        for arguments in self._arguments(value):
            self.box.modify(self.name, arguments)

    def describe(self, before: Mapping[str, str] | None, after: Mapping[str, str] | None) -> str:
        if after is None:
            return f"take the DHCP group {GROUP} away from {title(self.name)}"
        domains = " and ".join(after.get("119", after.get("15", "")).split())
        return f"have the DHCP of {title(self.name)} hand out {after.get('6', 'no name server')}, and search {domains}"

    def commands(self, before: Any, after: Mapping[str, str] | None) -> Sequence[str]:
        lines = [modify(self.name, arguments) for arguments in self._arguments(after)]
        return [self.box.shown(one) for one in (*lines, restart(self.name))]

    def _arguments(self, value: Mapping[str, str] | None) -> list[list[str]]:
        group = f"--group={GROUP}"
        if value is None:
            return [[group, "--remove-config"]]
        # In one call, so that the group is there without its options for no longer than VBoxManage takes.
        arguments = [group, "--remove-config", group, "--incl-mac-wild=*"]
        for number, text in value.items():
            arguments += [f"--set-opt={number}", text]
        return [arguments]


@dataclass(frozen=True, slots=True)
class DhcpLower:
    """The lowest address that the DHCP server of the network `name` gives to guests."""

    name: str
    box: VirtualBox
    kind: str = field(default="dhcp-lower-ip", init=False)
    elevated: bool = field(default=False, init=False)

    def read(self) -> str | None:
        server = self.box.networks().servers.get(self.name)
        return None if server is None else server.lower

    def write(self, value: str | None) -> None:
        if value is not None:  # it goes with its server
            self.box.modify(self.name, [f"--lower-ip={value}"])

    def describe(self, before: str | None, after: str | None) -> str:
        return f"have the DHCP of {title(self.name)} give guests addresses from {after} on, instead of {before}"

    def commands(self, before: str | None, after: str | None) -> Sequence[str]:
        return [self.box.shown(modify(self.name, [f"--lower-ip={after}"])), self.box.shown(restart(self.name))]


@dataclass(frozen=True, slots=True)
class DhcpServer:
    """The DHCP server of the NAT Network `name`, which VirtualBox itself makes only when the network first starts.

    Its value has VBoxManage's words for the addresses, and under `since` what VirtualBox or the user added: a start of
    the network writes options, which makes the server VirtualBox's own, and undo leaves it.
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
            # A call that took too long is tried again, though it may have done it: then the second one fails.
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
    """The value of `DhcpServer`."""
    return {"server-ip": address, "netmask": mask, "lower-ip": lower, "upper-ip": upper, "since": list(since)}


def registry(box: VirtualBox) -> Callable[[str, str], Setting]:
    """Makes the settings of `vmdns wire` by kind and name. Raises KeyError for another kind."""

    def make(kind: str, name: str) -> Setting:
        match kind:
            case "loopback-address":
                return LoopbackAddress(name)
            case "dhcp-group":
                return DhcpGroup(name, box)
            case "dhcp-lower-ip":
                return DhcpLower(name, box)
            case "dhcp-server":
                return DhcpServer(name, box)
        raise KeyError(kind)

    return make
