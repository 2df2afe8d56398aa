"""Long work in the background rests now and then."""

from __future__ import annotations

import pytest

from tests.sources.test_leasefile import REAL
from vmdns.sources import rests
from vmdns.sources.leasefile import Entries, parse_leases
from vmdns.sources.rests import REST_SECONDS, WORK_SECONDS, Rests


class Clock:
    def __init__(self) -> None:
        self.now, self.rests = 100.0, 0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.rests += 1


def test_a_rest_comes_after_each_millisecond_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(rests, "time", clock)
    rest = Rests()
    for _ in range(1000):
        clock.now += WORK_SECONDS / 100
        rest()
    assert 9 <= clock.rests <= 10
    assert clock.now == pytest.approx(100 + 10 * WORK_SECONDS + clock.rests * REST_SECONDS)


def test_who_reads_leases_may_rest_after_each_one_that_is_new() -> None:
    known: Entries = {}
    times: list[None] = []
    found = parse_leases(REAL, "lab", known, lambda: times.append(None))
    assert len(times) == len(known) > 0
    assert parse_leases(REAL, "lab", known, lambda: times.append(None)) == found
    assert len(times) == len(known), "an entry that stands there as before is not parsed again"
