"""VirtualBox through VBoxManage, for where the API cannot be loaded.

There are no events here: rounds ask again what may have changed. Which VMs there are and which run is asked in each
round; looks at running VMs are dear and take what is left of a tenth of one processor.
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
from vmdns.sources import wsl
from vmdns.sources.installation import Installation, stamp, user_home
from vmdns.sources.reader import Found, Lost, OtherHome, Unavailable, key
from vmdns.sources.vboxmanage_call import Failed, VBoxManage
from vmdns.sources.vboxmanage_dhcp import dhcp_servers
from vmdns.sources.vboxmanage_machines import Machines, Stamp, stamp_of
from vmdns.state.facts import Fact

ROUND_SECONDS = 2.0  # between rounds, at least
MOST_SECONDS = 10.0  # between rounds, at most
NUDGED_SECONDS = 0.5  # between rounds where VirtualBox.xml was replaced
SHARE = 0.1  # of a processor may be spent; half of it at most to ask which VMs run
CREDIT_SECONDS = 0.5  # of a processor may be saved up for looks at VMs, and be owed where the user changes much
FIRST_SECONDS = 5.0  # of a processor for looks at VMs in the first round
SLOW_SECONDS = 30.0  # between looks at what the time of VirtualBox.xml does not tell


class VBoxManageReader:
    """The `Reader` through VBoxManage. home replaces VBOX_USER_HOME. Raises `Unavailable` without a VBoxManage."""

    def __init__(self, installation: Installation, environ: Mapping[str, str], home: str | None = None) -> None:
        environ = {**environ, "VBOX_USER_HOME": home} if home else environ
        self._named = environ.get("VBOX_USER_HOME")
        folder = user_home(environ)
        if sys.platform == "linux" and installation.vboxmanage.suffix == ".exe":
            folder = Path(home) if home else wsl.windows_user_home() or folder
        self._installation = installation
        self._stamp = stamp(installation)
        self._call = VBoxManage(installation.vboxmanage, environ)
        try:
            printed = self._call("--version")
        except Failed as error:
            raise Unavailable(f"VBoxManage does not work ({error})") from error
        version = re.search(r"^([0-9]+)\.[0-9]+\.\S+?(?=(?:r[0-9]+)?$)", printed, re.MULTILINE)
        if version is None:
            raise Unavailable(f"{installation.vboxmanage} is not VirtualBox's")
        self.found = Found(version[0], "vboxmanage", str(folder))
        self._index_file = folder / "VirtualBox.xml"
        self._index: Stamp = None
        self._machines = Machines(self._call, self._index_file, int(version[1]))
        self._networks: dict[str, Fact] = {}
        self._facts: dict[str, Fact] = {}
        self._slow = self._began = self._ended = self._next = float("-inf")
        self._credit = 0.0
        self._wake = threading.Event()

    @property
    def moved(self) -> float:
        """Monotonic time of the last sign of life; a call of VBoxManage ends within 10 s."""
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
                if stamp_of(self._index_file) != self._index and self._credit > -CREDIT_SECONDS:
                    self._next = min(self._next, self._ended + NUDGED_SECONDS)

    def nudge(self) -> None:
        self._wake.set()

    def wake(self) -> None:
        self._slow = float("-inf")
        self._next = 0.0
        self._wake.set()

    def close(self) -> None:
        """Nothing is held between calls of VBoxManage."""

    def _round(self, most: float) -> dict[str, Fact | None]:
        began, spent = time.monotonic(), self._call.spent
        if stamp(self._installation) != self._stamp:
            raise Lost("VirtualBox was upgraded or removed")
        slow = began - self._slow >= SLOW_SECONDS
        index = stamp_of(self._index_file)
        replaced = index != self._index
        running = output.vms(self._ask("list", "runningvms")).keys()
        standing = self._call.spent - spent
        if slow or replaced or index is None or self._machines.stale or self._machines.lacks(running):
            known = self._machines.relist(self._ask("list", "vms"))
            if self._named and not known and stamp_of(self._index_file) == index:
                raise OtherHome(self._named)
        if slow or replaced:
            self._networks = self._look_at_networks()
        asked = self._call.spent
        self._credit = min(most, self._credit + SHARE * (began - self._began) - (asked - spent))
        machines = {key(machine): machine for machine in self._machines.look(running, self._credit)}
        changes = self._changes({**self._networks, **machines})
        self._index, self._began = index, began
        if slow:
            self._slow = began
        self._ended = time.monotonic()
        self._credit = max(-CREDIT_SECONDS, self._credit - (self._call.spent - asked))
        self._next = self._ended + min(MOST_SECONDS, max(ROUND_SECONDS, standing * 2 / SHARE))
        return changes

    def _changes(self, facts: dict[str, Fact]) -> dict[str, Fact | None]:
        """Takes the facts over; what is other than before, None for what is gone."""
        before, self._facts = self._facts, facts
        names = [*(name for name in before if name not in facts), *facts]
        return {name: facts.get(name) for name in names if before.get(name) != facts.get(name)}

    def _look_at_networks(self) -> dict[str, Fact]:
        facts: list[Fact] = [
            *output.nat_networks(self._ask("natnetwork", "list")),
            *dhcp_servers(self._ask("list", "dhcpservers")),
            *output.host_interfaces(self._ask("list", "hostonlyifs")),
        ]
        if sys.platform == "darwin":
            with contextlib.suppress(Failed):  # 6.1 has none
                facts += output.host_only_networks(self._call("list", "hostonlynets"))
        return {key(fact): fact for fact in facts}

    def _ask(self, *arguments: str) -> str:
        """What VBoxManage only fails to answer when VirtualBox is gone. Raises `Lost` after a second try."""
        try:
            return self._call(*arguments)
        except Failed:
            pass
        try:
            return self._call(*arguments)
        except Failed as error:
            raise Lost(f"VBoxManage fails ({error})") from error
