"""What tests of several rooms share."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.wine import UNDER_WINE, read_limits

# Programs that the tests start run as a user's do: PYTHONUNBUFFERED hides what fails at the last flush.
for variable in [one for one in os.environ if one.startswith("PYTHON") and one not in ("PYTHONHOME", "PYTHONPATH")]:
    del os.environ[variable]

# A shell that runs the tests in the background has them ignore Ctrl-C, and so every program that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# One profile for all properties: the same examples on every run, and no clock that could fail them.
settings.register_profile("vmdns", deadline=None, derandomize=True, database=None, max_examples=150)
settings.load_profile("vmdns")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under Wine, tests that it cannot pass have to fail; one that passes is reported as a failure."""
    limits = read_limits() if UNDER_WINE else {}
    for item in items:
        for begin, reason in limits.items():
            if item.nodeid.startswith(begin):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests of faults have measured, and each reason for which tests were skipped."""
    from tests.contract.faults.stream import NOTES

    if NOTES:
        terminalreporter.section("faults and recoveries")
        for line in NOTES:
            terminalreporter.write_line(line)
    skipped = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", ()))
    if skipped:
        terminalreporter.section("skipped")
        for reason, count in sorted(skipped.items()):
            terminalreporter.write_line(f"{count:4} {reason}")
    if "not slow" in terminalreporter.config.option.markexpr:
        terminalreporter.write_line("The slow tests were left out; run them with: ./tools/test -m slow")


def _reason(report: pytest.TestReport) -> str:
    """Why a test was skipped."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path: pytest's own are near the longest one that a Unix socket may have."""
    with tempfile.TemporaryDirectory(prefix="v", dir=None if sys.platform == "win32" else "/tmp") as folder:
        yield Path(folder)
