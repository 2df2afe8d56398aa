"""Finds the name servers that this host uses, and configures the forwarder with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vmdns.config import Config
from vmdns.daemon.discovery import Source
from vmdns.dns.builtin_zones import find_forwarded_domains
from vmdns.dns.upstreams import Upstreams
from vmdns.host.resolver import POLL_SECONDS, read_upstreams
from vmdns.server.forward_routes import is_own_listener
from vmdns.server.forwarder import Forwarder


class UpstreamWatch:
    """Keeps the forwarder's servers those of the configuration and the host.

    own gives the addresses and ports that vmdns itself listens on; changed is called when other servers were found.
    left_out: a sentence for each server that is not asked.
    """

    def __init__(
        self,
        forwarder: Forwarder,
        config: Callable[[], Config],
        own: Callable[[], frozenset[tuple[str, int]]],
        changed: Callable[[], None],
        log: Callable[[str], None],
    ) -> None:
        self.found = Upstreams()
        self.left_out: list[str] = []
        self.source = Source()
        self._forwarder = forwarder
        self._config = config
        self._own = own
        self._changed = changed
        self._log = log

    @property
    def host_domains(self) -> frozenset[bytes]:
        """The host's domains that are forwarded although a zone of ours is above them."""
        return find_forwarded_domains({*self.found.search, *self.found.domains}, self._config().zone_names)

    async def read(self) -> None:
        """Finds the host's servers now, in a thread; where that fails, those found before stay in use."""
        try:
            self.found = await asyncio.to_thread(read_upstreams)
            self.source.become("ok")
        except OSError as error:
            self.source.become("failing", str(error))
            self._log(f"the name servers of this host cannot be found out: {error}")
        self._changed()
        self.configure()

    async def poll(self) -> None:
        """Reads every POLL_SECONDS, on systems that notify of no change."""
        while POLL_SECONDS:
            await asyncio.sleep(POLL_SECONDS)
            await self.read()

    def configure(self) -> None:
        """Configures the forwarder, after a change of the configuration, the host's servers or our own listeners."""
        config, own = self._config(), self._own()
        zones = frozenset(config.zone_names)
        found = self.found.by_proxy(lambda server: is_own_listener(server, own))
        default = config.upstreams or found.default
        domains = dict.fromkeys(self.host_domains, default)
        # `vmdns host --apply` makes the host send queries for our zones to us.
        domains |= {key: servers for key, servers in found.domains.items() if key not in zones}
        search = found.search | config.private_names
        upstreams = Upstreams(default, {**domains, **config.forward_names}, search)
        left_out = self._forwarder.configure(upstreams, own, zones, config.limits)
        for sentence in left_out:
            if sentence not in self.left_out:
                self._log(sentence)
        self.left_out = left_out
