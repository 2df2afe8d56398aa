"""Windows services (https://learn.microsoft.com/windows/win32/services/services), by pywin32."""

from __future__ import annotations

import sys


def services_of_process(pid: int) -> list[str]:
    """The names of the services that run in this process, such as one of svchost.exe. Raises OSError."""
    if sys.platform != "win32":
        raise NotImplementedError
    import pywintypes
    import win32service

    try:
        manager = win32service.OpenSCManager(None, None, win32service.SC_MANAGER_ENUMERATE_SERVICE)
        found = win32service.EnumServicesStatusEx(manager, win32service.SERVICE_WIN32, win32service.SERVICE_ACTIVE)
    except pywintypes.error as error:
        raise OSError(error.winerror, error.strerror) from error
    return [one["ServiceName"] for one in found if one["ProcessId"] == pid]
