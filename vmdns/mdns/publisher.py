"""Publishes the names of VMs by multicast DNS on the host's links, at most once a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vmdns.mdns.links import find_links
from vmdns.mdns.transport import Multicast
from vmdns.state.snapshot import Snapshot

DEBOUNCE_SECONDS = 0.05
# No record is multicast twice within a second anyway (RFC 6762 section 6).
INTERVAL_SECONDS = 1.0


class MdnsPublisher:
    """Updates multicast DNS from the current snapshot.

    names: whether VMs are published; relay: whether links are queried for names that no VM has.
    """

    def __init__(self, multicast: Multicast, current: Callable[[], Snapshot]) -> None:
        self.names = self.relay = True
        self._multicast = multicast
        self._current = current
        self._timer: asyncio.TimerHandle | None = None
        self._last = float("-inf")

    def schedule(self) -> None:
        """Schedules an update after the snapshot or the settings changed."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            due = max(loop.time() + DEBOUNCE_SECONDS, self._last + INTERVAL_SECONDS)
            self._timer = loop.call_at(due, self._publish)

    def close(self) -> None:
        """Cancels scheduled updates."""
        if self._timer is not None:
            self._timer.cancel()

    def _publish(self) -> None:
        self._timer = None
        self._last = asyncio.get_running_loop().time()
        self._multicast.set_links(find_links(self._current(), self.relay, self.names))
