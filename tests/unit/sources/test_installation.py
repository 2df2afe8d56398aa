"""VirtualBox found in fake trees that look like the installations of each system."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from vmdns.sources import installation
from vmdns.sources.installation import Installation, find, stamp, user_home

REGISTERED_FOLDER = installation._registered_folder


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """The usual places of this machine do not count: a tree under tmp_path stands for them."""
    root = tmp_path / "root"
    monkeypatch.setattr(
        installation,
        "_PLACES",
        {key: tuple(str(root / place.lstrip("/")) for place in places) for key, places in installation._PLACES.items()},
    )
    monkeypatch.setattr(installation, "_MODULES_ROOT", root)
    monkeypatch.setattr(installation, "_registered_folder", lambda: "")
    return root


def program(folder: Path, name: str = "VBoxManage", server: str | None = "VBoxSVC") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for one in filter(None, (name, server)):
        (folder / one).write_text("#!/bin/sh\n")
        (folder / one).chmod(0o755)
    return folder / name


def package(folder: Path) -> Path:
    (folder / "vboxapi").mkdir(parents=True)
    (folder / "vboxapi" / "__init__.py").write_text("")
    return folder


def test_nothing_there() -> None:
    assert find({"PATH": ""}, "linux") is None
    assert find({}, "win32") is None
    assert find({}, "darwin") is None


@pytest.mark.parametrize(
    ("platform", "place"),
    [
        ("linux", "usr/lib/virtualbox"),
        ("linux", "usr/lib64/virtualbox"),
        ("linux", "opt/VirtualBox"),
        ("freebsd14", "usr/local/lib/virtualbox"),
        ("darwin", "Applications/VirtualBox.app/Contents/MacOS"),
    ],
)
def test_usual_places(nowhere, platform, place) -> None:
    real = program(nowhere / place)
    assert find({}, platform) == Installation(real.parent, real)


@pytest.mark.parametrize("variable", ["ProgramW6432", "ProgramFiles", "ProgramFiles(x86)"])
def test_program_files(tmp_path, variable) -> None:
    real = program(tmp_path / "pf" / "Oracle" / "VirtualBox", "VBoxManage.exe", "VBoxSVC.exe")
    assert find({variable: str(tmp_path / "pf")}, "win32") == Installation(real.parent, real)


def test_windows_knows_its_folder_while_the_environment_is_older(tmp_path, monkeypatch) -> None:
    old = program(tmp_path / "C" / "VirtualBox", "VBoxManage.exe", "VBoxSVC.exe")
    real = program(tmp_path / "D" / "VirtualBox", "VBoxManage.exe", "VBoxSVC.exe")
    bindings = package(real.parent / "sdk" / "install")
    environ = {"VBOX_MSI_INSTALL_PATH": f"{old.parent}/"}
    assert find(environ, "win32") == Installation(old.parent, old)
    monkeypatch.setattr(installation, "_registered_folder", lambda: f"{real.parent}/")
    assert find(environ, "win32") == Installation(real.parent, real, vboxapi=bindings)


@pytest.mark.skipif(sys.platform != "win32", reason="the registry of Windows")
@pytest.mark.parametrize(
    ("path", "name", "read"),
    [
        (r"SOFTWARE\Oracle\VirtualBox", "InstallDir", REGISTERED_FOLDER),
        (r"SOFTWARE\Classes\VirtualBox.VirtualBox\CLSID", "", lambda: stamp(Installation(Path(), Path()))[-1]),
    ],
)
def test_the_registry_of_windows(path, name, read) -> None:
    import winreg

    if read():
        pytest.skip("there is a VirtualBox")
    try:
        with winreg.CreateKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
            winreg.SetValueEx(key, name, 0, winreg.REG_SZ, "D:\\가상\\VirtualBox\\")
    except PermissionError:
        pytest.skip("needs an administrator")
    try:
        assert read() == "D:\\가상\\VirtualBox\\"
    finally:
        winreg.DeleteKey(winreg.HKEY_LOCAL_MACHINE, path)
    assert read() == ""


@pytest.mark.parametrize(
    ("platform", "variable"),
    [
        ("linux", "VBOX_PROGRAM_PATH"),
        ("linux", "VBOX_APP_HOME"),
        ("darwin", "VBOX_PROGRAM_PATH"),
        ("win32", "VBOX_PROGRAM_PATH"),
        ("win32", "VBOX_MSI_INSTALL_PATH"),
        ("win32", "VBOX_INSTALL_PATH"),
    ],
)
def test_the_environment_comes_first(nowhere, tmp_path, platform, variable) -> None:
    suffix = ".exe" if platform == "win32" else ""
    for place in ("usr/lib/virtualbox", "Applications/VirtualBox.app/Contents/MacOS", "pf/Oracle/VirtualBox"):
        program(nowhere / place, f"VBoxManage{suffix}", f"VBoxSVC{suffix}")
    mine = program(tmp_path / "mine", f"VBoxManage{suffix}", f"VBoxSVC{suffix}")
    environ = {variable: str(tmp_path / "mine"), "ProgramFiles": str(nowhere / "pf")}
    found = find(environ, platform)
    assert found is not None
    assert found.vboxmanage == mine


@pytest.mark.skipif(os.name == "nt", reason="symbolic links")
def test_path_leads_to_the_real_program(tmp_path) -> None:
    real = program(tmp_path / "elsewhere")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "VBoxManage").symlink_to(real)
    found = find({"PATH": f"/nonexistent:{tmp_path / 'bin'}"}, "linux")
    assert found is not None
    assert found.program == tmp_path / "elsewhere"


@pytest.mark.skipif(os.name == "nt", reason="symbolic links")
def test_the_real_program_is_preferred_to_a_wrapper(nowhere, tmp_path) -> None:
    wrapper = program(tmp_path / "share", "VBox.sh", server=None)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "VBoxManage").symlink_to(wrapper)
    alone = find({"PATH": str(tmp_path / "bin")}, "linux")
    assert alone is not None
    assert alone.vboxmanage == tmp_path / "bin" / "VBoxManage"
    real = program(nowhere / "usr/lib/virtualbox")
    found = find({"PATH": str(tmp_path / "bin")}, "linux")
    assert found is not None
    assert found.vboxmanage == real


@pytest.mark.skipif(os.name == "nt", reason="permission bits")
def test_what_cannot_be_run_does_not_count(nowhere) -> None:
    real = program(nowhere / "usr/lib/virtualbox")
    real.chmod(0o644)
    assert find({}, "linux") is None


@pytest.mark.parametrize(
    ("place", "bindings", "modules"),
    [
        ("usr/lib/virtualbox", "sdk/bindings/xpcom/python", "usr/lib/python3/dist-packages"),  # Debian's
        ("opt/VirtualBox", "sdk/bindings", "opt/VirtualBox/sdk/installer/python"),  # Oracle's
    ],
)
def test_bindings(nowhere, place, bindings, modules) -> None:
    real = program(nowhere / place)
    (real.parent / bindings).mkdir(parents=True)
    if place.startswith("opt"):
        package(nowhere / "usr/lib/python3.12/site-packages")  # VirtualBox's own come first
    expected = Installation(real.parent, real, real.parent / "sdk", package(nowhere / modules))
    assert find({}, "linux") == expected


def test_sdk_of_the_environment(nowhere, tmp_path) -> None:
    program(nowhere / "usr/lib/virtualbox")
    (tmp_path / "sdk/bindings").mkdir(parents=True)
    found = find({"VBOX_SDK_PATH": str(tmp_path / "sdk")}, "linux")
    assert found is not None
    assert found.sdk == tmp_path / "sdk"


@pytest.mark.parametrize("suffix", ["", ".exe"])
def test_stamp_follows_an_upgrade_and_a_removal(tmp_path, suffix) -> None:
    real = program(tmp_path, f"VBoxManage{suffix}", f"VBoxSVC{suffix}")
    server = tmp_path / f"VBoxSVC{suffix}"
    found = Installation(tmp_path, real)
    first = stamp(found)
    assert first == stamp(found)
    server.write_text("another")
    second = stamp(found)
    assert second != first
    os.utime(server, ns=(1, 1))
    assert stamp(found) not in (first, second)
    before = stamp(found)
    server.unlink()
    assert stamp(found) != before


def test_user_home(tmp_path) -> None:
    home = str(tmp_path)
    assert user_home({"HOME": home, "VBOX_USER_HOME": "/x"}, "linux") == Path("/x")
    assert user_home({"HOME": home}, "darwin") == tmp_path / "Library/VirtualBox"
    assert user_home({"USERPROFILE": home}, "win32") == tmp_path / ".VirtualBox"
    assert user_home({"HOME": home}, "linux") == tmp_path / ".config/VirtualBox"
    assert user_home({"HOME": home, "XDG_CONFIG_HOME": ""}, "linux") == tmp_path / ".config/VirtualBox"
    assert user_home({"HOME": home, "XDG_CONFIG_HOME": "/xdg"}, "linux") == Path("/xdg/VirtualBox")
    (tmp_path / ".VirtualBox").mkdir()
    assert user_home({"HOME": home, "XDG_CONFIG_HOME": "/xdg"}, "linux") == tmp_path / ".VirtualBox"
    assert user_home({"HOME": home, "VBOX_USER_HOME": "/x"}, "darwin") == Path("/x")
