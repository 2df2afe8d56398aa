"""The collector of cyclic garbage is kept from looking at all that lives."""

from __future__ import annotations

import asyncio
import gc
import weakref

from tests import clock
from vmdns.garbage import COLLECT_SECONDS, MANY, Garbage


class Thing:
    """May be part of a cycle."""

    other: object = None


def cycle(*, old: bool = False) -> weakref.ref[Thing]:
    one, two = Thing(), Thing()
    one.other, two.other = two, one
    if old:
        gc.collect(1)
    return weakref.ref(one)


def test_garbage_goes_by_the_clock_and_what_lives_long_is_looked_at_no_more() -> None:
    async def main() -> None:
        before = gc.get_threshold(), gc.get_freeze_count()
        garbage = Garbage()
        garbage.start()
        try:
            assert gc.get_threshold()[2] > 1000 * before[0][2]
            frozen = gc.get_freeze_count()
            assert frozen > 1000
            lost = cycle()
            gc.collect(1)
            lost = cycle()
            await asyncio.sleep(COLLECT_SECONDS + 1)
            assert lost() is None
            lasting = [Thing() for _ in range(5000)]
            garbage.grown(MANY - 1)
            assert gc.get_freeze_count() < frozen + 5000
            lost = cycle(old=True)
            garbage.grown(1)
            assert lost() is None, "what is put out of sight as garbage would stay for ever"
            assert gc.get_freeze_count() >= frozen + 5000
            await asyncio.sleep(COLLECT_SECONDS + 1)
            assert len(lasting) == 5000
        finally:
            garbage.stop()
        assert (gc.get_threshold(), gc.get_freeze_count()) == (before[0], 0)

    clock.run(main())
