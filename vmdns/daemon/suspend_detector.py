"""Detects that this computer was suspended, or vmdns stopped: what was true before may not be any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

CHECK_SECONDS = 5.0
GAP_SECONDS = 5.0  # a busy computer delays a timer by less


def clock() -> float:
    """Seconds that also count suspends: CLOCK_BOOTTIME on Linux; on macOS CLOCK_MONOTONIC, unlike time.monotonic(); on
    Windows time.monotonic()."""
    which = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    return time.monotonic() if which is None else time.clock_gettime(which)


class SuspendDetector:
    """Calls `resumed` with the seconds that were missed. now is a clock like `clock`; used by one event loop."""

    def __init__(self, resumed: Callable[[float], None], now: Callable[[], float] = clock) -> None:
        self._resumed = resumed
        self._now = now
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0.0

    def start(self) -> None:
        """Checks the clock every five seconds from now on."""
        self._last = self._now()
        self._timer = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._look)

    def _look(self) -> None:
        before = self._last
        self.start()
        missed = self._last - before - CHECK_SECONDS
        if missed >= GAP_SECONDS:
            self._resumed(missed)

    def stop(self) -> None:
        """Stops checking."""
        if self._timer is not None:
            self._timer.cancel()
