"""Sockets to listen on: UDP and TCP on the same port, at exact addresses, opened here or passed by a service manager.

Socket activation, as systemd's sd_listen_fds(3) does it: so vmdns has port 53 without a privilege of its own, and
queries wait in the sockets while it restarts.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from ipaddress import ip_address

_FIRST = 3  # SD_LISTEN_FDS_START
_MAX_PASSED = 256


@dataclass(slots=True, eq=False)
class Listener:
    """One address and port that the server listens on by UDP and TCP. wildcard: its sockets are bound to all addresses,
    and listeners at other addresses may share them."""

    address: str
    port: int
    udp: socket.socket
    tcp: socket.socket
    wildcard: bool = False

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
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            if not hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
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


def take(environ: MutableMapping[str, str], pid: int | None = None) -> tuple[list[Listener], list[str]]:
    """Returns the listeners that a service manager passed, and a sentence for each unusable socket, which is closed.

    The variables are removed from the environment, since they mean nothing to child processes.
    """
    count, whose = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if whose != str(os.getpid() if pid is None else pid) or not count.isdecimal():
        return [], []
    sockets: list[tuple[str, socket.socket]] = []
    troubles = []
    for at in range(min(int(count), _MAX_PASSED)):
        name = names[at] if at < len(names) else ""
        try:
            os.set_inheritable(_FIRST + at, False)
            sockets.append((name, socket.socket(fileno=_FIRST + at)))
        except OSError as error:
            troubles.append(f"{_describe(name)} that was handed over is none ({error.strerror}); it is left alone")
    found, more = pair(sockets)
    return found, troubles + more


def pair(sockets: list[tuple[str, socket.socket]]) -> tuple[list[Listener], list[str]]:
    """Returns the listeners among named sockets: one of UDP and one of TCP for each address and port."""
    halves: dict[tuple[str, int], dict[int, tuple[str, socket.socket]]] = {}
    troubles = []
    for name, one in sockets:
        why = _reason_unusable(one)
        if not why:
            address, port = one.getsockname()[:2]
            if one.type in halves.setdefault((address, port), {}):
                why = f"there is another for {address} port {port}"
            else:
                halves[address, port][one.type] = name, one
        if why:
            troubles.append(f"{_describe(name)} that was handed over is of no use: {why}")
            one.close()
    found = []
    for (address, port), kinds in halves.items():
        if len(kinds) < 2:
            ((kind, (name, one)),) = kinds.items()
            missing = "ListenStream" if kind == socket.SOCK_DGRAM else "ListenDatagram"
            endpoint = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            troubles.append(
                f"{_describe(name)} for {address} port {port} is of no use alone: DNS needs UDP and TCP, so give it "
                f"{missing}={endpoint} as well"
            )
            one.close()
            continue
        udp, tcp = kinds[socket.SOCK_DGRAM][1], kinds[socket.SOCK_STREAM][1]
        for one in (udp, tcp):
            one.setblocking(False)
        found.append(Listener(address, port, udp, tcp))
    return found, troubles


def _reason_unusable(one: socket.socket) -> str:
    if one.family not in (socket.AF_INET, socket.AF_INET6):
        return "it is no internet socket"
    if one.type not in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        return "it is neither of UDP nor of TCP"
    address = one.getsockname()[0]
    if ip_address(address.partition("%")[0]).is_unspecified:
        # The address that a query came to tells the client's network, and a wildcard socket would answer every network.
        return f"{address} means every address; name the addresses one by one, like 127.0.0.1:53"
    if one.type == socket.SOCK_STREAM and not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "it does not listen (Accept=no is needed)"
    return ""


def _describe(name: str) -> str:
    return f"the socket {name}" if name and name != "unknown" else "a socket"
