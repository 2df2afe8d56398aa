"""Tells the service manager that vmdns answers: once when it does, and again and again while it does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

from vmdns.dns.message import make_query
from vmdns.host.systemd_notify import Notifier
from vmdns.server.listeners import Listener

ANSWER_SECONDS = 2.0
AGAIN_SECONDS = 1.0
_SOA = 6


class Readiness:
    """One vmdns and its service manager."""

    def __init__(self, notifier: Notifier, listeners: Callable[[], Sequence[Listener]]) -> None:
        self._notifier = notifier
        self._listeners = listeners
        self._task: asyncio.Task[None] | None = None

    def ready(self, status: str) -> None:
        """vmdns is ready; told as soon as a question to itself is answered. Signs of life follow if they are wanted."""
        self._task = asyncio.create_task(self._go(status))

    async def stop(self) -> None:
        """vmdns ends."""
        self._notifier.stopping()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _go(self, status: str) -> None:
        while not await self._answers():
            await asyncio.sleep(AGAIN_SECONDS)
        self._notifier.ready(status)
        while self._notifier.seconds:
            # Half of the time, as sd_watchdog_enabled(3) advises. No answer, no sign: then vmdns is started anew.
            await asyncio.sleep(self._notifier.seconds / 2)
            if await self._answers():
                self._notifier.alive()

    async def _answers(self) -> bool:
        """Whether a question to the first listener is answered, by UDP and as everybody asks it."""
        listeners = self._listeners()
        if not listeners:
            return False
        where = listeners[0].udp.getsockname()
        loop = asyncio.get_running_loop()
        question = make_query(0x7664, b"\5local\0", _SOA)
        with socket.socket(listeners[0].udp.family, socket.SOCK_DGRAM) as one:
            one.setblocking(False)
            try:
                one.connect(where)
                await loop.sock_sendall(one, question)
                async with asyncio.timeout(ANSWER_SECONDS):
                    return (await loop.sock_recv(one, 4096))[:2] == question[:2]
            except (OSError, TimeoutError):
                return False
