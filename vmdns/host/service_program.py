"""The command line, user and environment of a service that runs vmdns.

VirtualBox keeps each user's VMs apart, so vmdns must run as the user who owns them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vmdns.files import NO_WINDOW

# Variables with the folders of vmdns and VirtualBox, if not the default ones.
_KEPT = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "VBOX_USER_HOME", "VBOX_PROGRAM_PATH", "VBOX_APP_HOME", "VBOX_SDK_PATH")
_CHECK_SECONDS = 30.0
_INSTALL = "`uv tool install .`" if sys.platform == "win32" else "`pipx install .` or `./tools/run`"


@dataclass(frozen=True, slots=True)
class ServiceOwner:
    """A user: name, number (0 on Windows, which has none), and home folder."""

    name: str
    uid: int
    home: Path


@dataclass(frozen=True, slots=True)
class ServiceProgram:
    """The command line of `vmdns run`, the owner that it runs as, and the environment that it needs."""

    owner: ServiceOwner
    command: tuple[str, ...]
    environ: tuple[tuple[str, str], ...] = ()


def read_user(who: str | int) -> ServiceOwner:
    """The user with this name or number. Raises KeyError (POSIX)."""
    import pwd

    entry = pwd.getpwuid(who) if isinstance(who, int) else pwd.getpwnam(who)
    return ServiceOwner(entry.pw_name, entry.pw_uid, Path(entry.pw_dir))


def find_owner(environ: Mapping[str, str], uid: int, has_vms: Callable[[ServiceOwner], bool]) -> ServiceOwner:
    """The user who called vmdns, also with sudo. Raises OSError for root, unless root has VMs."""
    if uid:
        return read_user(uid)
    caller = environ.get("SUDO_USER", "root")
    if caller != "root":
        try:
            return read_user(caller)
        except KeyError:
            raise OSError(f"there is no user {caller} (from SUDO_USER)") from None
    root = read_user(0)
    if not has_vms(root):
        raise OSError("root has no VMs; run this as the user who owns them, without sudo")
    return root


def service_program(
    owner: ServiceOwner, options: Sequence[str], environ: Mapping[str, str], interpreter: str = sys.executable
) -> ServiceProgram:
    """Starts `vmdns run` from any folder (-P: nothing is imported from the current one).

    VirtualBox needs UTF-8 for the names of VMs; the user's own language, because what VMs show may come from it.
    """
    language = environ.get("LC_ALL") or environ.get("LANG") or ""
    utf8 = language if re.search(r"\.utf-?8(@|$)", language, re.IGNORECASE) else "C.UTF-8"
    kept = ((name, os.path.abspath(environ[name])) for name in _KEPT if environ.get(name))
    return ServiceProgram(owner, (interpreter, "-P", "-m", "vmdns", "run", *options), (("LANG", utf8), *kept))


def check_program(program: ServiceProgram) -> None:
    """Checks that the interpreter finds vmdns from any folder, as this user. Raises OSError."""
    interpreter = program.command[0]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    other = hasattr(os, "geteuid") and os.geteuid() == 0 and program.owner.uid != 0
    try:
        subprocess.run(
            [interpreter, "-P", "-c", "import vmdns.cli"],
            cwd=Path(tempfile.gettempdir()).anchor or "/",
            env={**clean, "HOME": str(program.owner.home)},
            user=program.owner.uid if other else None,
            capture_output=True,
            timeout=_CHECK_SECONDS,
            check=True,
            creationflags=NO_WINDOW,
        )
    except (OSError, subprocess.SubprocessError):
        raise OSError(
            f"{interpreter} does not find vmdns when {program.owner.name} starts it from elsewhere; install vmdns "
            f"first, with {_INSTALL} in its folder, and run this by what that installed"
        ) from None
