"""MachineState's numbers, by the version of the API that speaks."""

from __future__ import annotations

import pytest

from vmdns.sources.virtualbox_api import name_states
from vmdns.state.facts import ONLINE_STATES

# As vboxapi of each version has them (VirtualBox SDK reference, enum MachineState).
SIX = {"Null": 0, "PoweredOff": 1, "Saved": 2, "Teleported": 3, "Aborted": 4, "Running": 5, "Paused": 6}
SEVEN = {
    "Null": 0, "PoweredOff": 1, "Saved": 2, "Teleported": 3, "Aborted": 4, "AbortedSaved": 5, "Running": 6, "Paused": 7,
    "FirstOnline": 6, "LastOnline": 19, "FirstTransient": 9, "LastTransient": 25,
}  # fmt: skip


@pytest.mark.parametrize(
    ("version", "constants", "running"),
    [
        ("6_1", SIX, 5),
        ("7_0", SEVEN, 6),
        ("7_2", SEVEN, 6),
        # vboxapi of another version than VirtualBox's.
        ("6_1", SEVEN, 5),
        ("7_2", SIX, 6),
        # None at all.
        ("6_1", {}, 5),
        ("7_2", {}, 6),
        ("10_0", {}, 6),
    ],
)
def test_the_number_of_each_state(version: str, constants: dict[str, int], running: int) -> None:
    names = name_states(constants, version)
    assert names[running] == "Running"
    assert names[running + 1] == "Paused"
    assert names[2] == "Saved"
    assert names[4] == "Aborted"
    assert names.get(5) == ("Running" if running == 5 else "AbortedSaved")
    assert not [name for name in names.values() if name.startswith(("First", "Last"))]


@pytest.mark.parametrize(("version", "first", "last"), [("6_1", 5, 18), ("7_0", 6, 19), ("7_2", 6, 19)])
def test_the_states_with_addresses_are_first_online_to_last_online(version: str, first: int, last: int) -> None:
    names = name_states({}, version)
    assert {number for number, name in names.items() if name in ONLINE_STATES} == set(range(first, last + 1))
    assert set(names.values()) >= ONLINE_STATES


def test_a_state_of_a_later_version_keeps_its_own_name() -> None:
    assert name_states({**SEVEN, "Dreaming": 40}, "7_3")[40] == "Dreaming"
