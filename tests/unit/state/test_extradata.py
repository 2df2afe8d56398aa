"""The keys that a user writes into a VM's extra data."""

from __future__ import annotations

import pytest

from vmdns.sources.virtualbox_values import MAX_NAMES, parse_extra


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("", ()),
        (" , ,,", ()),
        ("web", ("web",)),
        (" web , shop.lab ,", ("web", "shop.lab")),
        ("b,a", ("b", "a")),
        ("리눅스,two words", ("리눅스", "two words")),
        (",".join(f"n{n}" for n in range(1000)), tuple(f"n{n}" for n in range(MAX_NAMES))),
        ("," * 100_000 + "last", ("last",)),
    ],
)
def test_extra_names(value, names) -> None:
    assert parse_extra({"vmdns/names": value}).names == names


@pytest.mark.parametrize(
    ("value", "expected"),
    [(word, True) for word in ("1", "true", "yes", "on", " ON ", "True")]
    + [(word, False) for word in ("", "0", "false", "no", "off", "2", "ignore", "1,1")],
)
def test_truthy(value, expected) -> None:
    assert parse_extra({"vmdns/ignore": value}).ignored is expected
