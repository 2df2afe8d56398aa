"""What is known of Wine, where tests run as a Windows program without a Windows."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

if sys.platform == "win32":
    import ctypes

    UNDER_WINE = hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")
else:
    UNDER_WINE = False

# Its GenerateConsoleCtrlEvent fails, so a program run by this ends itself: `python -c SELF_BREAK -m MODULE ARGUMENT...`
# raises SIGBREAK, as Ctrl-Break does, when a byte comes in.
SELF_BREAK = """
import os, runpy, signal, sys, threading

def wait():
    if os.read(0, 1):
        signal.raise_signal(signal.SIGBREAK)

threading.Thread(target=wait, daemon=True).start()
del sys.argv[:2]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def read_limits() -> dict[str, str]:
    """Why tests fail under Wine, by the beginning of their node ids (wine_limits.toml)."""
    return tomllib.loads((Path(__file__).parent / "wine_limits.toml").read_text("utf-8"))
