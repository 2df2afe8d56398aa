"""`vmdns run --wire`: keeps VirtualBox's DHCP servers pointed at vmdns, checked whenever a network changes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable

from vmdns.commands import CommandError
from vmdns.commands.wire import FOLLOW, Wire
from vmdns.host.elevation import is_elevated
from vmdns.state.facts import DhcpServer, Fact, HostAddress, HostInterface, NatNetwork

_RELEVANT = (DhcpServer, NatNetwork, HostInterface, HostAddress)
_STOP_SECONDS = 5.0  # for a check in progress when vmdns ends


class WireWatch:
    """Plans and applies in a thread, without asking for privileges.

    log gets a line for each step, and for each problem once. Used from one event loop.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._seen: object = None
        self._wanted: tuple[str | None, tuple[str, ...]] = (None, ())
        self._made: object = None
        self._wire: Wire | None = None
        self._task: asyncio.Task[None] | None = None
        self._again = False
        self._reported: set[str] = set()

    def changed(
        self, facts: Iterable[Fact], home: str | None, zones: tuple[str, ...], resolvers: tuple[str, ...] = ()
    ) -> None:
        """Checks in the background if the networks, or the servers that the host uses, changed since the last call."""
        wanted = home, zones
        seen = frozenset(fact for fact in facts if isinstance(fact, _RELEVANT)), wanted, resolvers
        if seen == self._seen:
            return
        self._seen, self._wanted = seen, wanted
        self._again = True
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def look(self) -> None:
        """Plans and applies once, and logs the steps."""
        steps, troubles = await asyncio.to_thread(self._once, *self._wanted)
        for line in steps:
            self._log(f"wiring: {line}")
        for line in troubles:
            if line not in self._reported:
                self._log(f"wiring: {line}")
        self._reported = set(troubles)

    async def stop(self) -> None:
        """Waits for a check in progress."""
        self._again = False
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_STOP_SECONDS)

    async def _work(self) -> None:
        try:
            while self._again:
                self._again = False
                await self.look()
        finally:
            self._task = None

    def _once(self, home: str | None, zones: tuple[str, ...]) -> tuple[list[str], list[str]]:
        steps: list[str] = []
        troubles: list[str] = []
        try:
            if "VMDNS_BESIDE" in os.environ:
                self._apply_outside(home, zones, steps, troubles)
                return steps, troubles
            if self._wire is None or self._made != (home, zones):
                self._wire, self._made = Wire(home, zones, may=is_elevated()), (home, zones)
            apply_once(self._wire, steps, troubles)
        except (OSError, RuntimeError, CommandError) as error:
            troubles.append(str(error))
            self._seen = None  # so that the next call checks again
        return steps, troubles

    def _apply_outside(self, home: str | None, zones: tuple[str, ...], steps: list[str], troubles: list[str]) -> None:
        """Has a process outside of systemd's confinement do it. A VBoxSVC that VBoxManage starts must not be confined
        either."""
        from vmdns.sources.worker_socket import SOCKET_VARIABLE, send_request

        response = send_request(os.environ[SOCKET_VARIABLE], {"wire": {"home": home, "zones": zones}})
        steps += map(str, response.get("steps", ()))
        troubles += map(str, response.get("troubles", ()))
        if "error" in response:
            raise OSError(str(response["error"]))


def apply_once(wire: Wire, steps: list[str], troubles: list[str]) -> None:
    """Plans and applies; adds what it did to steps and what is wrong to troubles. Raises OSError, RuntimeError."""
    networks = wire.apply(wire.plan(), steps.append)
    troubles += [f"{one.row.title}: {note}" for one in networks for note in one.row.notes]
    guests = wire.guests([one.row.network for one in networks if one.steps])
    if guests:
        steps.append(f"these guests run: {', '.join(guests)}; {FOLLOW}")
