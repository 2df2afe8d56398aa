"""Work that must not end by a fault: it is begun anew, and the fault told to the event loop, where it is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before it is begun anew


async def lasting(what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Does the work until it is over or cancelled, however often it fails meanwhile. what: for whoever reads of it."""
    loop = asyncio.get_running_loop()
    pause = FIRST_PAUSE
    while True:
        began = loop.time()
        try:
            await work()
            return
        except Exception as error:
            loop.call_exception_handler({"message": f"{what} failed, and is begun anew", "exception": error})
        pause = FIRST_PAUSE if loop.time() - began > LONGEST_PAUSE else pause
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


class Faults:
    """Counts what nobody caught in an event loop, and has the loop go on. tell(sentence, error) says each."""

    def __init__(self, tell: Callable[[str, BaseException | None], None]) -> None:
        self.count = 0
        self._tell = tell

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on."""
        loop.set_exception_handler(self._caught)

    def _caught(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        self.count += 1
        error = context.get("exception")
        self._tell(str(context.get("message")), error if isinstance(error, BaseException) else None)

    def ended(self, task: asyncio.Task[None]) -> None:
        """A task's callback: tells at once how it ended, not only when it is collected."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._caught(task.get_loop(), {"message": f"{task.get_name()} failed", "exception": error})

    @property
    def problems(self) -> list[str]:
        """A sentence for the status, if there were any."""
        if not self.count:
            return []
        times = "once" if self.count == 1 else f"{self.count} times"
        return [f"vmdns itself failed at something {times} since its start, and went on; its log says at what"]
