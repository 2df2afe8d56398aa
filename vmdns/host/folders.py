"""Paths for this user: the configuration file, the control channel, the state folder; and the system's hosts file.

Linux follows the XDG Base Directory Specification 0.8, macOS and Windows their own customs. The system's name
(`sys.platform`), the environment and the home folder come in as values, so that each system's rule runs on any.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path


def config_file(system: str = sys.platform, environ: Mapping[str, str] = os.environ, home: Path | None = None) -> Path:
    """The default path of vmdns.toml. Raises RuntimeError where no home folder is known."""
    home = home or Path.home()
    if system == "win32":
        return _folder(environ, "APPDATA", home / "AppData" / "Roaming") / "vmdns" / "vmdns.toml"
    if system == "darwin":
        return home / "Library" / "Application Support" / "vmdns" / "vmdns.toml"
    return _folder(environ, "XDG_CONFIG_HOME", home / ".config") / "vmdns" / "vmdns.toml"


def _owned(folder: Path) -> bool:
    """Whether the folder is this user's own, as XDG_RUNTIME_DIR must be: `sudo -E` and `su` keep another user's."""
    try:
        return folder.is_dir() and (sys.platform == "win32" or folder.stat().st_uid == os.geteuid())
    except OSError:
        return False


def control_folders(
    system: str = sys.platform,
    environ: Mapping[str, str] = os.environ,
    home: Path | None = None,
    owned: Callable[[Path], bool] = _owned,
) -> tuple[Path, ...]:
    """Possible folders of the control channel: a server uses the first, a client tries them in this order.

    There are two on Linux, where a server that a service manager started may lack XDG_RUNTIME_DIR.
    Raises RuntimeError where no home folder is known.
    """
    home = home or Path.home()
    if system == "win32":
        return (_folder(environ, "LOCALAPPDATA", home / "AppData" / "Local") / "vmdns",)
    if system == "darwin":
        return (home / "Library" / "Application Support" / "vmdns",)
    state = _folder(environ, "XDG_STATE_HOME", home / ".local" / "state") / "vmdns"
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and owned(Path(runtime)):
        return Path(runtime) / "vmdns", state
    return (state,)


def state_folder(system: str = sys.platform, environ: Mapping[str, str] = os.environ, home: Path | None = None) -> Path:
    """The folder of the journal and the owners of names.

    Raises RuntimeError where no home folder is known.
    """
    return control_folders(system, environ, home, lambda folder: False)[-1]


def hosts_path(system: str = sys.platform, environ: Mapping[str, str] = os.environ) -> Path:
    """The hosts file of this system (hosts(5))."""
    if system == "win32":
        return Path(environ.get("SystemRoot", r"C:\Windows"), "System32", "drivers", "etc", "hosts")
    return Path("/etc/hosts")


def _folder(environ: Mapping[str, str], variable: str, default: Path) -> Path:
    """The folder that the variable names. A relative one is invalid and ignored (XDG section 2)."""
    named = environ.get(variable, "")
    relative = not named.startswith("/") and named[1:2] != ":"
    return default if relative else Path(named)
