"""Responses that a thread made while it waited for others, sent together: each call may wake whoever receives, which
costs more than the rest of it.
"""

from __future__ import annotations

import ctypes
import mmap
import socket
import struct
import threading
from typing import Any

from vmdns.server.recvmmsg import SIZE, Calls, Header, Iovec, Message, send_all

ROOM_OUT = 2048  # more than a datagram of ours has
_NEVER_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
_NAME = struct.Struct("=HH4s8x")  # struct sockaddr_in

Peer = tuple[Any, ...]


class Outbox:
    """Responses from one socket. One thread fills it, and flushes it before it waits.

    calls are those of `batch.load`, None where there are none.
    """

    def __init__(self, sock: socket.socket, calls: Calls | None) -> None:
        self._socket = sock
        self._waiting: list[tuple[bytes, Peer]] = []
        self._letters = _Letters(calls) if calls is not None else None
        self._thread = 0

    def adopt(self) -> None:
        """The calling thread is the one."""
        self._thread = threading.get_ident()

    def put(self, response: bytes, peer: Peer) -> bool:
        """Takes a response; False in any thread but the one."""
        if threading.get_ident() != self._thread:
            return False
        self._waiting.append((response, peer))
        return True

    def flush(self) -> int:
        """Sends what there is. Returns how many could not be sent: a full buffer, a peer that went away."""
        waiting, failed = self._waiting, 0
        if not waiting:
            return 0
        self._waiting = []
        if self._letters is not None and len(waiting) > 1:
            for at in range(0, len(waiting), SIZE):
                failed += self._letters.send(self._socket.fileno(), waiting[at : at + SIZE])
            return failed
        for response, peer in waiting:
            try:
                self._socket.sendto(response, _NEVER_WAIT, peer)
            except OSError:
                failed += 1
        return failed


class _Letters:
    """Memory for SIZE datagrams to IPv4 addresses, laid out once."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._room = mmap.mmap(-1, SIZE * (ROOM_OUT + _NAME.size))
        held = (ctypes.c_char * len(self._room)).from_buffer(self._room)
        self._kept = held
        start = ctypes.addressof(held)
        self._names = SIZE * ROOM_OUT
        self._vectors = (Iovec * SIZE)()
        self._headers = (Header * SIZE)()
        for at in range(SIZE):
            self._vectors[at] = Iovec(start + at * ROOM_OUT, 0)
            name = start + self._names + at * _NAME.size
            vector = ctypes.addressof(self._vectors[at])
            self._headers[at] = Header(Message(name, _NAME.size, vector, 1))
        self._lengths = memoryview(self._vectors).cast("B").cast("Q")[1::2]

    def send(self, number: int, letters: list[tuple[bytes, Peer]]) -> int:
        """Sends them by the socket with this file number. Returns how many could not be sent."""
        room, lengths, at_name = self._room, self._lengths, self._names
        for at, (response, (address, port)) in enumerate(letters):
            length = len(response)
            room[at * ROOM_OUT : at * ROOM_OUT + length] = response
            lengths[at] = length
            _NAME.pack_into(room, at_name, socket.AF_INET, socket.htons(port), socket.inet_aton(address))
            at_name += _NAME.size
        return send_all(self._calls, number, ctypes.addressof(self._headers), len(letters))
