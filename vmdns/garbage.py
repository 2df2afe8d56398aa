"""Python's collector of cyclic garbage, kept from holding up answers.

Each time it looks at everything that lives, which with 10,000 VMs takes a quarter of a second, in which nobody is
answered. What is known to live long is put out of its sight, and what is left is looked at by the clock.
"""

from __future__ import annotations

import asyncio
import gc

COLLECT_SECONDS = 60.0
MANY = 500  # objects that were made and stay: to look at them takes a quarter of a millisecond
_NEVER = 1_000_000


class Garbage:
    """Looks after the collector while it is started. Of one process there is one collector."""

    def __init__(self) -> None:
        self._thresholds = gc.get_threshold()
        self._timer: asyncio.TimerHandle | None = None
        self._new = 0

    def start(self) -> None:
        """From now on the oldest objects are looked at once a minute. All that is there by now lives long."""
        first, second, _ = self._thresholds = gc.get_threshold()
        gc.set_threshold(first, second, _NEVER)
        gc.freeze()
        self._later()

    def grown(self, number: int) -> None:
        """So many objects were made that will stay."""
        self._new += number
        if self._new >= MANY:
            self._new = 0
            gc.collect()  # what is garbage by now would stay for ever; there is little since the last time
            gc.freeze()

    def stop(self) -> None:
        """As it was before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            gc.set_threshold(*self._thresholds)
            gc.unfreeze()

    def _later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(COLLECT_SECONDS, self._collect)

    def _collect(self) -> None:
        gc.collect()
        self._later()
