"""Windows Subsystem for Linux: Linux beside the Windows on which VirtualBox runs.

VBoxManage.exe can be run from there, so the VMs of the Windows user can be read. But guests cannot send queries into
WSL, whose network is one of its own behind Windows: vmdns belongs on the Windows side.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

HINT = (
    "This is WSL: VirtualBox runs on Windows, and its VMs cannot send queries into WSL. Install and run vmdns on "
    "Windows instead."
)

_KERNEL = Path("/proc/sys/kernel/osrelease")
_MOUNTS = Path("/mnt")  # where WSL has the drives of Windows


def is_wsl() -> bool:
    """Whether this Linux runs in WSL 1 or 2, by the name of its kernel."""
    try:
        return "microsoft" in _KERNEL.read_text("ascii", "replace").lower()
    except OSError:
        return False


def program_folders() -> Iterator[Path]:
    """Where VirtualBox's installer for Windows puts its programs, on all drives."""
    for drive in sorted(_MOUNTS.glob("?")):
        yield drive / "Program Files" / "Oracle" / "VirtualBox"


def windows_user_home() -> Path | None:
    """The folder of the Windows user's VirtualBox.xml; None where there is none, or several users have one."""
    found = [file.parent for file in _MOUNTS.glob("?/Users/*/.VirtualBox/VirtualBox.xml")]
    return found[0] if len(found) == 1 else None
