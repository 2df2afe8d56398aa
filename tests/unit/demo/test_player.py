"""The player of the script, on a clock that a test sets."""

from __future__ import annotations

import io
import json
from typing import Any

from vmdns.demo.scene import BOOT, LEASED, MOVE
from vmdns.demo.worker import ScenePlayer
from vmdns.sources.worker import WorkerOutput
from vmdns.state.facts import Machine


class Stage:
    """A player whose sleep moves its clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.written = io.BytesIO()
        self.player = ScenePlayer(lambda: self.now, self.sleep)
        self.player.host(WorkerOutput(self.written)).start()

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def reports(self) -> list[dict[str, Any]]:
        """What was written since the last call."""
        lines = [json.loads(line) for line in self.written.getvalue().splitlines()]
        self.written.seek(0)
        self.written.truncate()
        return lines


def test_everything_is_reported_at_the_start() -> None:
    stage = Stage()
    assert [one["put"] for one in stage.reports()] == ["leases", "addresses", "neighbours"]
    assert len([one for one in stage.player.read(30.0).values() if isinstance(one, Machine)]) == 8
    assert stage.now == 1000.0


def test_each_change_is_reported_when_its_time_comes() -> None:
    stage = Stage()
    before = stage.player.read(30.0)
    stage.reports()
    after = stage.player.read(30.0)
    (test,) = (fact for key, fact in after.items() if before[key] != fact)
    assert isinstance(test, Machine)
    assert (stage.now, test.name, test.state) == (1000.0 + BOOT, "test", "Running")
    assert stage.reports() == []
    assert stage.player.read(30.0) == after
    assert stage.now == 1000.0 + LEASED
    (lease,) = stage.reports()
    assert [one["mac"] for one in lease["facts"].values()] == [test.adapters[0].mac]
    assert stage.player.read(30.0) == after
    assert stage.now == 1000.0 + MOVE
    (moved,) = stage.reports()
    assert sorted(bool(one) for one in moved["facts"].values()) == [False, True]


def test_it_waits_no_longer_than_it_may() -> None:
    stage = Stage()
    stage.player.read(0.0)
    stage.player.read(1.5)
    assert stage.now == 1001.5


def test_a_look_is_confirmed() -> None:
    stage = Stage()
    stage.reports()
    stage.player.request_look("neighbours")
    assert stage.reports() == [{"looked": "neighbours"}]
