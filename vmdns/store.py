"""The one cell of mutable state: the last report of each source, and the snapshot built from them.

A report means "this is what I see now"; equal ones stop here. A build runs in a thread, one at a time, and publishing
its snapshot is one assignment, so that readers never lock and never see half a change.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from vmdns.state.build import build
from vmdns.state.facts import Fact
from vmdns.state.guests import VmChange, compare_guests
from vmdns.state.name_rules import Owners
from vmdns.state.policy import Policy
from vmdns.state.snapshot import Snapshot
from vmdns.state.static_records import HostsIndex

DEBOUNCE_SECONDS = 0.003
# The next build waits for this many times what the last one took: building has a tenth of a core at most, also where a
# guest changes its address without end.
INTERVAL_FACTOR = 10
MAX_INTERVAL = 1.0

_Built = tuple[Snapshot, list[VmChange], float]


class Store:
    """Holds facts by source, builds when they changed, and notifies listeners. Used by one thread.

    wall gives the Unix time; in_thread runs a function beside the event loop; owners are those of the names of VMs
    when vmdns ran last.
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
        self._hosts = HostsIndex()
        self._listeners: list[Callable[[list[VmChange]], None]] = []
        self._changed = False
        self._timer: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._next = float("-inf")  # when the next build may begin, in the time of the event loop
        self._after: list[Callable[[], None]] = []
        # The user's own records come with the first build, which follows the first read of the hosts file: 10,000 of
        # them take a quarter of a second. Serials go up over restarts as well: seconds since 1970 are ahead of one
        # change a second (RFC 1982).
        bare = replace(policy, records=())
        self.snapshot = build((), bare, wall(), int(wall()) & 0xFFFFFFFF, owners, self._hosts)

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
            self._schedule()

    def put_hosts(self, hosts: HostsIndex) -> None:
        """Takes the hosts file, digested for the policy in force."""
        if hosts is not self._hosts:
            self._hosts = hosts
            self._schedule()

    def configure(self, policy: Policy) -> None:
        """Uses another policy from now on."""
        if policy != self._policy:
            self._policy = policy
            self._schedule()

    @property
    def facts(self) -> list[Fact]:
        """What all sources report, but for the hosts file."""
        return [fact for facts in self._facts.values() for fact in facts.values()]

    def reported(self, source: str) -> Mapping[str, Fact]:
        """The last report of a source, by its keys."""
        return self._facts.get(source, {})

    def count(self, source: str) -> int:
        """How many facts a source has reported."""
        return self._hosts.count if source == "hosts" else len(self.reported(source))

    # -- builds -----------------------------------------------------------------------------------------------

    def rebuild(self) -> None:
        """Builds and publishes now, in this thread."""
        self.close()
        self._changed = False
        try:
            self._publish(self._job()())
        finally:
            self._watch_expiry()
        self._call_after()

    def after(self, call: Callable[[], None]) -> None:
        """Calls back once everything reported until now is published: at once, if it is."""
        self._after.append(call)
        if self._timer is None and self._task is None:
            self._call_after()

    async def settled(self) -> None:
        """Ends once everything reported until now is published."""
        done = asyncio.Event()
        self.after(done.set)
        await done.wait()

    def close(self) -> None:
        """Stops building."""
        for one in (self._timer, self._expiry, self._task):
            if one is not None:
                one.cancel()
        self._timer = self._expiry = self._task = None

    def _schedule(self) -> None:
        self._changed = True
        if self._timer is None and self._task is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time() + DEBOUNCE_SECONDS, self._next), self._begin)

    def _begin(self) -> None:
        self._timer = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    def _job(self) -> Callable[[], _Built]:
        """A build of the current reports, to be run in any thread."""
        return partial(_build, self.facts, self._policy, self._wall(), self._hosts, self.snapshot)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        self._changed = False
        try:
            built: _Built = await self._in_thread(self._job())
            self._next = loop.time() + min(INTERVAL_FACTOR * built[2], MAX_INTERVAL)
            self._publish(built)
        except Exception as error:
            loop.call_exception_handler({"message": "a change could not be published", "exception": error})
        finally:
            self._task = None
            self._watch_expiry()
        if self._changed:
            self._schedule()
        else:
            self._call_after()

    def _call_after(self) -> None:
        calls, self._after = self._after, []
        for call in calls:
            call()

    def _publish(self, built: _Built) -> None:
        snapshot, changes, _ = built
        if snapshot != self.snapshot:
            self.snapshot = snapshot
            for listener in self._listeners:
                listener(changes)

    def _watch_expiry(self) -> None:
        """Builds again when the first lease ends."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        end = self.snapshot.valid_until
        if end:
            # At most an hour ahead: the wall clock may jump, and then this look corrects it. A time that has passed
            # means that no build succeeded since: not in a hurry.
            left = end - self._wall()
            delay = min(left + 0.01, 3600.0) if left > 0 else 1.0
            self._expiry = asyncio.get_running_loop().call_later(delay, self._begin)


def _build(facts: list[Fact], policy: Policy, now: float, hosts: HostsIndex, old: Snapshot) -> _Built:
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
    return replace(snapshot, by_uuid={}, absent={}, problems=(), name_owners={}, valid_until=0.0)
