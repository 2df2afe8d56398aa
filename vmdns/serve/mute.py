"""Has the kernel drop the datagrams of who floods, before they take a place in the socket's queue or any time of ours.

By a filter on the socket (SO_ATTACH_FILTER, which takes no right), on Linux and by IPv4; elsewhere each datagram is
dropped when it is read.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
import threading
from ipaddress import IPv4Network, ip_network

MUTE_SECONDS = 0.2
MOST_MUTED = 64  # networks at once: four steps of the filter each

_ATTACH, _DETACH = 26, 27  # SO_ATTACH_FILTER, SO_DETACH_FILTER of Linux
_STEP = struct.Struct("=HBBI")  # struct sock_filter
# linux/filter.h: load the word of the source address from the header of IP; and; jump if equal; return.
_LOAD, _SOURCE, _AND, _EQUAL, _RETURN = 0x20, 0xFFF00000 + 12, 0x54, 0x15, 0x06


class Mute:
    """Who is muted on one socket. Times are of a monotonic clock, in seconds. Of any thread."""

    def __init__(self, udp: socket.socket) -> None:
        self._socket = udp
        self._lock = threading.Lock()
        self._until: dict[IPv4Network, float] = {}
        self.possible = sys.platform == "linux" and udp.family == socket.AF_INET

    def add(self, key: str, now: float) -> bool:
        """Mutes an address or a network for a moment; False where that cannot be, or is so already.

        `lift` is due after MUTE_SECONDS.
        """
        network = ip_network(key)
        if not self.possible or not isinstance(network, IPv4Network):
            return False
        with self._lock:
            if len(self._until) >= MOST_MUTED or self._until.get(network, now) > now:
                return False
            self._until[network] = now + MUTE_SECONDS
            return self._attach()

    def lift(self, now: float) -> None:
        """Hears again whose time is over."""
        with self._lock:
            before = len(self._until)
            self._until = {network: until for network, until in self._until.items() if until > now}
            if len(self._until) != before:
                self._attach()

    def _attach(self) -> bool:
        try:
            if not self._until:
                self._socket.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
                return True
            steps = program(tuple(self._until))
            held = ctypes.create_string_buffer(steps, len(steps))
            length = len(steps) // _STEP.size
            self._socket.setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("@HP", length, ctypes.addressof(held)))
        except OSError:
            self.possible = False
            self._until = {}
            return False
        return True


def program(muted: tuple[IPv4Network, ...]) -> bytes:
    """The filter in the classic language of BPF: nothing of a datagram from these networks, all of any other."""
    steps = []
    for network in muted:
        steps += [
            _STEP.pack(_LOAD, 0, 0, _SOURCE),
            _STEP.pack(_AND, 0, 0, int(network.netmask)),
            _STEP.pack(_EQUAL, 0, 1, int(network.network_address)),
            _STEP.pack(_RETURN, 0, 0, 0),
        ]
    return b"".join([*steps, _STEP.pack(_RETURN, 0, 0, 0xFFFFFFFF)])
