"""Finds other users with VMs, where the user who runs vmdns has none: VirtualBox keeps each user's VMs apart."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from vmdns.host.program import has_vms

# Where users' home folders are, and where VirtualBox keeps its settings in one (GetVBoxUserHomeDirectory.cpp).
_HOMES = {"darwin": "/Users", "win32": "C:/Users"}
_SETTINGS = (".VirtualBox", ".config/VirtualBox", "Library/VirtualBox")
_MOST_USERS = 200


def describe_other_users(own: Path, environ: Mapping[str, str] = os.environ, homes: Path | None = None) -> str:
    """A sentence about another user's VMs if `own`, this user's VirtualBox home, has none; '' otherwise.

    Only readable home folders are searched. May block for seconds: call it in a thread.
    """
    if has_vms(own):
        return ""
    caller = environ.get("SUDO_USER", "")
    homes = homes or Path(_HOMES.get(sys.platform, "/home"))
    for user, folder in _settings(homes, caller):
        if folder != own and has_vms(folder):
            how = ", without sudo" if user == caller else ""
            return (
                f"{_me()} has no VMs, and {user} has (in {folder}): VirtualBox keeps each user's VMs apart; "
                f"run vmdns as {user}{how}"
            )
    return ""


def _settings(homes: Path, caller: str) -> Iterator[tuple[str, Path]]:
    """Users and their possible VirtualBox homes, beginning with the user who called sudo."""
    try:
        names = sorted(os.listdir(homes))[:_MOST_USERS]
    except OSError:
        names = []
    users = [(name, homes / name) for name in names]
    if caller and sys.platform != "win32":
        import pwd

        try:
            users.insert(0, (caller, Path(pwd.getpwnam(caller).pw_dir)))
        except KeyError:
            users.sort(key=lambda user: user[0] != caller)
    for name, home in users:
        for place in _SETTINGS:
            yield name, home / place


def _me() -> str:
    if sys.platform == "win32":
        return os.environ.get("USERNAME", "this user")
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "this user"
