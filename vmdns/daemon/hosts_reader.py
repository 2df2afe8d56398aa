"""Reads the host's hosts file for the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vmdns.config import Config
from vmdns.daemon.discovery import Source
from vmdns.host.folders import hosts_path
from vmdns.sources import hosts_file
from vmdns.state.policy import Policy
from vmdns.state.static_records import HostsIndex


class HostsReader:
    """Reads in a thread, because a block list of 230,000 names takes a second or two.

    publish receives what was read; source is its health for the status.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        policy: Callable[[], Policy],
        publish: Callable[[HostsIndex], None],
        log: Callable[[str], None],
        source: Source,
    ) -> None:
        self.hosts = HostsIndex()
        self._config = config
        self._policy = policy
        self._publish = publish
        self._log = log
        self._source = source
        self._reading = asyncio.Lock()  # one read at a time, so that the newest content wins

    async def read(self) -> None:
        """Reads and publishes the file; where it cannot be read, the last content stays in force."""
        async with self._reading:
            try:
                self.hosts = hosts = await asyncio.to_thread(self._digest, self._config().hosts, self._policy())
            except OSError as error:
                text = f"the hosts file cannot be read ({error.strerror}); its last content stays in force"
                self._source.become("failing", text)
                self._log(text)
                return
            if hosts.trouble and hosts.trouble != self._source.detail:
                self._log(hosts.trouble)
            self._source.become("failing" if hosts.trouble else "ok", hosts.trouble)
            self._publish(hosts)

    def _digest(self, wanted: bool, policy: Policy) -> HostsIndex:
        if not wanted:
            return HostsIndex()
        return hosts_file.read_digest(hosts_path(), policy.apexes, policy.ttl, self.hosts)
