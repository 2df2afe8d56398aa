"""Processes of Windows."""

from __future__ import annotations


def start_time(pid: int) -> str | None:
    """When this process was started, which tells it from a later one with the same number; "" where none runs, None
    where that may not be known.

    https://learn.microsoft.com/windows/win32/api/processthreadsapi/nf-processthreadsapi-getprocesstimes
    """
    import pywintypes
    import win32api
    import win32con
    import win32process
    import winerror

    try:
        handle = win32api.OpenProcess(win32con.PROCESS_QUERY_LIMITED_INFORMATION, False, pid)
        if win32process.GetExitCodeProcess(handle) != win32con.STILL_ACTIVE:
            return ""
        return str(win32process.GetProcessTimes(handle)["CreationTime"])
    except pywintypes.error as error:
        return None if error.winerror == winerror.ERROR_ACCESS_DENIED else ""
