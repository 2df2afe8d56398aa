"""`vmdns run --wire`: keeps VirtualBox's networks wired, by a look whenever what the plan rests on has changed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable

from vmdns.commands.wire import FOLLOW
from vmdns.commands.wire_networks import Wire
from vmdns.host.elevation import is_elevated
from vmdns.state.facts import DhcpServer, Fact, HostAddress, HostInterface, NatNetwork

_RESTS_ON = (DhcpServer, NatNetwork, HostInterface, HostAddress)
_PATIENCE_SECONDS = 5.0  # for a look that is under way when vmdns ends


class Wired:
    """Looks, and does what is to be done, in a thread; nobody is asked for rights.

    say gets a line for each step, and once for what is wrong. Used from one event loop.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._seen: object = None
        self._wanted: tuple[str | None, tuple[str, ...]] = (None, ())
        self._made: object = None
        self._wire: Wire | None = None
        self._task: asyncio.Task[None] | None = None
        self._again = False
        self._told: set[str] = set()

    def changed(
        self, facts: Iterable[Fact], home: str | None, zones: tuple[str, ...], resolvers: tuple[str, ...] = ()
    ) -> None:
        """To be called with what is known now, as often as one likes: only a change of networks, or of whom the host
        itself asks, means a look."""
        wanted = home, zones
        seen = frozenset(fact for fact in facts if isinstance(fact, _RESTS_ON)), wanted, resolvers
        if seen == self._seen:
            return
        self._seen, self._wanted = seen, wanted
        self._again = True
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def look(self) -> None:
        """One look now; says what it did. Ends when it is done."""
        steps, troubles = await asyncio.to_thread(self._once, *self._wanted)
        for line in steps:
            self._say(f"wiring: {line}")
        for line in troubles:
            if line not in self._told:
                self._say(f"wiring: {line}")
        self._told = set(troubles)

    async def stop(self) -> None:
        """Waits for a look that is under way."""
        self._again = False
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_PATIENCE_SECONDS)

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
                self._beside(home, zones, steps, troubles)
                return steps, troubles
            if self._wire is None or self._made != (home, zones):
                self._wire, self._made = Wire(home, zones, may=is_elevated()), (home, zones)
            look(self._wire, steps, troubles)
        except (OSError, RuntimeError) as error:
            troubles.append(str(error))
            self._seen = None  # the next change of anything has it look again
        return steps, troubles

    def _beside(self, home: str | None, zones: tuple[str, ...], steps: list[str], troubles: list[str]) -> None:
        """Where vmdns is confined: the look is one of a process that is not. A VBoxSVC that VBoxManage starts must not
        be confined either."""
        from vmdns.sources.worker_socket import VARIABLE, ask

        said = ask(os.environ[VARIABLE], {"wire": {"home": home, "zones": zones}})
        steps += map(str, said.get("steps", ()))
        troubles += map(str, said.get("troubles", ()))
        if "error" in said:
            raise OSError(str(said["error"]))


def look(wire: Wire, steps: list[str], troubles: list[str]) -> None:
    """One look; what it did is added to the steps, what is wrong to the troubles. Raises OSError, RuntimeError."""
    networks = wire.apply(wire.plan(), steps.append)
    troubles += [f"{one.row.title}: {note}" for one in networks for note in one.row.notes]
    guests = wire.guests([one.row.network for one in networks if one.steps])
    if guests:
        steps.append(f"these guests run: {', '.join(guests)}; {FOLLOW}")
