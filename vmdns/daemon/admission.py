"""Strangers on a LAN: a question waits a moment for the neighbour table to tell whether a VM asked it.

A VM that knows the host's MAC since before it was paused asks without a word of its own, and the host's store has lost
it meanwhile: so the host is made to look for it, as the answer would.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

WAIT_SECONDS = 0.9  # resolvers ask again after a second at the earliest
SETTLE_SECONDS = 0.2  # from the end of a look until what it found, and who answered meanwhile, is in force
MOST_WAITING = 64
STRANGER_SECONDS = 2.0  # for so long a peer that was no VM is taken for none without waiting
_DISCARD = 9  # the port of RFC 863, on which nothing listens


def solicit(peer: str) -> None:
    """Has the system ask a neighbour for its MAC (ARP, or RFC 4861 section 7.2), by an empty datagram that no router
    passes on: what a store says of it is true then, if it is there. Never raises."""
    with contextlib.suppress(OSError):
        family, kind, _, _, to = socket.getaddrinfo(
            peer, _DISCARD, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )[0]
        with socket.socket(family, kind) as sender:
            sender.setblocking(False)
            if family == socket.AF_INET:
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
            else:
                sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
            sender.sendto(b"", to)


class Admission:
    """Waits until a peer is known to be a guest. is_guest says whether it is, solicit has the system look for it, look
    asks for a look at neighbours."""

    def __init__(
        self, is_guest: Callable[[str], bool], look: Callable[[], None], solicit: Callable[[str], None] = solicit
    ) -> None:
        self._is_guest = is_guest
        self._solicit = solicit
        self._look = look
        self._waiting: dict[str, asyncio.Event] = {}
        self._strangers: dict[str, float] = {}

    async def admit(self, peer: str) -> None:
        """Returns as soon as a VM is known to have this address, or after WAIT_SECONDS."""
        now = asyncio.get_running_loop().time()
        if self._strangers.get(peer, 0.0) > now:
            return
        event = self._waiting.get(peer)
        if event is None:
            if len(self._waiting) >= MOST_WAITING:
                return
            event = self._waiting[peer] = asyncio.Event()
            self._solicit(peer)
            self._look()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS):
                await event.wait()
        self._waiting.pop(peer, None)
        if not self._is_guest(peer):
            if len(self._strangers) >= MOST_WAITING * 16:
                self._strangers.clear()
            self._strangers[peer] = now + STRANGER_SECONDS

    def looked(self) -> None:
        """The neighbour table was read: a peer that is not known in SETTLE_SECONDS is none of ours."""
        for event in self._waiting.values():
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, event.set)

    def changed(self) -> None:
        """After a new snapshot: peers that are guests in it wait no longer."""
        for peer, event in self._waiting.items():
            if self._is_guest(peer):
                event.set()
        self._strangers = {peer: until for peer, until in self._strangers.items() if not self._is_guest(peer)}
