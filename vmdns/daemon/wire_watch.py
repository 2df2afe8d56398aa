"""`vmdns run --wire`: keeps VirtualBox's DHCP servers pointed at vmdns, checked whenever a network changes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Any

from vmdns.commands import CommandError
from vmdns.daemon.process import Log
from vmdns.host.elevation import is_elevated
from vmdns.sources.supervisor import SOCKET_VARIABLE, send_request
from vmdns.state.facts import DhcpServer, Fact, HostAddress, HostInterface, NatNetwork

_RELEVANT = (DhcpServer, NatNetwork, HostInterface, HostAddress)

Inputs = tuple[frozenset[Fact], tuple[str, ...], str | None, tuple[str, ...]]


class WireWatch:
    """Checks in a thread, one check at a time, and logs each step, and each problem once. Used from one event loop."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._wanted: Inputs | None = None
        self._checking = asyncio.Lock()
        self._troubles: set[str] = set()  # that were logged

    async def check(
        self, facts: Iterable[Fact], home: str | None, zones: tuple[str, ...], resolvers: tuple[str, ...] = ()
    ) -> None:
        """Checks if the networks, or the servers that the host uses, changed since the last check."""
        wanted = frozenset(fact for fact in facts if isinstance(fact, _RELEVANT)), resolvers, home, zones
        if wanted == self._wanted:
            return
        self._wanted = wanted
        async with self._checking:
            if wanted != self._wanted:
                return  # they changed again meanwhile
            done = await asyncio.to_thread(_check, home, zones)
            troubles = [*done["troubles"], *filter(None, [done.get("error")])]
            for line in (*done["steps"], *(one for one in troubles if one not in self._troubles)):
                self._log(f"wiring: {line}")
            self._troubles = set(troubles)
            if "error" in done and wanted == self._wanted:
                self._wanted = None  # the next call checks again


def _check(home: str | None, zones: tuple[str, ...]) -> dict[str, Any]:
    if SOCKET_VARIABLE not in os.environ:
        return check_networks(home, zones)
    # A process outside of systemd's confinement does it: a VBoxSVC that VBoxManage starts must not be confined either.
    try:
        done = send_request({"wire": {"home": home, "zones": zones}})
    except OSError as error:
        done = {"error": str(error)}
    return {"steps": [], "troubles": [], **done}


def check_networks(home: str | None, zones: tuple[str, ...]) -> dict[str, Any]:
    """Plans and applies once, without asking for privileges: {"steps": done, "troubles": what is wrong}, and "error"
    where it failed."""
    from vmdns.commands.wire import FOLLOW, Wire

    done: dict[str, Any] = {"steps": [], "troubles": []}
    try:
        wire = Wire(home, zones, may=is_elevated())
        networks = wire.apply(done["steps"].append)
        done["troubles"] += [f"{one.title}: {note}" for one in networks for note in one.notes]
        guests = wire.guests([one.network for one in networks if one.steps])
        if guests:
            done["steps"].append(f"these guests run: {', '.join(guests)}; {FOLLOW}")
    except (OSError, RuntimeError, CommandError) as error:
        done["error"] = str(error)
    return done
