"""Sockets to listen on: UDP and TCP on the same port, at exact addresses."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Listener:
    """One address and port that the server listens on by UDP and TCP."""

    address: str
    port: int
    udp: socket.socket
    tcp: socket.socket

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


def bind(address: str, port: int) -> Listener:
    """Binds both sockets. Port 0 takes a free one. Raises OSError.

    Sets neither SO_REUSEPORT nor, on UDP, SO_REUSEADDR: a second server on the same port would silently take half of
    the queries.
    """
    info = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
    family, where = info[0], info[4]
    for _ in range(20):
        udp = socket.socket(family, socket.SOCK_DGRAM)
        tcp = socket.socket(family, socket.SOCK_STREAM)
        try:
            for one in (udp, tcp):
                one.setblocking(False)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows, where SO_REUSEADDR would mean sharing the port
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
                udp.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            else:
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            udp.bind(where)
            chosen = udp.getsockname()[1]
            tcp.bind((where[0], chosen, *where[2:]))
            tcp.listen(128)
            return Listener(address, chosen, udp, tcp)
        except OSError as error:
            udp.close()
            tcp.close()
            if port or error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "no free port for both UDP and TCP")
