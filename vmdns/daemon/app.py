"""`vmdns run`: makes every part from the configuration, connects them by callbacks, starts and stops them."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vmdns import __version__
from vmdns.config import Config, Options, values_in_force
from vmdns.control import requests
from vmdns.control.client import DEMO, instance_key
from vmdns.control.requests import Requests
from vmdns.control.server import ControlBusy, ControlServer
from vmdns.daemon import process
from vmdns.daemon.discovery import Discovery
from vmdns.daemon.file_reload import ConfigReload, HostsReader, UpstreamReader
from vmdns.daemon.listen_addresses import ListenAddresses
from vmdns.daemon.process import LimitedLog, Log, Tasks
from vmdns.daemon.wire_watch import WireWatch
from vmdns.host.folders import control_folders, hosts_path, state_folder
from vmdns.host.name_owners import NameOwners
from vmdns.host.resolver import POLL_SECONDS, watch_servers, watched_folders
from vmdns.host.systemd import ServiceNotifier
from vmdns.mdns.links import Link, find_links
from vmdns.mdns.transport import Multicast
from vmdns.server.dns_server import DnsServer
from vmdns.server.forwarder import Forwarder
from vmdns.server.io_thread import new_selector
from vmdns.server.listeners import take
from vmdns.server.query_handler import QueryHandler
from vmdns.sources.file_watcher import FileWatcher
from vmdns.sources.supervisor import WORKER
from vmdns.state.facts import Machine
from vmdns.state.guests import VmChange
from vmdns.state.snapshot import Policy
from vmdns.store import Store

FIRST_LOOK_SECONDS = 10.0  # after that, names that are not known count as not there


class App:
    """One running vmdns."""

    def __init__(
        self, config: Config, config_path: Path, options: Options, log: Log, worker: Sequence[str] = WORKER
    ) -> None:
        self._started = time.time()
        self._loop = asyncio.get_running_loop()
        self._log = log
        self._limited_log = LimitedLog(log)
        self._simulation = bool(options.get("demo"))
        self._tasks = Tasks()
        self._first_look_over = asyncio.Event()
        self._problems: frozenset[str] = frozenset()  # that were logged
        self._refusal_logged = False
        self._forwarding: object = None  # what the forwarder was configured with
        self._notifier = ServiceNotifier(os.environ)
        self._wiring = WireWatch(log)

        self.configuration = ConfigReload(config, config_path, options, self._apply, log)
        self.upstreams = UpstreamReader(log)
        owners_file = state_folder() / f"names-{instance_key(config.vbox_home)}.json"
        self._name_owners = NameOwners(owners_file if worker == WORKER else None, log)
        self.store = Store(self._policy(), owners=self._name_owners.read())
        self.store.subscribe(self._publish)
        self.hosts = HostsReader(self.store, log)
        self._discovery = Discovery(self.store, log, self._end_first_look, worker)

        self._forwarder = Forwarder(config.limits, process.clock, self._report_withheld)
        self._server = DnsServer(
            QueryHandler(lambda: self.store.snapshot, self._forwarder, self._discovery.wait_for_guest, config.limits)
        )
        self._listening = ListenAddresses(self._server, log, self._configure)
        self._multicast = Multicast(log, self._find_links, self._server.handler.answer_cache.drop_absent)
        self._requests = Requests(
            lambda: self.store.snapshot,
            lambda: self.store.facts,
            self._server.resolve,
            self.status,
            self._config_status,
            simulation=self._simulation,
        )

    # -- start and stop ---------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> int:
        """Serves until `stop` is set. Returns the exit status: 1 where nothing could be listened on."""
        self._log(f"vmdns {__version__}")
        if self._name_owners.trouble:
            self._log(self._name_owners.trouble)
        if not self._simulation and process.is_mac_root():
            self._log(process.MAC_ROOT)
        self._tasks.watch_failures()
        async with AsyncExitStack() as parts:
            # The last of these ends first.
            parts.push_async_callback(self._name_owners.close)
            parts.callback(self.store.close)
            parts.push_async_callback(self._server.stop)
            parts.callback(self._listening.close)
            parts.callback(self._multicast.close)
            parts.push_async_callback(self._tasks.cancel)
            passed, troubles = take(os.environ)
            for trouble in troubles:
                self._log(trouble)
            self._listening.give(passed)
            self._listen()
            if not self._server.listeners:
                self._log("vmdns ends: it can listen nowhere")
                return 1
            await self._read_upstreams()
            await self._read_hosts()
            self.store.rebuild()
            await self.store.wait_until_published()
            self._tasks.spawn(self._report_ready)
            if POLL_SECONDS:
                self._tasks.spawn(process.run_with_restarts, "reading upstreams", self._poll_upstreams)
            if sys.platform == "win32" and not self._simulation:
                self._tasks.spawn(self._remove_leftovers)
            await self._open_control(parts)
            self._watch_files(parts)
            self._discovery.start(self.configuration.config)
            parts.push_async_callback(self._discovery.stop)
            self._tasks.spawn(process.watch_suspends, self._resume)
            await stop.wait()
            self._log("stopping")
            self._notifier.stopping()
        return 0

    async def _open_control(self, parts: AsyncExitStack) -> None:
        control = ControlServer()
        parts.push_async_callback(control.close)
        key = DEMO if self._simulation else instance_key(self.configuration.config.vbox_home)
        try:
            await control.start(control_folders()[0], key, self._requests.handle)
        except ControlBusy as busy:
            self._log(str(busy))
        except OSError as error:
            self._log(f"commands cannot reach this vmdns: {error}")

    def _watch_files(self, parts: AsyncExitStack) -> None:
        files = FileWatcher()
        parts.callback(files.stop)

        def spawn(read: Callable[[], Coroutine[Any, Any, None]]) -> None:
            self._loop.call_soon_threadsafe(self._tasks.spawn, read)

        files.add(lambda: [hosts_path()], lambda: spawn(self._read_hosts))
        files.add(watched_folders, lambda: spawn(self._read_upstreams))
        parts.callback(watch_servers(lambda: spawn(self._read_upstreams)))
        files.add(lambda: [self.configuration.path], lambda: spawn(self.configuration.read))
        try:
            files.start()
        except OSError as error:
            self._log(f"files cannot be watched ({error}); changes of them need a restart")

    async def _report_ready(self) -> None:
        """Logs that vmdns is ready once VirtualBox was looked at, or after 11 s."""
        for seconds, text in (
            (1.0, "looking at VirtualBox and its VMs"),
            (FIRST_LOOK_SECONDS, "VirtualBox is still being looked at; its names follow"),
        ):
            try:
                async with asyncio.timeout(seconds):
                    await self._first_look_over.wait()
                break
            except TimeoutError:
                self._log(text)
        self._end_first_look()
        await self.store.wait_until_published()
        config, found = self.configuration.config, self._discovery.virtualbox
        lines = process.ready_lines(config.zones, self._server.listeners, self._simulation)
        for line in lines:
            self._log(line)
        if self._notifier.address:
            self._tasks.spawn(process.notify_manager, self._notifier, lambda: self._server.listeners, lines[0])
        machines = any(isinstance(one, Machine) for one in self.store.reported("virtualbox").values())
        if found["version"] and not (self._simulation or config.vbox_home or machines):
            from vmdns.host.folders import describe_other_users

            if text := await asyncio.to_thread(describe_other_users, Path(found["home"])):
                self._log(text)

    async def _remove_leftovers(self) -> None:
        """Logs or removes what an earlier vmdns left in the system's settings."""
        from vmdns.host.resolver import remove_leftovers

        try:
            for line in await asyncio.to_thread(remove_leftovers):
                self._log(line)
        except OSError as error:
            self._log(f"whether an earlier vmdns left settings cannot be found out: {error}")

    # -- what is read again -----------------------------------------------------------------------------------

    async def _read_hosts(self) -> None:
        await self.hosts.read(self._policy(), self.configuration.config.hosts)

    async def _read_upstreams(self) -> None:
        await self.upstreams.read()
        self._tasks.attempt(self._configure)

    async def _poll_upstreams(self) -> None:
        """On systems that do not notify of every change."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self._read_upstreams()

    def reload(self) -> None:
        """Reads all files again, as when they change, and reports what came of it.

        The hosts file and resolv.conf too where the configuration is as before: a watch may have missed them, as on a
        network file system.
        """
        self._log(f"reading the configuration again: {self.configuration.path}")
        self.configuration.error = ""
        for read in (self.configuration.read, self._read_upstreams, self._read_hosts):
            self._tasks.spawn(read)

    def _apply(self, before: Config) -> None:
        """Has every part use the configuration that was just reloaded."""
        config = self.configuration.config
        self._configure()
        self._tasks.spawn(self._read_hosts)
        if (config.reader, config.vbox_home) != (before.reader, before.vbox_home):
            self._discovery.start(config)

    def _resume(self, seconds: float) -> None:
        """After a suspend: events were missed, so everything is looked at again."""
        self._log(f"this computer slept, or vmdns was stopped, for {seconds:.0f} s: everything is looked at again")
        self._discovery.request_looks("virtualbox", "addresses", "neighbours")
        self._forwarder.retry_failed()
        self._multicast.restart()
        self._listening.retry()
        self.store.rebuild()
        self._tasks.spawn(self._read_upstreams)
        self._tasks.spawn(self._read_hosts)

    # -- what follows from it ---------------------------------------------------------------------------------

    def _configure(self) -> None:
        """Has every part use the configuration, the snapshot and the host's servers as they are now. What is as before
        changes nothing."""
        config, found = self.configuration.config, self.upstreams.found
        self.store.configure(self._policy())
        self._server.handler.clients.limits = config.limits
        self._server.handler.links = self._multicast if config.mdns_relay else None
        self._multicast.update()
        self._listen()
        forwarding = config, found, self._listening.own
        if forwarding != self._forwarding:
            self._forwarding = forwarding
            self.upstreams.configure(self._forwarder, config, self._listening.own)
        if (refusal := self._find_refusal()) and not self._refusal_logged:
            self._refusal_logged = True
            self._log(refusal)
        if config.wire:
            facts = self.store.facts
            self._tasks.spawn(self._wiring.check, facts, config.vbox_home, config.zones, found.resolvers)

    def _find_refusal(self) -> str:
        return process.find_refusal(self._server.udp.refusal, self._multicast.refusal)

    def _find_links(self) -> dict[str, Link]:
        """The links on which names are published and looked up by multicast DNS."""
        config = self.configuration.config
        return find_links(self.store.snapshot, config.mdns_relay, config.mdns)

    def _listen(self) -> None:
        """Listens where the configuration says, or where guests ask: at addresses that come and go with networks."""
        config = self.configuration.config
        guest_addresses = self.store.snapshot.host_networks.guest_addresses(config.lan != "off")
        self._listening.want(config.listen, guest_addresses, config.bind)

    def _policy(self) -> Policy:
        config = self.configuration.config
        # In a simulation no guest asks through this computer's own name server.
        resolvers = () if self._simulation else self.upstreams.found.resolvers
        return config.policy(resolvers, self.upstreams.host_domains(config), looked=self._first_look_over.is_set())

    def _end_first_look(self) -> None:
        if not self._first_look_over.is_set():
            self._first_look_over.set()
            self.store.configure(self._policy())

    def _publish(self, changes: list[VmChange]) -> None:
        self._server.publish(self.store.snapshot)
        self._name_owners.keep(self.store.snapshot.name_owners)
        self._tasks.attempt(self._configure)
        self._tasks.attempt(self._report, changes)

    def _report(self, changes: list[VmChange]) -> None:
        """Logs changes and problems of VMs, and notifies `vmdns names --watch`."""
        for one in changes:
            value = requests.describe_change(one, self.configuration.config.zones, time.time())
            self._limited_log(f"VM {value['vm']!r}", requests.format_change(value))
            self._requests.notify_watchers(value)
        problems = self.store.snapshot.problems
        for text in problems:
            if text not in self._problems:
                self._limited_log(text.partition(": ")[0], f"! {text}")
        self._problems = frozenset(problems)

    def _report_withheld(self, name: str) -> None:
        """Called by the UDP thread."""
        self._loop.call_soon_threadsafe(self._limited_log, "answers withheld", process.withheld_line(name))

    # -- status -----------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The health of every part, as JSON values for `vmdns status` and `doctor`."""
        forwarder, hosts, error = self._forwarder.status(), self.hosts.source, self.configuration.error
        sources = {**self._discovery.sources, "hosts": hosts, "upstreams": self.upstreams.source}
        found, virtualbox = self._discovery.virtualbox, sources["virtualbox"]
        failures = self._tasks.problems
        now, wall = time.monotonic(), time.time()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started": self._started,
            "zones": list(self.configuration.config.zones),
            "serial": self.store.snapshot.serial,
            "listeners": self._listening.status(),
            "virtualbox": {**found, "state": virtualbox.state, "detail": virtualbox.detail or found["detail"]},
            "sources": [
                {"name": name, **asdict(one), "facts": self.store.count(name)} for name, one in sources.items()
            ],
            "upstreams": forwarder.pop("upstreams", []),
            "datagrams": self._server.udp.path,
            "askers": [
                {"address": peer, "at": local, "time": wall - (now - moment)}
                for (peer, local), moment in self._server.udp.recent_clients.copy().items()
            ],
            "counts": {**asdict(self._server.handler.counts), "tcp_open": len(self._server.tcp)},
            "forwarding": forwarder,
            "problems": [
                *self.store.snapshot.problems,
                *self.upstreams.left_out,
                *([hosts.detail] if hosts.state == "failing" else []),
                *failures,
                *([error] if error else []),
            ],
            "left_out": self.upstreams.left_out,
            "refusal": self._find_refusal(),
            "faults": failures,
            "config_error": error,
        }

    def _config_status(self) -> dict[str, Any]:
        """The configuration in force, with what was chosen for values that leave it open."""
        values = values_in_force(self.configuration.config)
        now = {
            "listen": [f"{one['address']} port {one['port']}" for one in self._listening.status()],
            "upstreams": [one["address"] for one in self._forwarder.status().get("upstreams", [])],
            "reader": [self._discovery.virtualbox["reader"]],
            "vbox_home": [self._discovery.virtualbox["home"]],
        }
        for key, chosen in now.items():
            if values[key]["from"] == "default":
                values[key]["now"] = ", ".join(filter(None, chosen))
        path = self.configuration.path
        file = str(path) if path.exists() else ""
        return {"running": True, "file": file, "fault": self.configuration.error, "values": values}

    def log_status(self) -> None:
        """Writes to the log what `vmdns status` prints."""

        async def log() -> None:
            from vmdns import cli_format

            response = await self._requests.status_with_verdict()
            for line in cli_format.render(cli_format.status(response), cli_format.Style()):
                self._log(line)

        self._tasks.spawn(log)


def run(config: Config, config_path: Path, options: Options, log: Log, worker: Sequence[str] = WORKER) -> int:
    """Runs vmdns until SIGINT or SIGTERM. worker: the command line of the process that reads VirtualBox.

    Returns the exit status.
    """

    async def main() -> int:
        stop = asyncio.Event()
        app = App(config, config_path, options, log, worker)
        process.handle_signals(stop.set, app.reload, app.log_status)
        return await app.run(stop)

    process.prepare_process(log)
    # The selector loop on Windows too: the sockets of the server need add_reader.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(new_selector())) as runner:
        return runner.run(main())
