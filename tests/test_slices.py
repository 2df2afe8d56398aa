"""Long work in the event loop, a slice at a time."""

from __future__ import annotations

import asyncio

import pytest

from tests import clock
from vmdns import slices
from vmdns.slices import Slices, sliced


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_SECONDS", -1.0)  # over at once


def test_others_get_their_turn_between_two_steps() -> None:
    order: list[str] = []

    async def work(name: str) -> None:
        async for step in sliced(range(3)):
            order.append(f"{name}{step}")

    async def main() -> None:
        await asyncio.gather(work("a"), work("b"))

    clock.run(main())
    assert order == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_the_loop_rests_between_two_slices() -> None:
    times: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        slices.REST_SECONDS = 0.5  # put back by the clock
        async for _ in sliced(range(3)):
            times.append(loop.time())
        Slices(lambda _: times.append(loop.time())).add(range(3))
        await asyncio.sleep(10)

    clock.run(main())
    assert times == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]


def test_one_thing_after_the_other_and_one_that_fails_holds_up_none() -> None:
    done: list[int] = []
    between: list[int] = []

    def do(number: int) -> None:
        done.append(number)
        asyncio.get_running_loop().call_soon(lambda: between.append(number))
        if number == 2:
            raise BrokenPipeError

    async def main() -> None:
        errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
        work = Slices(do)
        work.add([1, 2])
        work.add([3])
        await asyncio.sleep(0)
        work.add([4])
        assert done == [1]
        await asyncio.sleep(1)
        assert done == [1, 2, 3, 4] == between
        work.add([])
        work.add([5])
        await asyncio.sleep(1)
        assert done == [1, 2, 3, 4, 5]
        assert len(errors) == 1

    clock.run(main())
