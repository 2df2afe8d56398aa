"""Rests in long work in the background.

Where it shares a core with the server, a system may let it go on for tens of milliseconds, though others want to go on:
one that answers waits for one that holds the interpreter's lock, and nobody wakes who would go first.
"""

from __future__ import annotations

import time

WORK_SECONDS, REST_SECONDS = 0.001, 0.001


class Rests:
    """Rests for a millisecond after each one of a piece of work, from the first call on. Used by one thread."""

    def __init__(self) -> None:
        self._end: float | None = None

    def __call__(self) -> None:
        """To be called often: rests where it is time to."""
        now = time.perf_counter()
        if self._end is None:
            self._end = now + WORK_SECONDS
        elif now > self._end:
            time.sleep(REST_SECONDS)
            self._end = time.perf_counter() + WORK_SECONDS
