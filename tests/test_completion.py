"""The scripts of `vmdns completion`, run by the shells where those are installed.

PowerShell's is only compared with the parser here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vmdns.arguments import SHELLS, build_parser
from vmdns.completion import script

COMMANDS = [
    "ask",
    "completion",
    "config",
    "demo",
    "doctor",
    "host",
    "hosts",
    "names",
    "run",
    "service",
    "status",
    "wire",
]
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
    for shell in SHELLS:
        (tmp_path / f"script.{shell}").write_text(script(build_parser(), shell), encoding="utf-8")
    return tmp_path


def output(command: list[str], place: Path) -> list[str]:
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return sorted(done.stdout.splitlines())


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(("line", "found"), [("vmdns ", None), *LINES])
def test_bash(place: Path, line: str, found: list[str] | None) -> None:
    words = line.split(" ")
    setup = f"source script.bash; COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}; "
    shown = output(["bash", "-c", setup + '_vmdns; printf "%s\\n" "${COMPREPLY[@]}"'], place)
    assert shown == (found or sorted([*COMMANDS, "-h", "--help", "--version"]))


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
@pytest.mark.parametrize(("line", "found"), [("vmdns ", COMMANDS), *LINES])
def test_fish(place: Path, line: str, found: list[str]) -> None:
    shown = output(["fish", "--no-config", "-c", f"source script.fish; complete -C '{line}'"], place)
    assert [one.split("\t")[0].rstrip("/").replace("\\", "") for one in shown] == found


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_takes_the_script(place: Path) -> None:
    """What it completes needs a terminal; that it is valid and registers itself does not."""
    assert output(["zsh", "-fn", "script.zsh"], place) == []
    assert output(["zsh", "-fc", "compdef() { print -- $@ }; source ./script.zsh"], place) == ["_vmdns vmdns"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_word_of_the_parser_is_there(place: Path, shell: str) -> None:
    text = (place / f"script.{shell}").read_text("utf-8").replace("\\n", " ")
    words = {*COMMANDS, "auto", "api", "vboxmanage", *SHELLS}
    options = {"listen", "vbox-home", "reader", "upstream", "config", "json", "watch", "as", "help", "version"}
    for word in words:
        assert re.search(rf"\b{word}\b", text), word
    for option in options:
        assert re.search(rf"-l {option}\b" if shell == "fish" else rf"--{option}\b", text), option
