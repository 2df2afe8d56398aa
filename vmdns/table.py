"""The one cell of mutable state: the last report of each source, and the snapshot made of them.

Reports only ever mean "this is what I see now"; equal ones stop here. Publishing is one assignment, so that
readers never lock and never see half a change.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from vmdns.core.builder import Builder, Moved
from vmdns.core.hosts import Hosts
from vmdns.core.model import Fact
from vmdns.core.policy import Policy
from vmdns.core.snapshot import Guest, Snapshot

# Changes that come together are built together: a few milliseconds, and never more than this much later.
DEBOUNCE_SECONDS = 0.003
LONGEST_DEBOUNCE = 0.02


@dataclass(frozen=True, slots=True)
class Change:
    """One VM whose names or addresses changed: before and after, None where it was not or is no more online."""

    before: Guest | None
    after: Guest | None


@dataclass(frozen=True, slots=True)
class News:
    """What a new snapshot changed: VMs, and the names (wire) that are answered otherwise, None where it may be any."""

    changes: list[Change]
    names: frozenset[bytes] | None


class Table:
    """Holds facts by source, builds when they changed, and tells listeners what changed. Used by one thread."""

    def __init__(self, policy: Policy, wall: Callable[[], float] = time.time) -> None:
        self._policy = policy
        self._wall = wall
        self._facts: dict[str, dict[str, Fact]] = {}
        self._hosts: Hosts | None = None
        self._builder = Builder(policy)
        self._listeners: list[Callable[[News], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._first = 0.0
        # Serials go up over restarts as well: seconds since 1970 are ahead of one change a second (RFC 1982).
        self._serial = int(wall()) & 0xFFFFFFFF
        self.snapshot: Snapshot = self._builder.build(wall(), self._serial).snapshot
        self._valid_until = 0.0

    def subscribe(self, listener: Callable[[News], None]) -> None:
        """`listener` receives what changed after each new snapshot is in force."""
        self._listeners.append(listener)

    def put(self, source: str, facts: Mapping[str, Fact]) -> None:
        """Takes everything that a source sees now."""
        held = self._facts.get(source, {})
        self.patch(source, {**dict.fromkeys(held.keys() - facts.keys()), **facts})

    def put_hosts(self, hosts: Hosts) -> None:
        """Takes the hosts file, digested for the policy in force."""
        self._hosts = hosts
        self._builder.put_hosts(hosts)
        self._later()

    def patch(self, source: str, changes: Mapping[str, Fact | None]) -> None:
        """Takes single facts of a source; None where one is gone."""
        held = self._facts.setdefault(source, {})
        changed = False
        for key, fact in changes.items():
            if held.get(key) == fact:
                continue
            changed = True
            self._builder.put((source, key), fact)
            if fact is None:
                del held[key]
            else:
                held[key] = fact
        if changed:
            self._later()

    def configure(self, policy: Policy) -> None:
        """Another policy from now on."""
        if policy != self._policy:
            self._policy = policy
            self._builder.configure(policy)
            self._later()

    @property
    def facts(self) -> list[Fact]:
        """What all sources report, but for the hosts file."""
        return [fact for held in self._facts.values() for fact in held.values()]

    def held(self, source: str) -> Mapping[str, Fact]:
        """What a source has reported last, by its keys."""
        return self._facts.get(source, {})

    def count(self, source: str) -> int:
        """How many facts a source has reported."""
        if source == "hosts" and self._hosts is not None:
            return self._hosts.count
        return len(self._facts.get(source, ()))

    def rebuild(self) -> None:
        """Builds at once; the snapshot in force stays if nothing changed but the time."""
        self._stop_timers()
        try:
            self._publish()
        finally:
            self._watch_expiry()

    def _publish(self) -> None:
        before = self.snapshot
        built = self._builder.build(self._wall(), self._serial)
        made = built.snapshot
        self._valid_until = made.valid_until
        if built.names is None:
            same = replace(made, valid_until=0.0) == replace(before, valid_until=0.0)
            names = None if same or _data(made) != _data(before) else frozenset[bytes]()
        else:
            same = not built.moved and made.problems == before.problems
            names = built.names
        if same:
            return
        if names is None or names:
            self._serial = (self._serial + 1) & 0xFFFFFFFF
            made = made.numbered(self._serial)
        self.snapshot = made
        pairs = (
            ((before.by_uuid.get(uuid), made.by_uuid.get(uuid)) for uuid in before.by_uuid.keys() | made.by_uuid.keys())
            if built.names is None
            else built.moved.values()
        )
        news = News(sorted(_changes(pairs), key=_uuid), names)
        for listener in self._listeners:
            listener(news)

    def _later(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._timer is None:
            self._first = now
        else:
            self._timer.cancel()
        self._timer = loop.call_at(min(now + DEBOUNCE_SECONDS, self._first + LONGEST_DEBOUNCE), self.rebuild)

    def _watch_expiry(self) -> None:
        end = self._valid_until
        if end:
            # At most an hour ahead: the wall clock may jump, and then this look corrects it. A time that has passed
            # means that no build succeeded since: not in a hurry.
            left = end - self._wall()
            delay = min(left + 0.01, 3600.0) if left > 0 else 1.0
            self._expiry = asyncio.get_running_loop().call_later(delay, self.rebuild)

    def _stop_timers(self) -> None:
        for timer in (self._timer, self._expiry):
            if timer is not None:
                timer.cancel()
        self._timer = self._expiry = None

    def close(self) -> None:
        """No build from now on."""
        self._stop_timers()


def _changes(pairs: Iterable[Moved]) -> Iterator[Change]:
    """The VMs that are online before or after, and answer differently."""
    for before, after in pairs:
        was = before if before is not None and before.machine.online else None
        now = after if after is not None and after.machine.online else None
        if (was or now) and (was is None or now is None or was.answers != now.answers):
            yield Change(was, now)


def _uuid(change: Change) -> str:
    guest = change.after or change.before
    return guest.machine.uuid if guest is not None else ""


def _data(snapshot: Snapshot) -> object:
    """What decides the answers: the serial follows it."""
    guests = [(uuid, guest.answers) for uuid, guest in sorted(snapshot.by_uuid.items())]
    return snapshot.nodes, snapshot.late, snapshot.zones, snapshot.absent, guests, snapshot.ways, snapshot.lan
