"""Notifies of changes of the host's addresses, and of values and keys in the registry.

Addresses: https://learn.microsoft.com/windows/win32/winsock/winsock-ioctls, SIO_ADDRESS_LIST_CHANGE, which completes
once an address of the socket's family comes or goes. Registry: RegNotifyChangeKeyValue, by pywin32.
"""

from __future__ import annotations

import ctypes
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import Any

assert sys.platform == "win32"

import winreg  # noqa: E402

import win32api  # noqa: E402
import win32event  # noqa: E402

_SIO_ADDRESS_LIST_CHANGE = 0x28000017
_WSA_IO_PENDING = 997
_KEY_NOTIFY = 0x0010
_NAME_AND_VALUE = 0x1 | 0x4  # REG_NOTIFY_CHANGE_NAME, REG_NOTIFY_CHANGE_LAST_SET
_GATHER_SECONDS = 0.1  # one change of the network is many of the registry


class _Overlapped(ctypes.Structure):
    _fields_ = (
        ("Internal", ctypes.c_void_p),
        ("InternalHigh", ctypes.c_void_p),
        ("Offset", ctypes.c_uint64),
        ("hEvent", ctypes.c_void_p),
    )


def watch_changes(changed: Callable[[], object], keys: Iterable[str] = ()) -> Callable[[], None]:
    """Calls `changed` from a thread of its own after changes of the host's addresses, and of the keys below
    HKEY_LOCAL_MACHINE with what is below them. Returns a function that ends this.

    A family that the host lacks and keys that do not exist are left out. Changes are gathered for 0.1 s, and one that
    comes while `changed` runs is not lost.
    """
    stop = win32event.CreateEvent(None, True, False, None)
    started = threading.Event()

    def run() -> None:
        with ExitStack() as stack:  # in this thread, because what a thread requested ends with it
            watches: list[_Watch] = []
            for family in (socket.AF_INET, socket.AF_INET6):
                with suppress(OSError):
                    watches.append(_watch_addresses(family, stack))
            for key in keys:
                with suppress(OSError):
                    watches.append(_watch_key(key, stack))
            started.set()
            while True:
                events = [stop, *(event for event, _ in watches)]
                at = win32event.WaitForMultipleObjects(events, False, win32event.INFINITE)
                if at == win32event.WAIT_OBJECT_0:
                    return
                if win32event.WaitForSingleObject(stop, int(_GATHER_SECONDS * 1000)) == win32event.WAIT_OBJECT_0:
                    return
                try:
                    watches[at - win32event.WAIT_OBJECT_0 - 1][1]()
                except OSError:  # the key was removed
                    del watches[at - win32event.WAIT_OBJECT_0 - 1]
                with suppress(OSError, RuntimeError):  # the socket or the event loop that it wakes is closed
                    changed()

    threading.Thread(target=run, name="changes", daemon=True).start()
    started.wait()
    return lambda: win32event.SetEvent(stop)


# An event, and what has the system set it after the next change; that raises OSError.
_Watch = tuple[Any, Callable[[], None]]


def _watch_addresses(family: int, stack: ExitStack) -> _Watch:
    one = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    event = win32event.CreateEvent(None, False, False, None)
    request, count = _Overlapped(hEvent=int(event)), ctypes.c_uint32()
    library = ctypes.WinDLL("ws2_32", use_last_error=True)

    def arm() -> None:
        failed = library.WSAIoctl(
            ctypes.c_size_t(one.fileno()), ctypes.c_uint32(_SIO_ADDRESS_LIST_CHANGE), None, 0, None, 0,
            ctypes.byref(count), ctypes.byref(request), None,
        )  # fmt: skip
        if failed and ctypes.get_last_error() != _WSA_IO_PENDING:
            raise ctypes.WinError(ctypes.get_last_error())

    def close() -> None:
        """Closes the socket. The system writes to `request` until that has cancelled it."""
        one.close()
        win32event.WaitForSingleObject(event, 5000)

    arm()
    stack.callback(close)
    return event, arm


def _watch_key(path: str, stack: ExitStack) -> _Watch:
    key = stack.enter_context(winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path, 0, _KEY_NOTIFY))
    event = win32event.CreateEvent(None, False, False, None)

    def arm() -> None:
        try:
            win32api.RegNotifyChangeKeyValue(key.handle, True, _NAME_AND_VALUE, event, True)
        except win32api.error as error:
            raise OSError(error.winerror, error.strerror) from error

    arm()
    return event, arm
