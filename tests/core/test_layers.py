"""A mapping that changes while others keep what it was."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmdns.core import layers
from vmdns.core.layers import Layers

STEPS = st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(0, 3)), st.booleans()), max_size=60)


@given(STEPS, st.sampled_from([0, 2, 1000]))
def test_it_is_what_a_dict_is_and_what_was_given_away_stays(
    steps: list[tuple[int, int | None, bool]], least: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "_LEAST", least)
        changing: Layers[int, int] = Layers()
        right: dict[int, int] = {}
        given_away: list[tuple[Mapping[int, int], dict[int, int]]] = []
        for key, value, give in steps:
            if value is None:
                changing.drop(key)
                right.pop(key, None)
            else:
                changing.put(key, value)
                right[key] = value
            if give:
                given_away.append((changing.given(), right.copy()))
        given_away.append((changing.given(), right))
    for key in range(10):
        assert changing.get(key) == right.get(key)
    for found, wanted in given_away:
        assert found == wanted
        assert len(found) == len(wanted)
        assert sorted(found) == sorted(wanted)
        for key in range(10):
            assert found.get(key) == wanted.get(key)
            assert found.get(key, "no") == wanted.get(key, "no")
            assert (key in found) == (key in wanted)
            if key in wanted:
                assert found[key] == wanted[key]
            else:
                with pytest.raises(KeyError):
                    found[key]


def test_little_that_changed_copies_little() -> None:
    changing: Layers[int, int] = Layers()
    for key in range(100_000):
        changing.put(key, key)
    first = changing.given()
    changing.put(7, 8)
    second = changing.given()
    assert isinstance(first, dict)
    assert second._under is first  # type: ignore[attr-defined]
    assert (first[7], second[7]) == (7, 8)
