"""Responses that a thread sends together before it waits again: each system call may wake the receiver, which costs
more than the rest of it. See tests/bench/forwarded.py."""

from __future__ import annotations

import ctypes
import mmap
import socket
import struct
import threading
from typing import Any

from vmdns.server.recvmmsg import SIZE, Calls, Iovec, Mmsghdr, Msghdr, send_all

ROOM_OUT = 2048  # more than the longest response
_NEVER_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
_NAME = struct.Struct("=HH4s8x")  # struct sockaddr_in

Peer = tuple[Any, ...]


class SendQueue:
    """Responses from one socket. One thread fills it, and flushes it before it waits.

    calls are those of `recvmmsg.load`, None where there are none.
    """

    def __init__(self, sock: socket.socket, calls: Calls | None) -> None:
        self._socket = sock
        self._queue: list[tuple[bytes, Peer]] = []
        self._buffers = _SendBuffers(calls) if calls is not None else None
        self._thread = 0

    def use_in_this_thread(self) -> None:
        """Makes the calling thread the one that fills and flushes the queue."""
        self._thread = threading.get_ident()

    def put(self, response: bytes, peer: Peer) -> bool:
        """Queues a response. Returns False in any other thread."""
        if threading.get_ident() != self._thread:
            return False
        self._queue.append((response, peer))
        return True

    def flush(self) -> int:
        """Sends what is queued. Returns how many could not be sent: a full buffer, or a peer that went away."""
        queue, failed = self._queue, 0
        if not queue:
            return 0
        self._queue = []
        if self._buffers is not None and len(queue) > 1:
            for at in range(0, len(queue), SIZE):
                failed += self._buffers.send(self._socket.fileno(), queue[at : at + SIZE])
            return failed
        for response, peer in queue:
            try:
                self._socket.sendto(response, _NEVER_WAIT, peer)
            except OSError:
                failed += 1
        return failed


class _SendBuffers:
    """Memory for SIZE datagrams to IPv4 addresses, allocated once."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._room = mmap.mmap(-1, SIZE * (ROOM_OUT + _NAME.size))
        memory = (ctypes.c_char * len(self._room)).from_buffer(self._room)
        self._kept = memory
        start = ctypes.addressof(memory)
        self._names = SIZE * ROOM_OUT
        self._vectors = (Iovec * SIZE)()
        self._headers = (Mmsghdr * SIZE)()
        for at in range(SIZE):
            self._vectors[at] = Iovec(start + at * ROOM_OUT, 0)
            name = start + self._names + at * _NAME.size
            vector = ctypes.addressof(self._vectors[at])
            self._headers[at] = Mmsghdr(Msghdr(name, _NAME.size, vector, 1))
        self._lengths = memoryview(self._vectors).cast("B").cast("Q")[1::2]

    def send(self, number: int, responses: list[tuple[bytes, Peer]]) -> int:
        """Sends the responses from the socket with this file number. Returns how many could not be sent."""
        room, lengths, at_name = self._room, self._lengths, self._names
        for at, (response, (address, port)) in enumerate(responses):
            length = len(response)
            room[at * ROOM_OUT : at * ROOM_OUT + length] = response
            lengths[at] = length
            _NAME.pack_into(room, at_name, socket.AF_INET, socket.htons(port), socket.inet_aton(address))
            at_name += _NAME.size
        return send_all(self._calls, number, ctypes.addressof(self._headers), len(responses))
