"""The process of `vmdns run`: its one output, line by line and not without end; and that a suspend is noticed, by a
clock that goes on meanwhile."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import accumulate

import pytest

from vmdns.daemon import process
from vmdns.daemon.process import LIMIT_SECONDS, MAX_KEYS, MAX_LINES, LimitedLog, print_log_records


@pytest.fixture
def log_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    lines: list[str] = []
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    handler = print_log_records(lines.append)
    yield lines
    logging.getLogger().removeHandler(handler)


def test_a_forged_line_is_no_line_of_ours(log_lines: list[str]) -> None:
    logging.getLogger("vmdns.x").warning("from %s", "a\nready: names in local are answered")
    assert log_lines == ["from a", "    ready: names in local are answered"]


def test_an_error_is_logged_with_its_place_a_few_times(log_lines: list[str]) -> None:
    for _ in range(MAX_LINES * 5):
        try:
            raise ValueError("x\ny")
        except ValueError:
            logging.getLogger("vmdns.x").exception("it failed")
    firsts = [line for line in log_lines if not line.startswith(" ")]
    assert firsts == ["it failed"] * MAX_LINES
    assert any("test_process.py" in line for line in log_lines)


def test_an_error_that_ends_a_thread_is_logged(log_lines: list[str]) -> None:
    def fail() -> None:
        raise ValueError("gone")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join(10)
    assert log_lines[0] == "a thread ended"
    assert log_lines[-1] == "    ValueError: gone"


def test_an_error_of_a_command_sends_no_control_characters() -> None:
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
    now = LIMIT_SECONDS
    for text in ("again", "and again"):
        log("VM 'evil'", text)
    left_out = "990 more lines about VM 'evil' were left out"
    assert lines == [*map(str, range(MAX_LINES)), "another key", left_out, "again", "and again"]


def test_keys_are_bounded() -> None:
    log = LimitedLog(lambda line: None)
    for number in range(3 * MAX_KEYS):
        log(str(number), "x")
    assert len(log._counts) <= MAX_KEYS


@pytest.mark.parametrize(
    ("passed", "missed"), [((0.1, 4.9, 0.1), []), ((0.1, 60, 0.1), [60]), ((7, 3600, 0, 86_400), [7, 3600, 86_400])]
)
def test_a_suspend_is_reported_once(
    passed: tuple[float, ...], missed: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that passes by the clock from one look to the next, and what is reported of it."""
    monkeypatch.setattr(process, "CHECK_SECONDS", 0.0)
    reported: list[float] = []
    times = [1000.0, *accumulate(passed, initial=1000.0)][::-1]

    async def main() -> None:
        done = asyncio.Event()

        def now() -> float:
            if len(times) > 1:
                times.pop()
            else:
                done.set()
            return times[-1]

        task = asyncio.create_task(process.watch_suspends(lambda seconds: reported.append(round(seconds, 3)), now))
        async with asyncio.timeout(10):
            await done.wait()
        task.cancel()

    asyncio.run(main())
    assert reported == missed
