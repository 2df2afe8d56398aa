"""Batches of datagrams: recvmmsg(2) and sendmmsg(2) through ctypes, where the system has them (Linux).

All arrays are allocated once. A datagram is read into a slot of the common length, and its remainder elsewhere;
responses are sent from where they lie in packed form (`packed_answers`). So 64 datagrams take a few steps and not 64
times a few. See tests/bench/authoritative.py.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from vmdns.server.packed_answers import ID, KEY, NO_RESPONSE, QUERY, SENT, unpacked

SIZE = 64  # datagrams at once
# What Ethernet carries in one piece: more than the 1232 bytes that queries may have (RFC 6891 section 6.2.3).
ROOM = 1472
_SLOT = QUERY + 4  # the datagram, and its length
_REST = ROOM - QUERY
_NAME = 16  # struct sockaddr_in
_EMPTY = bytes(SIZE * _SLOT)
# Reads the keys of `count` datagrams, by count.
_KEYS = [struct.Struct(f"2x{KEY}s" * count).unpack_from for count in range(SIZE + 1)]
_DONTWAIT = 0x40


class Iovec(ctypes.Structure):
    """struct iovec of readv(2)."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Msghdr(ctypes.Structure):
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


class Mmsghdr(ctypes.Structure):
    """struct mmsghdr: the message, and the length of what was received or sent."""

    _fields_ = (("message", Msghdr), ("length", ctypes.c_uint32))


_HEADER = ctypes.sizeof(Mmsghdr)

# The datagrams from `start` to before `end` came by this socket: (socket, start, end).
Part = tuple[socket.socket, int, int]


class Calls(NamedTuple):
    """recvmmsg and sendmmsg of the C library. The calls that never wait keep the interpreter lock, since getting it
    back from a busy event loop takes longer than a batch. The call that may wait releases it."""

    send: Any
    receive_at_once: Any
    send_at_once: Any


def load() -> Calls | None:
    """Returns the calls; None where the system has none."""
    if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8 or sys.byteorder != "little":
        return None
    try:
        at_once = ctypes.PyDLL(None)
        calls = Calls(ctypes.CDLL(None, use_errno=True).sendmmsg, at_once.recvmmsg, at_once.sendmmsg)
    except (OSError, AttributeError):
        return None
    calls.receive_at_once.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
    for send in (calls.send, calls.send_at_once):
        send.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
    return calls


