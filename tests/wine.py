"""What is known of Wine, where tests run as a Windows program without a Windows."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if sys.platform == "win32":
    import ctypes

    UNDER_WINE = hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")
else:
    UNDER_WINE = False

# Its GenerateConsoleCtrlEvent fails, so a program run by this ends itself: `python -c SELF_BREAK -m MODULE ARGUMENT...`
# or `-c CODE ARGUMENT...` raises SIGBREAK, as Ctrl-Break does, when a byte comes in. os.read would block every open().
SELF_BREAK = """
import _winapi, runpy, signal, sys, threading

def wait():
    if _winapi.ReadFile(_winapi.GetStdHandle(_winapi.STD_INPUT_HANDLE), 1)[0]:
        signal.raise_signal(signal.SIGBREAK)

threading.Thread(target=wait, daemon=True).start()
option, what = sys.argv[1:3]
del sys.argv[:2]
if option == "-m":
    runpy.run_module(what, run_name="__main__", alter_sys=True)
else:
    sys.argv[0] = "-c"
    exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
"""

_start = subprocess.Popen


def start_self_breaking(command: Sequence[str], **how: Any) -> Any:
    """Starts a Python program so that a byte to its standard input ends it."""
    return _start([command[0], "-c", SELF_BREAK, *command[1:]], **{**how, "stdin": subprocess.PIPE})


def read_limits() -> dict[str, str]:
    """Why tests fail under Wine, by the beginning of their node ids (wine_limits.toml)."""
    return tomllib.loads((Path(__file__).parent / "wine_limits.toml").read_text("utf-8"))
