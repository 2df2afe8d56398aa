"""Changes of one fact, by a clock of the test."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vmdns.core.model import Fact, HostInterface
from vmdns.sources.calm import A_SECOND, CHANGES, HELD_SECONDS, Calm


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def fact(number: int) -> Fact:
    return HostInterface("vboxnet0", f"10.0.0.{number % 250}/24")


def test_what_changes_now_and_then_is_told_at_once() -> None:
    clock = Clock()
    calm = Calm(clock)
    for number in range(200):
        clock.now += 1 / A_SECOND
        assert calm.take({"a": fact(number), "b": None}) == {"a": fact(number), "b": None}
        assert calm.wait(30.0) == 30.0


def test_a_start_with_many_changes_is_told_as_it_comes() -> None:
    calm = Calm(Clock())
    for number in range(CHANGES):
        assert calm.take({"a": fact(number)})


def test_of_a_flood_only_the_newest_is_told_now_and_then_and_others_do_not_wait() -> None:
    clock = Clock()
    calm = Calm(clock)
    told = []
    for number in range(1000):  # a hundred a second
        clock.now += 0.01
        for key, one in calm.take({"a": fact(number), **({"b": fact(number)} if number % 100 == 0 else {})}).items():
            told.append((number, key, one))
    flood = [(number, one) for number, key, one in told if key == "a"]
    assert [number for number, key, _ in told if key == "b"] == list(range(0, 1000, 100))
    assert all(one == fact(number) for number, one in flood), "the newest"
    assert len(flood) <= CHANGES + 5 + 10 / HELD_SECONDS
    assert 0 < calm.wait(30.0) <= HELD_SECONDS
    clock.now += calm.wait(30.0)
    assert calm.take({}) in ({"a": fact(999)}, {})
    assert calm.wait(30.0) == 30.0
    clock.now += 2 * CHANGES / A_SECOND
    assert calm.take({"a": fact(1)}) == {"a": fact(1)}, "when it is over, all is as before"


def test_what_is_gone_is_told_too() -> None:
    clock = Clock()
    calm = Calm(clock)
    for number in range(50):
        calm.take({"a": fact(number)})
    assert calm.take({"a": None}) == {}
    clock.now += HELD_SECONDS
    assert calm.take({}) == {"a": None}
    assert calm.take({"a": fact(1)}) == {"a": fact(1)}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.none() | st.integers(0, 9), st.floats(0, 0.3)), max_size=200))
def test_in_the_end_all_is_told(steps: list[tuple[str, int | None, float]]) -> None:
    clock = Clock()
    calm = Calm(clock)
    wanted: dict[str, Fact | None] = {}
    told: dict[str, Fact | None] = {}
    for key, number, pause in steps:
        clock.now += pause
        wanted[key] = None if number is None else fact(number)
        told.update(calm.take({key: wanted[key]}))
    clock.now += HELD_SECONDS
    told.update(calm.take({}))
    assert told == wanted
    assert calm.wait(30.0) == 30.0
