"""Runs independent checks at the same time, bounded, and reports which of them take long."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

# A user is never left without a line for longer. The first comes after half of it: starting takes time as well.
REPORT_SECONDS = 1.0

T = TypeVar("T")


def run_parallel(tasks: Mapping[str, Callable[[], T]], seconds: float, report: Callable[[str], None]) -> dict[str, T]:
    """The results of the tasks that end within `seconds`, by the tasks' names; the others are abandoned.

    `report` is given a line at least once a second with the tasks still running. What a task raises is raised here.
    """
    ended: queue.SimpleQueue[tuple[str, T | None, Exception | None]] = queue.SimpleQueue()

    def run(name: str, task: Callable[[], T]) -> None:
        try:
            ended.put((name, task(), None))
        except Exception as error:
            ended.put((name, None, error))

    # Not of concurrent.futures: the interpreter waits at its end for threads of those, also for one that is stuck.
    for name, task in tasks.items():
        threading.Thread(target=run, args=(name, task), daemon=True).start()
    results: dict[str, T] = {}
    pending = dict.fromkeys(tasks)
    began = time.monotonic()
    end, next_report = began + seconds, began + REPORT_SECONDS / 2
    while pending and (now := time.monotonic()) < end:
        if now >= next_report:
            report(f"still waiting for {', '.join(pending)}")
            next_report += REPORT_SECONDS
        try:
            name, result, error = ended.get(timeout=max(0.0, min(next_report, end) - now))
        except queue.Empty:
            continue
        if error is not None:
            raise error
        del pending[name]
        results[name] = result  # type: ignore[assignment]
    return results
