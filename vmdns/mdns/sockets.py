"""A socket for multicast DNS on one interface: port 5353, shared with every other program that uses it.

It is bound to the group where the system can (not on Windows), and so receives no unicast packet of other programs. The
parts for macOS and Windows have never been run there.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from ipaddress import ip_address

GROUP4, GROUP6, PORT = "224.0.0.251", "ff02::fb", 5353
HOPS = 255  # RFC 6762 section 11

# linux/in.h and linux/in6.h: no packet of a group that another socket joined on another interface.
_IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 49, 29


def open4(interface: str, address: str) -> socket.socket:
    """Opens a socket on the interface that has this IPv4 address. Raises OSError."""
    one = _shared(socket.AF_INET)
    try:
        own, group = ip_address(address).packed, ip_address(GROUP4).packed
        if sys.platform == "linux":
            index = socket.if_nametoindex(interface)
            one.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
            # Linux from 6.6 on gives a packet to any one of the sockets that share address, port and interface by
            # SO_REUSEPORT, members of the group or not. Before 5.7 this takes a right, and is not needed.
            with contextlib.suppress(PermissionError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
            chosen = struct.pack("@4s4si", b"\0" * 4, own, index)
            member = struct.pack("@4s4si", group, own, index)
        else:
            chosen, member = own, group + own
        one.bind((address if sys.platform == "win32" else GROUP4, PORT))
        one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, chosen)
        one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, HOPS)
        one.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, HOPS)
        one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)  # so that other programs of this host receive it
    except OSError:
        one.close()
        raise
    return one


def open6(interface: str) -> socket.socket:
    """Opens a socket for IPv6. Raises OSError, also where the interface has no IPv6."""
    index = socket.if_nametoindex(interface)
    one = _shared(socket.AF_INET6)
    try:
        if sys.platform == "linux":
            one.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(("::" if sys.platform == "win32" else GROUP6, PORT, 0, 0 if sys.platform == "win32" else index))
        member = struct.pack("@16sI", ip_address(GROUP6).packed, index)
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, HOPS)
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, HOPS)
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
    except OSError:
        one.close()
        raise
    return one


def _shared(family: socket.AddressFamily) -> socket.socket:
    one = socket.socket(family, socket.SOCK_DGRAM)
    one.setblocking(False)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return one
