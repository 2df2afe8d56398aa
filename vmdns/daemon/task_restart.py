"""Background tasks: restarted after a failure, and every failure is logged and counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a restart


async def run_with_restarts(what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Does the work until it is over or cancelled, and restarts it after a failure. what: the work, for the log."""
    loop = asyncio.get_running_loop()
    pause = FIRST_PAUSE
    while True:
        began = loop.time()
        try:
            await work()
            return
        except Exception as error:
            loop.call_exception_handler({"message": f"{what} failed and is restarted", "exception": error})
        pause = FIRST_PAUSE if loop.time() - began > LONGEST_PAUSE else pause
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


class Faults:
    """Counts exceptions that nobody caught in an event loop, which goes on. log(sentence, error) logs each."""

    def __init__(self, log: Callable[[str, BaseException | None], None]) -> None:
        self.count = 0
        self._log = log

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on."""
        loop.set_exception_handler(self._caught)

    def _caught(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        self.count += 1
        error = context.get("exception")
        self._log(str(context.get("message")), error if isinstance(error, BaseException) else None)

    def ended(self, task: asyncio.Task[None]) -> None:
        """A task's done callback: logs a failure at once, not only when the task is collected."""
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


class Tasks:
    """Tasks that run in the background until they are over or `cancel` is called."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts a task; its failure is counted."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._faults.ended)

    async def finished(self) -> None:
        """Ends once all tasks of now have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cancel(self) -> None:
        """Cancels all tasks and waits for their end."""
        for task in self._tasks:
            task.cancel()
        await self.finished()
