"""The console of this process: that it is closed, and that it knows colours."""

from __future__ import annotations

import _thread
import signal
import sys
import time

CLOSE_SECONDS = 10.0  # longer than Windows waits, which is 5 s


def interrupt_when_closed() -> None:
    """Has a console that is closed, and a user who logs off, raise SIGBREAK in the main thread from now on.

    Windows ends the process when its handler of CTRL_CLOSE_EVENT returns, so that the handler of SIGBREAK, which only
    notes the signal, leaves no time to clean up. This one waits in its own thread until the main thread has ended the
    process, for the 5 s that Windows grants.
    https://learn.microsoft.com/windows/console/handlerroutine
    """
    import win32api
    import win32con

    def handle(event: int) -> bool:
        if event in (win32con.CTRL_C_EVENT, win32con.CTRL_BREAK_EVENT):
            return False  # SIGINT and SIGBREAK by the C runtime
        if sys.platform == "win32":
            _thread.interrupt_main(signal.SIGBREAK)
        time.sleep(CLOSE_SECONDS)
        return True

    win32api.SetConsoleCtrlHandler(handle, True)


def enable_colours() -> bool:
    """Whether standard output is a console that knows escape sequences for colours: Windows 10 1511 and later.

    https://learn.microsoft.com/windows/console/console-virtual-terminal-sequences
    """
    import pywintypes
    import win32console

    try:
        console = win32console.GetStdHandle(win32console.STD_OUTPUT_HANDLE)
        console.SetConsoleMode(console.GetConsoleMode() | 0x4)  # ENABLE_VIRTUAL_TERMINAL_PROCESSING
    except pywintypes.error:
        return False
    return True
