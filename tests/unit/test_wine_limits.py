"""The list of tests that Wine cannot pass names tests that exist."""

from __future__ import annotations

from pathlib import Path

from tests.wine import read_limits

ROOT = Path(__file__).parents[2]


def test_each_limit_names_a_test_and_has_a_reason() -> None:
    for begin, reason in read_limits().items():
        file, test, *_ = (*begin.split("::"), "")
        assert f"def {test.partition('[')[0]}" in (ROOT / file).read_text("utf-8"), begin
        assert len(reason) > 20, begin
