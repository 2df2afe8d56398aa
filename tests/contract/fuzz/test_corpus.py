"""The corpora of the fuzz targets, and what hypothesis makes of them, keep each target's invariant."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent
TARGETS = sorted(path.stem for path in (HERE / "targets").glob("[a-z]*.py"))


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    """What a target makes the code log is judged by the target itself."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def corpus(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((HERE / "corpus" / target).iterdir())]


@pytest.mark.parametrize("target", TARGETS)
def test_corpus(target: str) -> None:
    check = import_module(f"tests.contract.fuzz.targets.{target}").check
    found = corpus(target)
    assert found, "a target without a corpus"
    for data in found:
        check(data)


@pytest.mark.parametrize("target", TARGETS)
def test_changed_corpus(target: str) -> None:
    check = import_module(f"tests.contract.fuzz.targets.{target}").check
    seeds = corpus(target)

    @settings(max_examples=100)
    @given(st.sampled_from(seeds), st.lists(st.tuples(st.integers(0), st.integers(0, 3), st.binary(max_size=4))))
    def changed(data: bytes, changes: list[tuple[int, int, bytes]]) -> None:
        for where, gone, new in changes:
            at = where % (len(data) + 1)
            data = data[:at] + new + data[at + gone :]
        check(data)

    changed()


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_states_its_invariant_first(target: str) -> None:
    first = (HERE / "targets" / f"{target}.py").read_text(encoding="utf-8").split("\n")[0]
    assert first.startswith('"""')
    assert first.rstrip('"').endswith("."), "one sentence, and whole in the first line"
