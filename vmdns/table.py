"""The one cell of mutable state: the last report of each source, and the snapshot made of them.

Reports only ever mean "this is what I see now"; equal ones stop here. Publishing is one assignment, so that
readers never lock and never see half a change.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from vmdns.core.builder import Built, Moved
from vmdns.core.hosts import Hosts
from vmdns.core.model import Fact, Lease, Machine, Neighbour
from vmdns.core.policy import Policy
from vmdns.core.snapshot import Guest, Snapshot
from vmdns.making import Maker
from vmdns.slices import sliced

# Changes that come together are built together: a few milliseconds later, in a storm of them once in the longer time.
DEBOUNCE_SECONDS = 0.003
LONGEST_DEBOUNCE = 0.02
OF_FACT, OF_STEP = 10, 4  # objects that are kept of a fact, and of a step of a build: VMs, mostly
SERIAL_SECONDS = 1.0  # between two serials: else they overtake the clock that a restart begins with


@dataclass(frozen=True, slots=True)
class Change:
    """One VM whose names or addresses changed: before and after, None where it was not or is no more online."""

    before: Guest | None
    after: Guest | None


@dataclass(frozen=True, slots=True)
class News:
    """What a new snapshot changed: the names (wire) that are answered otherwise, None where it may be any; the VMs that
    answer otherwise, before and after, by UUID."""

    names: frozenset[bytes] | None
    moved: Mapping[str, Moved]

    @property
    def changes(self) -> list[Change]:
        """The VMs that are online before or after, and answer differently, in the order of their UUIDs."""
        found = (change(*pair) for _, pair in sorted(self.moved.items()))
        return [one for one in found if one is not None]


class Table:
    """Holds facts by source, builds when they changed, and tells listeners what changed. Used by one thread.

    grown hears how many objects are kept of it.
    """

    def __init__(
        self, policy: Policy, wall: Callable[[], float] = time.time, grown: Callable[[int], None] = lambda _: None
    ) -> None:
        self._policy = policy
        self._wall = wall
        self._grown = grown
        self._facts: dict[str, dict[str, Fact]] = {}
        self._others: dict[tuple[str, str], Fact] = {}
        self._parts: dict[str, set[str]] = {}  # what a source has told so far, of a report in parts
        self._unbuilt: set[str] = set()  # sources that told something new in a report that is not at its end
        self._hosts: Hosts | None = None
        self._maker = Maker(policy, wall)
        self._turns: Iterator[Built | None] = iter(())
        self._listeners: list[Callable[[News], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._after: list[Callable[[], None]] = []
        self._first = 0.0
        self._begun = float("-inf")
        # Serials go up over restarts as well: seconds since 1970 are ahead of one change a second (RFC 1982).
        self._serial = int(wall()) & 0xFFFFFFFF
        self._numbered = float("-inf")
        self._numbering: asyncio.TimerHandle | None = None
        self.snapshot: Snapshot = self._maker.snapshot.numbered(self._serial)
        self._valid_until = 0.0
        self.late = 0.0  # the longest that a change had to wait for the event loop since the start, in seconds

    def subscribe(self, listener: Callable[[News], None]) -> None:
        """`listener` receives what changed after each new snapshot is in force."""
        self._listeners.append(listener)

    def put(self, source: str, facts: Mapping[str, Fact], *, begins: bool = True, ends: bool = True) -> None:
        """Takes all that a source sees now: at once, or in parts, of which the first begins and the last ends."""
        if begins:
            self._parts[source] = set()
        seen = self._parts[source]
        seen.update(facts)
        self.patch(source, facts, ends=False)
        if ends:
            del self._parts[source]
            gone = [key for key in self._facts[source] if key not in seen]
            self.patch(source, dict.fromkeys(gone))

    def abandon(self, source: str) -> None:
        """The rest of what a source began to tell will not come."""
        self._parts.pop(source, None)
        self._maker.hold(source, False)
        self._later()

    def put_hosts(self, hosts: Hosts) -> None:
        """Takes the hosts file, digested for the policy in force."""
        self._hosts = hosts
        self._maker.put_hosts(hosts)
        self._later()

    def patch(self, source: str, changes: Mapping[str, Fact | None], *, ends: bool = True) -> None:
        """Takes single facts of a source; None where one is gone. ends: whether nothing follows that belongs to it."""
        held = self._facts.setdefault(source, {})
        changed = ends and source in self._unbuilt
        if ends:
            self._maker.hold(source, False)
        for key, fact in changes.items():
            before = held.get(key)
            if before == fact:
                continue
            changed = True
            self._grown(OF_FACT)
            if not ends and not isinstance(fact or before, Lease | Neighbour):  # those mean the same without the rest
                self._maker.hold(source, True)
            self._maker.put((source, key), before, fact)
            if fact is None:
                del held[key]
            else:
                held[key] = fact
            if fact is None or isinstance(fact, Machine | Lease | Neighbour):
                self._others.pop((source, key), None)
            else:
                self._others[source, key] = fact
        if changed:
            self._later()
        if ends:
            self._unbuilt.discard(source)
        elif changed:
            self._unbuilt.add(source)

    def configure(self, policy: Policy) -> None:
        """Another policy from now on."""
        if policy != self._policy:
            self._policy = policy
            self._maker.configure(policy)
            self._later()

    @property
    def facts(self) -> list[Fact]:
        """What all sources report, but for the hosts file."""
        return [fact for held in self._facts.values() for fact in held.values()]

    @property
    def networks(self) -> Iterable[Fact]:
        """The facts that are about no single VM: there are few."""
        return self._others.values()

    def held(self, source: str) -> Mapping[str, Fact]:
        """What a source has reported last, by its keys."""
        return self._facts.get(source, {})

    def count(self, source: str) -> int:
        """How many facts a source has reported."""
        if source == "hosts" and self._hosts is not None:
            return self._hosts.count
        return len(self._facts.get(source, ()))

    # -- making -----------------------------------------------------------------------------------------------

    def rebuild(self) -> None:
        """Builds at once, however long that takes; the snapshot in force stays if nothing changed but the time."""
        self._stop_timers()
        self._maker.look()
        try:
            for turns in (self._turns, self._maker.turns()):
                for built in turns:
                    if built is not None:
                        self._publish(built)
        finally:
            self._watch_expiry()
        self._call_after()

    def after(self, call: Callable[[], None]) -> None:
        """Calls back once all that was put by now is in force: at once, if it is."""
        self._after.append(call)
        if self._timer is None and self._task is None:
            self._call_after()

    async def settled(self) -> None:
        """Ends once all that was put by now is in force."""
        done = asyncio.Event()
        self.after(done.set)
        await done.wait()

    def _later(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._timer is None:
            self._first = now
        else:
            self._timer.cancel()
        soon = min(now + DEBOUNCE_SECONDS, self._first + LONGEST_DEBOUNCE)
        self._timer = loop.call_at(max(soon, self._begun + LONGEST_DEBOUNCE), self._begin)

    def _begin(self) -> None:
        if self._timer is not None:
            self._begun = asyncio.get_running_loop().time()
            self.late = max(self.late, self._begun - self._timer.when())
        self._stop_timers()
        self._maker.look()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        """Makes what there is to be made, a slice at a time: what else waits for the loop gets its turn between."""
        try:
            self._turns = self._maker.turns()
            async for built in sliced(self._turns):
                self._grown(OF_STEP)
                if built is not None:
                    self._publish(built)
        except Exception as error:
            message = "a change could not be put in force"
            asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})
        finally:
            self._task = None
            if self._timer is None:
                self._stop_timers()
                self._watch_expiry()
        if self._timer is None:
            self._call_after()

    def _call_after(self) -> None:
        calls, self._after = self._after, []
        for call in calls:
            call()

    def _publish(self, built: Built) -> None:
        before, made = self.snapshot, built.snapshot
        self._valid_until = made.valid_until
        if built.names is not None and not built.others and _rest(made) == _rest(before):
            return
        if built.names is None or built.names:
            self._count_up()
        self.snapshot = made.numbered(self._serial)
        self._tell(News(built.names, built.moved))

    def _tell(self, news: News) -> None:
        for listener in self._listeners:
            listener(news)

    def _count_up(self) -> None:
        """The data is another one, and so is its serial: a moment later, where it went up within this second."""
        if self._numbering is not None:
            return
        loop = asyncio.get_running_loop()
        left = self._numbered + SERIAL_SECONDS - loop.time()
        if left <= 0.001:
            self._serial = (self._serial + 1) & 0xFFFFFFFF
            self._numbered = loop.time()
        else:
            self._numbering = loop.call_later(left, self._number)

    def _number(self) -> None:
        self._numbering = None
        self._count_up()
        self.snapshot = self.snapshot.numbered(self._serial)
        self._tell(News(frozenset(), {}))

    def _watch_expiry(self) -> None:
        end = self._valid_until
        if end:
            # At most an hour ahead: the wall clock may jump, and then this look corrects it. A time that has passed
            # means that no build succeeded since: not in a hurry.
            left = end - self._wall()
            delay = min(left + 0.01, 3600.0) if left > 0 else 1.0
            self._expiry = asyncio.get_running_loop().call_later(delay, self._begin)

    def _stop_timers(self) -> None:
        for timer in (self._timer, self._expiry):
            if timer is not None:
                timer.cancel()
        self._timer = self._expiry = None

    def close(self) -> None:
        """No build from now on."""
        self._stop_timers()
        self._turns = iter(())
        if self._numbering is not None:
            self._numbering.cancel()
        if self._task is not None:
            self._task.cancel()


def change(before: Guest | None, after: Guest | None) -> Change | None:
    """What is to be told of a VM that is another one now; None where it answers as before."""
    was = before if before is not None and before.machine.online else None
    now = after if after is not None and after.machine.online else None
    if (was or now) and (was is None or now is None or was.answers != now.answers):
        return Change(was, now)
    return None


def _rest(snapshot: Snapshot) -> object:
    """What is not in the names that are answered otherwise, nor in VMs."""
    return (
        snapshot.problems, snapshot.ttl, snapshot.wildcards, snapshot.lan, snapshot.looked, snapshot.forwarded,
        snapshot.soa[:-20], snapshot.soa[-16:], _Same(snapshot.outside), _Same(snapshot.nodes), _Same(snapshot.late),
    )  # fmt: skip


class _Same:
    """Equal to one of the very same thing: who made it anew had reason to, and comparing takes long."""

    def __init__(self, thing: object) -> None:
        self._thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._thing is self._thing
