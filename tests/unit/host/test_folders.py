"""The folders of each system. The rules are values in, paths out, so those of Windows and macOS run here too;
on a real Windows or macOS only their own CI has run them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from vmdns.host import folders
from vmdns.host.folders import config_file, control_folders, describe_other_users

HOME = Path("/home/me")
MAC = HOME / "Library" / "Application Support" / "vmdns"


@pytest.mark.parametrize(
    ("system", "environ", "path"),
    [
        ("linux", {}, HOME / ".config/vmdns/vmdns.toml"),
        ("freebsd14", {}, HOME / ".config/vmdns/vmdns.toml"),
        ("linux", {"XDG_CONFIG_HOME": "/etc/me"}, Path("/etc/me/vmdns/vmdns.toml")),
        ("linux", {"XDG_CONFIG_HOME": "relative"}, HOME / ".config/vmdns/vmdns.toml"),
        ("linux", {"XDG_CONFIG_HOME": ""}, HOME / ".config/vmdns/vmdns.toml"),
        ("darwin", {"XDG_CONFIG_HOME": "/etc/me"}, MAC / "vmdns.toml"),
        ("win32", {"APPDATA": "C:\\Roaming"}, Path("C:\\Roaming") / "vmdns" / "vmdns.toml"),
        ("win32", {}, HOME / "AppData/Roaming/vmdns/vmdns.toml"),
    ],
)
def test_config_file(system: str, environ: dict[str, str], path: Path) -> None:
    assert config_file(system, environ, HOME) == path


@pytest.mark.parametrize(
    ("system", "environ", "owned", "paths"),
    [
        pytest.param(
            "linux",
            {"XDG_RUNTIME_DIR": "/run/me"},
            True,
            ["/run/me/vmdns", "/home/me/.local/state/vmdns"],
            marks=pytest.mark.skipif(sys.platform == "win32", reason="an absolute path of POSIX"),
        ),
        ("linux", {"XDG_RUNTIME_DIR": "/run/me"}, False, ["/home/me/.local/state/vmdns"]),
        ("linux", {"XDG_RUNTIME_DIR": "run"}, True, ["/home/me/.local/state/vmdns"]),
        ("linux", {"XDG_STATE_HOME": "/var/me"}, True, ["/var/me/vmdns"]),
        ("linux", {}, True, ["/home/me/.local/state/vmdns"]),
        ("darwin", {"XDG_RUNTIME_DIR": "/run/me"}, True, [str(MAC)]),
        ("win32", {"LOCALAPPDATA": "C:\\Local"}, True, [str(Path("C:\\Local") / "vmdns")]),
        ("win32", {}, True, ["/home/me/AppData/Local/vmdns"]),
    ],
)
def test_control_folders(
    system: str, environ: dict[str, str], owned: bool, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "_is_own", lambda folder: owned and folder == Path("/run/me"))
    assert control_folders(system, environ, HOME) == tuple(Path(path) for path in paths)


@pytest.mark.skipif(sys.platform == "win32", reason="owners of files are those of Unix")
def test_a_runtime_folder_must_be_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    state = HOME / ".local/state/vmdns"
    assert control_folders("linux", environ, HOME) == (tmp_path / "vmdns", state)
    assert control_folders("linux", {"XDG_RUNTIME_DIR": str(tmp_path / "none")}, HOME) == (state,)
    # What `sudo -E` does: the folder is that of another user.
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert control_folders("linux", environ, HOME) == (state,)


# -- other users -----------------------------------------------------------------------------------------------

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


def test_no_other_user_is_named_without_need(tmp_path: Path) -> None:
    own = settings(tmp_path / "homes/me/.VirtualBox", WITH_VMS)
    settings(tmp_path / "homes/other/.VirtualBox", WITH_VMS)
    assert describe_other_users(own, {}, tmp_path / "homes") == ""
    assert describe_other_users(tmp_path / "none", {}, tmp_path / "missing") == ""
    for one in (own, tmp_path / "homes/other/.VirtualBox"):
        (one / "VirtualBox.xml").write_text(WITHOUT)
    assert describe_other_users(own, {}, tmp_path / "homes") == ""
