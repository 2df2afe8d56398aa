"""The health of a running server, as JSON values for `vmdns status`, `doctor` and `config`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vmdns import __version__
from vmdns.config import values_in_force
from vmdns.daemon.config_reload import ConfigReload
from vmdns.daemon.discovery import Discovery, Source
from vmdns.daemon.listen_addresses import ListenAddresses
from vmdns.daemon.task_restart import Faults
from vmdns.daemon.upstream_watch import UpstreamWatch
from vmdns.server.dns_server import DnsServer
from vmdns.server.forwarder import Forwarder
from vmdns.store import Store


@dataclass(frozen=True, slots=True)
class Status:
    """Reads the parts of a running server. started: Unix seconds; sources: the health of each source, by its name."""

    started: float
    configuration: ConfigReload
    store: Store
    server: DnsServer
    forwarder: Forwarder
    listening: ListenAddresses
    discovery: Discovery
    upstreams: UpstreamWatch
    sources: Mapping[str, Source]
    faults: Faults

    def read(self) -> dict[str, Any]:
        """Everything about this server's health."""
        snapshot = self.store.snapshot
        forwarder = self.forwarder.status()
        hosts, virtualbox = self.sources["hosts"], self.sources["virtualbox"]
        problems = [
            *snapshot.problems,
            *self.upstreams.left_out,
            *([hosts.detail] if hosts.state == "failing" else []),
            *self.faults.problems,
            *([self.configuration.error] if self.configuration.error else []),
        ]
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started": self.started,
            "zones": list(self.configuration.config.zones),
            "serial": snapshot.serial,
            "listeners": self.listening.status(),
            "virtualbox": {
                **self.discovery.virtualbox,
                "state": virtualbox.state,
                "detail": virtualbox.detail or self.discovery.virtualbox["detail"],
            },
            "sources": [
                {
                    "name": name,
                    "state": one.state,
                    "detail": one.detail,
                    "since": one.since,
                    "facts": self.store.count(name),
                }
                for name, one in self.sources.items()
            ],
            "upstreams": forwarder.pop("upstreams", []),
            "datagrams": self.server.datagrams.path,
            "askers": self._clients(),
            "counts": {**self.server.counts.as_dict(), "tcp_open": self.server.connections},
            "forwarding": forwarder,
            "problems": problems,
            "left_out": self.upstreams.left_out,
            "faults": self.faults.problems,
            "config_error": self.configuration.error,
        }

    def read_config(self) -> dict[str, Any]:
        """The configuration in force, with what was chosen for values that leave it open."""
        values = values_in_force(self.configuration.config)
        now = {
            "listen": [f"{one['address']} port {one['port']}" for one in self.listening.status()],
            "upstreams": [one["address"] for one in self.forwarder.status().get("upstreams", [])],
            "reader": [self.discovery.virtualbox["reader"]],
            "vbox_home": [self.discovery.virtualbox["home"]],
        }
        for key, chosen in now.items():
            if values[key]["from"] == "default":
                values[key]["now"] = ", ".join(filter(None, chosen))
        path = self.configuration.path
        file = str(path) if os.path.exists(path) else ""
        return {"running": True, "file": file, "fault": self.configuration.error, "values": values}

    def _clients(self) -> list[dict[str, Any]]:
        now, wall = time.monotonic(), time.time()
        return [
            {"address": peer, "at": local, "time": wall - (now - moment)}
            for (peer, local), moment in self.server.datagrams.recent_clients.copy().items()
        ]
