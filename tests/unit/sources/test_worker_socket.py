"""A worker at the other end of a Unix socket, as systemd starts one for each connection; here a thread starts them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.program import SocketUnit
from tests.unit.sources.test_supervisor import play
from vmdns.sources import supervisor as supervise
from vmdns.sources.supervisor import SOCKET_VARIABLE, Message, SocketWorker, Supervisor, send_request

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Unix sockets")
PATIENCE = 30.0


@pytest.fixture
def door(short: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], SocketUnit]]:
    made: list[SocketUnit] = []

    def open_it(program: str) -> SocketUnit:
        made.append(SocketUnit(short / "door", sys.executable, "-c", program))
        monkeypatch.setenv(SOCKET_VARIABLE, str(short / "door"))
        return made[-1]

    yield open_it
    for one in made:
        one.close()


def supervisor(hear: Callable[[Message], None]) -> Supervisor:
    return Supervisor("auto", "/some/home", 30.0, hear)


ECHO = """
import json, os, sys
print(json.dumps({"pid": os.getpid()}))
print(json.dumps({"found": json.loads(sys.stdin.readline())}), flush=True)
sys.stdin.read()
"""


def test_it_receives_its_options_and_ends_with_its_server(
    door: Callable[[str], SocketUnit], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = door(ECHO)
    (found,), _ = play(supervisor, lambda heard, _: len(heard) == 1, monkeypatch)
    assert found["found"]["home"] == "/some/home"
    assert found["found"]["reader"] == "auto"
    assert opened.started[0].wait(PATIENCE) == 0


def test_one_that_hangs_is_killed_by_its_process_id(
    door: Callable[[str], SocketUnit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, it does not even notice that its server closed the connection."""
    monkeypatch.setattr(supervise, "SILENT_SECONDS", 0.5)
    program = (
        "import os, signal; print('{\"pid\": %d}' % os.getpid(), flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
    )
    opened = door(program)
    heard, _ = play(supervisor, lambda heard, _: len(heard) == 1, monkeypatch)
    assert "does not answer" in heard[0]["lost"]
    assert opened.started[0].wait(PATIENCE) == -9


@pytest.mark.parametrize("pid", [0, 1, -1])
def test_no_number_that_means_more_than_one_process_is_killed(
    door: Callable[[str], SocketUnit], monkeypatch: pytest.MonkeyPatch, pid: int
) -> None:
    killed: list[tuple[int, int]] = []
    door("import sys; sys.stdin.read()")
    one = SocketWorker(os.environ[SOCKET_VARIABLE])
    monkeypatch.setattr(os, "kill", lambda *what: killed.append(what))
    one.pid = pid
    one.kill()
    assert killed == []
    assert one.stdout.read() == b"", "the connection is closed"


def test_where_nobody_listens_it_is_reported_and_tried_again(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SOCKET_VARIABLE, str(short / "nobody"))
    heard, _ = play(supervisor, lambda heard, _: len(heard) == 2, monkeypatch)
    assert all("its reader cannot be started" in one["lost"] for one in heard)


@pytest.mark.parametrize(
    ("program", "error"),
    [("pass", "without an answer"), ("print('[]')", "invalid"), ("print('x')", "without an answer")],
)
def test_an_answer_that_is_none(door: Callable[[str], SocketUnit], program: str, error: str) -> None:
    door("import sys; sys.stdin.readline(); " + program)
    with pytest.raises(OSError, match=error):
        send_request({"wire": {}})


def test_the_real_one_wires_and_reports_what_is_wrong(
    door: Callable[[str], SocketUnit], short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VBOX_PROGRAM_PATH", "HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(short))
    monkeypatch.setenv("PATH", str(short))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    door(
        "import vmdns.commands.wire as w; w.find = lambda environ: None; "
        "from vmdns.daemon.worker_service import main; main()"
    )
    said = send_request({"wire": {"home": None, "zones": ["local"]}})
    assert said["steps"] == []
    assert "VirtualBox is not installed here" in said["error"]


def test_nothing_that_it_starts_keeps_the_connection(door: Callable[[str], SocketUnit], short: Path) -> None:
    """VBoxSVC outlives the worker that started it, and would inherit its standard input and output."""
    program = """
import os, subprocess
from vmdns.sources.worker import open_streams
given, output = open_streams()
child = subprocess.Popen(["sleep", "60"])
output.send({"pid": child.pid})
print("nobody hears this")
os._exit(0)
"""
    door(program)
    one = SocketWorker(os.environ[SOCKET_VARIABLE])
    line = one.stdout.readline()
    assert line.startswith(b'{"pid":')
    assert one.stdout.read() == b""
    os.kill(int(line[7:-2]), 9)  # it is there still, or this would raise
