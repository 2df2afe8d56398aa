"""Datagrams by the dozen: recvmmsg(2) and sendmmsg(2) through ctypes, where the system has them (Linux).

All arrays are made once. A response is written over its query, behind the id, and sent from there: so neither
addresses nor ids are moved, and what is told of 64 datagrams at once takes a few steps and not 64 times a few.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import socket
import sys
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

SIZE = 64  # datagrams at once
# What Ethernet carries in one piece: more than the 1232 bytes that queries may have (RFC 6891 section 6.2.3), and no
# multiple of a page, which would have all datagrams compete for a few lines of the processor's cache.
ROOM = 1472
ROOM_OUT, ROOM_NAME = 2048, 32
STARTS = tuple(range(0, SIZE * ROOM, ROOM))  # where each datagram begins
BODIES = tuple(start + 2 for start in STARTS)  # what follows its id
_DONTWAIT, _WAITFORONE = 0x40, 0x10000


class Iovec(ctypes.Structure):
    """struct iovec of readv(2)."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Message(ctypes.Structure):
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


class Header(ctypes.Structure):
    """struct mmsghdr: the message, and the length of what was received or sent."""

    _fields_ = (("message", Message), ("length", ctypes.c_uint32))


class Calls(NamedTuple):
    """recvmmsg and sendmmsg of the C library: those that may wait let go of the interpreter's lock meanwhile, and those
    at once, which never wait, keep it. To get it back from an event loop at work takes longer than a batch does."""

    receive: Any
    send: Any
    receive_at_once: Any
    send_at_once: Any


def load() -> Calls | None:
    """The calls; None where there are none."""
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    try:
        found = [
            getattr(library, name)
            for library in (ctypes.CDLL(None, use_errno=True), ctypes.PyDLL(None, use_errno=True))
            for name in ("recvmmsg", "sendmmsg")
        ]
    except (OSError, AttributeError):
        return None
    calls = Calls(*found)
    for receive in (calls.receive, calls.receive_at_once):
        receive.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
    for send in (calls.send, calls.send_at_once):
        send.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
    return calls


class Batch:
    """Room for SIZE datagrams of IPv4, each of which may become the response to itself.

    After `receive`, datagram i is region[STARTS[i] : STARTS[i] + lengths[i]]. A response without its id is written to
    region[BODIES[i] :]; `send` sends them.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.region = mmap.mmap(-1, SIZE * ROOM)
        self._names = mmap.mmap(-1, SIZE * ROOM_NAME)
        self._kept: list[Any] = []
        region, names = (self._address(one) for one in (self.region, self._names))
        self._vectors_in, self._vectors_out = (Iovec * SIZE)(), (Iovec * SIZE)()
        self._incoming, self._outgoing, self._some = (Header * SIZE)(), (Header * SIZE)(), (Header * SIZE)()
        for at, start in enumerate(STARTS):
            name = names + at * ROOM_NAME
            self._vectors_in[at] = Iovec(region + start, ROOM)
            self._vectors_out[at] = Iovec(region + start, 0)
            self._incoming[at] = Header(Message(name, ROOM_NAME, ctypes.addressof(self._vectors_in[at]), 1))
            self._outgoing[at] = Header(Message(name, 16, ctypes.addressof(self._vectors_out[at]), 1))
        # As plain integers, one for each datagram: its length, who it is from, the length of its response.
        step = ctypes.sizeof(Header) // 4
        self._lengths = memoryview(self._incoming).cast("B").cast("I")[Header.length.offset // 4 :: step]
        self._askers = memoryview(self._names).cast("I")[1 :: ROOM_NAME // 4]
        self._sizes = memoryview(self._vectors_out).cast("B").cast("Q")[1::2]

    def _address(self, region: mmap.mmap) -> int:
        held = (ctypes.c_char * len(region)).from_buffer(region)
        self._kept.append(held)
        return ctypes.addressof(held)

    def receive(self, number: int, *, wait: bool = False) -> int:
        """Takes what waits on a socket (its file number), at most SIZE datagrams. Returns how many, 0 or less for none.

        wait: whether to wait for the first of them.
        """
        found: int = self._calls.receive_at_once(number, self._incoming, SIZE, _DONTWAIT, None)
        if found <= 0 and wait:
            found = self._calls.receive(number, self._incoming, SIZE, _WAITFORONE, None)
        return found

    def lengths(self, found: int) -> list[int]:
        """The lengths of what was received."""
        return self._lengths[:found].tolist()

    def askers(self, found: int) -> list[int]:
        """The addresses that it is from: their four bytes, read as this machine's integers."""
        return self._askers[:found].tolist()

    def peer(self, at: int) -> tuple[str, int]:
        """The address and the port that datagram `at` is from."""
        name = self._names[at * ROOM_NAME : at * ROOM_NAME + 8]
        return socket.inet_ntoa(name[4:8]), int.from_bytes(name[2:4], "big")

    def send(self, number: int, sizes: Sequence[int]) -> int:
        """Sends the responses, of these sizes with their ids, 0 for none. Returns how many could not be sent."""
        self._sizes[: len(sizes)] = memoryview(array("Q", sizes))
        headers, count = self._outgoing, len(sizes)
        if not all(sizes):
            headers, count = self._some, 0
            for at, size in enumerate(sizes):
                if size:
                    headers[count] = self._outgoing[at]
                    count += 1
        return send_all(self._calls, number, headers, count)


def send_all(calls: Calls, number: int, headers: Any, count: int) -> int:
    """Sends the first `count` of these messages by sendmmsg. Returns how many could not be sent."""
    failed = 0
    done = max(0, calls.send_at_once(number, headers, count, _DONTWAIT))
    while done < count:
        address = ctypes.addressof(headers) + done * ctypes.sizeof(Header)
        sent = calls.send(number, address, count - done, 0)
        if sent > 0:
            done += sent
        elif ctypes.get_errno() != errno.EINTR:
            done += 1  # the first of them is at fault
            failed += 1
    return failed