class Batch:
    """Room for SIZE datagrams of IPv4, which may come from several sockets, and for their responses."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._slots, self._rests = mmap.mmap(-1, SIZE * _SLOT), mmap.mmap(-1, SIZE * _REST)
        self._names, self._sent = mmap.mmap(-1, SIZE * _NAME), mmap.mmap(-1, SIZE * SENT)
        self._kept: list[Any] = []
        slots, rests, names, sent = map(self._address, (self._slots, self._rests, self._names, self._sent))
        self._vectors_in, self._vectors_out = (Iovec * (2 * SIZE))(), (Iovec * SIZE)()
        incoming, outgoing, some = (
            (Mmsghdr * SIZE)(),
            (Mmsghdr * SIZE)(),
            (Mmsghdr * SIZE)(),
        )
        for at in range(SIZE):
            self._vectors_in[2 * at] = Iovec(slots + at * _SLOT, QUERY)
            self._vectors_in[2 * at + 1] = Iovec(rests + at * _REST, _REST)
            self._vectors_out[at] = Iovec(sent + at * SENT + ID, 0)
            name = names + at * _NAME
            incoming[at] = Mmsghdr(Msghdr(name, _NAME, ctypes.addressof(self._vectors_in[2 * at]), 2))
            outgoing[at] = Mmsghdr(Msghdr(name, _NAME, ctypes.addressof(self._vectors_out[at]), 1))
        self._outgoing, self._some = outgoing, some
        # Addresses as plain numbers are handed over faster than arrays.
        self._kept.append(incoming)
        self._at_incoming, self._at_outgoing, self._at_some = map(ctypes.addressof, (incoming, outgoing, some))
        # As plain integers, one for each datagram: its length, twice; its address; the length of its response, twice;
        # its id, twice.
        step = _HEADER // 4
        self._lengths = memoryview(incoming).cast("B").cast("I")[Mmsghdr.length.offset // 4 :: step]
        self._lengths_of_keys = memoryview(self._slots).cast("I")[QUERY // 4 :: _SLOT // 4]
        self._clients = memoryview(self._names).cast("I")[1 :: _NAME // 4]
        self._sizes = memoryview(self._vectors_out).cast("B").cast("Q")[1::2]
        self._sizes_sent = memoryview(self._sent).cast("Q")[:: SENT // 8]
        self._ids = memoryview(self._slots).cast("H")[:: _SLOT // 2]
        self._ids_sent = memoryview(self._sent).cast("H")[ID // 2 :: SENT // 2]

    def _address(self, region: mmap.mmap) -> int:
        memory = (ctypes.c_char * len(region)).from_buffer(region)
        self._kept.append(memory)
        return ctypes.addressof(memory)

    def receive(self, number: int, start: int) -> int:
        """Reads what has arrived at a socket (its file number), as far as there is room, as datagram `start` and those
        that follow it. Returns how many; 0 or less for none."""
        headers = self._at_incoming + start * _HEADER
        found: int = self._calls.receive_at_once(number, headers, SIZE - start, _DONTWAIT, None)
        return found

    def keys(self, found: int) -> tuple[bytes, ...]:
        """Returns the keys of the received datagrams, as `packed_answers.key_of` makes them, except for datagrams
        longer than QUERY."""
        self._lengths_of_keys[:found] = self._lengths[:found]
        return _KEYS[found](self._slots)

    def common_client(self, start: int, end: int) -> bytes | None:
        """Returns the source address (four bytes) of these datagrams; None where they have several."""
        clients = self._clients[start:end].tobytes()
        first = clients[:4]
        return first if clients == first * (end - start) else None

    def clients(self, start: int, end: int) -> list[bytes]:
        """Returns the source addresses of these datagrams."""
        clients = self._clients[start:end].tobytes()
        return [clients[at : at + 4] for at in range(0, len(clients), 4)]

    def length(self, at: int) -> int:
        """Returns the length of datagram `at`."""
        return self._lengths[at]

    def peer(self, at: int) -> tuple[str, int]:
        """Returns the source address and port of datagram `at`."""
        name = self._names[at * _NAME : at * _NAME + 8]
        return socket.inet_ntoa(name[4:8]), int.from_bytes(name[2:4], "big")

    def packet(self, at: int) -> bytes:
        """Returns datagram `at`."""
        length, slot, rest = self.length(at), at * _SLOT, at * _REST
        if length <= QUERY:
            return self._slots[slot : slot + length]
        return self._slots[slot : slot + QUERY] + self._rests[rest : rest + length - QUERY]

    def send(self, parts: Iterable[Part], packed: Sequence[bytes], *, silent: bool = False) -> int:
        """Sends the packed responses, one for each datagram. Returns how many could not be sent.

        silent: whether some are NO_RESPONSE, which is not sent.
        """
        count, failed = len(packed), 0
        together = b"".join(packed)
        if len(together) != count * SENT:
            failed = sum(self._send_large(sock, start, packed[start:end]) for sock, start, end in parts)
            together = b"".join(one if len(one) == SENT else NO_RESPONSE for one in packed)
            silent = True
        self._sent[: len(together)] = together
        self._ids_sent[:count] = self._ids[:count]
        self._sizes[:count] = self._sizes_sent[:count]
        self.clear()
        for sock, start, end in parts:
            headers, count = self._at_outgoing + start * _HEADER, end - start
            if silent:
                headers, count = self._at_some, self._choose(start, end)
            failed += send_all(self._calls, sock.fileno(), headers, count)
        return failed

    def _choose(self, start: int, end: int) -> int:
        """Copies the headers of the responses to send into `_some`. Returns how many."""
        count = 0
        for at, size in enumerate(self._sizes[start:end].tolist(), start):
            if size:
                self._some[count] = self._outgoing[at]
                count += 1
        return count

    def clear(self) -> None:
        """Makes room for the next batch: keys are padded with zero bytes."""
        self._slots[:] = _EMPTY

    def _send_large(self, sock: socket.socket, start: int, packed: Sequence[bytes]) -> int:
        failed = 0
        for at, one in enumerate(packed, start):
            if len(one) != SENT:
                try:
                    sock.sendto(self._slots[at * _SLOT : at * _SLOT + 2] + unpacked(one), self.peer(at))
                except OSError:
                    failed += 1
        return failed


def send_all(calls: Calls, number: int, headers: int, count: int) -> int:
    """Sends the first `count` of the messages at this address by sendmmsg. Returns how many could not be sent."""
    failed = 0
    done = max(0, calls.send_at_once(number, headers, count, _DONTWAIT)) if count else 0
    while done < count:
        sent = calls.send(number, headers + done * _HEADER, count - done, 0)
        if sent > 0:
            done += sent
        elif ctypes.get_errno() != errno.EINTR:
            done += 1  # the first of them failed
            failed += 1
    return failed
