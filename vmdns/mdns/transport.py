"""Multicast DNS on the host's links (RFC 6762): sockets and timers around the responder of each, and the querier.

Links do not affect each other, and no call raises: a link that does not work is reported once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import random
import socket
from collections import deque
from collections.abc import Callable, Mapping

from vmdns.dns.name import to_text
from vmdns.mdns.links import Link
from vmdns.mdns.name_state import DrawRandom
from vmdns.mdns.packets import MAX_PACKET
from vmdns.mdns.querier import LinkQuerier
from vmdns.mdns.responder import Outgoing, Responder
from vmdns.mdns.sockets import GROUP4, GROUP6, PORT, open4, open6
from vmdns.state.link_lookups import LookupState, is_lookup_allowed

log = logging.getLogger(__name__)

BURST = 64  # packets read from a socket before other work is done
OWN_PACKETS = 256  # that may still loop back to us
RETRY_SECONDS = 30.0

Report = Callable[[str], None]


class _OpenLink:
    """One open link."""

    def __init__(self, interface: str, link: Link, draw: DrawRandom, report: Report, querier: LinkQuerier) -> None:
        """Opens its sockets. Raises OSError."""
        self.interface, self.link, self._report, self._querier = interface, link, report, querier
        self.index = _index(interface)
        self.responder = Responder(draw)
        self._timer: asyncio.TimerHandle | None = None
        self._sockets: dict[int, socket.socket] = {}
        self._own: deque[bytes] = deque(maxlen=OWN_PACKETS)
        address = next(str(one.ip) for one in link.prefixes if one.version == 4)
        self._sockets[4] = open4(interface, address)
        with contextlib.suppress(OSError):  # an interface without IPv6
            self._sockets[6] = open6(interface)
        loop = asyncio.get_running_loop()
        for one in self._sockets.values():
            loop.add_reader(one, self._read, one)

    def configure(self, names: Mapping[bytes, tuple[str, ...]]) -> None:
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
        loop = asyncio.get_running_loop()
        for one in self._sockets.values():
            loop.remove_reader(one)
            one.close()

    def multicast(self, packet: bytes) -> None:
        for family, one in self._sockets.items():
            where = (GROUP4, PORT) if family == 4 else (GROUP6, PORT, 0, self.index)
            if self._send(one, packet, where):
                self._own.append(packet)

    def _send(self, one: socket.socket, packet: bytes, where: tuple[str, int] | tuple[str, int, int, int]) -> bool:
        try:
            one.sendto(packet, where)
        except OSError:
            return False  # the interface is down, or its buffer full: who asked asks restart
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
            try:
                self._handle_packet(packet, peer[0], peer[1], now)
            except Exception:
                log.exception("a multicast DNS packet could not be handled")
        self._send_pending()

    def _handle_packet(self, packet: bytes, source: str, port: int, now: float) -> None:
        if packet in self._own:
            self._own.remove(packet)
        elif port and self.link.contains(source):
            self.responder.receive(packet, source, port, now)
            if port == PORT:
                self._querier.receive(packet, self.link)

    def _send_pending(self) -> None:
        """Sends pending packets, and sets the timer to the next step."""
        loop = asyncio.get_running_loop()
        for out in self.responder.send():
            self._send_outgoing(out)
        for conflict in self.responder.conflicts():
            name = to_text(conflict.name)
            self._report(
                f"{name} is left to {conflict.address}, which has that name by multicast DNS on {self.interface};"
                f" DNS still answers it"
            )
        if self._timer is not None:
            self._timer.cancel()
        due = self.responder.timeout()
        self._timer = None if due is None else loop.call_at(due, self._wake)

    def _send_outgoing(self, out: Outgoing) -> None:
        if out.to is None:
            self.multicast(out.packet)
            return
        host, port = out.to
        if ":" not in host:
            self._send(self._sockets[4], out.packet, (host, port))
        elif 6 in self._sockets:
            self._send(self._sockets[6], out.packet, (host.partition("%")[0], port, 0, self.index))

    def _wake(self) -> None:
        try:
            self.responder.wake(asyncio.get_running_loop().time())
        except Exception:
            log.exception("multicast DNS on %s", self.interface)
        self._send_pending()


class Multicast:
    """Multicast DNS on all links. report(sentence) notifies the user; results_dropped is called when a name that was
    absent may exist now."""

    def __init__(
        self, report: Report, draw: DrawRandom = random.uniform, results_dropped: Callable[[], None] = lambda: None
    ) -> None:
        self._report = report
        self._draw = draw
        self._querier = LinkQuerier(self._send, results_dropped)
        self._open: dict[str, _OpenLink] = {}
        self._wanted: dict[str, Link] = {}
        self._errors: dict[str, str] = {}
        self._retry: asyncio.TimerHandle | None = None

    def set_links(self, wanted: Mapping[str, Link]) -> None:
        """Answers on these links, by interface, and on no others. Unchanged links stay open."""
        self._wanted = dict(wanted)
        for interface, one in list(self._open.items()):
            link = wanted.get(interface)
            if link is None or link.prefixes != one.link.prefixes or one.index != _index(interface):
                del self._open[interface]
                one.close()
                self._querier.forget_results()
        for interface, link in wanted.items():
            if interface not in self._open:
                self._open_link(interface, link)
            if interface in self._open:
                self._open[interface].link = link
                self._open[interface].configure(link.names)
        self._errors = {interface: text for interface, text in self._errors.items() if interface in wanted}
        if self._retry is not None:
            self._retry.cancel()
        restart = any(interface not in self._open for interface in wanted)
        self._retry = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._retry_links) if restart else None

    def _retry_links(self) -> None:
        self._retry = None
        self.set_links(self._wanted)

    def _open_link(self, interface: str, link: Link) -> None:
        try:
            self._open[interface] = _OpenLink(interface, link, self._draw, self._report, self._querier)
            self._querier.forget_results()
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
        self._querier.forget_results()
        for one in self._open.values():
            one.restart()
        if self._retry is not None:
            self._retry_links()

    def close(self) -> None:
        """Sends goodbyes on all links, and closes them."""
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
        return self._querier.state(name, client) if is_lookup_allowed(name) else LookupState.ABSENT

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
