"""The oracle itself: what it takes for right, late and wrong."""

from __future__ import annotations

import pytest

from tests.contract.endurance.oracle import ABSENT, GRACE, NOTHING, Oracle, Truth

WEB = ("web.local", "A")
OLD, NEW = Truth(0, frozenset({"10.77.1.1"})), Truth(0, frozenset({"10.77.1.2"}))


@pytest.mark.parametrize(
    ("answer", "sent", "late"),
    [
        (NEW, 11.0, 0.0),
        (OLD, 9.9, 0.0),  # sent before the change: either is right
        (NEW, 9.9, 0.0),
        (OLD, 10.5, 0.5),
        (OLD, 10.0 + GRACE, GRACE),
        (OLD, 10.1 + GRACE, 0.1 + GRACE),  # too late, which the client reports
        (ABSENT, 10.5, 9.5),  # long ago
        (NOTHING, 9.9, None),  # never
    ],
)
def test_an_answer_is_right_late_or_wrong(answer: Truth, sent: float, late: float | None) -> None:
    oracle = Oracle()
    oracle.add(1.0, {WEB: OLD})
    oracle.add(10.0, {WEB: NEW})
    assert oracle.lateness(WEB, answer, sent) == (late if late is None else pytest.approx(late))


def test_a_name_that_was_never_added_is_absent() -> None:
    oracle = Oracle()
    assert oracle.lateness(WEB, ABSENT, 1.0) == 0.0
    assert oracle.lateness(WEB, OLD, 1.0) is None


def test_a_name_that_may_not_be_looked_up_is_absent_too() -> None:
    oracle, failed = Oracle(), Truth(2)
    oracle.add(1.0, {WEB: OLD})
    assert oracle.lateness(("other.local", "A"), failed, 3.0) == 0.0
    assert oracle.lateness(WEB, failed, 3.0) == pytest.approx(2.0)  # a VM that runs
    assert oracle.lateness(("www.other.local", "A"), failed, 3.0) is None
    assert oracle.lateness(("other.vm.internal", "A"), failed, 3.0) is None


def test_the_same_again_is_no_change() -> None:
    oracle = Oracle()
    oracle.add(1.0, {WEB: OLD})
    oracle.add(5.0, {WEB: OLD})
    assert oracle.lateness(WEB, ABSENT, 3.5) == pytest.approx(2.5)
