"""A small storm; tests/contract/fuzz/storm.py makes big ones."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.contract.fuzz.storm import storm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or not all(map(shutil.which, ("gcc", "taskset"))), reason="needs Linux, gcc and taskset"
    ),
]


def test_every_packet_of_a_storm_is_answered(tmp_path: Path) -> None:
    found = storm(20_000, 1, tmp_path)
    assert not found["faults"], found
    assert found["answered"] + found["silent"] == found["sent"] == 20_000
    rcodes = [found.get(f"rcode {number}", 0) for number in range(6)]
    assert min(found["silent"], *rcodes) > 0, "nothing was tried that gets this"
