"""Keeps the right to low ports to vmdns itself (Linux, capabilities(7)).

A service manager gives it as an ambient capability, which every program would inherit that is started after it: the
reader of VirtualBox, and through it VBoxSVC and the VMs. Emptying the ambient set takes nothing from vmdns itself.
"""

from __future__ import annotations

from pathlib import Path

_PR_CAP_AMBIENT, _CLEAR_ALL = 47, 4  # linux/prctl.h


def keep_to_ourselves(status: Path = Path("/proc/self/status")) -> None:
    """Empties the ambient set of this thread and of those that it starts; nothing where there is none."""
    try:
        text = status.read_text("utf-8", "replace")
    except OSError:
        return
    held = next((line.split()[1] for line in text.splitlines() if line.startswith("CapAmb:")), "0")
    if int(held, 16):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)
