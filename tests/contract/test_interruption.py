"""Each command that waits, ended from outside by its user: by Ctrl-C, by closing its terminal, or by a signal."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.program import Program
from tests.unit import test_cli
from tests.unit.test_cli import NAMES, Fake, serving

user = test_cli.user
PATIENCE = 60.0
HERE = {**NAMES, "names": [{"here": ["192.168.56.101"], **one} for one in NAMES["names"]]}
# vmdns with this hosts file.
PROGRAM = """
import sys
from pathlib import Path
from vmdns.commands import host
file = Path(sys.argv.pop(1))
host.hosts_path = lambda: file
from vmdns.__main__ import main
sys.exit(main())
"""
# A console of its own, whose Ctrl-C reaches nobody else (Windows): python -c CONSOLE TEXT COMMAND...
CONSOLE = """
import subprocess, sys, win32api, win32console
win32api.SetConsoleCtrlHandler(lambda event: True, True)
child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
for line in child.stdout:
    sys.stdout.buffer.write(line)
    sys.stdout.flush()
    if sys.argv[1] in line.decode():
        win32console.GenerateConsoleCtrlEvent(0, 0)
print("status", child.wait())
"""
# What comes when the command has printed a text (Windows), played, as neither can be sent to one process of a test:
# python -c PLAYED close|break TEXT FILE ...
PLAYED = """
import builtins, signal, sys, threading, win32api
event, text, printed, handlers = sys.argv.pop(1), sys.argv.pop(1), builtins.print, []
win32api.SetConsoleCtrlHandler = lambda handler, add: handlers.append(handler)

def show(*words, **how):
    printed(*words, **how)
    if any(text in str(word) for word in words):
        what = (signal.raise_signal, signal.SIGBREAK) if event == "break" else (handlers[0], 2)
        threading.Thread(target=what[0], args=what[1:], daemon=True).start()

builtins.print = show
"""
# The status of a process that Ctrl-C ended: STATUS_CONTROL_C_EXIT, under Wine 0.
KILLED = (0xC000013A, 0) if sys.platform == "win32" else (-signal.SIGINT,)
# The command, what it prints once it waits, and its status after Ctrl-C.
WAITING = [
    ("run --listen 127.0.0.1:0", "ready", (0,)),
    ("demo", "ready", (0,)),
    ("names --watch --json", "names", KILLED),
    ("hosts --keep", "lines of names", (130,)),
]
posix = pytest.mark.skipif(os.name != "posix", reason="signals and terminals of Unix")
windows = pytest.mark.skipif(sys.platform != "win32", reason="the consoles of Windows")


class Served(Fake):
    """A server whose names never change."""

    async def _lines(self) -> AsyncIterator[dict[str, Any]]:
        yield HERE
        await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Programs inherit that a signal is ignored, as nohup has it, and the shell for what runs behind it."""
    names = [name for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)]
    before = [signal.signal(getattr(signal, name), signal.default_int_handler) for name in names]
    yield
    for name, handler in zip(names, before, strict=True):
        signal.signal(getattr(signal, name), handler)


@pytest.fixture(autouse=True)
def hosts_file(user: Path) -> Iterator[Path]:
    """A hosts file, whose every byte must be as before at the end."""
    before = b"127.0.0.1 localhost\n"
    file = user / "hosts"
    file.write_bytes(before)
    yield file
    assert file.read_bytes() == before


def program(file: Path, words: str, lead: str = "") -> list[str]:
    return [sys.executable, "-c", lead + PROGRAM, str(file), *words.split()]


def in_terminal(command: list[str], text: str, end: str) -> tuple[int, str]:
    """Runs it in a terminal of its own until it has printed the text, and then presses Ctrl-C or closes the terminal.
    Returns its status, and its output until it was closed."""
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], PATIENCE)[0]:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the last one that had the terminal has ended
            break
        if text.encode() in shown and end:
            if end == "close":
                break
            os.write(ours, end.encode())
            end = ""
    os.close(ours)
    return process.wait(PATIENCE), shown.decode()


def in_console(command: list[str], text: str) -> tuple[int, str]:
    """The same in a console of Windows, with Ctrl-C."""
    lead = [sys.executable, "-c", CONSOLE, text]
    new = getattr(subprocess, "CREATE_NEW_CONSOLE", 0)
    done = subprocess.run([*lead, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          creationflags=new, timeout=PATIENCE, check=False)  # fmt: skip
    shown = done.stdout.decode()
    status = re.search(r"^status (\d+)\s*\Z", shown, re.MULTILINE)
    assert status, shown
    return int(status[1]), shown


@pytest.mark.parametrize(("words", "text", "status"), WAITING)
def test_ctrl_c(hosts_file: Path, words: str, text: str, status: tuple[int, ...]) -> None:
    command = program(hosts_file, words)
    with serving(Served({"names": HERE})):
        found, shown = in_console(command, text) if sys.platform == "win32" else in_terminal(command, text, "\x03")
    assert found in status, shown
    assert "Traceback" not in shown


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_to_all_processes_of_a_command(hosts_file: Path, name: str) -> None:
    """As at a shutdown, and twice, as a shell sends SIGHUP after the kernel."""
    number = getattr(signal, name)
    with serving(Served({"names": HERE})):
        run = Program(program(hosts_file, "hosts --keep"), start_new_session=True)
        run.saw("lines of names")
        for _ in range(2):
            os.killpg(run.process.pid, number)
        assert run.process.wait(PATIENCE) == 128 + number
    assert "taken out" in run.lines[-1]


@posix
@pytest.mark.parametrize(
    ("words", "text", "status"),
    [(words, text, {KILLED: (-1,), (130,): (129,)}.get(status, status)) for words, text, status in WAITING],
)
def test_a_closed_terminal(hosts_file: Path, words: str, text: str, status: tuple[int, ...]) -> None:
    with serving(Served({"names": HERE})):
        assert in_terminal(program(hosts_file, words), text, "close")[0] in status


@windows
@pytest.mark.parametrize("event", ["break", "close"])
@pytest.mark.parametrize(("words", "text", "status"), [WAITING[0], WAITING[1], WAITING[3]])
def test_ctrl_break_and_a_closed_console(
    hosts_file: Path, words: str, text: str, status: tuple[int, ...], event: str
) -> None:
    command = program(hosts_file, words, PLAYED)
    command[3:3] = [event, text]
    with serving(Served({"names": HERE})):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=PATIENCE, check=False)  # fmt: skip
    shown = done.stdout.decode()
    assert done.returncode in status, shown
    assert ("taken out" if "hosts" in words else "stopping") in shown
    assert "Traceback" not in shown
