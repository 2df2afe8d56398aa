"""`vmdns wire`: plans and applies DHCP options of VirtualBox's networks, by its settings, this host's addresses and the
journal."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from vmdns.commands import CommandError
from vmdns.control.client import instance_key
from vmdns.host.folders import state_folder
from vmdns.host.plan import Journal, JournalEntry, Kinds, apply, plan, undo
from vmdns.host.resolver import read_upstreams
from vmdns.host.system_settings import RESOLVER_ADDRESS, LoopbackAddress, is_assigned
from vmdns.host.virtualbox_dhcp import SETTINGS, DhcpGroup, DhcpServerNotRunning, VirtualBox
from vmdns.host.wire_plan import NetworkRow, WireState, plan_networks
from vmdns.sources import vboxmanage as output
from vmdns.sources.installation import WSL_HINT, find, user_home
from vmdns.sources.reader import wrong_home
from vmdns.sources.settings_file import is_registry_of, read_host_only_networks, read_registry
from vmdns.sources.vboxmanage import VBoxManage, VBoxManageError
from vmdns.state.facts import HOST_IF, HostAddress, HostInterface
from vmdns.state.views import GIVEN, index_host_networks

SCOPE = "wire"
FOLLOW = "they follow when they renew their lease, within five minutes as VirtualBox gives leases, or when restarted"
ALONE = "while vmdns does not run, these guests resolve no names at all; have it started with your session"
NO_ANSWER = "vmdns does not answer at {} port 53, so it is not given to guests; vmdns status says why, then apply again"
PLAIN_NAT = (
    "guests on plain NAT are given what this computer itself asks, and nothing else can be set; "
    "`vmdns host --whole` makes this computer ask vmdns, and with it these guests"
)
# VirtualBox applies one change after the other: `dhcpserver modify` was seen to take 10 s where many VMs start.
_LIMITS_SECONDS = (10.0, 60.0)
_E_FAIL = 0x80004005  # DHCPServer::restart: it does not run
_OUTSIDE = ("198.51.100.1", 53)  # no packet goes there: it only has the system choose an address


def command(wire: Wire, do: str, network: str, log: Callable[[str], None]) -> dict[str, Any]:
    """The response of `vmdns wire`: do is plan, apply or undo; log gets a line for each step. Raises `CommandError`,
    OSError."""
    networks: list[NetworkRow] = []
    left: list[str] = []
    if do == "undo":
        changed, left = wire.undo(log, network)
    else:
        networks = wire.apply(log, network) if do == "apply" else wire.plan(network)
        changed = [one.network for one in networks if one.steps]
    notes = [f"{one.title}: {note}" for one in networks for note in one.notes]
    if changed and do != "undo":
        notes.append(ALONE)
    if networks and not network and RESOLVER_ADDRESS not in _resolvers():
        notes.append(PLAIN_NAT)
    guests = wire.guests(changed)
    if guests:
        notes.append(f"these guests run: {', '.join(guests)}; {FOLLOW}")
    shown = [
        {
            "network": one.network,
            "title": one.title,
            "kind": one.kind,
            "now": list(one.now),
            "wanted": one.server,
            "steps": [step.as_json() for step in one.steps],
            "notes": one.notes,
        }
        for one in networks
    ]
    done = do != "plan"
    return {"networks": shown, "changed": changed, "left": left, "notes": notes, "guests": guests, "done": done}


class Wire:
    """One user's VirtualBox, and the journal of what vmdns changed in its networks.

    home replaces VBOX_USER_HOME. may says whether the host may be given addresses; answers, whether vmdns answers at
    port 53 of an address, where it runs. All methods block, for some tenths of a second a network; they raise OSError
    with a sentence for the user.
    """

    def __init__(
        self,
        home: str | None,
        zones: Sequence[str],
        *,
        may: bool,
        answers: Callable[[str], bool] = lambda address: True,
    ) -> None:
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
        self._answers = answers
        self.box = VirtualBox(user_home(environ), str(installation.vboxmanage), self._call)
        key = instance_key(home, environ)
        self.journal = Journal(state_folder() / ("journal.json" if key == "default" else f"journal-{key}.json"))

    def plan(self, network: str = "") -> list[NetworkRow]:
        """The networks with the steps to do, all or the one named. Raises `CommandError` for an unknown one.

        Names are VirtualBox's: of a NAT Network, a host-only interface, or a DHCP server's network.
        """
        rows = plan_networks(self._look())
        names = self._named(network, [row.network for row in rows])
        rows = [row for row in rows if row.network in names]
        for row in rows:
            row.steps = plan(row.want)
        return rows

    def apply(self, log: Callable[[str], None], network: str = "") -> list[NetworkRow]:
        """Applies the plan of `network`, with a line for each step, and returns it.

        Where the host cannot be given an address, networks share one that it has. A network keeps what it has where
        nothing answers at its address.
        """
        networks = self.plan(network)
        try:
            addresses = [step for one in networks for step in one.steps if step.setting.kind == LoopbackAddress.kind]
            apply(addresses, self.journal, SCOPE, log)
        except OSError as error:
            if not self._may:
                raise
            log(f"this computer cannot be given an address ({error}), so NAT Networks share one that it has")
            self._may = False
            return self.apply(log, network)
        for one in networks:
            if one.server and one.steps and not self._answers(one.server):
                one.steps = []
                one.notes.append(NO_ANSWER.format(one.server))
            apply([step for step in one.steps if step.setting.kind != LoopbackAddress.kind], self.journal, SCOPE, log)
        for row in networks:
            if row.server and self.box.restart_outdated(row.network):
                log(f"the DHCP of {row.title} ran with other settings, and is restarted")
        return networks

    def undo(self, log: Callable[[str], None], network: str = "") -> tuple[list[str], list[str]]:
        """Undoes what was applied. Returns the changed networks, and a sentence for each setting that stays."""
        self._check_home()
        entries = self.journal.entries(SCOPE)
        names = self._named(network, [one.name for one in entries if one.kind != LoopbackAddress.kind])
        groups = [one for one in entries if one.kind == DhcpGroup.kind and one.name in names]
        addresses = [one.after.get("6") for one in groups if one.after]

        def is_meant(entry: JournalEntry) -> bool:
            return not network or entry.name in (addresses if entry.kind == LoopbackAddress.kind else names)

        kinds: Kinds = {one.kind: partial(one, box=self.box) for one in SETTINGS}
        kinds = {**kinds, LoopbackAddress.kind: LoopbackAddress}
        # What needs rights is undone last: without them, guests are at least given what they were given before.
        ordered = sorted(filter(is_meant, entries), key=lambda one: one.kind != LoopbackAddress.kind)
        return [one.name for one in groups], undo(self.journal, ordered, kinds, log)

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

    def _named(self, network: str, known: Sequence[str]) -> set[str]:
        """Those of the known networks that are meant: all, or the one of this name."""
        found = {one for one in known if not network or one in (network, HOST_IF + network)}
        if network and not found:
            there = ", ".join(dict.fromkeys(known)) or "none"
            raise CommandError(f"there is no network {network} that vmdns could wire, or did; there is {there}")
        return found

    def _look(self) -> WireState:
        self._check_home()
        match = re.search(r"^([0-9]+)\.([0-9]+)\.", self._call("--version"), re.MULTILINE)
        if match is None:
            raise OSError(f"{self.box.program} is not VirtualBox's")
        interfaces = output.parse_host_interfaces(self._call("list", "hostonlyifs"))
        if registry := read_registry(self.box.home / "VirtualBox.xml"):
            interfaces += read_host_only_networks(registry)
        entries = self.journal.entries(SCOPE)
        return WireState(
            box=self.box,
            version=(int(match[1]), int(match[2])),
            networks=self.box.read_networks(),
            zones=self._zones,
            interfaces=tuple(interfaces),
            resolvers=_resolvers(),
            hosts=() if self._may else self._hosts(interfaces),
            given=frozenset(filter(is_assigned, _given())),
            ours=frozenset(one.name for one in entries if one.kind == LoopbackAddress.kind),
            groups=frozenset(one.name for one in entries if one.kind == DhcpGroup.kind),
            may=self._may,
        )

    def _hosts(self, interfaces: Sequence[HostInterface]) -> tuple[str, ...]:
        """The addresses that this host has and guests behind NAT reach: first the one by which it reaches others."""
        others = output.parse_host_interfaces(self._call("list", "bridgedifs"))
        facts = [HostAddress(one.name, one.prefix) for one in others]
        found = [one for one in index_host_networks([*facts, *interfaces]).reachable if one not in _given()]
        first = _outward()
        return tuple(sorted(found, key=lambda one: one != first))

    def _check_home(self) -> None:
        """Raises `CommandError` where VBoxManage would change the networks of another VirtualBox home."""
        registry = read_registry(self.box.home / "VirtualBox.xml") if self._named_home else None
        if self._named_home and not is_registry_of(registry, output.parse_vms(self._call("list", "vms"))):
            raise CommandError(f"VirtualBox: {wrong_home(self._named_home)}")

    def _call(self, *arguments: str) -> str:
        try:
            return self._vboxmanage(*arguments)
        except VBoxManageError as failed:
            if failed.code == _E_FAIL and arguments[:2] == ("dhcpserver", "restart"):
                raise DhcpServerNotRunning(str(failed)) from None
            raise OSError(f"VBoxManage {failed}") from None


def _given() -> list[str]:
    """The addresses that vmdns gives to hosts."""
    return [str(one) for one in GIVEN.hosts()]


def _resolvers() -> tuple[str, ...]:
    """The name servers of the host, as VirtualBox sees them."""
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
