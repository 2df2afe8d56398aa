"""The health of a running server, as JSON values for `vmdns status`, `doctor` and `config`."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from vmdns import __version__
from vmdns.config import values_in_force
from vmdns.daemon.discovery import Discovery
from vmdns.daemon.file_reload import ConfigReload, HostsReader, UpstreamReader
from vmdns.daemon.listen_addresses import ListenAddresses
from vmdns.daemon.process import Tasks
from vmdns.server.dns_server import DnsServer
from vmdns.server.forwarder import Forwarder
from vmdns.store import Store


@dataclass(frozen=True, slots=True)
class Status:
    """Reads the parts of a running server. started: Unix seconds."""

    configuration: ConfigReload
    store: Store
    server: DnsServer
    forwarder: Forwarder
    listening: ListenAddresses
    discovery: Discovery
    hosts: HostsReader
    upstreams: UpstreamReader
    tasks: Tasks
    started: float = field(default_factory=time.time)

    def read(self) -> dict[str, Any]:
        """Everything about this server's health."""
        forwarder = self.forwarder.status()
        sources = {**self.discovery.sources, "hosts": self.hosts.source, "upstreams": self.upstreams.source}
        virtualbox, hosts = sources["virtualbox"], self.hosts.source
        now, wall = time.monotonic(), time.time()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started": self.started,
            "zones": list(self.configuration.config.zones),
            "serial": self.store.snapshot.serial,
            "listeners": self.listening.status(),
            "virtualbox": {
                **self.discovery.virtualbox,
                "state": virtualbox.state,
                "detail": virtualbox.detail or self.discovery.virtualbox["detail"],
            },
            "sources": [
                {"name": name, **asdict(source), "facts": self.store.count(name)} for name, source in sources.items()
            ],
            "upstreams": forwarder.pop("upstreams", []),
            "datagrams": self.server.udp.path,
            "askers": [
                {"address": peer, "at": local, "time": wall - (now - moment)}
                for (peer, local), moment in self.server.udp.recent_clients.copy().items()
            ],
            "counts": {**asdict(self.server.handler.counts), "tcp_open": len(self.server.tcp)},
            "forwarding": forwarder,
            "problems": [
                *self.store.snapshot.problems,
                *self.upstreams.left_out,
                *([hosts.detail] if hosts.state == "failing" else []),
                *self.tasks.problems,
                *([self.configuration.error] if self.configuration.error else []),
            ],
            "left_out": self.upstreams.left_out,
            "faults": self.tasks.problems,
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
