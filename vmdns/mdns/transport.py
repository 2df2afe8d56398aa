"""Multicast DNS on the host's links (RFC 6762): sockets and timers around the responder of each, and the relay.

What happens on one link never holds up another, and never raises: a link that does not work is said once.
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

from vmdns.dns.mdns_message import MAX_PACKET
from vmdns.dns.name import to_text
from vmdns.mdns.links import Link
from vmdns.mdns.name_state import Lots
from vmdns.mdns.querier import Relay
from vmdns.mdns.responder import Outgoing, Responder
from vmdns.mdns.sockets import GROUP4, GROUP6, PORT, open4, open6
from vmdns.state.link_lookups import LookupState, is_lookup_allowed

log = logging.getLogger(__name__)

BURST = 64  # packets taken from a socket before others get their turn
OWN_PACKETS = 256  # that may not have come back to us yet
RETRY_SECONDS = 30.0

Say = Callable[[str], None]


class _Open:
    """One link that is open."""

    def __init__(self, interface: str, link: Link, lots: Lots, say: Say, relay: Relay) -> None:
        """Raises OSError."""
        self.interface, self.link, self._say, self._relay = interface, link, say, relay
        self.index = _index(interface)
        self.responder = Responder(lots)
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
        self._go_on()

    def again(self) -> None:
        self.responder.again(asyncio.get_running_loop().time())
        self._go_on()

    def close(self) -> None:
        """Takes leave of the others."""
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
            return False  # the interface is down, or its buffer full: who asked asks again
        return True

    def _read(self, one: socket.socket) -> None:
        now = asyncio.get_running_loop().time()
        for _ in range(BURST):
            try:
                packet, peer = one.recvfrom(MAX_PACKET + 1)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                continue  # an ICMP error of an earlier answer
            try:
                self._take(packet, peer[0], peer[1], now)
            except Exception:
                log.exception("a packet of multicast DNS could not be read")
        self._go_on()

    def _take(self, packet: bytes, source: str, port: int, now: float) -> None:
        if packet in self._own:
            self._own.remove(packet)
        elif port and self.link.holds(source):
            self.responder.receive(packet, source, port, now)
            if port == PORT:
                self._relay.hear(packet, self.link)

    def _go_on(self) -> None:
        """Sends what is to be sent, and sets the timer to what is due next."""
        loop = asyncio.get_running_loop()
        for out in self.responder.send():
            self._give(out)
        for conflict in self.responder.conflicts():
            name = to_text(conflict.name)
            self._say(
                f"{name} is left to {conflict.address}, which has that name by multicast DNS on {self.interface};"
                f" DNS goes on to answer it as before"
            )
        if self._timer is not None:
            self._timer.cancel()
        due = self.responder.timeout()
        self._timer = None if due is None else loop.call_at(due, self._wake)

    def _give(self, out: Outgoing) -> None:
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
        self._go_on()


class Multicast:
    """Multicast DNS on all links. say(sentence) tells the user; forgotten is called where a name that nobody had may be
    there now."""

    def __init__(self, say: Say, lots: Lots = random.uniform, forgotten: Callable[[], None] = lambda: None) -> None:
        self._say = say
        self._lots = lots
        self._relay = Relay(self._send, forgotten)
        self._open: dict[str, _Open] = {}
        self._wanted: dict[str, Link] = {}
        self._troubles: dict[str, str] = {}
        self._retry: asyncio.TimerHandle | None = None

    def links(self, wanted: Mapping[str, Link]) -> None:
        """Answers on these links, by interface, and on no others. What has not changed stays as it is."""
        self._wanted = dict(wanted)
        for interface, one in list(self._open.items()):
            link = wanted.get(interface)
            if link is None or link.prefixes != one.link.prefixes or one.index != _index(interface):
                del self._open[interface]
                one.close()
                self._relay.forget_results()
        for interface, link in wanted.items():
            if interface not in self._open:
                self._try(interface, link)
            if interface in self._open:
                self._open[interface].link = link
                self._open[interface].configure(link.names)
        self._troubles = {interface: text for interface, text in self._troubles.items() if interface in wanted}
        if self._retry is not None:
            self._retry.cancel()
        again = any(interface not in self._open for interface in wanted)
        self._retry = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._again) if again else None

    def _again(self) -> None:
        self._retry = None
        self.links(self._wanted)

    def _try(self, interface: str, link: Link) -> None:
        try:
            self._open[interface] = _Open(interface, link, self._lots, self._say, self._relay)
            self._relay.forget_results()
            if self._troubles.pop(interface, ""):
                self._say(f"multicast DNS works on {interface} now")
        except OSError as error:
            text = error.strerror or str(error)
            if error.errno == errno.EADDRINUSE:
                text = f"another program holds port {PORT} for itself"
            if self._troubles.get(interface) != text:
                self._troubles[interface] = text
                self._say(f"no multicast DNS on {interface}: {text}; DNS goes on without it")

    def again(self) -> None:
        """After a sleep: the names of all links are probed for and announced anew."""
        self._relay.forget_results()
        for one in self._open.values():
            one.again()
        if self._retry is not None:
            self._again()

    def close(self) -> None:
        """Takes leave on all links, and closes them."""
        self.links({})

    def _send(self, packet: bytes) -> None:
        for one in self._open.values():
            one.multicast(packet)

    def state(self, name: bytes, client: str) -> LookupState:
        """What a query of this client for a wire name (lower case) needs. Any thread may call this.

        Links on which only guests are have no names that vmdns does not know: it is by the others that they are asked.
        """
        links = tuple(self._open.values())
        if all(one.link.guests_only for one in links) or any(one.responder.holds(name) for one in links):
            return LookupState.ABSENT
        return self._relay.state(name, client) if is_lookup_allowed(name) else LookupState.ABSENT

    async def find(self, name: bytes, client: str) -> tuple[str, ...] | None:
        """The addresses that somebody on one of the links has for this wire name (lower case), () for nobody; None
        where the budgets allow no lookup. Takes a second at most."""
        return () if self.state(name, client) is LookupState.ABSENT else await self._relay.find(name, client)


def _index(interface: str) -> int:
    """The number of the interface; 0 where the system knows no such name."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0
