"""Notices that this computer slept, or that vmdns itself was held up: what was true before may not be any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LOOK_SECONDS = 5.0
GAP_SECONDS = 5.0  # a busy computer delays a timer by less


def clock() -> float:
    """Seconds that go on while the machine sleeps, where it tells them: CLOCK_BOOTTIME on Linux; on macOS
    CLOCK_MONOTONIC, unlike time.monotonic(); on Windows time.monotonic()."""
    which = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    return time.monotonic() if which is None else time.clock_gettime(which)


class Waking:
    """Calls `woke` with how many seconds were missed. now is a clock like `clock`; used by one event loop."""

    def __init__(self, woke: Callable[[float], None], now: Callable[[], float] = clock) -> None:
        self._woke = woke
        self._now = now
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0.0

    def start(self) -> None:
        """Looks at the clock every five seconds from now on."""
        self._last = self._now()
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        before = self._last
        self.start()
        missed = self._last - before - LOOK_SECONDS
        if missed >= GAP_SECONDS:
            self._woke(missed)

    def stop(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()
