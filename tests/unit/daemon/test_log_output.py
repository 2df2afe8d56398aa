"""What is logged, and what ends a thread, comes out of the one output: line by line, and not without end."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from vmdns.daemon.process import MAX_KEYS, MAX_LINES, SECONDS, LimitedLog, print_log_records


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    lines: list[str] = []
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    handler = print_log_records(lines.append)
    yield lines
    logging.getLogger().removeHandler(handler)


def test_a_forged_line_is_no_line_of_ours(said: list[str]) -> None:
    logging.getLogger("vmdns.x").warning("from %s", "a\nready: names in local are answered")
    assert said == ["from a", "    ready: names in local are answered"]


def test_a_fault_is_told_with_its_place_and_not_for_ever(said: list[str]) -> None:
    for _ in range(MAX_LINES * 5):
        try:
            raise ValueError("x\ny")
        except ValueError:
            logging.getLogger("vmdns.x").exception("it failed")
    firsts = [line for line in said if not line.startswith(" ")]
    assert firsts == ["it failed"] * MAX_LINES
    assert any("test_log_output.py" in line for line in said)


def test_what_ends_a_thread_is_said(said: list[str]) -> None:
    def fail() -> None:
        raise ValueError("gone")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join(10)
    assert said[0] == "a thread ended"
    assert said[-1] == "    ValueError: gone"


def test_a_fault_of_a_command_does_not_steer_the_terminal() -> None:
    code = "import sys; from vmdns import cli; cli._COMMANDS['config'] = lambda _: [][chr(27) + '[31m' + chr(0x202e)]"
    code = code.replace("[][", "{}[") + "; sys.exit(cli.main(['config']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"Traceback")
    assert b"KeyError" in done.stderr
    assert b"\x1b" not in done.stderr
    assert "\u202e".encode() not in done.stderr


def test_ten_lines_a_minute_and_then_how_many_were_left_out() -> None:
    lines: list[str] = []
    now = 0.0
    log = LimitedLog(lines.append, lambda: now)
    for number in range(1000):
        now = number / 100
        log("VM 'evil'", str(number))
    log("VM 'web'", "another key")
    now = SECONDS
    for text in ("again", "and again"):
        log("VM 'evil'", text)
    left_out = "990 more lines about VM 'evil' were left out"
    assert lines == [*map(str, range(MAX_LINES)), "another key", left_out, "again", "and again"]


def test_keys_are_bounded() -> None:
    log = LimitedLog(lambda line: None)
    for number in range(3 * MAX_KEYS):
        log(str(number), "x")
    assert len(log._counts) <= MAX_KEYS
