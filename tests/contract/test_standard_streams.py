"""Output that cannot be written: a full disk, a reader that went away, closed streams. By each command, as a program.

/dev/full takes nothing (full(4)). PYTHONUNBUFFERED would hide what happens at Python's last flush, so it is not set in
the tests (conftest.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit import test_cli
from tests.unit.test_cli import Fake, serving, user  # noqa: F401 - a fixture

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full and pipes as Linux has them")

NAMES = {**test_cli.NAMES, "names": [{"here": [], **one} for one in test_cli.NAMES["names"]]}
ANSWERS = {**test_cli.ANSWERS, "names": NAMES}
MANY = {**NAMES, "problems": ["x" * 1000] * 1000}  # more than any buffer holds
LINES = ["--help", "--version", "run --help", "names", "names --json", "names --watch", "names --watch --json",
         "ask web.local", "status", "completion bash", "hosts"]  # fmt: skip
PRINTING = [line.split() for line in LINES]


def vmdns(*arguments: str, redirection: str = "", stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Runs a command in a shell with this redirection."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "vmdns", *arguments],
        stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_tests_run_as_a_user_does() -> None:
    assert "PYTHONUNBUFFERED" not in os.environ


@pytest.mark.parametrize(("arguments", "names"), [*((one, NAMES) for one in PRINTING), (["names"], MANY)])
def test_a_full_disk_is_a_failure_in_one_line(arguments: list[str], names: dict[str, Any]) -> None:
    with serving(Fake({**ANSWERS, "names": names})):
        done = vmdns(*arguments, redirection=">/dev/full")
    assert (done.returncode, done.stderr) == (1, "vmdns: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("arguments", [*PRINTING[:5], ["completion", "bash"], ["hosts"]], ids=" ".join)
def test_a_reader_that_went_away_is_no_failure(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with serving(Fake({**ANSWERS, "names": MANY})):
            done = vmdns(*arguments, stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [*PRINTING[:5], ["completion", "bash"]], ids=" ".join)
def test_closed_streams_are_no_failure(arguments: list[str]) -> None:
    with serving(Fake(ANSWERS)):
        done = vmdns(*arguments, redirection="<&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("redirection", ["2>/dev/full", ">/dev/full 2>&1", "2>&-"])
@pytest.mark.parametrize(("arguments", "status"), [(["status"], 3), (["nonsense"], 2)])
def test_an_error_that_cannot_be_printed_keeps_its_status(arguments: list[str], status: int, redirection: str) -> None:
    assert vmdns(*arguments, redirection=redirection).returncode == status


@pytest.mark.parametrize("redirection", [">/dev/full 2>&1", ">&- 2>&-", "| true"])
def test_a_server_serves_and_ends_well_without_its_log(redirection: str, user: Path) -> None:  # noqa: F811
    command = [sys.executable, "-m", "vmdns", "run", "--listen=127.0.0.1:0"]
    script = f'{{ "$@" & echo $! >{user}/pid; wait $!; echo $? >{user}/status; }} {redirection}'
    with subprocess.Popen(["sh", "-c", script, "sh", *command], stdin=subprocess.DEVNULL) as shell:
        for _ in range(600):
            if vmdns("status").returncode == 0:
                break
            assert shell.poll() is None
        os.kill(int((user / "pid").read_text()), signal.SIGTERM)
        shell.wait(60)
    assert (user / "status").read_text() == "0\n"
