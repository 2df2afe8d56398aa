"""What commands ask of a running vmdns over its control channel."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any

from vmdns import __version__
from vmdns.config import values_in_force
from vmdns.control import report
from vmdns.control.ask import ask

if TYPE_CHECKING:
    from vmdns.daemon.app import App
    from vmdns.state.findings import Finding

SIMULATION = "This is a simulation (vmdns demo): these VMs and networks do not exist."
MOST_WAITING = 10_000  # changes that a watcher which does not read may leave behind


class Requests:
    """Answers names, watch, ask and status from the parts of one App."""

    def __init__(self, app: App, *, simulation: bool = False) -> None:
        """simulation: whether each response says that VirtualBox is simulated."""
        self._app = app
        self._mark = {"simulation": SIMULATION} if simulation else {}
        self._watchers: set[asyncio.Queue[dict[str, Any]]] = set()

    def tell(self, change: dict[str, Any]) -> None:
        """Passes a change on to everyone who watches."""
        for queue in self._watchers:
            if queue.qsize() < MOST_WAITING:
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
                return _soon(self._config())
            case "doctor":
                return self._doctor()
            case "ask":
                return ask(self._app.server.handle, self._app.table.snapshot, message)
            case other:
                return _soon({"error": f"this vmdns does not know {other!r}; it is version {__version__}"})

    async def _names(self) -> dict[str, Any]:
        """In a thread: with thousands of VMs it takes long."""
        snapshot, zones = self._app.table.snapshot, self._app.config.zones
        return await asyncio.to_thread(report.names, snapshot, zones, time.time())

    async def status_with_verdict(self) -> dict[str, Any]:
        """What `vmdns status` shows."""
        from vmdns.state.findings import verdict

        status = self.status()
        found = [one for one in await self._findings(status) if one.level != "ok"]
        return {"verdict": f"{verdict(found)}: run vmdns doctor" if found else verdict(found), **status}

    async def _doctor(self) -> dict[str, Any]:
        return {"findings": [one._asdict() for one in await self._findings(self.status())]}

    async def _findings(self, status: dict[str, Any]) -> list[Finding]:
        """In a thread: with thousands of VMs it takes long."""
        from vmdns.state.diagnosis import Patient, examine

        table = self._app.table
        patient = Patient(status, tuple(table.facts), table.snapshot.guests, table.snapshot.ways, time.time())
        return await asyncio.to_thread(examine, patient)

    async def _watch(self) -> AsyncIterator[dict[str, Any]]:
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            yield await self._marked(self._names())
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)

    def status(self) -> dict[str, Any]:
        """Everything about this server's health, as JSON values."""
        snapshot = self._app.table.snapshot
        forwarder = self._app.forwarder.status()
        problems = [
            *snapshot.problems,
            *self._app.left_out,
            *([hosts.detail] if (hosts := self._app.sources["hosts"]).state == "failing" else []),
            *self._app.faults.problems,
            *([self._app.config_error] if self._app.config_error else []),
        ]
        source = self._app.sources["virtualbox"]
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started": self._app.started,
            "zones": list(self._app.config.zones),
            "serial": snapshot.serial,
            "listeners": self._app.listening.status(),
            "virtualbox": {
                **self._app.discovery.virtualbox,
                "state": source.state,
                "detail": source.detail or self._app.discovery.virtualbox["detail"],
            },
            "sources": [
                {
                    "name": name,
                    "state": one.state,
                    "detail": one.detail,
                    "since": one.since,
                    "facts": self._app.table.count(name),
                }
                for name, one in self._app.sources.items()
            ],
            "upstreams": forwarder.pop("upstreams", []),
            "datagrams": self._app.server.datagrams.path,
            "askers": self._askers(),
            "counts": {**self._app.server.counts.as_dict(), "tcp_open": self._app.server.connections},
            "forwarding": forwarder,
            "problems": problems,
            "left_out": self._app.left_out,
            "faults": self._app.faults.problems,
            "config_error": self._app.config_error,
        }

    def _config(self) -> dict[str, Any]:
        """The configuration in force, with what was chosen for values that leave it open."""
        app, values = self._app, values_in_force(self._app.config)
        now = {
            "listen": [f"{one['address']} port {one['port']}" for one in app.listening.status()],
            "upstreams": [one["address"] for one in app.forwarder.status().get("upstreams", [])],
            "reader": [app.discovery.virtualbox["reader"]],
            "vbox_home": [app.discovery.virtualbox["home"]],
        }
        for key, chosen in now.items():
            if values[key]["from"] == "default":
                values[key]["now"] = ", ".join(filter(None, chosen))
        file = str(app.config_path) if os.path.exists(app.config_path) else ""
        return {"running": True, "file": file, "fault": app.config_error, "values": values}

    def _askers(self) -> list[dict[str, Any]]:
        now, wall = time.monotonic(), time.time()
        return [
            {"address": peer, "at": local, "time": wall - (now - moment)}
            for (peer, local), moment in self._app.server.datagrams.askers.copy().items()
        ]


async def _soon(value: dict[str, Any]) -> dict[str, Any]:
    return value
