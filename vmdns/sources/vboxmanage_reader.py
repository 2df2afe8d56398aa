"""Reads VirtualBox through VBoxManage, where the API cannot be loaded.

VBoxManage has no events, so the reader polls. Each round lists the VMs and the running ones; details of running VMs
cost more and get what is left of a tenth of one core.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from vmdns.sources import vboxmanage_output as output
from vmdns.sources.installation import Installation, stamp, user_home, windows_user_home
from vmdns.sources.reader import ReaderUnavailable, VirtualBoxInfo, VirtualBoxLost, WrongHome, fact_key
from vmdns.sources.vboxmanage_call import VBoxManage, VBoxManageError
from vmdns.sources.vboxmanage_machines import MachineList, Stamp, file_stamp
from vmdns.sources.vboxmanage_output import parse_dhcp_servers
from vmdns.state.facts import Fact

ROUND_SECONDS = 2.0  # between rounds, at least
MOST_SECONDS = 10.0  # between rounds, at most
NUDGED_SECONDS = 0.5  # between rounds where VirtualBox.xml was replaced
SHARE = 0.1  # of a core; at most half of it for lists
CREDIT_SECONDS = 0.5  # CPU time that may be saved for details of VMs, or overdrawn where the user changes much
FIRST_SECONDS = 5.0  # CPU time for details of VMs in the first round
SLOW_SECONDS = 30.0  # between full rounds, for changes that do not touch VirtualBox.xml


class VBoxManageReader:
    """Reads VirtualBox through VBoxManage. home replaces VBOX_USER_HOME. Raises `ReaderUnavailable`."""

    def __init__(self, installation: Installation, environ: Mapping[str, str], home: str | None = None) -> None:
        environ = {**environ, "VBOX_USER_HOME": home} if home else environ
        self._named = environ.get("VBOX_USER_HOME")
        folder = user_home(environ)
        if sys.platform == "linux" and installation.vboxmanage.suffix == ".exe":
            folder = Path(home) if home else windows_user_home() or folder
        self._installation = installation
        self._stamp = stamp(installation)
        self._call = VBoxManage(installation.vboxmanage, environ)
        try:
            printed = self._call("--version")
        except VBoxManageError as error:
            raise ReaderUnavailable(f"VBoxManage does not work ({error})") from error
        version = re.search(r"^([0-9]+)\.[0-9]+\.\S+?(?=(?:r[0-9]+)?$)", printed, re.MULTILINE)
        if version is None:
            raise ReaderUnavailable(f"{installation.vboxmanage} is not VirtualBox's")
        self.found = VirtualBoxInfo(version[0], "vboxmanage", str(folder))
        self._index_file = folder / "VirtualBox.xml"
        self._index: Stamp = None
        self._machines = MachineList(self._call, self._index_file, int(version[1]))
        self._networks: dict[str, Fact] = {}
        self._facts: dict[str, Fact] = {}
        self._slow = self._began = self._ended = self._next = float("-inf")
        self._credit = 0.0
        self._wake = threading.Event()

    @property
    def moved(self) -> float:
        """Monotonic time at which the last call of VBoxManage ended; a call takes at most 10 s."""
        return self._call.moved

    def look(self) -> Mapping[str, Fact]:
        self._slow = self._began = float("-inf")
        self._round(FIRST_SECONDS)
        self._credit = 0.0
        return dict(self._facts)

    def wait(self, seconds: float) -> Mapping[str, Fact | None]:
        until = time.monotonic() + seconds
        while True:
            self._call.moved = now = time.monotonic()
            if now >= self._next:
                if changes := self._round(CREDIT_SECONDS):
                    return changes
                now = time.monotonic()
            if now >= until:
                return {}
            if self._wake.wait(min(until, self._next) - now):
                self._wake.clear()
                if file_stamp(self._index_file) != self._index and self._credit > -CREDIT_SECONDS:
                    self._next = min(self._next, self._ended + NUDGED_SECONDS)

    def request_network_look(self) -> None:
        self._wake.set()

    def request_look(self) -> None:
        self._slow = float("-inf")
        self._next = 0.0
        self._wake.set()

    def close(self) -> None:
        """Does nothing: no connection stays open between calls of VBoxManage."""

    def _round(self, most: float) -> dict[str, Fact | None]:
        began, spent = time.monotonic(), self._call.spent
        if stamp(self._installation) != self._stamp:
            raise VirtualBoxLost("VirtualBox was upgraded or removed")
        slow = began - self._slow >= SLOW_SECONDS
        index = file_stamp(self._index_file)
        replaced = index != self._index
        running = output.parse_vms(self._list("list", "runningvms")).keys()
        list_cost = self._call.spent - spent
        if slow or replaced or index is None or self._machines.stale or self._machines.lacks(running):
            known = self._machines.relist(self._list("list", "vms"))
            if self._named and not known and file_stamp(self._index_file) == index:
                raise WrongHome(self._named)
        if slow or replaced:
            self._networks = self._look_at_networks()
        listed = self._call.spent
        self._credit = min(most, self._credit + SHARE * (began - self._began) - (listed - spent))
        machines = {fact_key(machine): machine for machine in self._machines.look(running, self._credit)}
        changes = self._changes({**self._networks, **machines})
        self._index, self._began = index, began
        if slow:
            self._slow = began
        self._ended = time.monotonic()
        self._credit = max(-CREDIT_SECONDS, self._credit - (self._call.spent - listed))
        self._next = self._ended + min(MOST_SECONDS, max(ROUND_SECONDS, list_cost * 2 / SHARE))
        return changes

    def _changes(self, facts: dict[str, Fact]) -> dict[str, Fact | None]:
        """Replaces the facts and returns what changed; None for what is gone."""
        before, self._facts = self._facts, facts
        names = [*(name for name in before if name not in facts), *facts]
        return {name: facts.get(name) for name in names if before.get(name) != facts.get(name)}

    def _look_at_networks(self) -> dict[str, Fact]:
        facts: list[Fact] = [
            *output.parse_nat_networks(self._list("natnetwork", "list")),
            *parse_dhcp_servers(self._list("list", "dhcpservers")),
            *output.parse_host_interfaces(self._list("list", "hostonlyifs")),
        ]
        if sys.platform == "darwin":
            with contextlib.suppress(VBoxManageError):  # not in 6.1
                facts += output.parse_host_only_networks(self._call("list", "hostonlynets"))
        return {fact_key(fact): fact for fact in facts}

    def _list(self, *arguments: str) -> str:
        """Calls VBoxManage, and again if that fails. Raises `VirtualBoxLost` if the second call fails too."""
        try:
            return self._call(*arguments)
        except VBoxManageError:
            pass
        try:
            return self._call(*arguments)
        except VBoxManageError as error:
            raise VirtualBoxLost(f"VBoxManage fails ({error})") from error
