"""Plans and applies DHCP options of VirtualBox's networks, by its settings, this host's addresses and the journal."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vmdns.commands import CommandError
from vmdns.control.client import instance_key
from vmdns.host.folders import state_folder
from vmdns.host.journal import Journal, JournalEntry
from vmdns.host.loopback_address import is_assigned
from vmdns.host.plan import Step, apply, plan, undo
from vmdns.host.upstreams import read_upstreams
from vmdns.host.virtualbox_networks import DhcpServerNotRunning, VirtualBox, host_only, registry
from vmdns.host.wire_plan import DHCP_GROUP, LOOPBACK, NetworkRow, WireState, plan_networks
from vmdns.sources import vboxmanage_output as output
from vmdns.sources.installation import WSL_HINT, find, user_home
from vmdns.sources.reader import WrongHome
from vmdns.sources.vboxmanage_call import VBoxManage, VBoxManageError
from vmdns.sources.vboxmanage_machines import read_registered
from vmdns.state.facts import HostAddress, HostInterface
from vmdns.state.views import GIVEN, index_host_networks

SCOPE = "wire"
_MAC = sys.platform == "darwin"
# VirtualBox applies one change after the other: `dhcpserver modify` was seen to take 10 s where many VMs start.
_LIMITS_SECONDS = (10.0, 60.0)
_E_FAIL = 0x80004005  # DHCPServer::restart: it does not run
_OUTSIDE = ("198.51.100.1", 53)  # no packet goes there: it only has the system choose an address


class _NoAddress(Exception):
    """The host could not be given an address."""


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """One network, with the steps that wire it."""

    row: NetworkRow
    steps: list[Step]

    def as_json(self) -> dict[str, Any]:
        row = self.row
        return {
            "network": row.network,
            "title": row.title,
            "kind": row.kind,
            "now": list(row.now),
            "wanted": row.server,
            "steps": [one.as_json() for one in self.steps],
            "notes": row.notes,
        }


class Wire:
    """One user's VirtualBox, and the journal of what vmdns changed in its networks.

    home replaces VBOX_USER_HOME. may says whether the host may be given addresses. All of its methods block, for some
    tenths of a second a network; they raise OSError with a sentence for the user.
    """

    def __init__(self, home: str | None, zones: Sequence[str], *, may: bool) -> None:
        environ = {**os.environ, "VBOX_USER_HOME": home} if home else dict(os.environ)
        installation = find(environ)
        if installation is None:
            raise OSError("VirtualBox is not installed here; if it is, put the folder of VBoxManage into PATH")
        if sys.platform == "linux" and installation.vboxmanage.suffix == ".exe":
            raise OSError(WSL_HINT)
        self._vboxmanage = VBoxManage(installation.vboxmanage, environ, _LIMITS_SECONDS)
        self._named_home = environ.get("VBOX_USER_HOME")
        self._zones = tuple(zones)
        self._may = may
        self.box = VirtualBox(user_home(environ), str(installation.vboxmanage), self._call)
        key = instance_key(home, environ)
        self.journal = Journal(state_folder() / ("journal.json" if key == "default" else f"journal-{key}.json"))
        self._version: tuple[int, ...] = ()

    def plan(self, network: str = "") -> list[NetworkPlan]:
        """The networks with the steps to do, all or the one named. Raises `CommandError` for an unknown one.

        Names are VirtualBox's: of a NAT Network, a host-only interface, or a DHCP server's network.
        """
        return [NetworkPlan(row, self._steps(row)) for row in self._rows(network)]

    def apply(
        self, networks: Sequence[NetworkPlan], say: Callable[[str], None], network: str = ""
    ) -> list[NetworkPlan]:
        """Applies the plan, with a line for each step, and returns what was done.

        Where the host cannot be given an address, networks share one that it has.
        """
        done: dict[str, list[Step]] = {one.row.network: [] for one in networks}
        try:
            self._do(networks, done, say)
        except _NoAddress as error:
            say(f"this computer cannot be given an address ({error}), so NAT Networks share one that it has")
            self._may = False
            networks = self.plan(network)
            self._do(networks, done, say)
        for one in networks:
            if one.row.server and self.box.refresh(one.row.network):
                say(f"the DHCP of {one.row.title} ran with other settings, and is restarted")
        return [NetworkPlan(one.row, done.get(one.row.network, [])) for one in networks]

    def undo(self, say: Callable[[str], None], network: str = "") -> tuple[list[str], list[str]]:
        """Undoes what was applied. Returns the changed networks, and a sentence for each setting that stays."""
        self._check_home()
        entries = self.journal.entries(SCOPE)
        given = {one.name: one.after.get("6") for one in entries if one.kind == DHCP_GROUP and one.after}
        names = self._named(network, [one.name for one in entries if one.kind != LOOPBACK]) if network else set()

        def only(entry: JournalEntry) -> bool:
            if not network:
                return True
            if entry.kind == LOOPBACK:
                return any(given.get(name) == entry.name for name in names)
            return entry.name in names

        touched = [one.name for one in entries if one.kind == DHCP_GROUP and only(one)]
        make = registry(self.box)
        # What needs rights comes last: without them, guests are at least given what they were given before.
        left = undo(self.journal, SCOPE, make, say, lambda one: one.kind != LOOPBACK and only(one))
        left += undo(self.journal, SCOPE, make, say, lambda one: one.kind == LOOPBACK and only(one))
        return touched, left

    def guests(self, networks: Sequence[str]) -> list[str]:
        """The names of the VMs that run with an adapter on one of these networks (named as DHCP servers are)."""
        found = []
        for uuid in output.parse_vms(self._call("list", "runningvms")) if networks else ():
            try:
                machine = output.parse_machine(self._call("showvminfo", uuid, "--machinereadable"))
            except (OSError, ValueError):
                continue  # it starts or stops just now
            if any(adapter.network.dhcp_name in networks for adapter in machine.adapters):
                found.append(machine.name)
        return sorted(found)

    @property
    def resolvers(self) -> tuple[str, ...]:
        """The name servers of the host, as VirtualBox sees them."""
        return _resolvers()

    def _rows(self, network: str) -> list[NetworkRow]:
        found = plan_networks(self._look())
        if not network:
            return found
        names = self._named(network, [row.network for row in found])
        return [row for row in found if row.network in names]

    def _named(self, network: str, known: Sequence[str]) -> set[str]:
        found = {one for one in known if one in (network, host_only(network))}
        if not found:
            there = ", ".join(dict.fromkeys(known)) or "none"
            raise CommandError(f"there is no network {network} that vmdns could wire, or did; there is {there}")
        return found

    def _steps(self, row: NetworkRow) -> list[Step]:
        make = registry(self.box)
        return plan((make(one.kind, one.name), one.value) for one in row.want)

    def _do(self, networks: Sequence[NetworkPlan], done: dict[str, list[Step]], say: Callable[[str], None]) -> None:
        for network in networks:
            for step in network.steps:
                try:
                    apply([step], self.journal, SCOPE, say)
                except OSError as error:
                    if step.setting.kind == LOOPBACK and self._may:
                        raise _NoAddress(str(error)) from None
                    raise
                done.setdefault(network.row.network, []).append(step)

    def _look(self) -> WireState:
        self._check_home()
        if not self._version:
            match = re.search(r"^([0-9]+)\.([0-9]+)\.", self._call("--version"), re.MULTILINE)
            if match is None:
                raise OSError(f"{self.box.program} is not VirtualBox's")
            self._version = int(match[1]), int(match[2])
        interfaces = tuple(output.parse_host_interfaces(self._call("list", "hostonlyifs")))
        entries = self.journal.entries(SCOPE)
        return WireState(
            version=self._version,
            networks=self.box.networks(),
            zones=self._zones,
            interfaces=interfaces,
            vmnets=tuple(self._vmnets()) if _MAC else (),
            resolvers=_resolvers(),
            hosts=() if self._may else tuple(self._hosts(interfaces)),
            given=frozenset(str(one) for one in GIVEN.hosts() if is_assigned(str(one))),
            ours=frozenset(one.name for one in entries if one.kind == LOOPBACK),
            groups=frozenset(one.name for one in entries if one.kind == DHCP_GROUP),
            may=self._may,
        )

    def _vmnets(self) -> list[HostInterface]:
        try:
            return output.parse_host_only_networks(self._vboxmanage("list", "hostonlynets"))
        except VBoxManageError:
            return []  # 6.1 has none

    def _hosts(self, interfaces: Sequence[HostInterface]) -> Iterator[str]:
        """The addresses that this host has and guests behind NAT reach: first the one by which it reaches others."""
        others = output.parse_host_interfaces(self._call("list", "bridgedifs"))
        facts = [HostAddress(one.name, one.prefix) for one in others]
        found = [one for one in index_host_networks([*facts, *interfaces]).reachable if one not in _given()]
        first = _outward()
        return iter(sorted(found, key=lambda one: one != first))

    def _check_home(self) -> None:
        """Raises `CommandError` where VBoxManage would change the networks of another VirtualBox home."""
        if self._named_home and not read_registered(self.box.home / "VirtualBox.xml", self._call("list", "vms"))[1]:
            raise CommandError(f"VirtualBox: {WrongHome(self._named_home)}")

    def _call(self, *arguments: str) -> str:
        try:
            return self._vboxmanage(*arguments)
        except VBoxManageError as failed:
            if failed.code == _E_FAIL and arguments[:2] == ("dhcpserver", "restart"):
                raise DhcpServerNotRunning(str(failed)) from None
            raise OSError(f"VBoxManage {failed}") from None


def _given() -> frozenset[str]:
    return frozenset(str(one) for one in GIVEN.hosts())


def _resolvers() -> tuple[str, ...]:
    try:
        return read_upstreams().resolvers
    except OSError:
        return ()


def _outward() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_OUTSIDE)
            return str(probe.getsockname()[0])
        except OSError:
            return ""
