"""Injected faults of vmdns itself: queries are answered, and each fault is logged, counted and repaired."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.faults.stream import ask, note, streaming
from tests.contract.test_run import PATIENCE, Run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
OURS = {"www.local": frozenset({frozenset({"192.168.56.200"})})}

# Before vmdns starts, one of its parts is made to raise the first times that it is used.
_BREAKS = """
import sys
what, times, *arguments = sys.argv[1:]
module, owner, name = what.split(":")
place = __import__(module, fromlist=["_"])
holder = getattr(place, owner) if owner else place
real, left = getattr(holder, name), [int(times)]
def broken(*given, **more):
    if left[0]:
        left[0] -= 1
        raise RuntimeError("put in by a test")
    return real(*given, **more)
setattr(holder, name, broken)
from vmdns.cli import main
sys.exit(main(arguments))
"""


@pytest.fixture
def broken(short: Path) -> Iterator[Any]:
    made: list[Run] = []

    def start(what: str, times: int = 1) -> Run:
        def begin(command: list[str], **how: Any) -> subprocess.Popen[bytes]:
            how["env"]["PYTHONPATH"] = str(ROOT)
            return subprocess.Popen([sys.executable, "-c", _BREAKS, what, str(times), *command[3:]], **how)

        config = short / "given.toml"
        config.write_text('records = "www A 192.168.56.200"\n')
        made.append(Run(short, "--config", str(config), "--listen", "127.0.0.1:0", start=begin))
        return made[-1]

    yield start
    for one in made:
        one.stop()


@pytest.mark.parametrize(
    ("what", "times"),
    [
        ("vmdns.sources.supervisor:Supervisor:run", 2),
        ("vmdns.sources.supervisor:Supervisor:_run_one", 2),
        ("vmdns.daemon.app:Discovery:_take", 2),
        ("vmdns.daemon.app:App:_report", 1),
        ("vmdns.daemon.app:App:_configure", 2),
    ],
)
def test_25_a_fault_of_our_own_ends_nothing(what: str, times: int, broken: Any) -> None:
    run = broken(what, times)
    run.saw("ready:")
    with streaming(f"25 {what.rpartition(':')[2]} raises", "127.0.0.1", run.port, OURS):
        run.saw("put in by a test")
    status = json.loads(run.command("status", "--json").stdout)
    counted = [one for one in status["problems"] if "failed at something" in one]
    assert counted or "made no sense" in "\n".join(run.lines)
    assert run.stop() == 0
    note(f"25 {what.rpartition(':')[2]}", f"{counted[0] if counted else 'said, and passed over'}")


def test_25_a_question_that_cannot_be_answered_gets_servfail(broken: Any) -> None:
    run = broken("vmdns.server.query_handler::parse_query", 3)
    run.saw("ready:")
    found = [ask("www.local", "127.0.0.1", run.port, seconds=PATIENCE) for _ in range(4)]
    assert found == 3 * [frozenset({"SERVFAIL"})] + [frozenset({"192.168.56.200"})]
