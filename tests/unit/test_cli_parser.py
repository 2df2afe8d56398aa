"""`vmdns completion`: what shells complete, asked as argcomplete asks and by bash and fish where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest

from tests.fakeprogram import SUFFIX, write_program
from vmdns import cli, cli_parser
from vmdns.cli_parser import SHELLS
from vmdns.cli_parser import completion_script as script
from vmdns.commands.server_request import RunningServer

# A line, with the cursor at its end, and what may come there.
LINES = [
    ("vmdns r", ["run"]),
    ("vmdns --vers", ["--version"]),
    ("vmdns run --li", ["--listen"]),
    ("vmdns run --reader ", ["api", "auto", "vboxmanage"]),
    ("vmdns run --reader v", ["vboxmanage"]),
    ("vmdns names --json --w", ["--watch"]),
    ("vmdns ask web --a", ["--as"]),
    ("vmdns completion f", ["fish"]),
    ("vmdns service un", ["uninstall"]),
    ("vmdns status --vbox-home fold", ["folder one"]),
    ("vmdns config --config fil", ["file two"]),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "folder one").mkdir()
    (tmp_path / "file two").touch()
    program = tmp_path / "bin" / "vmdns"
    program.parent.mkdir()
    call = "[sys.executable, '-m', 'vmdns', *sys.argv[1:]], close_fds=False"  # argcomplete writes to descriptor 8
    write_program(program, f"import subprocess, sys; sys.exit(subprocess.call({call}))")
    for shell in SHELLS:
        (tmp_path / f"script.{shell}").write_text(script(shell), encoding="utf-8")
    return tmp_path


def environ(place: Path) -> dict[str, str]:
    here = {"PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2])}
    return {**os.environ, **here, "XDG_RUNTIME_DIR": str(place), "XDG_STATE_HOME": str(place)}


def output(command: list[str], place: Path, **more: str) -> list[str]:
    done = subprocess.run(
        command, cwd=place, env={**environ(place), **more}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    return sorted(done.stdout.splitlines())


def completed(line: str, place: Path) -> list[str]:
    """What argcomplete gives for a line with the cursor at its end."""
    result = place / "result"
    more = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n"}
    output([str(place / "bin" / f"vmdns{SUFFIX}")], place, _ARGCOMPLETE_STDOUT_FILENAME=str(result), **more)
    return sorted(one.rstrip(" /").replace("\\", "") for one in result.read_text().splitlines())


@pytest.mark.parametrize(("line", "found"), [("vmdns ", sorted([*cli._COMMANDS, "-h", "--help", "--version"])), *LINES])
def test_what_is_completed(place: Path, line: str, found: list[str]) -> None:
    assert completed(line, place) == found


def test_names_of_vms_and_networks_are_those_of_the_running_vmdns(monkeypatch: pytest.MonkeyPatch) -> None:
    network = {"kind": "natnetwork", "name": "lab"}
    web = {"name": "web.local", "addresses": [{"address": "10.0.2.4", "network": network}]}
    monkeypatch.setattr(RunningServer, "request", lambda self, message: {"zones": ["local"], "names": [web]})
    assert cli_parser._complete_machine(Namespace(vbox_home="")) == ["web"]
    assert set(cli_parser._complete_network(Namespace(vbox_home=""))) == {"lab"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash(place: Path) -> None:
    setup = "source script.bash; COMP_LINE='vmdns na' COMP_POINT=8 COMP_TYPE=9 COMP_WORDBREAKS=''; "
    assert output(["bash", "-c", setup + "_python_argcomplete vmdns; printf '%s' ${COMPREPLY[@]}"], place) == ["names"]


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
def test_fish(place: Path) -> None:
    shown = output(["fish", "--no-config", "-c", "source script.fish; complete -C 'vmdns na'"], place)
    assert [one.split("\t")[0].strip() for one in shown] == ["names"]
