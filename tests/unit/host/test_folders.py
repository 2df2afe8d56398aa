"""The folders of each system. The rules are values in, paths out, so those of Windows and macOS run here too;
on a real Windows or macOS only their own CI has run them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from vmdns.host import folders
from vmdns.host.folders import config_file, control_folders

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
        ("linux", {"XDG_RUNTIME_DIR": "/run/me"}, True, ["/run/me/vmdns", "/home/me/.local/state/vmdns"]),
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


def test_the_defaults_are_those_of_this_machine() -> None:
    assert config_file().name == "vmdns.toml"
    assert all(folder.is_absolute() and folder.name == "vmdns" for folder in control_folders())
