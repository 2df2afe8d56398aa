"""Random source ports for upstream queries of the UDP thread.

A port that nobody can guess is half of what keeps forged responses out (RFC 5452 section 9.2, RFC 6056 section 3.3.1).
Opening a socket takes 20 us, so under load idle ones are reused: a random one of many, each for some queries and
seconds only, and for one query at a time. With few queries each has a new port.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import lru_cache

from vmdns.dns.upstreams import Upstream
from vmdns.server.upstream_socket import UpstreamSockets, bind_anywhere, endpoint

_cached_endpoint = lru_cache(maxsize=64)(endpoint)  # of addresses without an interface, whose number may change

MAX_USES = 32
MAX_SECONDS = 3.0
MAX_IDLE = 256


class RandomBytes:
    """Random bytes of the system, fetched in blocks. For one thread."""

    _BLOCK = 4096

    def __init__(self) -> None:
        self._block = b""
        self._at = 0

    def draw(self, count: int) -> bytes:
        """Returns that many bytes, at most 1024, which are returned only once."""
        at, end = self._at, self._at + count
        if end > len(self._block):
            self._block = os.urandom(self._BLOCK)
            at, end = 0, count
        self._at = end
        return self._block[at:end]

    def below(self, count: int) -> int:
        """Returns a number from 0 to count - 1; count is small beside 2 ** 32."""
        return int.from_bytes(self.draw(4), "big") % count


class SourcePort:
    """A socket connected to an upstream, on a port of its own. opened is of time.monotonic."""

    __slots__ = ("number", "opened", "socket", "upstream", "uses")

    def __init__(self, upstream: Upstream, sock: socket.socket, now: float) -> None:
        self.upstream = upstream
        self.socket = sock
        self.number = sock.fileno()
        self.opened = now
        self.uses = 0


class SourcePortPool:
    """The source ports of one thread. sockets counts those of all threads, and bounds them."""

    def __init__(self, sockets: UpstreamSockets, noise: RandomBytes) -> None:
        self._sockets = sockets
        self._noise = noise
        self._idle: dict[Upstream, list[SourcePort]] = {}
        self.idle = 0
        sockets.pools.append(self)

    def take(self, upstream: Upstream, now: float) -> SourcePort:
        """Returns a port that no other query uses. Raises OSError, ValueError."""
        most = self._max_idle()
        candidates = self._idle.get(upstream)
        if candidates and (len(candidates) * 2 > most or self._sockets.full):
            at = self._noise.below(len(candidates))
            candidates[at], port = candidates[-1], candidates[at]
            candidates.pop()
            self.idle -= 1
        else:
            port = self._open(upstream, now)
        port.uses += 1
        return port

    def release(self, port: SourcePort, now: float) -> bool:
        """Takes a port back after its response. Returns whether it may be reused: else it is to be dropped."""
        if port.uses >= MAX_USES or now - port.opened >= MAX_SECONDS or self.idle >= self._max_idle():
            return False
        self._idle.setdefault(port.upstream, []).append(port)
        self.idle += 1
        return True

    def drop(self, port: SourcePort) -> None:
        """Closes a port that is not idle."""
        port.socket.close()
        self._sockets.closed()

    def take_stray(self, number: int) -> SourcePort | None:
        """Removes and returns the idle port with this file number, which has received an unexpected datagram."""
        return next(iter(self._remove(lambda port: port.number == number)), None)

    def expired(self, now: float) -> list[SourcePort]:
        """Removes and returns the ports that were idle for too long."""
        return self._remove(lambda port: now - port.opened >= MAX_SECONDS)

    def end(self) -> list[SourcePort]:
        """Removes and returns all idle ports; none is taken from now on."""
        self._sockets.pools.remove(self)
        return self._remove(lambda port: True)

    def _remove(self, which: Callable[[SourcePort], bool]) -> list[SourcePort]:
        found = []
        for upstream, candidates in list(self._idle.items()):
            found += [port for port in candidates if which(port)]
            self._idle[upstream] = kept = [port for port in candidates if not which(port)]
            if not kept:
                del self._idle[upstream]
        self.idle -= len(found)
        return found

    def _max_idle(self) -> int:
        return min(MAX_IDLE, self._sockets.most // 4)

    def _open(self, upstream: Upstream, now: float) -> SourcePort:
        family, address = _cached_endpoint(upstream) if "%" not in upstream.address else endpoint(upstream)
        self._sockets.opened()
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM)
            try:
                sock.setblocking(False)
                bind_anywhere(sock)
                sock.connect(address)
            except BaseException:
                sock.close()
                raise
        except BaseException:
            self._sockets.closed()
            raise
        return SourcePort(upstream, sock, now)
