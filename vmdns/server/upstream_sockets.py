"""Sockets to upstreams, each on a random port (RFC 5452 section 9.2, RFC 6056). Used in the UDP thread alone.

A connected socket receives only from the address and port that it queried. To open one takes a third of the CPU time of
a query (tests/bench/forwarded.py), so under load idle UDP sockets are reused: a random one of many, each for one query
at a time, for some queries and seconds only. With few queries each has a new port.
"""

from __future__ import annotations

import errno
import secrets
import socket
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

from vmdns.dns.upstreams import Upstream
from vmdns.server.io_thread import IoThread

MAX_USES = 32
MAX_SECONDS = 1.0
# A socket is reused where more than MIN_IDLE are idle; more than MAX_IDLE are not kept.
MIN_IDLE, MAX_IDLE = 256, 512
_PORT_TRIES = 8


def max_sockets() -> int:
    """Returns how many sockets to upstreams may be open at once: half of what the process may open, 4000 at most."""
    if sys.platform == "win32":
        return 4000
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 4000 if soft == resource.RLIM_INFINITY else max(16, min(soft // 2, 4000))


class UpstreamSocket:
    """A socket of an upstream. ready is called when it may be read; a TCP socket, when it may be written."""

    def __init__(self, sock: socket.socket, upstream: Upstream, ready: Callable[[], None]) -> None:
        self.sock = sock
        self.upstream = upstream
        self.ready = ready
        self.uses = 0
        self.expires = time.monotonic() + MAX_SECONDS

    def call(self) -> None:
        self.ready()


class UpstreamSockets:
    """Opens the sockets of one thread, at most `most` at once."""

    def __init__(self, thread: IoThread, most: int) -> None:
        self.thread = thread
        self.most = most
        self.open = 0
        self._idle: dict[Upstream, list[UpstreamSocket]] = {}
        self._closing = False  # whether a timer runs that closes idle sockets

    @property
    def spare(self) -> bool:
        """Whether there are enough for retries."""
        return self.open - sum(map(len, self._idle.values())) < self.most // 2

    def take(self, upstream: Upstream, stream: bool, ready: Callable[[], None]) -> UpstreamSocket:
        """Returns a UDP socket that is connected and watched, or a TCP socket that connects. Raises OSError."""
        idle = [] if stream else self._idle.get(upstream, [])
        if len(idle) > min(MIN_IDLE, self.most // 4) or (idle and self.open >= self.most):
            at = secrets.randbelow(len(idle))
            idle[at], found = idle[-1], idle[at]
            idle.pop()
            found.ready = ready
        else:
            found = UpstreamSocket(self._connect(upstream, stream), upstream, ready)
            self.thread.watch(found.sock, EVENT_WRITE if stream else EVENT_READ, found.call)
        found.uses += 1
        return found

    def release(self, one: UpstreamSocket) -> None:
        """Takes a UDP socket back after its response, for another query."""
        idle = self._idle.setdefault(one.upstream, [])
        if one.uses >= MAX_USES or time.monotonic() >= one.expires or len(idle) >= min(MAX_IDLE, self.most // 2):
            self.close(one)
            return
        one.ready = partial(self._drop, one)
        idle.append(one)
        if not self._closing:
            self._closing = True
            self.thread.call_at(time.monotonic() + MAX_SECONDS, self._close_expired)

    def close(self, one: UpstreamSocket) -> None:
        """Closes a socket that is not idle."""
        self.thread.unwatch(one.sock)
        one.sock.close()
        self.open -= 1

    def close_idle(self, now: float = float("inf")) -> None:
        """Closes the idle sockets that expired at this time of time.monotonic; all, by default."""
        for upstream, idle in list(self._idle.items()):
            for one in [one for one in idle if one.expires <= now]:
                self._drop(one)
            if not idle:
                del self._idle[upstream]

    def _close_expired(self) -> None:
        now = time.monotonic()
        self.close_idle(now)
        self._closing = bool(self._idle)
        if self._closing:
            self.thread.call_at(now + MAX_SECONDS, self._close_expired)

    def _drop(self, one: UpstreamSocket) -> None:
        """Closes an idle socket; also one that has received what nobody asked for."""
        self._idle[one.upstream].remove(one)
        self.close(one)

    def _connect(self, upstream: Upstream, stream: bool) -> socket.socket:
        family, address = (_resolve if "%" in upstream.address else _cached_resolve)(upstream)
        if self.open >= self.most:
            raise OSError(errno.EMFILE, "too many sockets to upstreams are open")
        sock = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            if not stream:
                bind_random_port(sock, family)
            sock.connect(address)
        except BlockingIOError:
            pass  # TCP is connecting
        except BaseException:
            sock.close()
            raise
        self.open += 1
        return sock


def _resolve(upstream: Upstream) -> tuple[socket.AddressFamily, Any]:
    """Returns family and socket address. Raises OSError for an interface that is gone."""
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    family, _, _, _, address = socket.getaddrinfo(upstream.address, upstream.port, type=socket.SOCK_DGRAM, flags=flags)[
        0
    ]
    return family, address


_cached_resolve = lru_cache(maxsize=64)(_resolve)  # for addresses without an interface, whose number may change


def bind_random_port(sock: socket.socket, family: socket.AddressFamily) -> None:
    """Binds a random unprivileged port; if none is free, connect() lets the system choose."""
    everywhere = "0.0.0.0" if family == socket.AF_INET else "::"
    for _ in range(_PORT_TRIES):
        try:
            sock.bind((everywhere, 1024 + secrets.randbelow(65536 - 1024)))
            return
        except OSError:  # in use, or in a range that Windows reserves
            continue
