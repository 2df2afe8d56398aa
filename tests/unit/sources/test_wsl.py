"""WSL: Windows' VirtualBox is found beside Linux, read through VBoxManage.exe, and vmdns says where it belongs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.unit.sources import zoo
from tests.unit.sources.fakevboxmanage import FakeVBoxManage
from vmdns.sources import installation
from vmdns.sources.installation import Installation, find
from vmdns.sources.vboxmanage_reader import VBoxManageReader
from vmdns.state.facts import Machine

pytestmark = pytest.mark.skipif(os.name != "posix", reason="WSL is Linux")


@pytest.fixture
def windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Drive C of a Windows with VirtualBox, seen from a WSL without a VirtualBox of its own."""
    kernel = tmp_path / "osrelease"
    kernel.write_text("5.15.167.4-microsoft-standard-WSL2\n")
    monkeypatch.setattr(installation, "_WSL_KERNEL", kernel)
    monkeypatch.setattr(installation, "_WSL_MOUNTS", tmp_path / "mnt")
    monkeypatch.setattr(installation, "_PLACES", {"other": (), "darwin": ()})
    monkeypatch.setattr(installation, "_MODULES_ROOT", tmp_path)
    folder = tmp_path / "mnt" / "c" / "Program Files" / "Oracle" / "VirtualBox"
    folder.parent.mkdir(parents=True)
    fake = FakeVBoxManage(folder, monkeypatch, ".exe")
    for words, call in zoo.CALLS.items():
        fake.plays(words, call["out"].replace("\n", "\r\n"), err=call["err"], status=call["status"])
    return tmp_path / "mnt" / "c"


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("5.15.167.4-microsoft-standard-WSL2\n", True),
        ("4.4.0-19041-Microsoft\n", True),
        ("6.12.41+deb13-amd64\n", False),
        (None, False),
    ],
)
def test_wsl_is_known_by_its_kernel(
    kernel: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "_WSL_KERNEL", tmp_path / "osrelease")
    if kernel is not None:
        (tmp_path / "osrelease").write_text(kernel)
    assert installation.is_wsl() is expected


def test_windows_virtualbox_is_found(windows: Path) -> None:
    program = windows / "Program Files" / "Oracle" / "VirtualBox" / "VBoxManage.exe"
    assert find({"PATH": "/usr/bin"}, "linux") == Installation(program.parent, program)


def test_not_outside_of_wsl(windows: Path) -> None:
    (installation._WSL_KERNEL).write_text("6.12.41+deb13-amd64\n")
    assert find({"PATH": "/usr/bin"}, "linux") is None


def test_a_virtualbox_of_linux_comes_first(windows: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    for name in ("VBoxManage", "VBoxSVC"):
        (tmp_path / "own" / name).write_text("#!/bin/sh\n")
        (tmp_path / "own" / name).chmod(0o755)
    found = find({"PATH": str(tmp_path / "own")}, "linux")
    assert found is not None
    assert found.vboxmanage == tmp_path / "own" / "VBoxManage"


def test_its_vms_are_read(windows: Path) -> None:
    home = windows / "Users" / "me" / ".VirtualBox"
    home.mkdir(parents=True)
    # Paths in VirtualBox.xml are those of Windows.
    text = (zoo.FOLDER / "VirtualBox.xml").read_text("utf-8").replace('src="machines/', 'src="C:\\vms\\')
    (home / "VirtualBox.xml").write_text(text, "utf-8")
    shutil.copytree(zoo.FOLDER / "machines", windows / "vms")
    settings = windows / "vms" / f"{zoo.named('run2').uuid}.vbox"
    extra = '<ExtraData><ExtraDataItem name="vmdns/names" value="shop"/>'
    settings.write_text(settings.read_text("utf-8").replace("<ExtraData>", extra), "utf-8")
    (windows / "Users" / "Public").mkdir()
    found = find({"PATH": "/usr/bin"}, "linux")
    assert found is not None
    reader = VBoxManageReader(found, {**os.environ, "HOME": "/nowhere"}, lambda: None)
    assert reader.found.home == str(home)
    facts = reader.read(0)
    run2 = facts[f"machine:{zoo.named('run2').uuid}"]
    assert isinstance(run2, Machine)
    assert (run2.name, run2.names, run2.reports) == ("run2", ("shop",), zoo.named("run2").reports)
    machines = [fact for fact in facts.values() if isinstance(fact, Machine)]
    assert not [one for one in machines if "\r" in one.name + one.state + "".join(one.groups) and "\n" not in one.name]


def test_of_two_windows_users_neither_is_guessed(windows: Path) -> None:
    for user in ("one", "two"):
        (windows / "Users" / user / ".VirtualBox").mkdir(parents=True)
        (windows / "Users" / user / ".VirtualBox" / "VirtualBox.xml").write_text("")
    assert installation.windows_user_home() is None
