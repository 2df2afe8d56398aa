"""That a sleep of the computer is noticed, by a clock that goes on meanwhile, and a busy moment is not."""

from __future__ import annotations

import asyncio
from itertools import accumulate

import pytest

from vmdns.daemon import process


@pytest.mark.parametrize(
    ("passed", "missed"), [((0.1, 4.9, 0.1), []), ((0.1, 60, 0.1), [60]), ((7, 3600, 0, 86_400), [7, 3600, 86_400])]
)
def test_what_is_missed_is_reported_once(
    passed: tuple[float, ...], missed: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that passes by the clock from one look to the next, and what is reported of it."""
    monkeypatch.setattr(process, "CHECK_SECONDS", 0.0)
    reported: list[float] = []
    times = iter(accumulate(passed, initial=1000.0))

    async def main() -> None:
        done = asyncio.Event()

        def now() -> float:
            try:
                return next(times)
            except StopIteration:
                done.set()
                return 1000.0 + sum(passed)

        task = asyncio.create_task(process.watch_suspends(lambda seconds: reported.append(round(seconds, 3)), now))
        async with asyncio.timeout(10):
            await done.wait()
        task.cancel()

    asyncio.run(main())
    assert reported == missed
