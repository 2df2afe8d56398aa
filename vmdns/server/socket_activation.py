"""Sockets that a service manager opened and hands to vmdns when it starts it, as systemd's sd_listen_fds(3) has it.

So vmdns has port 53 without any right of its own, and questions wait in the sockets while it starts anew.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from ipaddress import ip_address

from vmdns.server.listeners import Listener

_FIRST = 3  # SD_LISTEN_FDS_START
_MOST = 256


def take(environ: MutableMapping[str, str], pid: int | None = None) -> tuple[list[Listener], list[str]]:
    """The listeners that were handed over, and sentences on sockets that are of no use, which are closed.

    The variables are taken out of the environment, since they mean nothing to what vmdns starts.
    """
    count, whose = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if whose != str(os.getpid() if pid is None else pid) or not count.isdecimal():
        return [], []
    sockets: list[tuple[str, socket.socket]] = []
    troubles = []
    for at in range(min(int(count), _MOST)):
        name = names[at] if at < len(names) else ""
        try:
            os.set_inheritable(_FIRST + at, False)
            sockets.append((name, socket.socket(fileno=_FIRST + at)))
        except OSError as error:
            troubles.append(f"{_called(name)} that was handed over is none ({error.strerror}); it is left alone")
    found, more = pair(sockets)
    return found, troubles + more


def pair(sockets: list[tuple[str, socket.socket]]) -> tuple[list[Listener], list[str]]:
    """The listeners among named sockets: one of UDP and one of TCP for each address and port."""
    halves: dict[tuple[str, int], dict[int, tuple[str, socket.socket]]] = {}
    troubles = []
    for name, one in sockets:
        why = _useless(one)
        if not why:
            address, port = one.getsockname()[:2]
            if one.type in halves.setdefault((address, port), {}):
                why = f"there is another for {address} port {port}"
            else:
                halves[address, port][one.type] = name, one
        if why:
            troubles.append(f"{_called(name)} that was handed over is of no use: {why}")
            one.close()
    found = []
    for (address, port), kinds in halves.items():
        if len(kinds) < 2:
            ((kind, (name, one)),) = kinds.items()
            missing = "ListenStream" if kind == socket.SOCK_DGRAM else "ListenDatagram"
            troubles.append(
                f"{_called(name)} for {address} port {port} is of no use alone: DNS needs UDP and TCP, so give it "
                f"{missing}={_shown(address, port)} as well"
            )
            one.close()
            continue
        udp, tcp = kinds[socket.SOCK_DGRAM][1], kinds[socket.SOCK_STREAM][1]
        for one in (udp, tcp):
            one.setblocking(False)
        found.append(Listener(address, port, udp, tcp))
    return found, troubles


def _useless(one: socket.socket) -> str:
    if one.family not in (socket.AF_INET, socket.AF_INET6):
        return "it is no internet socket"
    if one.type not in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        return "it is neither of UDP nor of TCP"
    address = one.getsockname()[0]
    if ip_address(address.partition("%")[0]).is_unspecified:
        # The address that a question comes to says who asks, and a wildcard socket answers whoever reaches the host.
        return f"{address} means every address; name the addresses one by one, like 127.0.0.1:53"
    if one.type == socket.SOCK_STREAM and not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "it does not listen (Accept=no is needed)"
    return ""


def _called(name: str) -> str:
    return f"the socket {name}" if name and name != "unknown" else "a socket"


def _shown(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
