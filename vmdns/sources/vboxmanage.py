"""VirtualBox through VBoxManage, for where the API cannot be loaded.

There are no events here: rounds ask again what may have changed, in about a tenth of one core.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
from collections.abc import Mapping

from vmdns.core.model import Fact
from vmdns.sources import vboxmanage_output as output
from vmdns.sources.installation import Installation, stamp, user_home
from vmdns.sources.reader import Found, Lost, Unavailable, key
from vmdns.sources.vboxmanage_call import Failed, VBoxManage
from vmdns.sources.vboxmanage_machines import Machines, Stamp, stamp_of

ROUND_SECONDS = 2.0  # between rounds at least, and
MOST_SECONDS = 10.0  # at most,
SHARE = 0.1  # so that rounds take this part of the time
NUDGED_SECONDS = 0.5  # between rounds where VirtualBox.xml was replaced
LOOKS_SECONDS = 0.3  # for the running VMs of one round; those that had to wait come first in the next
FIRST_SECONDS = 10.0  # for the running VMs of the first look
SLOW_SECONDS = 30.0  # between looks at what the time of VirtualBox.xml does not tell


class VBoxManageReader:
    """The `Reader` through VBoxManage. home replaces VBOX_USER_HOME. Raises `Unavailable` without a VBoxManage."""

    def __init__(self, installation: Installation, environ: Mapping[str, str], home: str | None = None) -> None:
        environ = {**environ, "VBOX_USER_HOME": home} if home else environ
        folder = user_home(environ)
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
        self._slow = self._ended = self._next = float("-inf")
        self._wake = threading.Event()

    @property
    def moved(self) -> float:
        """Monotonic time of the last sign of life; a call of VBoxManage ends within 10 s."""
        return self._call.moved

    def look(self) -> Mapping[str, Fact]:
        self._slow = float("-inf")
        self._round(FIRST_SECONDS)
        self._next = self._ended + ROUND_SECONDS
        return dict(self._facts)

    def wait(self, seconds: float) -> Mapping[str, Fact | None]:
        until = time.monotonic() + seconds
        while True:
            self._call.moved = now = time.monotonic()
            if now >= self._next:
                if changes := self._round(LOOKS_SECONDS):
                    return changes
                now = time.monotonic()
            if now >= until:
                return {}
            if self._wake.wait(min(until, self._next) - now):
                self._wake.clear()
                if stamp_of(self._index_file) != self._index:
                    self._next = min(self._next, self._ended + NUDGED_SECONDS)

    def nudge(self) -> None:
        self._wake.set()

    def close(self) -> None:
        """Nothing is held between calls of VBoxManage."""

    def _round(self, budget: float) -> dict[str, Fact | None]:
        began = time.monotonic()
        if stamp(self._installation) != self._stamp:
            raise Lost("VirtualBox was upgraded or removed")
        slow = began - self._slow >= SLOW_SECONDS
        index = stamp_of(self._index_file)
        replaced = index != self._index
        running = output.vms(self._ask("list", "runningvms")).keys()
        if slow or replaced or index is None or self._machines.stale or self._machines.lacks(running):
            self._machines.relist(self._ask("list", "vms"))
        if slow or replaced:
            self._networks = self._look_at_networks()
        machines = {key(machine): machine for machine in self._machines.look(running, budget)}
        changes = self._changes({**self._networks, **machines})
        self._index = index
        if slow:
            self._slow = began
        self._ended = time.monotonic()
        pause = (self._ended - began) * (1 / SHARE - 1)
        self._next = self._ended + min(MOST_SECONDS, max(ROUND_SECONDS, pause))
        return changes

    def _changes(self, facts: dict[str, Fact]) -> dict[str, Fact | None]:
        """Takes the facts over; what is other than before, None for what is gone."""
        before, self._facts = self._facts, facts
        names = [*(name for name in before if name not in facts), *facts]
        return {name: facts.get(name) for name in names if before.get(name) != facts.get(name)}

    def _look_at_networks(self) -> dict[str, Fact]:
        facts: list[Fact] = [
            *output.nat_networks(self._ask("natnetwork", "list")),
            *output.dhcp_servers(self._ask("list", "dhcpservers")),
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
