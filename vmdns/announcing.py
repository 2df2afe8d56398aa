"""Which names are there, told the host's links by multicast: what changed, a moment later and a slice at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice

from vmdns.core.mdns_links import Links, Told, bare
from vmdns.core.snapshot import Snapshot
from vmdns.serve.multicast import Multicast
from vmdns.slices import sliced

SOON_SECONDS = 0.05  # changes that come together are told together
# Between one telling and the next: no record is multicast twice within a second anyway (RFC 6762 section 6), and a VM
# that comes and goes meanwhile is nothing that others on the link need to hear of.
APART_SECONDS = 1.0
PORTION = 16  # names in a step


class Announcing:
    """Keeps multicast DNS up with the snapshot in force, which current gives."""

    def __init__(self, multicast: Multicast, current: Callable[[], Snapshot]) -> None:
        self._multicast = multicast
        self._current = current
        self._names = True
        self._links = Links(True)
        self._moved: set[str] | None = None  # VMs that are other ones since; None for possibly all
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._begun = float("-inf")

    def configure(self, names: bool, relay: bool) -> None:
        """names: whether VMs are told. relay: whether others are asked, also where no VM is."""
        if (names, relay) != (self._names, self._links.relay):
            self._names, self._links = names, Links(relay)
            self.changed(None)

    def changed(self, moved: Iterable[str] | None) -> None:
        """These VMs (by UUID) are other ones, None for possibly all."""
        if moved is None or self._moved is None:
            self._moved = None
        else:
            self._moved.update(moved)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time() + SOON_SECONDS, self._begun + APART_SECONDS), self._begin)

    def close(self) -> None:
        """Tells no more."""
        for one in (self._timer, self._task):
            if one is not None:
                one.cancel()

    def _begin(self) -> None:
        self._timer = None
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._begun = loop.time()
            self._task = loop.create_task(self._work())

    async def _work(self) -> None:
        moved, self._moved = self._moved, set()
        try:
            await self._tell(moved)
        except BaseException:
            self._moved = None  # half of it was done: the next time all is
            raise
        finally:
            self._task = None
        if self._moved is None or self._moved:
            self.changed(())

    async def _tell(self, moved: set[str] | None) -> None:
        links, told = self._links, dict[str, Told]()
        if self._names:
            async for _ in sliced(_into(told, links.steps(self._current(), moved))):
                pass
            found = links.found
        else:
            found = bare(self._current(), links.relay) if links.relay else {}
        fresh = self._multicast.open(found)
        for interface, link in found.items():
            parts = Told(link.names, dict(link.pointers)) if interface in fresh else told.get(interface)
            async for part in sliced(_parts(parts) if parts is not None else ()):
                self._multicast.change(interface, part)


def _into(told: dict[str, Told], steps: Generator[None, None, dict[str, Told]]) -> Iterator[None]:
    told.update((yield from steps))


def _parts(told: Told) -> Iterator[Told]:
    """The same in portions."""
    names, pointers = iter(told.names.items()), iter(told.pointers.items())
    while some := dict(islice(names, PORTION)):
        yield Told(some, {})
    while others := dict(islice(pointers, PORTION)):
        yield Told({}, others)
