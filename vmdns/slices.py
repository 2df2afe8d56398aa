"""Long work in the event loop, a slice at a time: what else waits for the loop gets its turn between.

After each slice the loop rests. The threads that answer need the interpreter's lock and perhaps the same core, and get
neither from a loop that goes on at once: a system lets a thread run for some 3 ms before another one's turn.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")

# So long the loop is held at once, and two or three times as long where threads want the interpreter's lock.
SLICE_SECONDS = 0.0005
# Windows would sleep for 15 ms.
REST_SECONDS = 0.001 if sys.platform != "win32" else 0.0


async def sliced(steps: Iterable[T]) -> AsyncIterator[T]:
    """The same, with pauses."""
    end = time.perf_counter() + SLICE_SECONDS
    for step in steps:
        yield step
        if time.perf_counter() > end:
            await asyncio.sleep(REST_SECONDS)
            end = time.perf_counter() + SLICE_SECONDS


class Slices(Generic[T]):
    """Does something with one thing after the other, soon after they are added. Used from one event loop."""

    def __init__(self, do: Callable[[T], None]) -> None:
        self._do = do
        self._things: deque[T] = deque()
        self._going = False

    def add(self, things: Iterable[T]) -> None:
        """These come after those that were added before."""
        self._things.extend(things)
        if self._things and not self._going:
            self._going = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        end = time.perf_counter() + SLICE_SECONDS
        try:
            while self._things:
                self._do(self._things.popleft())
                if time.perf_counter() > end:
                    break
        finally:
            self._going = bool(self._things)
            if self._going:
                asyncio.get_running_loop().call_later(REST_SECONDS, self._go_on)
