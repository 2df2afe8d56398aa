"""Datagrams by the dozen: recvmmsg(2) and sendmmsg(2) through ctypes, where the system has them (Linux).

All arrays are made once. A packet's bytes are a slice of one region, a response is copied into a slice of another;
the id of a response is sent from where the query's was received.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import sys
from typing import Any

SIZE = 64  # datagrams at once
ROOM_IN, ROOM_OUT, ROOM_NAME = 4096, 2048, 32
_DONTWAIT = 0x40


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """struct msghdr of recvmsg(2)."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Header(ctypes.Structure):
    """struct mmsghdr: the message, and the length of what was received or sent."""

    _fields_ = (("message", _Message), ("length", ctypes.c_uint32))


def load() -> tuple[Any, Any] | None:
    """recvmmsg and sendmmsg of the C library; None where there are none."""
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    try:
        library = ctypes.CDLL(None, use_errno=True)
        receive, send = library.recvmmsg, library.sendmmsg
    except (OSError, AttributeError):
        return None
    receive.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
    send.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
    return receive, send


class Batch:
    """Room for SIZE datagrams of IPv4 in and out.

    After `receive`, datagram i is region[i * ROOM_IN : i * ROOM_IN + lengths[i * STEP]], from the address names[i *
    ROOM_NAME:]. `respond(i, k, response)` makes response k answer datagram i; `send(k)` sends the first k.
    """

    STEP = ctypes.sizeof(_Header) // 4

    def __init__(self, calls: tuple[Any, Any]) -> None:
        self._receive, self._send = calls
        self.region = mmap.mmap(-1, SIZE * ROOM_IN)
        self.names = mmap.mmap(-1, SIZE * ROOM_NAME)
        self._out = mmap.mmap(-1, SIZE * ROOM_OUT)
        self._kept: list[Any] = []
        region, names, out = (self._address(one) for one in (self.region, self.names, self._out))
        self._incoming = (_Header * SIZE)()
        self._in_vectors = (_Iovec * SIZE)()
        self._outgoing = (_Header * SIZE)()
        self._out_vectors = (_Iovec * (2 * SIZE))()
        for at in range(SIZE):
            name = names + at * ROOM_NAME
            self._in_vectors[at] = _Iovec(region + at * ROOM_IN, ROOM_IN)
            self._incoming[at] = _Header(_Message(name, ROOM_NAME, ctypes.addressof(self._in_vectors[at]), 1))
            self._out_vectors[2 * at] = _Iovec(region + at * ROOM_IN, 2)
            self._out_vectors[2 * at + 1] = _Iovec(out + at * ROOM_OUT, 0)
            vectors = ctypes.addressof(self._out_vectors[2 * at])
            self._outgoing[at] = _Header(_Message(name, 16, vectors, 2))
        # As plain integers: the lengths of what was received, the vectors and the addresses of what is sent.
        self.lengths = memoryview(self._incoming).cast("B").cast("I")[_Header.length.offset // 4 :]
        self._words = memoryview(self._out_vectors).cast("B").cast("Q")
        self._names_out = memoryview(self._outgoing).cast("B").cast("Q")
        self._at_in = [region + at * ROOM_IN for at in range(SIZE)]
        self._at_name = [names + at * ROOM_NAME for at in range(SIZE)]

    def _address(self, region: mmap.mmap) -> int:
        held = (ctypes.c_char * len(region)).from_buffer(region)
        self._kept.append(held)
        return ctypes.addressof(held)

    def receive(self, number: int) -> int:
        """Takes what waits on a socket (its file number), at most SIZE datagrams. Returns how many; never waits."""
        found: int = self._receive(number, self._incoming, SIZE, _DONTWAIT, None)
        return found

    def respond(self, at: int, to: int, response: bytes) -> None:
        """Response number `to` answers datagram `at`; the response is without its id."""
        length = len(response)
        start = to * ROOM_OUT
        self._out[start : start + length] = response
        words = self._words
        words[4 * to + 3] = length
        if words[4 * to] != self._at_in[at]:
            words[4 * to] = self._at_in[at]
            self._names_out[to * self.STEP // 2] = self._at_name[at]

    def send(self, number: int, count: int) -> int:
        """Sends the first `count` responses. Returns how many could not be sent: a full buffer, a peer that is gone."""
        failed = done = 0
        while done < count:
            address = ctypes.addressof(self._outgoing) + done * ctypes.sizeof(_Header)
            sent = self._send(number, address, count - done, 0)
            if sent > 0:
                done += sent
            elif ctypes.get_errno() != errno.EINTR:
                done += 1  # the first of them is at fault
                failed += 1
        return failed
