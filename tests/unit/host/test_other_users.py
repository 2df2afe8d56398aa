"""Whose VMs there are, where the user has none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from vmdns.host import folders
from vmdns.host.folders import describe_other_users

WITH_VMS = '<VirtualBox><Global><MachineRegistry><MachineEntry uuid="{1}" src="a.vbox"/></MachineRegistry></Global>'
WITHOUT = "<VirtualBox><Global><MachineRegistry/></Global>"


def settings(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "VirtualBox.xml").write_text(text)
    return folder


@pytest.mark.parametrize("place", [".config/VirtualBox", ".VirtualBox", "Library/VirtualBox"])
def test_another_user_who_has_vms_is_named(tmp_path: Path, place: str) -> None:
    own = settings(tmp_path / "own", WITHOUT)
    settings(tmp_path / "homes/abe" / place, WITHOUT)
    (tmp_path / "homes/bea").mkdir()
    folder = settings(tmp_path / "homes/dev" / place, WITH_VMS)
    for environ, how in (({}, "run vmdns as dev"), ({"SUDO_USER": "dev"}, "run vmdns as dev, without sudo")):
        text = describe_other_users(own, environ, tmp_path / "homes")
        assert text.endswith(f"has no VMs, and dev has (in {folder}): VirtualBox keeps each user's VMs apart; {how}")
    assert describe_other_users(tmp_path / "none", {}, tmp_path / "homes")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sudo of this kind")
def test_the_user_who_called_sudo_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    settings(tmp_path / "homes/abe/.VirtualBox", WITH_VMS)
    settings(tmp_path / "elsewhere/dev/.VirtualBox", WITH_VMS)
    entry = pwd.struct_passwd(("dev", "x", 1000, 1000, "", str(tmp_path / "elsewhere/dev"), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwnam", {"dev": entry}.__getitem__)
    assert "and dev has (in" in describe_other_users(tmp_path / "none", {"SUDO_USER": "dev"}, tmp_path / "homes")
    assert "and abe has (in" in describe_other_users(tmp_path / "none", {"SUDO_USER": "zoe"}, tmp_path / "homes")


def test_without_need_or_anybody_else_nothing_is_said(tmp_path: Path) -> None:
    own = settings(tmp_path / "homes/me/.VirtualBox", WITH_VMS)
    settings(tmp_path / "homes/other/.VirtualBox", WITH_VMS)
    assert describe_other_users(own, {}, tmp_path / "homes") == ""
    assert describe_other_users(tmp_path / "none", {}, tmp_path / "missing") == ""
    (own / "VirtualBox.xml").write_text(WITHOUT)
    (tmp_path / "homes/other/.VirtualBox/VirtualBox.xml").unlink()
    assert describe_other_users(own, {}, tmp_path / "homes") == ""


def test_few_home_folders_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []
    monkeypatch.setattr(folders, "has_vms", lambda home: looked.append(home) is not None)
    for number in range(300):
        os.mkdir(tmp_path / f"{number}")
    assert describe_other_users(tmp_path / "none", {}, tmp_path) == ""
    assert len(looked) == 1 + 200 * 3
