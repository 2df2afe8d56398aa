"""Notifies the service manager that vmdns answers: once when it is ready, then as its watchdog (sd_notify(3))."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

from vmdns.dns.query import encode_query
from vmdns.host.systemd_notify import ServiceNotifier
from vmdns.server.listeners import Listener

ANSWER_SECONDS = 2.0
RETRY_SECONDS = 1.0
_SOA = 6


class Readiness:
    """Notifications of one vmdns to its service manager. listeners gives the sockets that are open now."""

    def __init__(self, notifier: ServiceNotifier, listeners: Callable[[], Sequence[Listener]]) -> None:
        self._notifier = notifier
        self._listeners = listeners
        self._task: asyncio.Task[None] | None = None

    def ready(self, status: str) -> None:
        """Notifies READY=1 once a query to the server itself is answered, then WATCHDOG=1 if the manager wants it."""
        self._task = asyncio.create_task(self._go(status))

    async def stop(self) -> None:
        """Notifies STOPPING=1."""
        self._notifier.stopping()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _go(self, status: str) -> None:
        while not await self._answers():
            await asyncio.sleep(RETRY_SECONDS)
        self._notifier.ready(status)
        while self._notifier.seconds:
            # Half of the time, as sd_watchdog_enabled(3) advises. Without an answer, the manager restarts vmdns.
            await asyncio.sleep(self._notifier.seconds / 2)
            if await self._answers():
                self._notifier.alive()

    async def _answers(self) -> bool:
        """Whether a query to the first listener is answered, by UDP as a client sends it."""
        listeners = self._listeners()
        if not listeners:
            return False
        where = listeners[0].udp.getsockname()
        loop = asyncio.get_running_loop()
        query = encode_query(0x7664, b"\5local\0", _SOA)
        with socket.socket(listeners[0].udp.family, socket.SOCK_DGRAM) as one:
            one.setblocking(False)
            try:
                one.connect(where)
                await loop.sock_sendall(one, query)
                async with asyncio.timeout(ANSWER_SECONDS):
                    return (await loop.sock_recv(one, 4096))[:2] == query[:2]
            except (OSError, TimeoutError):
                return False
