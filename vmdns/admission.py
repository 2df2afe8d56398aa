"""Strangers on a LAN: a question waits a moment for the neighbour table to tell whether a VM asked it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

WAIT_SECONDS = 0.9  # resolvers ask again after a second at the earliest
SETTLE_SECONDS = 0.05  # from the end of a look until what it found is in force
MOST_WAITING = 64
STRANGER_SECONDS = 2.0  # for so long a peer that was no VM is taken for none without waiting


class Admission:
    """Waits until a peer is known to be a guest. is_guest says whether it is, look asks for a look at neighbours."""

    def __init__(self, is_guest: Callable[[str], bool], look: Callable[[], None]) -> None:
        self._is_guest = is_guest
        self._look = look
        self._waiting: dict[str, asyncio.Event] = {}
        self._strangers: dict[str, float] = {}

    async def admit(self, peer: str) -> None:
        """Returns as soon as a VM is known to have this address, or when it does not come out."""
        now = asyncio.get_running_loop().time()
        if self._strangers.get(peer, 0.0) > now:
            return
        event = self._waiting.get(peer)
        if event is None:
            if len(self._waiting) >= MOST_WAITING:
                return
            event = self._waiting[peer] = asyncio.Event()
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
        """The neighbour table was looked at: who is not known in a moment is a stranger."""
        for event in self._waiting.values():
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, event.set)

    def changed(self) -> None:
        """The table has a new snapshot: whoever turned out to be a guest waits no more."""
        for peer, event in self._waiting.items():
            if self._is_guest(peer):
                event.set()
        self._strangers = {peer: until for peer, until in self._strangers.items() if not self._is_guest(peer)}
