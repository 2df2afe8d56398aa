"""Sockets to upstreams: a new one for each query, on a random port (RFC 5452 section 9.2, RFC 6056).

A connected socket receives only from the address and port that it queried. It is read with the loop's `sock_*` calls,
so any selector loop will do.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from vmdns.dns.forwarded_answer import Forwarded
from vmdns.dns.response_validation import Rejected, ResponseFault
from vmdns.dns.upstreams import Upstream

# We offer 1232 bytes; a well-behaved server sends no datagram longer than this.
MOST_DATAGRAM = 4096
# This many datagrams that are no response mean that someone is guessing: then TCP is used, which cannot be guessed.
MOST_STRAYS = 50
_PORT_TRIES = 8

ValidateMessage = Callable[[bytes], Forwarded | Rejected]
_Endpoint = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]


def endpoint(upstream: Upstream) -> _Endpoint:
    """Returns family and socket address. Raises OSError for an interface that is gone, ValueError for no address."""
    address = ipaddress.ip_address(upstream.address)
    if isinstance(address, ipaddress.IPv4Address):
        return socket.AF_INET, (str(address), upstream.port)
    zone = address.scope_id or "0"
    scope = int(zone) if zone.isdigit() else socket.if_nametoindex(zone)
    return socket.AF_INET6, (str(address).partition("%")[0], upstream.port, 0, scope)


def budget() -> int:
    """Returns how many sockets to upstreams may be open at once: half of what the process may open.

    On Windows select() takes 512 at most, which includes those of TCP clients.
    """
    if sys.platform == "win32":
        return 160
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 4000 if soft == resource.RLIM_INFINITY else max(16, min(soft // 2, 4000))


class SocketPool(Protocol):
    """Open sockets that a thread reuses; idle is how many have no query."""

    idle: int


class UpstreamSockets:
    """Opens sockets to upstreams, at most `most` at once; also counts those of `source_ports`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.open = 0
        self.pools: list[SocketPool] = []
        self._lock = threading.Lock()

    @property
    def spare(self) -> bool:
        """Whether there are enough for retries."""
        return self.open - sum(pool.idle for pool in self.pools) < self.most // 2

    @property
    def full(self) -> bool:
        """Whether no more can be opened."""
        return self.open >= self.most

    def opened(self) -> None:
        """Counts a socket that is about to be opened. Raises OSError where there are too many."""
        with self._lock:
            if self.open >= self.most:
                raise OSError(errno.EMFILE, "too many sockets to upstreams are open")
            self.open += 1

    def closed(self) -> None:
        """Counts a socket that was closed."""
        with self._lock:
            self.open -= 1

    async def ask_udp(self, upstream: Upstream, packet: bytes, validate: ValidateMessage) -> Forwarded | Rejected:
        """Sends a query and waits, without a timeout, for its response. Raises OSError, ValueError.

        Other datagrams are ignored, and the wait continues (RFC 5452 section 9.1).
        """
        loop = asyncio.get_running_loop()
        with self._socket(upstream, socket.SOCK_DGRAM) as (sock, address):
            bind_anywhere(sock)
            sock.connect(address)
            await loop.sock_sendall(sock, packet)
            for _ in range(MOST_STRAYS):
                verdict = validate(await loop.sock_recv(sock, MOST_DATAGRAM))
                if not isinstance(verdict, Rejected) or verdict.verdict is not ResponseFault.IGNORE:
                    return verdict
        return Rejected(ResponseFault.TRUNCATED, f"{MOST_STRAYS} datagrams that are no response")

    async def ask_tcp(self, upstream: Upstream, packet: bytes, validate: ValidateMessage) -> Forwarded | Rejected:
        """Sends a query over a new connection (RFC 7766). Raises OSError, ValueError; has no timeout."""
        loop = asyncio.get_running_loop()
        with self._socket(upstream, socket.SOCK_STREAM) as (sock, address):
            await loop.sock_connect(sock, address)
            await loop.sock_sendall(sock, len(packet).to_bytes(2, "big") + packet)
            size = int.from_bytes(await _read(loop, sock, 2), "big")
            return validate(await _read(loop, sock, size))

    @contextmanager
    def _socket(self, upstream: Upstream, kind: int) -> Iterator[tuple[socket.socket, tuple[str | int, ...]]]:
        family, address = endpoint(upstream)
        self.opened()
        try:
            with socket.socket(family, kind) as sock:
                sock.setblocking(False)
                yield sock, address
        finally:
            self.closed()


def bind_anywhere(sock: socket.socket) -> None:
    """Binds a random unprivileged port; if none is free, connect() lets the system choose."""
    everywhere = "0.0.0.0" if sock.family == socket.AF_INET else "::"
    for _ in range(_PORT_TRIES):
        try:
            sock.bind((everywhere, 1024 + secrets.randbelow(65536 - 1024)))
            return
        except OSError:  # in use, or in a range that Windows reserves
            continue


async def _read(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> bytes:
    out = b""
    while len(out) < size:
        part = await loop.sock_recv(sock, size - len(out))
        if not part:
            raise ConnectionError("the connection was closed before the whole answer came")
        out += part
    return out
