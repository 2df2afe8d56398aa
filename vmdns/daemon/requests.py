"""Answers the requests of commands over the control channel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from vmdns import __version__
from vmdns.control import report
from vmdns.control.ask import Handle, ask
from vmdns.store import Store

if TYPE_CHECKING:
    from vmdns.state.findings import Finding

SIMULATION = "This is a simulation (vmdns demo): these VMs and networks do not exist."
MOST_PENDING = 10_000  # changes for a watcher that does not read


class Requests:
    """Answers the commands of the control channel.

    handle is the DNS server's query handler; zones, status and config give the current values; simulation: whether each
    response says that VirtualBox is simulated.
    """

    def __init__(
        self,
        store: Store,
        handle: Handle,
        zones: Callable[[], tuple[str, ...]],
        status: Callable[[], dict[str, Any]],
        config: Callable[[], dict[str, Any]],
        *,
        simulation: bool = False,
    ) -> None:
        self._store = store
        self._query = handle
        self._zones = zones
        self._status = status
        self._config = config
        self._mark = {"simulation": SIMULATION} if simulation else {}
        self._watchers: set[asyncio.Queue[dict[str, Any]]] = set()

    def notify_watchers(self, change: dict[str, Any]) -> None:
        """Sends a change to every `vmdns names --watch`."""
        for queue in self._watchers:
            if queue.qsize() < MOST_PENDING:
                queue.put_nowait(change)

    def handle(self, message: dict[str, Any]) -> Awaitable[dict[str, Any]] | AsyncIterator[dict[str, Any]]:
        """The response to one request, or its lines."""
        if message.get("do") == "watch":
            return self._watch()
        return self._marked(self._handle(message))

    async def _marked(self, response: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        return {**self._mark, **await response}

    def _handle(self, message: dict[str, Any]) -> Awaitable[dict[str, Any]]:
        match message.get("do"):
            case "names":
                return self._names()
            case "status":
                return self.status_with_verdict()
            case "config":
                return _completed(self._config())
            case "doctor":
                return self._doctor()
            case "ask":
                return ask(self._query, self._store.snapshot, message)
            case other:
                return _completed({"error": f"this vmdns does not know {other!r}; it is version {__version__}"})

    async def _names(self) -> dict[str, Any]:
        """In a thread: with many VMs it takes long."""
        snapshot, zones = self._store.snapshot, self._zones()
        return await asyncio.to_thread(report.names, snapshot, zones, time.time())

    async def status_with_verdict(self) -> dict[str, Any]:
        """What `vmdns status` shows."""
        from vmdns.state.findings import summarize_findings

        status = self._status()
        found = [one for one in await self._findings(status) if one.level != "ok"]
        return {
            "verdict": f"{summarize_findings(found)}: run vmdns doctor" if found else summarize_findings(found),
            **status,
        }

    async def _doctor(self) -> dict[str, Any]:
        return {"findings": [one._asdict() for one in await self._findings(self._status())]}

    async def _findings(self, status: dict[str, Any]) -> list[Finding]:
        """In a thread: with many VMs it takes long."""
        from vmdns.state.diagnosis import DoctorInput, find_findings

        store = self._store
        inputs = DoctorInput(status, tuple(store.facts), store.snapshot.guests, store.snapshot.ways, time.time())
        return await asyncio.to_thread(find_findings, inputs)

    async def _watch(self) -> AsyncIterator[dict[str, Any]]:
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            yield await self._marked(self._names())
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)


async def _completed(value: dict[str, Any]) -> dict[str, Any]:
    return value
