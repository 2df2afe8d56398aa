"""The longest time that an event loop did not come round.

    python beat.py FOLDER

This is an event loop that does nothing else, for what the machine itself makes of it. FOLDER/pause has the time in ms.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

BEAT_SECONDS = 0.0005


class Beat:
    """Wakes up in the loop every half millisecond; begins anew when whoever measures has taken the file."""

    def __init__(self, pause: Path) -> None:
        self._pause = pause
        self._longest = 0.0
        self._last = time.perf_counter()
        asyncio.get_running_loop().call_soon(self._come)

    def _come(self) -> None:
        stood = time.perf_counter() - self._last - BEAT_SECONDS
        taken = not self._pause.exists()
        if stood > self._longest or taken:
            self._longest = 0.0 if taken else stood
            self._pause.write_text(f"{self._longest * 1000:.3f}")
        self._last = time.perf_counter()
        asyncio.get_running_loop().call_later(BEAT_SECONDS, self._come)


async def main() -> None:
    Beat(Path(sys.argv[1]) / "pause")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
