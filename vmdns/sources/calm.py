"""A fact that changes on and on, as a guest can have it by its properties, is told of now and then only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

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
        self._left: dict[str, tuple[float, float]] = {}  # how many changes may be told at once, and when that was so
        self._held: dict[str, Fact | None] = {}
        self._due: dict[str, float] = {}  # those that are held, as they came

    def wait(self, seconds: float) -> float:
        """How long to wait for changes, where it would be so many seconds else."""
        return min(seconds, max(0.0, next(iter(self._due.values())) - self._clock())) if self._due else seconds

    def take(self, changes: Changes) -> dict[str, Fact | None]:
        """Takes changes. Returns what is to be told now: of these, and of those before."""
        now, told = self._clock(), {}
        for key, fact in changes.items():
            left, then = self._left.get(key, (CHANGES, now))
            # Those that are held count as well, so that a flood does not end while it goes on.
            left = max(min(left + (now - then) * A_SECOND, CHANGES) - 1, -CHANGES)
            self._left[key] = left, now
            if left < 0 or key in self._due:
                self._held[key] = fact
                self._due.setdefault(key, now + HELD_SECONDS)
            else:
                told[key] = fact
        for key in [key for key, due in self._due.items() if due <= now]:
            del self._due[key]
            told[key] = self._held.pop(key)
        for key, fact in told.items():
            if fact is None and key not in self._due:
                self._left.pop(key, None)
        return told
