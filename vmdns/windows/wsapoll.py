"""A selector that waits for any number of sockets, where Windows' select() takes 512.

https://learn.microsoft.com/windows/win32/api/winsock2/nf-winsock2-wsapoll. Before Windows 10 2004 a TCP connection that
fails is not reported: it counts as one without a response.
"""

from __future__ import annotations

import ctypes
import math
import sys
import time
from collections.abc import Callable
from selectors import EVENT_READ, EVENT_WRITE, SelectorKey, SelectSelector
from typing import Any

_IN, _OUT, _INVALID = 0x0300, 0x0010, 0x0004  # POLLIN, POLLOUT, POLLNVAL
# struct WSAPOLLFD of 64 bits: the socket (8 bytes), the events and those that came (2 bytes each), 4 bytes of padding.
_SIZE, _EVENTS_AT, _CAME_AT = 16, 4, 5

# Waits: the address of the structures, how many, milliseconds or -1. Returns how many are ready. Raises OSError.
Poll = Callable[[int, int, int], int]

if sys.platform == "win32":
    _WSAPOLL = ctypes.WinDLL("ws2_32", use_last_error=True).WSAPoll
    _WSAPOLL.argtypes = (ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int)

    def wsa_poll(address: int, count: int, milliseconds: int) -> int:
        """A `Poll` by Windows."""
        ready: int = _WSAPOLL(address, count, milliseconds)
        if ready < 0:
            raise ctypes.WinError(ctypes.get_last_error())
        return ready


class WsaPollSelector(SelectSelector):
    """Used as the selectors of the standard library. A socket that was closed without `unregister` is no longer waited
    for."""

    def __init__(self, poll: Poll) -> None:
        super().__init__()
        self._poll = poll
        self._keys: list[SelectorKey] = []  # of the sockets in the array, in its order
        self._places: dict[int, int] = {}  # where a socket is in the array, by its number
        self._make_array(64)

    def _make_array(self, size: int) -> None:
        self._array = (ctypes.c_char * (size * _SIZE))()
        view = memoryview(self._array).cast("B")
        self._sockets, self._halves = view.cast("Q"), view.cast("H")

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        """Waits for a socket, too. Raises ValueError and KeyError."""
        key = super().register(fileobj, events, data)
        place = self._places[key.fd] = len(self._keys)
        self._keys.append(key)
        if (place + 1) * _SIZE > len(self._array):
            before = bytes(self._array)
            self._make_array(2 * (place + 1))
            ctypes.memmove(self._array, before, len(before))
        self._sockets[2 * place] = key.fd
        wanted = (_IN if events & EVENT_READ else 0) | (_OUT if events & EVENT_WRITE else 0)
        self._halves[_SIZE // 2 * place + _EVENTS_AT] = wanted
        return key

    def unregister(self, fileobj: Any) -> SelectorKey:
        """Ends `register`. Raises KeyError."""
        key = super().unregister(fileobj)
        self._remove(key.fd)
        return key

    def _remove(self, number: int) -> None:
        place = self._places.pop(number, None)
        if place is None:
            return
        last = self._keys.pop()
        at = len(self._keys)
        if place < at:  # the last one takes its place
            self._keys[place], self._places[last.fd] = last, place
            self._sockets[2 * place] = last.fd
            self._halves[_SIZE // 2 * place + _EVENTS_AT] = self._halves[_SIZE // 2 * at + _EVENTS_AT]

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """Returns the sockets that are ready within that many seconds, and for what. Raises OSError."""
        milliseconds = -1 if timeout is None else max(0, math.ceil(timeout * 1e3))
        count = len(self._keys)
        if not count:  # WSAPoll wants one at least
            time.sleep(max(0, milliseconds) / 1e3)
            return []
        if not self._poll(ctypes.addressof(self._array), count, milliseconds):
            return []
        found = []
        came = self._halves[_CAME_AT : _SIZE // 2 * count : _SIZE // 2].tolist()
        for key, events in [(self._keys[at], events) for at, events in enumerate(came) if events]:
            if events & _INVALID:
                self._remove(key.fd)
                continue
            # An error or the end of a connection is for reading and writing.
            ready = (EVENT_READ if events & ~_OUT else 0) | (EVENT_WRITE if events & ~_IN else 0)
            found.append((key, ready & key.events))
        return found
