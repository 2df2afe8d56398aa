"""Listeners at single addresses whose sockets are bound to all addresses, 0.0.0.0 or ::, and shared.

macOS lets an ordinary user bind a port below 1024 in this way only (in_pcbbind in bsd/netinet/in_pcb.c of its kernel).
Each datagram brings the address that it was sent to, which says whose it is, and its response leaves from there:
IP_PKTINFO (ip(7), udp_check_pktinfo in bsd/netinet/udp_usrreq.c), IPV6_PKTINFO (RFC 3542 section 6). What was sent to
another address gets no response.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from vmdns.server.listeners import Listener, bind

# Python has no name for it before 3.14: netinet/in.h of macOS, linux/in.h.
_IP_PKTINFO = 26 if sys.platform == "darwin" else 8
# struct in_pktinfo: index of the interface, the host's address, the address in the packet. in6_pktinfo: address, index.
_INFO, _INFO6 = struct.Struct("=I4s4s"), struct.Struct("=16sI")

Ancillary = list[tuple[int, int, bytes]]


def bind_wildcard(address: str, port: int, others: Iterable[Listener]) -> Listener:
    """Returns a listener at an address of this host whose sockets are bound to all addresses: those of the others, if
    one has this port. Raises OSError."""
    one = ip_address(address)
    family = socket.AF_INET if one.version == 4 else socket.AF_INET6
    info = socket.getaddrinfo(address, 0, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind(info[4])  # fails where this host does not have the address
    for other in others:
        if other.wildcard and (other.port, other.udp.family) == (port, family):
            return replace(other, address=str(one))
    listener = bind("0.0.0.0" if family == socket.AF_INET else "::", port)
    if family == socket.AF_INET:
        listener.udp.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    else:
        listener.udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    return replace(listener, address=str(one), wildcard=True)


def receive(sock: socket.socket, size: int, flags: int) -> tuple[bytes, str, tuple[Any, ...]]:
    """Reads a datagram. Returns it, the address that it was sent to, and its sender. Raises OSError."""
    assert sys.platform != "win32", "it has no recvmsg"
    packet, ancillary, _, peer = sock.recvmsg(size, socket.CMSG_SPACE(_INFO6.size), flags)
    return packet, parse_destination(ancillary), peer


def send(sock: socket.socket, packet: bytes, source: Ancillary, flags: int, peer: tuple[Any, ...]) -> None:
    """Sends a datagram from an address of `encode_source`. Raises OSError."""
    assert sys.platform != "win32", "it has no sendmsg"
    sock.sendmsg([packet], source, flags, peer)


def parse_destination(ancillary: Ancillary) -> str:
    """Returns the address that a datagram was sent to; '' where the kernel did not say."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            return socket.inet_ntoa(_INFO.unpack(data)[2])
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            packed, index = _INFO6.unpack(data)
            address = socket.inet_ntop(socket.AF_INET6, packed)
            return _with_zone(address, index)
    return ""


def local_address(tcp: socket.socket) -> str:
    """Returns the address of this host that a client has connected to. Raises OSError."""
    address, _, *rest = tcp.getsockname()
    return _with_zone(address, rest[1]) if rest else str(address)


def _with_zone(address: str, index: int) -> str:
    """Raises OSError for an interface that is gone."""
    return f"{address}%{socket.if_indextoname(index)}" if ip_address(address).is_link_local else address


def encode_source(address: str) -> Ancillary:
    """Returns what has a datagram leave from this address. Raises OSError for an interface that is gone."""
    text, _, zone = address.partition("%")
    if ":" not in text:
        return [(socket.IPPROTO_IP, _IP_PKTINFO, _INFO.pack(0, socket.inet_aton(text), bytes(4)))]
    index = socket.if_nametoindex(zone) if zone else 0
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _INFO6.pack(socket.inet_pton(socket.AF_INET6, text), index))]
