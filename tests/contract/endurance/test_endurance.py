"""The endurance run in its short form: twenty seconds, or as many as VMDNS_ENDURANCE_SECONDS says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import needs_network_namespace


@pytest.mark.slow
@needs_network_namespace
def test_nothing_is_wrong_nothing_is_lost_nothing_grows() -> None:
    seconds = float(os.environ.get("VMDNS_ENDURANCE_SECONDS", "20"))
    program = Path(__file__).with_name("run.py")
    run = subprocess.run(
        [sys.executable, str(program), "--seconds", str(seconds)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds + 120, check=False,
    )  # fmt: skip
    print(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "nothing was wrong" in run.stdout
