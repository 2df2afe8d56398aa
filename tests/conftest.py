"""What tests of several rooms share."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Programs that the tests start run as a user's do: PYTHONUNBUFFERED hides what fails at the last flush.
for variable in [one for one in os.environ if one.startswith("PYTHON") and one not in ("PYTHONHOME", "PYTHONPATH")]:
    del os.environ[variable]

# One profile for all properties: the same examples on every run, and no clock that could fail them.
settings.register_profile("vmdns", deadline=None, derandomize=True, database=None, max_examples=150)
settings.load_profile("vmdns")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests of faults have measured."""
    from tests.faults.stream import NOTES

    if NOTES:
        terminalreporter.section("faults and recoveries")
        for line in NOTES:
            terminalreporter.write_line(line)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path: pytest's own are near the longest one that a Unix socket may have."""
    with tempfile.TemporaryDirectory(prefix="v", dir=None if sys.platform == "win32" else "/tmp") as folder:
        yield Path(folder)
