"""A fact that changes on and on, as a guest can have it by its properties, is told of now and then only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from vmdns.core.account import Bucket
from vmdns.core.model import Fact

CHANGES = 20  # of one fact that are told at once
A_SECOND = 10  # more of them, each second
HELD_SECONDS = 2.0  # until the newest of those beyond is told

Changes = Mapping[str, Fact | None]


class Calm:
    """Changes of facts by their keys, None for what is gone; clock is of seconds. For one thread.

    A change beyond is held for HELD_SECONDS; another one of the same fact takes its place meanwhile.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}  # of changes that may be told at once
        self._held: dict[str, tuple[float, Fact | None]] = {}  # and when each is due, as they came

    def wait(self, seconds: float) -> float:
        """How long to wait for changes, where it would be so many seconds else."""
        for due, _ in self._held.values():
            return min(seconds, max(0.0, due - self._clock()))
        return seconds

    def take(self, changes: Changes) -> dict[str, Fact | None]:
        """Takes changes. Returns what is to be told now: of these, and of those before."""
        now, told = self._clock(), {}
        for key, fact in changes.items():
            bucket = self._buckets.get(key)
            if bucket is None:
                bucket = self._buckets[key] = Bucket(A_SECOND, CHANGES, now)
            level = bucket.level(now)
            # Those that are held count as well, so that a flood does not end while it goes on.
            bucket.charge(min(1.0, level + CHANGES))
            if level < 1 or key in self._held:
                due, _ = self._held.get(key, (now + HELD_SECONDS, None))
                self._held[key] = due, fact
            else:
                told[key] = fact
        for key, (due, fact) in list(self._held.items()):
            if due <= now:
                del self._held[key]
                told[key] = fact
        for key, fact in told.items():
            if fact is None:
                self._buckets.pop(key, None)
        return told
