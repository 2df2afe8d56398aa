"""How a command that must clean up is ended: by Ctrl-C, Ctrl-Break, a closed terminal or console, or SIGTERM.

All others are ended by the system at once, as they leave nothing behind; `vmdns run` has handlers of its own.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


def raise_exceptions() -> None:
    """Has these signals raise an exception in the main thread from now on, unless they are ignored, as by nohup."""
    for number in _numbers():
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)
    if sys.platform == "win32":
        from vmdns.windows.console import interrupt_when_closed

        interrupt_when_closed()


def _numbers() -> list[signal.Signals]:
    return [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]


def _end(number: int, _frame: Any) -> None:
    """A closed terminal sends SIGHUP more than once: by the kernel and by the shell. The second one must not end the
    cleaning up. A second Ctrl-C does."""
    for one in _numbers():
        if one != signal.SIGINT:
            signal.signal(one, signal.SIG_IGN)
    if number in (getattr(signal, "SIGTERM", None), getattr(signal, "SIGHUP", None)):
        raise SystemExit(128 + number)  # as shells show it
    raise KeyboardInterrupt
