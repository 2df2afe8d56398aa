"""What Linux has for the UDP thread: batches of datagrams, a filter against floods, a short time slice.

Batches are read by recvmmsg(2) and sent by sendmmsg(2) through ctypes. All arrays are allocated once. A datagram is
read into a slot of the common length, and its remainder elsewhere; responses are sent from where they lie in packed
form (`answer_cache`). So 64 datagrams take a few steps and not 64 times a few. See tests/bench/authoritative.py.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, ip_network

from vmdns.dns.cookie import COOKIE, FULL
from vmdns.server.answer_cache import ID, KEY, NO_RESPONSE, QUERY, SENT, unpack
from vmdns.server.client_limits import SLIP

SIZE = 64  # datagrams at once
# What Ethernet carries in one piece: more than the 1232 bytes that queries may have (RFC 6891 section 6.2.3).
ROOM = 1472
POSSIBLE = sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8 and sys.byteorder == "little"

_SLOT = QUERY + 4  # the datagram, and its length
_REST = ROOM - QUERY
_NAME = 16  # struct sockaddr_in
_VECTOR = struct.Struct("QQ")  # struct iovec: an address and a length
# struct mmsghdr of 64 bits: address and length of the name, address and number of the vectors, neither control data nor
# flags, and the length of the datagram.
_HEADER = struct.Struct("QI4xQQ24xI4x")
_LENGTH_AT = 56
_EMPTY = bytes(SIZE * _SLOT)
# Reads the keys of `count` datagrams, by count.
_KEYS = [struct.Struct(f"2x{KEY}s" * count).unpack_from for count in range(SIZE + 1)]
_DONTWAIT = 0x40


class Batch:
    """Room for SIZE datagrams of IPv4 from one socket, and for their responses."""

    def __init__(self) -> None:
        # Calls that keep the interpreter lock and never wait: getting it back from a busy event loop takes longer than
        # a batch.
        library = ctypes.PyDLL(None)
        self._receive, self._send = library.recvmmsg, library.sendmmsg
        self._receive.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
        self._send.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
        sizes = _SLOT, _REST, _NAME, SENT, 2 * _VECTOR.size, _VECTOR.size, _HEADER.size, _HEADER.size
        regions = [mmap.mmap(-1, SIZE * size) for size in sizes]
        self._memory = [(ctypes.c_char * len(one)).from_buffer(one) for one in regions]  # which keeps the addresses
        self._slots, self._rests, self._names, self._sent, vectors_in, vectors_out, incoming, outgoing = regions
        # Addresses as plain numbers are handed over faster than arrays.
        slots, rests, names, sent, at_vectors_in, at_vectors_out, self._at_incoming, self._at_outgoing = map(
            ctypes.addressof, self._memory
        )
        for at in range(SIZE):
            first, name = 2 * at * _VECTOR.size, names + at * _NAME
            _VECTOR.pack_into(vectors_in, first, slots + at * _SLOT, QUERY)
            _VECTOR.pack_into(vectors_in, first + _VECTOR.size, rests + at * _REST, _REST)
            _VECTOR.pack_into(vectors_out, at * _VECTOR.size, sent + at * SENT + ID, 0)
            _HEADER.pack_into(incoming, at * _HEADER.size, name, _NAME, at_vectors_in + first, 2, 0)
            _HEADER.pack_into(outgoing, at * _HEADER.size, name, _NAME, at_vectors_out + at * _VECTOR.size, 1, 0)
        # As plain integers, one for each datagram: its length, twice; its address; the length of its response, twice;
        # its id, twice.
        self._lengths = memoryview(incoming).cast("I")[_LENGTH_AT // 4 :: _HEADER.size // 4]
        self._lengths_of_keys = memoryview(self._slots).cast("I")[QUERY // 4 :: _SLOT // 4]
        self._clients = memoryview(self._names).cast("I")[1 :: _NAME // 4]
        self._sizes = memoryview(vectors_out).cast("Q")[1::2]
        self._sizes_sent = memoryview(self._sent).cast("Q")[:: SENT // 8]
        self._ids = memoryview(self._slots).cast("H")[:: _SLOT // 2]
        self._ids_sent = memoryview(self._sent).cast("H")[ID // 2 :: SENT // 2]

    def receive(self, sock: socket.socket) -> int:
        """Reads what has arrived at a socket. Returns how many datagrams; 0 or less for none."""
        self._slots[:] = _EMPTY  # keys are padded with zero bytes
        found: int = self._receive(sock.fileno(), self._at_incoming, SIZE, _DONTWAIT, None)
        return found

    def keys(self, count: int) -> tuple[bytes, ...]:
        """Returns the keys of the received datagrams, as `answer_cache.make_key` makes them, except for datagrams
        longer than QUERY."""
        self._lengths_of_keys[:count] = self._lengths[:count]
        return _KEYS[count](self._slots)

    def clients(self, count: int) -> list[bytes]:
        """Returns the source addresses of the received datagrams, four bytes each."""
        clients = self._clients[:count].tobytes()
        return [clients[at : at + 4] for at in range(0, len(clients), 4)]

    def peer(self, at: int) -> tuple[str, int]:
        """Returns the source address and port of datagram `at`."""
        name = self._names[at * _NAME : at * _NAME + 8]
        return socket.inet_ntoa(name[4:8]), int.from_bytes(name[2:4], "big")

    def packet(self, at: int) -> bytes:
        """Returns datagram `at`."""
        length, slot, rest = self._lengths[at], at * _SLOT, at * _REST
        if length <= QUERY:
            return self._slots[slot : slot + length]
        return self._slots[slot : slot + QUERY] + self._rests[rest : rest + length - QUERY]

    def send(self, sock: socket.socket, packed: Sequence[bytes], failed: Callable[[OSError], object]) -> None:
        """Sends the packed responses, one for each datagram, and calls `failed` for each that could not be sent.

        All at once if all have the common length, else one by one.
        """
        count, done = len(packed), 0
        together = b"".join(packed)
        if len(together) == count * SENT and NO_RESPONSE not in packed:
            self._sent[: len(together)] = together
            self._ids_sent[:count] = self._ids[:count]
            self._sizes[:count] = self._sizes_sent[:count]
            done = max(0, self._send(sock.fileno(), self._at_outgoing, count, _DONTWAIT))
        for at in range(done, count):
            if packed[at] is not NO_RESPONSE:
                try:
                    sock.sendto(unpack(packed[at], self._slots[at * _SLOT : at * _SLOT + 2]), self.peer(at))
                except OSError as error:
                    failed(error)


_ATTACH, _DETACH = 26, 27  # SO_ATTACH_FILTER, SO_DETACH_FILTER
_STEP = struct.Struct("=HBBI")  # struct sock_filter
# linux/filter.h: load the word of the source address from the header of IP, or a random one; and; jump if equal, or if
# at least; return; load the length, also as index, and a half word at an offset from that.
_LOAD, _SOURCE, _RANDOM = 0x20, 0xFFF00000 + 12, 0xFFFFF000 + 56
_AND, _EQUAL, _AT_LEAST, _RETURN, _LENGTH, _INDEX, _LOAD_HALF = 0x54, 0x15, 0x35, 0x06, 0x80, 0x81, 0x48
_ALL, _NOTHING = 0xFFFFFFFF, 0
_OPTION_AT = 4 + FULL  # bytes from the end of a datagram
MAX_MUTED = 64  # networks at once: three steps of the filter each, as a jump leads over 255 at most


class FloodFilter:
    """Has the kernel drop most datagrams of a flood, before they take a place in the socket's queue.

    One in SLIP passes, to be answered empty with TC, and so does each that ends in a DNS cookie as long as ours: a
    flood in a client's name must not silence the client. A filter on the socket needs no privilege.
    """

    def __init__(self, udp: socket.socket) -> None:
        self._socket = udp
        self._networks: list[IPv4Network] = []
        self._possible = sys.platform == "linux" and udp.family == socket.AF_INET

    def mute(self, network: str) -> bool:
        """Mutes an address or a network. Returns False where that is not possible, or already done."""
        one = ip_network(network)
        if not self._possible or not isinstance(one, IPv4Network) or one in self._networks:
            return False
        if len(self._networks) >= MAX_MUTED:
            return False
        self._networks.append(one)
        return self._attach()

    def unmute(self, network: str) -> None:
        """Ends `mute`, also after the socket was closed."""
        one = ip_network(network)
        if one in self._networks:
            self._networks = [other for other in self._networks if other != one]
            self._attach()

    def clear(self) -> None:
        """Ends all muting: the socket may serve another process next."""
        if self._networks:
            self._networks = []
            self._attach()

    def _attach(self) -> bool:
        try:
            if not self._networks:
                self._socket.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
                return True
            steps = filter_program(self._networks)
            memory = ctypes.create_string_buffer(steps, len(steps))
            length = len(steps) // _STEP.size
            self._socket.setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("@HP", length, ctypes.addressof(memory)))
        except OSError:
            self._possible = False
            self._networks = []
            return False
        return True


def filter_program(muted: Sequence[IPv4Network]) -> bytes:
    """Returns the filter as classic BPF: passes some datagrams from these networks, and all from others."""
    steps: list[tuple[int, int, int, int]] = []
    for number, network in enumerate(muted, 1):
        over = 3 * (len(muted) - number) + 1
        steps += [
            (_LOAD, 0, 0, _SOURCE),
            (_AND, 0, 0, int(network.netmask)),
            (_EQUAL, over, 0, int(network.network_address)),
        ]
    steps += [
        (_RETURN, 0, 0, _ALL),
        (_LENGTH, 0, 0, 0),
        (_AT_LEAST, 0, 5, 8 + _OPTION_AT),  # with the header of UDP
        (_INDEX, 0, 0, 0),
        (_LOAD_HALF, 0, 0, -_OPTION_AT & 0xFFFFFFFF),
        (_EQUAL, 0, 2, COOKIE),
        (_LOAD_HALF, 0, 0, 2 - _OPTION_AT & 0xFFFFFFFF),
        (_EQUAL, 2, 0, FULL),
        (_LOAD, 0, 0, _RANDOM),
        (_AT_LEAST, 1, 0, (1 << 32) // SLIP),
        (_RETURN, 0, 0, _ALL),
        (_RETURN, 0, 0, _NOTHING),
    ]
    return b"".join(_STEP.pack(*step) for step in steps)


SLICE_SECONDS = 0.0001  # the shortest slice that the kernel accepts
_SYSCALL_NUMBERS = {"x86_64": 314, "aarch64": 274}  # of sched_setattr
_SCHED_ATTR = struct.Struct("=IIQiIQQQ")  # struct sched_attr: size, policy, flags, nice, priority, runtime, ...


def request_short_slice() -> bool:
    """Requests the shortest EEVDF time slice for the calling thread by sched_setattr(2), so that it preempts CPU-bound
    tasks when it wakes. Needs no privilege; kernels before 6.12 ignore it. Returns whether the kernel accepted it."""
    if sys.platform != "linux" or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    number = _SYSCALL_NUMBERS.get(os.uname().machine)
    if number is None:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _SCHED_ATTR.pack(_SCHED_ATTR.size, os.SCHED_OTHER, 0, nice, 0, round(SLICE_SECONDS * 1e9), 0, 0)
    return ctypes.CDLL(None).syscall(number, 0, attributes, 0) == 0  # type: ignore[no-any-return]
