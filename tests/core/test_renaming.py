"""Names kept up change by change are those that all VMs get at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.facts import uuid, vm
from vmdns.core import renaming
from vmdns.core.model import Machine
from vmdns.core.naming import RESERVED, assign
from vmdns.core.renaming import Names

ZONES = ("local", "vm.internal")
WHY = dict.fromkeys(RESERVED, "a reserved name")
LONG = "a" * 58
LABELS = st.sampled_from(
    ["web", "Web", "web-2", "web-2-2", "web-3", "db", "wpad", "wpad-2", uuid(2), "*", LONG, f"{LONG}-b", f"{LONG}c" * 2]
)
EXTRAS = st.sampled_from(["www", "web", "web-2", "web-3", "db.lab", "web.lab", "a..b", "wpad", "db.local", uuid(3)])
CHANGES = st.lists(
    st.dictionaries(
        st.integers(1, 6),
        st.one_of(
            st.none(),
            st.builds(
                lambda name, groups, names, state, there, ignored: (
                    lambda number: vm(
                        number, name, groups=groups, names=names, state=state, accessible=there, ignored=ignored
                    )
                ),
                LABELS,
                st.sampled_from([("/",), ("/lab",), ("/lab", "/a/b"), ("/" + "/".join(["a" * 63] * 4),)]),
                st.lists(EXTRAS, max_size=3).map(tuple),
                st.sampled_from(["Running", "Saved"]),
                st.sampled_from([True, True, True, False]),
                st.sampled_from([False, False, False, True]),
            ),
        ),
        max_size=4,
    ),
    max_size=12,
)


def changed(names: Names, machines: dict[str, Machine | None]) -> set[str]:
    return set().union(*names.change(machines))


@settings(max_examples=400)
@given(CHANGES)
def test_change_by_change_is_the_same_as_all_at_once(
    steps: list[dict[int, Callable[[int], Machine] | None]],
) -> None:
    names = Names(WHY, ZONES)
    held: dict[str, Machine] = {}
    for step in steps:
        machines = {uuid(number): make(number) if make else None for number, make in step.items()}
        before = dict(names.by_uuid)
        dirty = changed(names, machines)
        held.update({key: one for key, one in machines.items() if one is not None})
        for key in [key for key, one in machines.items() if one is None]:
            held.pop(key, None)
        right = assign(held.values(), WHY, ZONES)
        assert names.by_uuid == right.by_uuid
        assert names.problems == right.problems
        assert {key for key in before.keys() | right.by_uuid if before.get(key) != names.by_uuid.get(key)} == dirty


def test_a_change_settles_no_name_that_it_does_not_concern(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(WHY, ZONES)
    changed(names, {uuid(n): vm(n, f"vm{n // 2}", names=(f"www{n}",)) for n in range(1, 2000)})
    named: Counter[str] = Counter()
    name = Names._name
    monkeypatch.setattr(Names, "_name", lambda self, key: named.update([key]) or name(self, key))
    monkeypatch.setattr(renaming, "assign", None)
    assert changed(names, {uuid(10): vm(10, "other")}) == {uuid(10), uuid(11)}
    assert names.by_uuid[uuid(11)].label == "vm5"
    assert set(named) == {uuid(10), uuid(11)}
    named.clear()
    assert changed(names, {uuid(10): vm(10, "other", state="Saved")}) == set()
    assert not named


def test_thousands_of_one_name_are_numbered_in_a_time_that_grows_with_them() -> None:
    asked: Counter[str] = Counter()

    class Counted(Names):
        def _first(self, label: str) -> str | None:
            asked.update(["first"])
            return super()._first(label)

    names = Counted(WHY, ZONES)
    changed(names, {uuid(n): vm(n, "clone") for n in range(1, 2001)})
    assert names.by_uuid[uuid(2000)].label == "clone-2000"
    assert asked["first"] < 20 * 2000


def test_no_step_settles_more_than_one_label(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(WHY, ZONES)
    settled: list[str] = []
    settle = Names._settle

    def counted(self: Names, label: str, *more: object) -> object:
        settled.append(label)
        return settle(self, label, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Names, "_settle", counted)
    before = 0
    for _ in names.change({uuid(n): vm(n, f"vm{n}") for n in range(1, 200)}):
        assert len(settled) - before <= 1
        before = len(settled)
    assert before >= 398
