"""Paths of this user: the configuration file, the control channel, the state folder; the system's hosts file; and the
VirtualBox homes of other users, as VirtualBox keeps each user's VMs apart.

Linux follows the XDG Base Directory Specification 0.8, macOS and Windows their own customs. The system's name
(`sys.platform`), the environment and the home folder come in as values, so that each system's rule runs on any.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from vmdns.files import read_regular

# Where users' home folders are, and where VirtualBox keeps its settings in one (GetVBoxUserHomeDirectory.cpp).
_HOMES = {"darwin": "/Users", "win32": "C:/Users"}
_VIRTUALBOX_HOMES = (".VirtualBox", ".config/VirtualBox", "Library/VirtualBox")
_MAX_USERS = 200
_MAX_SETTINGS_BYTES = 16 * 1024 * 1024


# By the system: the variable and the folder below home for the configuration, and those for state.
_PLACES = {
    "win32": (("APPDATA", "AppData/Roaming"), ("LOCALAPPDATA", "AppData/Local")),
    "darwin": (("", "Library/Application Support"), ("", "Library/Application Support")),
}
_XDG = (("XDG_CONFIG_HOME", ".config"), ("XDG_STATE_HOME", ".local/state"))


def _folder(which: int, system: str, environ: Mapping[str, str], home: Path | None) -> Path:
    variable, below = _PLACES.get(system, _XDG)[which]
    named = environ.get(variable, "")
    # A relative one is invalid and ignored (XDG section 2).
    absolute = named.startswith("/") or named[1:2] == ":"
    return (Path(named) if absolute else (home or Path.home()) / below) / "vmdns"


def config_file(system: str = sys.platform, environ: Mapping[str, str] = os.environ, home: Path | None = None) -> Path:
    """The default path of vmdns.toml. Raises RuntimeError where no home folder is known."""
    return _folder(0, system, environ, home) / "vmdns.toml"


def state_folder(system: str = sys.platform, environ: Mapping[str, str] = os.environ, home: Path | None = None) -> Path:
    """The folder of the journal and the owners of names. Raises RuntimeError where no home folder is known."""
    return _folder(1, system, environ, home)


def log_file() -> Path:
    """The log of a vmdns without a window. Raises RuntimeError where no home folder is known."""
    return state_folder() / "vmdns.log"


def read_last_lines(file: Path) -> list[str]:
    """The last lines of a log file."""
    try:
        with file.open("rb") as one:
            one.seek(max(0, file.stat().st_size - 8192))
            return one.read().decode(errors="replace").splitlines()[-5:]
    except OSError:
        return []


def control_folders(
    system: str = sys.platform, environ: Mapping[str, str] = os.environ, home: Path | None = None
) -> tuple[Path, ...]:
    """Possible folders of the control channel: a server uses the first, a client tries them in this order.

    There are two on Linux, where a server that a service manager started may lack XDG_RUNTIME_DIR. That folder must be
    this user's own: `sudo -E` and `su` keep another user's. Raises RuntimeError where no home folder is known.
    """
    state = state_folder(system, environ, home)
    runtime = Path(environ.get("XDG_RUNTIME_DIR", ""))
    if system not in ("win32", "darwin") and runtime.is_absolute() and _is_own(runtime):
        return runtime / "vmdns", state
    return (state,)


def _is_own(folder: Path) -> bool:
    try:
        return folder.is_dir() and (sys.platform == "win32" or folder.stat().st_uid == os.geteuid())
    except OSError:
        return False


def hosts_path(system: str = sys.platform, environ: Mapping[str, str] = os.environ) -> Path:
    """The hosts file of this system (hosts(5))."""
    if system == "win32":
        return Path(environ.get("SystemRoot", r"C:\Windows"), "System32", "drivers", "etc", "hosts")
    return Path("/etc/hosts")


def has_vms(virtualbox_home: Path) -> bool:
    """Whether the settings in this VirtualBox home have any VM."""
    try:
        data = read_regular(virtualbox_home / "VirtualBox.xml", _MAX_SETTINGS_BYTES)
    except OSError:
        return False
    return re.search(rb"<MachineEntry\b", data) is not None


def describe_other_users(own: Path, environ: Mapping[str, str] = os.environ, homes: Path | None = None) -> str:
    """A sentence about another user's VMs if `own`, this user's VirtualBox home, has none; '' otherwise.

    Only readable home folders are searched. May block for seconds: call it in a thread.
    """
    if has_vms(own):
        return ""
    caller = environ.get("SUDO_USER", "")
    for user, home in _users(homes or Path(_HOMES.get(sys.platform, "/home")), caller):
        for folder in (home / place for place in _VIRTUALBOX_HOMES):
            if folder != own and has_vms(folder):
                how = ", without sudo" if user == caller else ""
                return (
                    f"{_own_name()} has no VMs, and {user} has (in {folder}): VirtualBox keeps each user's VMs apart; "
                    f"run vmdns as {user}{how}"
                )
    return ""


def _users(homes: Path, caller: str) -> Iterator[tuple[str, Path]]:
    """Users and their home folders, beginning with the user who called sudo."""
    if caller and sys.platform != "win32":
        import pwd

        try:
            yield caller, Path(pwd.getpwnam(caller).pw_dir)
        except KeyError:
            yield caller, homes / caller
    try:
        yield from ((name, homes / name) for name in sorted(os.listdir(homes))[:_MAX_USERS])
    except OSError:
        return


def _own_name() -> str:
    if sys.platform == "win32":
        return os.environ.get("USERNAME", "this user")
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "this user"
