"""What is read again while vmdns runs: its configuration, the hosts file, and the name servers of this host.

Files are read in a thread, one read at a time, so that the newest content wins. What cannot be read changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from vmdns.config import Config, ConfigError, Options, load
from vmdns.daemon.discovery import Source
from vmdns.daemon.process import Log
from vmdns.dns.name import to_wire
from vmdns.dns.upstreams import Upstreams, find_forwarded_domains
from vmdns.host.folders import hosts_path
from vmdns.host.resolver import read_upstreams
from vmdns.server.forward_routes import is_own_listener
from vmdns.server.forwarder import Forwarder
from vmdns.sources import hosts_file
from vmdns.state.snapshot import Policy
from vmdns.state.static_records import HostsIndex
from vmdns.store import Store

# An editor that empties the file before it writes has written within this time.
REWRITE_SECONDS = 0.2


class ConfigReload:
    """Holds the configuration in force. A valid file is applied at once, an invalid one changes nothing.

    apply is called with the configuration before, after a new one took its place. error: why the file as it is now is
    not in force, "" where it is.
    """

    def __init__(self, config: Config, path: Path, options: Options, apply: Callable[[Config], None], log: Log) -> None:
        self.config = config
        self.path = path
        self.error = ""
        self._options = options
        self._apply = apply
        self._log = log
        self._reading = asyncio.Lock()

    async def read(self) -> None:
        """Reads the file and applies it."""
        async with self._reading:
            try:
                config = await asyncio.to_thread(self._load)
            except ConfigError as error:
                if str(error) != self.error:
                    self._log(f"{error}; the configuration before stays in force")
                self.error = str(error)
                return
            self.error = ""
            if config != self.config:
                before, self.config = self.config, config
                self._apply(before)
                self._log(f"the configuration was read again: {self.path}")

    def _load(self) -> Config:
        with contextlib.suppress(OSError):
            if self.path.stat().st_size == 0:
                time.sleep(REWRITE_SECONDS)
        return load(self.path, optional=True).with_options(self._options)


class HostsReader:
    """Reads the hosts file into the store: a block list of 230,000 names takes a second or two."""

    def __init__(self, store: Store, log: Log) -> None:
        self.source = Source()
        self._store = store
        self._log = log
        self._reading = asyncio.Lock()

    async def read(self, policy: Policy, wanted: bool) -> None:
        """Reads the file, or no names at all where they are not wanted."""
        async with self._reading:
            try:
                found = HostsIndex()
                if wanted:
                    digest = hosts_path(), policy.apexes, policy.ttl, self._store.hosts
                    found = await asyncio.to_thread(hosts_file.read_digest, *digest)
            except OSError as error:
                text = f"the hosts file cannot be read ({error.strerror}); its last content stays in force"
                self.source.become("failing", text)
                self._log(text)
                return
            if found.trouble and found.trouble != self.source.detail:
                self._log(found.trouble)
            self.source.become("failing" if found.trouble else "ok", found.trouble)
            self._store.put_hosts(found)


class UpstreamReader:
    """Finds the name servers of this host, and has the forwarder use them. left_out: a sentence for each server that
    is not queried."""

    def __init__(self, log: Log) -> None:
        self.found = Upstreams()
        self.left_out: list[str] = []
        self.source = Source()
        self._log = log

    async def read(self) -> None:
        """Finds the servers now."""
        try:
            self.found = await asyncio.to_thread(read_upstreams)
            self.source.become("ok")
        except OSError as error:
            self.source.become("failing", str(error))
            self._log(f"the name servers of this host cannot be found out: {error}")

    def host_domains(self, config: Config) -> frozenset[bytes]:
        """The host's domains that are forwarded although a zone of ours is above them."""
        return find_forwarded_domains({*self.found.search, *self.found.domains}, tuple(map(to_wire, config.zones)))

    def configure(self, forwarder: Forwarder, config: Config, own: frozenset[tuple[str, int]]) -> None:
        """Has the forwarder use the servers of the configuration and the host. own: what vmdns itself listens on."""
        found = self.found.by_proxy(lambda server: is_own_listener(server, own))
        zones = frozenset(map(to_wire, config.zones))
        default = config.upstreams or found.default
        domains = dict.fromkeys(self.host_domains(config), default)
        # `vmdns host --apply` makes the host send queries for our zones to us.
        domains |= {key: servers for key, servers in found.domains.items() if key not in zones}
        private = frozenset(map(to_wire, config.private_domains))
        upstreams = Upstreams(default, {**domains, **config.forward_names}, found.search | private)
        left_out = forwarder.configure(upstreams, own, zones, config.limits)
        for sentence in left_out:
            if sentence not in self.left_out:
                self._log(sentence)
        self.left_out = left_out
