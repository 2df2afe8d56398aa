"""UpstreamSockets on random ports that a thread asks upstreams with, and asks again with where it has much to ask.

A port that nobody can guess is half of what keeps forged answers out (RFC 5452 section 9.2, RFC 6056 section 3.3.1).
Opening one for each question takes 20 us, so under load those are used again that rest: a random one of many, each
some times and for some seconds only, and by one question at a time. With little to ask each question has a new one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import lru_cache

from vmdns.dns.upstreams import Upstream
from vmdns.server.upstream_socket import UpstreamSockets, bind_anywhere, endpoint

_fixed = lru_cache(maxsize=64)(endpoint)  # of addresses without an interface, which may be gone

MOST_USES = 32
MOST_SECONDS = 3.0
MOST_RESTING = 256


class RandomBytes:
    """Random bytes of the system's, fetched by the block. For one thread."""

    _BLOCK = 4096

    def __init__(self) -> None:
        self._block = b""
        self._at = 0

    def draw(self, count: int) -> bytes:
        """That many bytes, at most 1024, which nobody else gets."""
        at, end = self._at, self._at + count
        if end > len(self._block):
            self._block = os.urandom(self._BLOCK)
            at, end = 0, count
        self._at = end
        return self._block[at:end]

    def below(self, count: int) -> int:
        """A number from 0 to count - 1; count is small beside 2 ** 32."""
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
    """The ports of one thread. sockets counts those of all, and bounds them."""

    def __init__(self, sockets: UpstreamSockets, noise: RandomBytes) -> None:
        self._sockets = sockets
        self._noise = noise
        self._resting: dict[Upstream, list[SourcePort]] = {}
        self.resting = 0
        sockets.pools.append(self)

    def take(self, upstream: Upstream, now: float) -> SourcePort:
        """One that no other question uses. Raises OSError, ValueError."""
        most = self._most()
        among = self._resting.get(upstream)
        if among and (len(among) * 2 > most or self._sockets.full):
            at = self._noise.below(len(among))
            among[at], port = among[-1], among[at]
            among.pop()
            self.resting -= 1
        else:
            port = self._open(upstream, now)
        port.uses += 1
        return port

    def rest(self, port: SourcePort, now: float) -> bool:
        """Takes it back, its question being answered. Whether it may be used again: else it is to be dropped."""
        if port.uses >= MOST_USES or now - port.opened >= MOST_SECONDS or self.resting >= self._most():
            return False
        self._resting.setdefault(port.upstream, []).append(port)
        self.resting += 1
        return True

    def drop(self, port: SourcePort) -> None:
        """Closes one that does not rest."""
        port.socket.close()
        self._sockets.closed()

    def stray(self, number: int) -> SourcePort | None:
        """The resting one with this file number, which rests no more: something came that nobody waits for."""
        return next(iter(self._wake(lambda port: port.number == number)), None)

    def tired(self, now: float) -> list[SourcePort]:
        """Those that rested too long, and rest no more."""
        return self._wake(lambda port: now - port.opened >= MOST_SECONDS)

    def end(self) -> list[SourcePort]:
        """All that rest, and rest no more; nothing is taken from now on."""
        self._sockets.pools.remove(self)
        return self._wake(lambda port: True)

    def _wake(self, which: Callable[[SourcePort], bool]) -> list[SourcePort]:
        found = []
        for upstream, among in list(self._resting.items()):
            found += [port for port in among if which(port)]
            self._resting[upstream] = kept = [port for port in among if not which(port)]
            if not kept:
                del self._resting[upstream]
        self.resting -= len(found)
        return found

    def _most(self) -> int:
        return min(MOST_RESTING, self._sockets.most // 4)

    def _open(self, upstream: Upstream, now: float) -> SourcePort:
        family, address = _fixed(upstream) if "%" not in upstream.address else endpoint(upstream)
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
