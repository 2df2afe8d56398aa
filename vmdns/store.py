"""The one cell of mutable state: the last report of each source, and the snapshot built from them.

A report means "this is what I see now"; equal ones stop here. A build runs in a thread, one at a time, and publishing
its snapshot is one assignment, so that readers never lock and never see half a change.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from vmdns.state.build import build
from vmdns.state.facts import Fact
from vmdns.state.guests import VmChange, compare_guests
from vmdns.state.name_rules import Owners
from vmdns.state.snapshot import Policy, Snapshot
from vmdns.state.static_records import HostsIndex

# asyncio's timers may be early by one tick of its clock, which is 15.6 ms on Windows before Python 3.13.
TICK_SECONDS = time.get_clock_info("monotonic").resolution
DEBOUNCE_SECONDS = 0.003 + TICK_SECONDS
# The next build waits for this many times what the last one took: building has a tenth of a core at most, also where a
# guest changes its address without end.
INTERVAL_FACTOR = 10
MAX_INTERVAL = 1.0


class Store:
    """Holds facts by source, builds when they changed, and notifies listeners. Used by one thread.

    wall gives the Unix time; in_thread runs a function beside the event loop; owners are those of the names of VMs
    when vmdns ran last. hosts is the hosts file as it was last read.
    """

    def __init__(
        self,
        policy: Policy,
        wall: Callable[[], float] = time.time,
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]] = asyncio.to_thread,
        owners: Owners | None = None,
    ) -> None:
        self._policy = policy
        self._wall = wall
        self._in_thread = in_thread
        self._facts: dict[str, dict[str, Fact]] = {}
        self.hosts = HostsIndex()
        self._listeners: list[Callable[[list[VmChange]], None]] = []
        self._changed = asyncio.Event()
        self._busy = False  # whether something is reported that is not published yet
        self._task: asyncio.Task[None] | None = None
        self._after: list[Callable[[], None]] = []
        # The user's own records come with the first build, which follows the first read of the hosts file: 10,000 of
        # them take a quarter of a second. Serials go up over restarts as well: seconds since 1970 are ahead of one
        # change a second (RFC 1982).
        bare = replace(policy, records=())
        self.snapshot = build((), bare, wall(), int(wall()) & 0xFFFFFFFF, owners, self.hosts)

    def subscribe(self, listener: Callable[[list[VmChange]], None]) -> None:
        """`listener` receives the VMs that answer differently, by their UUIDs' order, after each new snapshot."""
        self._listeners.append(listener)

    # -- reports ----------------------------------------------------------------------------------------------

    def put(self, source: str, facts: Mapping[str, Fact]) -> None:
        """Takes all that a source sees now."""
        self.patch(source, {**dict.fromkeys(self._facts.get(source, {})), **facts})

    def patch(self, source: str, changes: Mapping[str, Fact | None]) -> None:
        """Takes single facts of a source; None where one is gone."""
        before = self._facts.get(source, {})
        after = {key: fact for key, fact in {**before, **changes}.items() if fact is not None}
        self._facts[source] = after
        if after != before:
            self.rebuild()

    def put_hosts(self, hosts: HostsIndex) -> None:
        """Takes the hosts file, digested for the policy in force."""
        if hosts is not self.hosts:
            self.hosts = hosts
            self.rebuild()

    def configure(self, policy: Policy) -> None:
        """Uses another policy from now on."""
        if policy != self._policy:
            self._policy = policy
            self.rebuild()

    @property
    def facts(self) -> list[Fact]:
        """What all sources report, but for the hosts file."""
        return [fact for facts in self._facts.values() for fact in facts.values()]

    def reported(self, source: str) -> Mapping[str, Fact]:
        """The last report of a source, by its keys."""
        return self._facts.get(source, {})

    def count(self, source: str) -> int:
        """How many facts a source has reported."""
        return self.hosts.count if source == "hosts" else len(self.reported(source))

    # -- builds -----------------------------------------------------------------------------------------------

    def rebuild(self) -> None:
        """Builds soon, also where nothing was reported."""
        self._busy = True
        self._changed.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def after(self, call: Callable[[], None]) -> None:
        """Calls back once everything reported until now is published: at once, if it is."""
        self._after.append(call)
        self._call_after()

    async def wait_until_published(self) -> None:
        """Ends once everything reported until now is published."""
        done = asyncio.Event()
        self.after(done.set)
        await done.wait()

    def close(self) -> None:
        """Stops building."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        """Builds after each change, and when the first lease ends."""
        loop = asyncio.get_running_loop()
        next_build = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._remaining_time()):
                    await self._changed.wait()
            await asyncio.sleep(max(DEBOUNCE_SECONDS, next_build - loop.time()))
            self._changed.clear()
            job = partial(_build, self.facts, self._policy, self._wall(), self.hosts, self.snapshot)
            try:
                snapshot, changes, seconds = await self._in_thread(job)
                next_build = loop.time() + min(INTERVAL_FACTOR * seconds, MAX_INTERVAL) + TICK_SECONDS
                if snapshot != self.snapshot:
                    self.snapshot = snapshot
                    for listener in self._listeners:
                        listener(changes)
            except Exception as error:
                loop.call_exception_handler({"message": "a change could not be published", "exception": error})
            self._busy = self._changed.is_set()
            self._call_after()

    def _call_after(self) -> None:
        while self._after and not self._busy:
            self._after.pop(0)()

    def _remaining_time(self) -> float | None:
        """The seconds until the first lease ends, at most an hour: the wall clock may jump, and then this look corrects
        it. An end that has passed means that no build succeeded since: not in a hurry."""
        end = self.snapshot.valid_until
        left = end - self._wall()
        return (min(left + 0.01, 3600.0) if left > 0 else 1.0) if end else None


def _build(
    facts: list[Fact], policy: Policy, now: float, hosts: HostsIndex, old: Snapshot
) -> tuple[Snapshot, list[VmChange], float]:
    """The next snapshot, the VMs that answer differently, and how many seconds it took."""
    begun = time.perf_counter()
    made = build(facts, policy, now, old.serial, old.name_owners, hosts)
    pairs = ((old.by_uuid.get(uuid), made.by_uuid.get(uuid)) for uuid in sorted({*old.by_uuid, *made.by_uuid}))
    changes = [one for one in (compare_guests(*pair) for pair in pairs if pair[0] != pair[1]) if one is not None]
    if changes or _zone_data(made) != _zone_data(old):
        made = replace(made, serial=(old.serial + 1) & 0xFFFFFFFF)
    return made, changes, time.perf_counter() - begun


def _zone_data(snapshot: Snapshot) -> Snapshot:
    """What of a snapshot is in its zones: not why things are so, nor when leases end."""
    return replace(snapshot, by_uuid={}, absent={}, shared={}, problems=(), name_owners={}, valid_until=0.0)
