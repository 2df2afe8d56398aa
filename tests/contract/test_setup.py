"""tools/setup where Python cannot make virtual environments: what it installs, and what it says to type; what
tools/run starts; and when tools/environment.py installs."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

shell = pytest.mark.skipif(sys.platform == "win32", reason="tools/setup is a shell script")

SETUP = Path(__file__).resolve().parents[2] / "tools" / "setup"
PYTHON = 'case "$*" in *ensurepip*) exit 1 ;; *environment.py*) echo "no venv" >&2; exit 9 ;; esac'
APT = 'echo "$DEBIAN_FRONTEND apt-get $*" >>"$LOG"'
ASKED = ["noninteractive apt-get -qq update", "noninteractive apt-get -qq install -y python3-venv"]


def setup(tmp_path: Path, user: int, **programs: str) -> tuple[list[str], str]:
    """What was asked of apt-get, and what tools/setup printed. programs: the text of each shell script in PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "dirname", "env", "cat"):
        (folder / name).symlink_to(str(shutil.which(name)))
    for name, text in {"python3": PYTHON, "id": f"echo {user}", "uname": "echo Linux", **programs}.items():
        file = folder / name.replace("python3_", "python3.").replace("_", "-")
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
    log = tmp_path / "log"
    log.touch()
    done = subprocess.run(
        [str(SETUP), str(tmp_path / "venv"), "test"], env={"PATH": str(folder), "LOG": str(log)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode in (1, 9)  # 9: it went on to make the environment
    assert ("no venv" in done.stderr) == (done.returncode == 9)
    return log.read_text().splitlines(), done.stderr


@shell
@pytest.mark.parametrize(("user", "sudo"), [(0, "exit 1"), (1000, 'exec env -u DEBIAN_FRONTEND "$@"')])
def test_the_package_is_installed_without_questions(tmp_path: Path, user: int, sudo: str) -> None:
    """As sudo(8) does by default, the one here passes no DEBIAN_FRONTEND on."""
    asked, said = setup(tmp_path, user, apt_get=APT, sudo=sudo)
    assert asked == ASKED
    assert "no venv" in said


@shell
def test_where_sudo_refuses_the_command_is_said(tmp_path: Path) -> None:
    asked, said = setup(tmp_path, 1000, apt_get=APT, sudo="echo 'sudo: a password is required' >&2; exit 1")
    assert asked == []
    assert said.endswith("\n    sudo apt-get update && sudo apt-get install python3-venv\n")


@shell
def test_without_sudo_the_command_is_said(tmp_path: Path) -> None:
    asked, said = setup(tmp_path, 1000, apt_get=APT)
    assert asked == []
    assert "installing" not in said
    assert said.endswith("\n    su -c 'apt-get update && apt-get install python3-venv'\n")


@shell
def test_where_apt_get_fails_the_command_is_said(tmp_path: Path) -> None:
    asked, said = setup(tmp_path, 0, apt_get=APT + "; exit 100")
    assert asked == ASKED[:1]
    assert said.endswith("\n    apt-get update && apt-get install python3-venv\n")


@shell
def test_without_apt_get_the_package_is_said(tmp_path: Path) -> None:
    _, said = setup(tmp_path, 1000)
    assert said == "vmdns needs Python's venv module: install the package python3-venv, then run this again\n"


@shell
def test_a_mac_without_python(tmp_path: Path) -> None:
    """Where there is another Python, /usr/bin/python3 is not run: it opens a window."""
    _, said = setup(tmp_path, 501, uname="echo Darwin", python3="exit 1")
    assert said == "vmdns needs Python 3.11 or newer: brew install python\n"
    (tmp_path / "with").mkdir()
    _, said = setup(tmp_path / "with", 501, uname="echo Darwin", python3='touch "$LOG.ran"', python3_13=PYTHON)
    assert not (tmp_path / "with" / "log.ran").exists()


@shell
@pytest.mark.parametrize(
    ("given", "started"),
    [
        ([], "run"),
        (["--listen", "127.0.0.1:5300"], "run --listen 127.0.0.1:5300"),
        (["demo"], "demo"),
        (["demo", "--upstream", "192.0.2.1"], "demo --upstream 192.0.2.1"),
    ],
)
def test_run_starts_vmdns_or_the_demo(tmp_path: Path, given: list[str], started: str) -> None:
    for name, text in {"tools/setup": "", ".venv/bin/vmdns": 'echo "$*"'}.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
    script = shutil.copy(SETUP.with_name("run"), tmp_path / "tools")
    assert subprocess.check_output([script, *given], text=True, timeout=60) == f"{started}\n"


def test_vmdns_is_installed_again_once_its_version_or_dependencies_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], check: bool) -> None:
        commands.append(command)
        (tmp_path / "venv" / programs).mkdir(parents=True, exist_ok=True)
        (tmp_path / "venv" / programs / "pip3").touch()

    programs = "Scripts" if sys.platform == "win32" else "bin"
    (tmp_path / "tools").mkdir()
    (tmp_path / "vmdns").mkdir()
    (tmp_path / "vmdns" / "__init__.py").touch()
    (tmp_path / "pyproject.toml").touch()
    script = shutil.copy(SETUP.with_name("environment.py"), tmp_path / "tools")
    environment = runpy.run_path(script)["main"]
    monkeypatch.setattr(subprocess, "run", run)
    for _ in range(2):
        environment(str(tmp_path / "venv"), "test")
    made, installed = commands
    assert made == [sys.executable, "-m", "venv", str(tmp_path / "venv")]
    assert installed[:4] == [str(tmp_path / "venv" / programs / "python"), "-m", "pip", "install"]
    assert installed[-2:] == ["--editable", f"{tmp_path.resolve()}[test]"]
    (tmp_path / "vmdns" / "__init__.py").write_text('__version__ = "2"\n')
    environment(str(tmp_path / "venv"), "test")
    assert commands == [made, installed, installed]
