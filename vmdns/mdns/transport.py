"""Multicast DNS on the host's links (RFC 6762): sockets and timers around the responder of each, and the querier.

Links do not affect each other: one that does not work is reported once. The sockets share port
5353 with every other program that uses it. They are bound to the group where the system can (not on Windows), and so
receive no unicast packet of other programs. The parts for macOS and Windows have never been run there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from operator import itemgetter

from vmdns.dns.name import to_text
from vmdns.mdns.links import Link
from vmdns.mdns.name_state import DrawRandom
from vmdns.mdns.packets import MAX_PACKET, PORT, parse_packet
from vmdns.mdns.querier import LinkQuerier
from vmdns.mdns.responder import Responder
from vmdns.state.findings import explain_refusal
from vmdns.state.name_rules import LookupState

GROUP4, GROUP6 = "224.0.0.251", "ff02::fb"
HOPS = 255  # RFC 6762 section 11
# linux/in.h and linux/in6.h: no packet of a group that another socket joined on another interface.
_IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 49, 29

BURST = 64  # packets read from a socket before other work is done
OWN_PACKETS = 256  # that may still loop back to us
# The snapshot is published at most once a second: no record is multicast twice within one (RFC 6762 section 6).
DEBOUNCE_SECONDS, INTERVAL_SECONDS = 0.05, 1.0
RETRY_SECONDS = 30.0

Report = Callable[[str], None]


def open_socket(version: int, interface: str, address: str) -> socket.socket:
    """Opens a socket for IPv4 or IPv6 (4 or 6) on the interface that has this IPv4 address. Raises OSError, also where
    the interface has no IPv6."""
    one = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        (_join4 if version == 4 else _join6)(one, interface, address)
    except OSError:
        one.close()
        raise
    return one


def _join4(one: socket.socket, interface: str, address: str) -> None:
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


def _join6(one: socket.socket, interface: str, _: str) -> None:
    index = socket.if_nametoindex(interface)
    if sys.platform == "linux":
        one.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    one.bind(("::", PORT, 0, 0) if sys.platform == "win32" else (GROUP6, PORT, 0, index))
    member = struct.pack("@16sI", ip_address(GROUP6).packed, index)
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, HOPS)
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, HOPS)
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)


class _OpenLink:
    """One open link."""

    def __init__(self, interface: str, link: Link, draw: DrawRandom, report: Report, querier: LinkQuerier) -> None:
        """Opens its sockets. Raises OSError."""
        self.interface, self.link, self._report, self._querier = interface, link, report, querier
        self.index = _index(interface)
        self.responder = Responder(draw)
        self.refusal = "", 0.0  # why this computer itself refused to send, and when (time.monotonic)
        self._timer: asyncio.TimerHandle | None = None
        self._own: deque[bytes] = deque(maxlen=OWN_PACKETS)
        address = next(str(one.ip) for one in link.prefixes if one.version == 4)
        self._sockets = {4: open_socket(4, interface, address)}
        with contextlib.suppress(OSError):  # an interface without IPv6
            self._sockets[6] = open_socket(6, interface, address)
        for one in self._sockets.values():
            asyncio.get_running_loop().add_reader(one, self._read, one)

    def configure(self, names: Mapping[bytes, Iterable[str]]) -> None:
        self.responder.configure(names, asyncio.get_running_loop().time())
        self._send_pending()

    def restart(self) -> None:
        self.responder.restart(asyncio.get_running_loop().time())
        self._send_pending()

    def close(self) -> None:
        """Sends goodbyes, and closes the sockets."""
        self.configure({})
        if self._timer is not None:
            self._timer.cancel()
        for one in self._sockets.values():
            asyncio.get_running_loop().remove_reader(one)
            one.close()

    def multicast(self, packet: bytes) -> None:
        for version in self._sockets:
            if self._send(packet, GROUP4 if version == 4 else GROUP6, PORT):
                self._own.append(packet)

    def _send(self, packet: bytes, host: str, port: int) -> bool:
        try:
            if ":" not in host:
                self._sockets[4].sendto(packet, (host, port))
            elif 6 in self._sockets:
                self._sockets[6].sendto(packet, (host.partition("%")[0], port, 0, self.index))
        except OSError as error:
            if reason := explain_refusal(error if host == GROUP4 else None, sys.platform):
                self.refusal = reason, time.monotonic()
            return False  # the interface is down, or its buffer full: the client repeats its query
        return True

    def _read(self, one: socket.socket) -> None:
        now = asyncio.get_running_loop().time()
        for _ in range(BURST):
            try:
                packet, peer = one.recvfrom(MAX_PACKET + 1)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                continue  # an ICMP error caused by an earlier answer
            source, port = peer[:2]
            if packet in self._own:
                self._own.remove(packet)
            elif port and self.link.contains(source):
                message = parse_packet(packet)
                if message is None:
                    continue
                self.responder.receive(message, source, port, now)
                if port == PORT:
                    self._querier.receive(message, self.link)
        self._send_pending()

    def _send_pending(self) -> None:
        """Sends pending packets, and sets the timer to the next step."""
        for packet, peer in self.responder.send():
            if peer is None:
                self.multicast(packet)
            else:
                self._send(packet, *peer)
        for name, address in self.responder.conflicts():
            self._report(
                f"{to_text(name)} is left to {address}, which has that name by multicast DNS on {self.interface};"
                f" DNS still answers it"
            )
        if self._timer is not None:
            self._timer.cancel()
        due = self.responder.timeout()
        self._timer = None if due is None else asyncio.get_running_loop().call_at(due, self._wake)

    def _wake(self) -> None:
        self.responder.wake(asyncio.get_running_loop().time())
        self._send_pending()


class Multicast:
    """Multicast DNS on all links.

    links() returns the links to answer on and to query; report(sentence) notifies the user; results_dropped is called
    when a name that was absent may exist now.
    """

    def __init__(
        self,
        report: Report,
        links: Callable[[], Mapping[str, Link]],
        results_dropped: Callable[[], None] = lambda: None,
    ) -> None:
        self._report = report
        self._links = links
        self._querier = LinkQuerier(self._send, results_dropped)
        self._open: dict[str, _OpenLink] = {}
        self._errors: dict[str, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._last = float("-inf")

    @property
    def refusal(self) -> tuple[str, float]:
        """Why this computer itself last refused to send a packet, and when (time.monotonic)."""
        return max((one.refusal for one in self._open.values()), key=itemgetter(1), default=("", 0.0))

    def update(self) -> None:
        """Schedules an update after the links or their names changed."""
        self._schedule(max(asyncio.get_running_loop().time() + DEBOUNCE_SECONDS, self._last + INTERVAL_SECONDS))

    def _schedule(self, due: float) -> None:
        if self._timer is not None:
            due = min(due, self._timer.when())
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due, self._update)

    def _update(self) -> None:
        self._timer = None
        self._last = asyncio.get_running_loop().time()
        self.set_links(self._links())

    def set_links(self, wanted: Mapping[str, Link]) -> None:
        """Answers on these links, by interface, and on no others. Unchanged links stay open."""
        for interface, one in list(self._open.items()):
            link = wanted.get(interface)
            if link is None or link.prefixes != one.link.prefixes or one.index != _index(interface):
                del self._open[interface]
                one.close()
                self._querier.drop_results()
        for interface, link in wanted.items():
            if interface not in self._open:
                self._open_link(interface, link)
            if interface in self._open:
                self._open[interface].link = link
                self._open[interface].configure(link.names)
        self._errors = {interface: text for interface, text in self._errors.items() if interface in wanted}
        if self._errors:
            self._schedule(asyncio.get_running_loop().time() + RETRY_SECONDS)

    def _open_link(self, interface: str, link: Link) -> None:
        try:
            self._open[interface] = _OpenLink(interface, link, random.uniform, self._report, self._querier)
            self._querier.drop_results()
            if self._errors.pop(interface, ""):
                self._report(f"multicast DNS works on {interface} now")
        except OSError as error:
            text = error.strerror or str(error)
            if error.errno == errno.EADDRINUSE:
                text = f"another program uses port {PORT} exclusively"
            if self._errors.get(interface) != text:
                self._errors[interface] = text
                self._report(f"no multicast DNS on {interface}: {text}; DNS works without it")

    def restart(self) -> None:
        """After a sleep: probes for the names of all links and announces them again."""
        self._querier.drop_results()
        for one in self._open.values():
            one.restart()
        self.update()

    def close(self) -> None:
        """Sends goodbyes on all links, and closes them."""
        if self._timer is not None:
            self._timer.cancel()
        self.set_links({})

    def _send(self, packet: bytes) -> None:
        for one in self._open.values():
            one.multicast(packet)

    def state(self, name: bytes, client: str) -> LookupState:
        """Returns what a query of this client for a wire name (lower case) needs. Any thread may call this.

        Links on which only guests are have no names that vmdns does not know, so only other links are queried.
        """
        links = tuple(self._open.values())
        if all(one.link.guests_only for one in links) or any(one.responder.has_name(name) for one in links):
            return LookupState.ABSENT
        return self._querier.state(name, client)

    async def find(self, name: bytes, client: str) -> tuple[str, ...] | None:
        """Returns the addresses that a host on one of the links has for this wire name (lower case), () for none; None
        where the budgets allow no lookup. Takes a second at most."""
        return () if self.state(name, client) is LookupState.ABSENT else await self._querier.find(name, client)


def _index(interface: str) -> int:
    """Returns the index of the interface; 0 where the system has no such name."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0
