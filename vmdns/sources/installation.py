"""Finds VirtualBox: its programs, its API bindings and the user's settings folder.

In Windows Subsystem for Linux (WSL), VBoxManage.exe can be run, so the VMs of the Windows user can be read. But guests
cannot send queries into WSL, which has a network of its own behind Windows: vmdns belongs on the Windows side.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from vmdns.files import FileStamp, read_stamp

# Where the installers of Oracle and of the distributions put VirtualBox (/usr/local: FreeBSD).
_PLACES = {
    "darwin": ("/Applications/VirtualBox.app/Contents/MacOS",),
    "other": ("/usr/lib/virtualbox", "/usr/lib64/virtualbox", "/opt/VirtualBox", "/usr/local/lib/virtualbox"),
}
# Where packages of distributions install the vboxapi module, for other interpreters too.
_MODULES = ("usr/lib/python3/dist-packages", "usr/lib/python3*/site-packages", "usr/lib64/python3*/site-packages")
_MODULES_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Installation:
    """One VirtualBox.

    program: the folder with VBoxSVC; vboxmanage: the program itself rather than a wrapper script, if possible;
    sdk: what VBOX_SDK_PATH must name; vboxapi: a folder with the vboxapi package of this VirtualBox.
    """

    program: Path
    vboxmanage: Path
    sdk: Path | None = None
    vboxapi: Path | None = None


def find(environ: Mapping[str, str], platform: str = sys.platform) -> Installation | None:
    """The VirtualBox to use: the one the environment names, the one on PATH, or the one in a usual place.

    In WSL without a VirtualBox for Linux: the one of Windows.
    """
    found = _find(environ, platform, ".exe" if platform == "win32" else "", _folders(environ, platform))
    if found is None and platform == "linux" and is_wsl():
        found = _find(environ, platform, ".exe", [*_folders(environ, platform), *wsl_program_folders()])
    return found


def _find(environ: Mapping[str, str], platform: str, suffix: str, folders: Iterable[Path]) -> Installation | None:
    wrapper: Path | None = None
    for folder in folders:
        found = folder / f"VBoxManage{suffix}"
        if not os.access(found, os.X_OK) or not found.is_file():
            continue
        # /usr/bin/VBoxManage may be a link to the program, or a shell script that warns on standard output.
        for vboxmanage in (found, found.resolve()):
            if (vboxmanage.parent / f"VBoxSVC{suffix}").is_file():
                return _installation(vboxmanage, environ, platform)
        wrapper = wrapper or found
    return _installation(wrapper, environ, platform) if wrapper else None


def stamp(installation: Installation) -> tuple[FileStamp | str, ...]:
    """A value that changes with each upgrade of VirtualBox, and when it is removed. On Windows also when its API is
    registered, which its installer does some time after it has copied the files."""
    names = "VBoxSVC", "VBoxSVC.exe", installation.vboxmanage.name
    registered = _registry_value(r"SOFTWARE\Classes\VirtualBox.VirtualBox\CLSID", "")
    return (*(read_stamp(installation.program / name) for name in names), registered)


def user_home(environ: Mapping[str, str], platform: str = sys.platform) -> Path:
    """The folder of the user's VirtualBox.xml and lease files (VirtualBox's GetVBoxUserHomeDirectory.cpp)."""
    if named := environ.get("VBOX_USER_HOME"):
        return Path(named)
    if platform == "win32":
        return Path(environ.get("USERPROFILE") or os.path.expanduser("~")) / ".VirtualBox"
    home = Path(environ.get("HOME") or os.path.expanduser("~"))
    if platform == "darwin":
        return home / "Library" / "VirtualBox"
    if (home / ".VirtualBox").is_dir():
        return home / ".VirtualBox"
    return Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "VirtualBox"


def _folders(environ: Mapping[str, str], platform: str) -> Iterator[Path]:
    named = [environ.get("VBOX_PROGRAM_PATH"), environ.get("VBOX_APP_HOME")]
    if platform == "win32":
        # The environment is as old as this process; VirtualBox may have been installed since then.
        named += [_registered_folder(), environ.get("VBOX_MSI_INSTALL_PATH"), environ.get("VBOX_INSTALL_PATH")]
    yield from (Path(folder) for folder in named if folder)
    separator = ";" if platform == "win32" else ":"
    yield from (Path(folder) for folder in environ.get("PATH", "").split(separator) if folder)
    if platform == "win32":
        for variable in ("ProgramW6432", "ProgramFiles", "ProgramFiles(x86)"):
            if folder := environ.get(variable):
                yield Path(folder) / "Oracle" / "VirtualBox"
    else:
        yield from map(Path, _PLACES["darwin" if platform == "darwin" else "other"])


def _registered_folder() -> str:
    """Where VirtualBox's installer for Windows says that it is, on whatever drive; '' if it does not."""
    return _registry_value(r"SOFTWARE\Oracle\VirtualBox", "InstallDir")


def _registry_value(path: str, name: str) -> str:
    """A text in Windows' registry; '' if there is none, and on other systems."""
    if sys.platform == "win32":
        from vmdns.windows.registry import read_key

        with suppress(OSError):
            return str(read_key(path).get(name, ""))
    return ""


def _installation(vboxmanage: Path, environ: Mapping[str, str], platform: str) -> Installation:
    program = vboxmanage.parent
    sdk = Path(environ.get("VBOX_SDK_PATH") or program / "sdk")
    installers = [sdk / "installer" / "python", sdk / "installer", sdk / "install"]  # the last one: Windows, to 7.1
    if platform not in ("win32", "darwin"):
        for pattern in _MODULES:
            installers += sorted(_MODULES_ROOT.glob(pattern), reverse=True)
    return Installation(
        program=program,
        vboxmanage=vboxmanage,
        sdk=sdk if (sdk / "bindings").is_dir() else None,
        vboxapi=next((folder for folder in installers if (folder / "vboxapi" / "__init__.py").is_file()), None),
    )


WSL_HINT = (
    "This is WSL: VirtualBox runs on Windows, and its VMs cannot send queries into WSL. Install and run vmdns on "
    "Windows instead."
)

_WSL_KERNEL = Path("/proc/sys/kernel/osrelease")
_WSL_MOUNTS = Path("/mnt")  # the mount points of Windows' drives


def is_wsl() -> bool:
    """Whether this is WSL 1 or 2, by the release name of the kernel."""
    try:
        return "microsoft" in _WSL_KERNEL.read_text("ascii", "replace").lower()
    except OSError:
        return False


def wsl_program_folders() -> Iterator[Path]:
    """Where VirtualBox's installer for Windows installs its programs, on all drives."""
    for drive in sorted(_WSL_MOUNTS.glob("?")):
        yield drive / "Program Files" / "Oracle" / "VirtualBox"


def local_path(text: str) -> str:
    """A path of VirtualBox's as one of this system: in WSL, the drives of Windows are mounted."""
    path = PureWindowsPath(text)
    if sys.platform == "win32" or not (path.drive and path.root):
        return text
    return str(_WSL_MOUNTS.joinpath(path.drive[0].lower(), *path.parts[1:]))


def windows_user_home() -> Path | None:
    """The folder of the Windows user's VirtualBox.xml; None if no user has one, or several have."""
    found = [file.parent for file in _WSL_MOUNTS.glob("?/Users/*/.VirtualBox/VirtualBox.xml")]
    return found[0] if len(found) == 1 else None
