"""Has the kernel drop most datagrams of a flood, before they take a place in the socket's queue or any time of the
server.

One in three passes, to be answered empty with TC, and so does each that ends in a DNS cookie as long as ours: a flood
in a client's name must not silence the client.

Uses a filter on the socket (SO_ATTACH_FILTER, which needs no privilege) on Linux with IPv4; elsewhere each datagram is
dropped when it is read.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
import threading
from ipaddress import IPv4Network, ip_network

from vmdns.dns.cookie import COOKIE, FULL
from vmdns.server.rate_limit import SLIP

MUTE_SECONDS = 0.2
MOST_MUTED = 64  # networks at once: three steps of the filter each, as a jump leads over 255 at most

_ATTACH, _DETACH = 26, 27  # SO_ATTACH_FILTER, SO_DETACH_FILTER of Linux
_STEP = struct.Struct("=HBBI")  # struct sock_filter
# linux/filter.h: load the word of the source address from the header of IP, or a random one; and; jump if equal, or if
# at least; return; load the length, also as index, and a half word at an offset from that.
_LOAD, _SOURCE, _RANDOM = 0x20, 0xFFF00000 + 12, 0xFFFFF000 + 56
_AND, _EQUAL, _AT_LEAST, _RETURN, _LENGTH, _INDEX, _LOAD_HALF = 0x54, 0x15, 0x35, 0x06, 0x80, 0x81, 0x48
_ALL, _NOTHING = 0xFFFFFFFF, 0
_OPTION_AT = 4 + FULL  # bytes from the end of a datagram


class FloodFilter:
    """The muted networks of one socket. Times are of a monotonic clock, in seconds. Any thread may use it."""

    def __init__(self, udp: socket.socket) -> None:
        self._socket = udp
        self._lock = threading.Lock()
        self._until: dict[IPv4Network, float] = {}
        self.possible = sys.platform == "linux" and udp.family == socket.AF_INET

    def mute(self, key: str, now: float) -> bool:
        """Mutes an address or a network for MUTE_SECONDS. Returns False where that is not possible, or already done.

        `unmute` is due after MUTE_SECONDS.
        """
        network = ip_network(key)
        if not self.possible or not isinstance(network, IPv4Network):
            return False
        with self._lock:
            if len(self._until) >= MOST_MUTED or self._until.get(network, now) > now:
                return False
            self._until[network] = now + MUTE_SECONDS
            return self._attach()

    def unmute(self, now: float) -> None:
        """Unmutes the networks whose time is over."""
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
            memory = ctypes.create_string_buffer(steps, len(steps))
            length = len(steps) // _STEP.size
            self._socket.setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("@HP", length, ctypes.addressof(memory)))
        except OSError:
            self.possible = False
            self._until = {}
            return False
        return True


def program(muted: tuple[IPv4Network, ...]) -> bytes:
    """Returns the filter as classic BPF: passes some datagrams from these networks, and all from others."""
    steps = []
    for number, network in enumerate(muted, 1):
        over = 3 * (len(muted) - number) + 1
        steps += [
            _STEP.pack(_LOAD, 0, 0, _SOURCE),
            _STEP.pack(_AND, 0, 0, int(network.netmask)),
            _STEP.pack(_EQUAL, over, 0, int(network.network_address)),
        ]
    steps += [
        _STEP.pack(_RETURN, 0, 0, _ALL),
        _STEP.pack(_LENGTH, 0, 0, 0),
        _STEP.pack(_AT_LEAST, 0, 5, 8 + _OPTION_AT),  # with the header of UDP
        _STEP.pack(_INDEX, 0, 0, 0),
        _STEP.pack(_LOAD_HALF, 0, 0, -_OPTION_AT & 0xFFFFFFFF),
        _STEP.pack(_EQUAL, 0, 2, COOKIE),
        _STEP.pack(_LOAD_HALF, 0, 0, 2 - _OPTION_AT & 0xFFFFFFFF),
        _STEP.pack(_EQUAL, 2, 0, FULL),
        _STEP.pack(_LOAD, 0, 0, _RANDOM),
        _STEP.pack(_AT_LEAST, 1, 0, (1 << 32) // SLIP),
        _STEP.pack(_RETURN, 0, 0, _ALL),
        _STEP.pack(_RETURN, 0, 0, _NOTHING),
    ]
    return b"".join(steps)
