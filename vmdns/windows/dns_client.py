"""Settings of Windows' DNS client: the name servers of an adapter, and that changed settings take effect."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

_NAME_SERVER = 0x2  # DNS_SETTING_NAMESERVER


class _Guid(ctypes.Structure):
    _fields_ = (("data", ctypes.c_ubyte * 16),)


class InterfaceSettings(ctypes.Structure):
    """DNS_INTERFACE_SETTINGS (netioapi.h), with the IPv4 name servers alone."""

    _fields_ = (
        ("Version", ctypes.c_uint32),
        ("Flags", ctypes.c_uint64),
        ("Domain", ctypes.c_wchar_p),
        ("NameServer", ctypes.c_wchar_p),
        ("SearchList", ctypes.c_wchar_p),
        ("RegistrationEnabled", ctypes.c_uint32),
        ("RegisterAdapterName", ctypes.c_uint32),
        ("EnableLLMNR", ctypes.c_uint32),
        ("QueryAdapterName", ctypes.c_uint32),
        ("ProfileNameServer", ctypes.c_wchar_p),
    )


def set_name_servers(guid: str, servers: Sequence[str]) -> None:
    """Sets the IPv4 name servers of the adapter with this GUID; none for those of DHCP. Needs an administrator.

    SetInterfaceDnsSettings, of Windows 10 version 2004 and newer, with what netioapi.h says of its structure:
    https://learn.microsoft.com/windows/win32/api/netioapi/nf-netioapi-setinterfacednssettings
    Raises OSError.
    """
    if sys.platform != "win32":
        raise NotImplementedError
    library = ctypes.WinDLL("iphlpapi")
    try:
        call = library.SetInterfaceDnsSettings
    except AttributeError:
        raise OSError(
            "this Windows does not let a program set DNS servers, which takes Windows 10 version 2004 or newer; set "
            f"{' and '.join(servers) or 'automatic ones'} in Settings, Network & Internet, at the adapter's properties"
        ) from None
    call.argtypes = (_Guid, ctypes.POINTER(InterfaceSettings))
    settings = InterfaceSettings(Version=1, Flags=_NAME_SERVER, NameServer=",".join(servers))
    if error := call(_Guid.from_buffer_copy(UUID(guid).bytes_le), ctypes.byref(settings)):
        raise ctypes.WinError(error)


def reload_settings() -> None:
    """Has the DNS client read its rules again and drop its cache, if it runs and an administrator calls this.

    A service reads its parameters again at SERVICE_CONTROL_PARAMCHANGE:
    https://learn.microsoft.com/windows/win32/api/winsvc/nf-winsvc-controlservice
    """
    if sys.platform != "win32":
        raise NotImplementedError
    import pywintypes
    import win32service

    with suppress(pywintypes.error):
        manager = win32service.OpenSCManager(None, None, win32service.SC_MANAGER_CONNECT)
        service = win32service.OpenService(manager, "Dnscache", win32service.SERVICE_PAUSE_CONTINUE)
        win32service.ControlService(service, win32service.SERVICE_CONTROL_PARAMCHANGE)
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            ["ipconfig", "/flushdns"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=20.0,
            check=False,
            creationflags=subprocess.CREATE_NO_WINDOW,
        )
