"""`vmdns run`: makes every part from the configuration, connects them by callbacks, starts and stops them."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vmdns import __version__
from vmdns.config import Config, Options
from vmdns.control.client import DEMO, instance_key
from vmdns.control.requests import Requests
from vmdns.control.server import ControlBusy, ControlServer
from vmdns.daemon import signals
from vmdns.daemon.admission import Admission
from vmdns.daemon.config_reload import ConfigReload
from vmdns.daemon.discovery import Discovery, Source
from vmdns.daemon.hosts_reader import HostsReader
from vmdns.daemon.listen_addresses import ListenAddresses
from vmdns.daemon.process_setup import prepare_process
from vmdns.daemon.reports import Reports, ready_lines, report_leftovers, report_other_user, wait_for_first_look
from vmdns.daemon.status import Status
from vmdns.daemon.suspend_detector import SuspendDetector, clock
from vmdns.daemon.task_restart import Faults, Tasks, run_with_restarts
from vmdns.daemon.upstream_watch import UpstreamWatch
from vmdns.dns.forwarded_answer import Failure, Question
from vmdns.dns.query import Query, encode_response
from vmdns.host.folders import control_folders, hosts_path, state_folder
from vmdns.host.name_owners import NameOwners
from vmdns.host.resolver import watched_folders
from vmdns.mdns.links import Link, find_links
from vmdns.mdns.transport import Multicast
from vmdns.server.dns_server import DnsServer
from vmdns.server.external_names import ExternalNames
from vmdns.server.forwarder import Forwarder
from vmdns.sources.file_watcher import FileWatcher
from vmdns.sources.supervisor import WORKER
from vmdns.state.authoritative import Reply
from vmdns.state.facts import Machine
from vmdns.state.guests import VmChange
from vmdns.state.policy import Policy
from vmdns.state.snapshot import Snapshot
from vmdns.store import Store

if TYPE_CHECKING:
    from vmdns.daemon.readiness import Readiness
    from vmdns.daemon.wire_watch import WireWatch

Log = Callable[[str], None]


class App:
    """One running vmdns."""

    def __init__(
        self,
        config: Config,
        config_path: Path,
        options: Options,
        log: Log,
        worker: Sequence[str] = WORKER,
    ) -> None:
        self._log = log
        self._simulation = options.demo
        self._first_look_over = asyncio.Event()
        self._readiness: Readiness | None = None
        self._wired: WireWatch | None = None
        self._listens: object = None
        self._faults = Faults(_log_fault)
        self._tasks = Tasks(self._faults)
        self._reports = Reports(log)
        self._configuration = ConfigReload(config, config_path, options, self._apply, log)
        current = self._configuration.current

        self._forwarder = Forwarder(config.limits, clock, self._report_withheld)
        self._admission = Admission(
            lambda peer: self.store.snapshot.is_guest(peer), lambda: self._discovery.request_look("neighbours")
        )
        self._server = DnsServer(
            self._snapshot,
            ExternalNames(
                self._forwarder.resolve,
                self._forwarder.cached,
                partial(chase, self._forwarder),
                self._admission.admit,
                find=self._forwarder.find,
                settle=self._forwarder.settle,
                thread=self._forwarder.thread,
            ),
            config.limits,
        )
        self._listening = ListenAddresses(self._server, log, lambda: self.upstreams.configure())
        self.upstreams = UpstreamWatch(
            self._forwarder, current, lambda: self._listening.own, self._configure_store, log
        )
        self._multicast = Multicast(log, self._find_links, self._server.datagrams.answer_cache.drop_absent)

        self._name_owners = NameOwners(_name_owners_file(config) if worker == WORKER else None, log)
        self.store = Store(self._policy(), owners=self._name_owners.read())
        self.store.subscribe(self._publish)
        self._discovery = Discovery(
            self.store, log, self._end_first_look, lambda source: self._admission.looked(), worker
        )
        now = time.time()
        sources = {**self._discovery.sources, "hosts": Source(since=now), "upstreams": self.upstreams.source}
        self.upstreams.source.since = now
        self.hosts = HostsReader(current, self._policy, self.store.put_hosts, log, sources["hosts"])
        self.status = Status(
            now,
            self._configuration,
            self.store,
            self._server,
            self._forwarder,
            self._listening,
            self._discovery,
            self.upstreams,
            sources,
            self._faults,
        )
        self._requests = Requests(
            self._snapshot,
            lambda: self.store.facts,
            self._server.handle,
            lambda: current().zones,
            self.status.read,
            self.status.read_config,
            simulation=options.demo,
        )

    # -- start and stop ---------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> int:
        """Serves until `stop` is set. Returns the exit status: 1 where nothing could be listened on."""
        self._log(f"vmdns {__version__}")
        if self._name_owners.trouble:
            self._log(self._name_owners.trouble)
        self._loop = asyncio.get_running_loop()
        self._faults.watch(self._loop)
        async with AsyncExitStack() as parts:
            self._close_at_end(parts)
            self._connect_service_manager()
            self._listen()
            if not self._server.listeners:
                self._log("vmdns ends: it can listen nowhere")
                return 1
            await self.upstreams.read()
            await self.hosts.read()
            self.store.rebuild()
            self._tasks.spawn(self._report_ready())
            self._tasks.spawn(run_with_restarts("reading upstreams", self.upstreams.poll))
            if sys.platform == "win32" and not self._simulation:
                self._tasks.spawn(report_leftovers(self._log))
            await self._open_control(parts)
            self._watch_files(parts)
            self._discovery.start(self._configuration.config)
            parts.push_async_callback(self._discovery.stop)
            suspends = SuspendDetector(self._resume)
            suspends.start()
            parts.callback(suspends.stop)
            await stop.wait()
            self._log("stopping")
            if self._wired is not None:
                parts.push_async_callback(self._wired.stop)
            if self._readiness is not None:
                await self._readiness.stop()
        return 0

    def _close_at_end(self, parts: AsyncExitStack) -> None:
        """The last of these ends first."""
        parts.push_async_callback(self._name_owners.close)
        parts.callback(self.store.close)
        parts.push_async_callback(self._forwarder.close)
        parts.push_async_callback(self._server.stop)
        parts.callback(self._listening.close)
        parts.callback(self._multicast.close)
        parts.push_async_callback(self._tasks.cancel)

    def _connect_service_manager(self) -> None:
        """Takes the sockets that a service manager opened, and notes where it wants to be notified."""
        if "NOTIFY_SOCKET" in os.environ:
            from vmdns.daemon.readiness import Readiness
            from vmdns.host.systemd_notify import ServiceNotifier

            self._readiness = Readiness(ServiceNotifier(os.environ), lambda: self._server.listeners)
        if "LISTEN_FDS" in os.environ:
            from vmdns.server.socket_activation import take

            listeners, troubles = take(os.environ)
            self._listening.give(listeners)
            for trouble in troubles:
                self._log(trouble)

    async def _open_control(self, parts: AsyncExitStack) -> None:
        control = ControlServer()
        parts.push_async_callback(control.close)
        key = DEMO if self._simulation else instance_key(self._configuration.config.vbox_home)
        try:
            await control.start(control_folders()[0], key, self._requests.handle)
        except ControlBusy as busy:
            self._log(f"another vmdns of yours runs already (pid {busy.pid}): commands talk to that one")
        except OSError as error:
            self._log(f"commands cannot reach this vmdns: {error}")

    def _watch_files(self, parts: AsyncExitStack) -> None:
        files, in_loop = FileWatcher(), asyncio.get_running_loop().call_soon_threadsafe
        parts.callback(files.stop)
        spawn = self._tasks.spawn
        files.add(lambda: [hosts_path()], lambda: in_loop(lambda: spawn(self.hosts.read())))
        files.add(watched_folders, lambda: in_loop(lambda: spawn(self.upstreams.read())))
        files.add(lambda: [self._configuration.path], lambda: in_loop(lambda: spawn(self._configuration.read())))
        try:
            troubles = files.start()
        except OSError as error:
            troubles = [f"files cannot be watched ({error}); changes of them need a restart"]
        for trouble in troubles:
            self._log(trouble)

    async def _report_ready(self) -> None:
        await wait_for_first_look(self._first_look_over, self._log)
        self._end_first_look()
        await self.store.settled()
        config = self._configuration.config
        lines = ready_lines(config.zones, self._server.listeners, self._simulation)
        for line in lines:
            self._log(line)
        if self._readiness is not None:
            self._readiness.ready(lines[0])
        if not self._simulation:
            machines = any(isinstance(one, Machine) for one in self.store.reported("virtualbox").values())
            await report_other_user(config, self._discovery.virtualbox, machines, self._log)

    # -- what the parts call ----------------------------------------------------------------------------------

    def _report_withheld(self, name: str) -> None:
        self._loop.call_soon_threadsafe(self._reports.report_withheld, name)

    def _snapshot(self) -> Snapshot:
        return self.store.snapshot

    def _policy(self) -> Policy:
        # In a simulation no guest asks through this computer's own name server.
        resolvers = () if self._simulation else self.upstreams.found.resolvers
        return self._configuration.config.policy(
            resolvers, self.upstreams.host_domains, looked=self._first_look_over.is_set()
        )

    def _configure_store(self) -> None:
        self.store.configure(self._policy())

    def _end_first_look(self) -> None:
        if not self._first_look_over.is_set():
            self._first_look_over.set()
            self._configure_store()

    def _publish(self, changes: list[VmChange]) -> None:
        self._server.publish(self.store.snapshot)
        try:
            self._follow(changes)
        except Exception as error:  # the new snapshot is published all the same
            context = {"message": "a change was not reported", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def _follow(self, changes: list[VmChange]) -> None:
        """Everything that follows a new snapshot, besides the answers."""
        snapshot = self.store.snapshot
        self._name_owners.keep(snapshot.name_owners)
        self._listen()
        self._keep_wired()
        self._admission.changed()
        self._announce()
        now = time.time()
        for one in changes:
            value = self._reports.report_change(one, self._configuration.config.zones, now)
            self._requests.notify_watchers(value)
        self._reports.report_problems(snapshot.problems, now)

    def _listen(self) -> None:
        """Listens where the configuration says, or where guests ask: at addresses that come and go with networks."""
        config = self._configuration.config
        wanted = config.listen, self.store.snapshot.ways.guest_addresses(config.lan != "off")
        if wanted != self._listens:
            self._listens = wanted
            self._listening.want(*wanted)

    def _announce(self) -> None:
        """Publishes the snapshot by multicast DNS as the configuration says."""
        self._multicast.update()
        self._server.external.links = self._multicast if self._configuration.config.mdns_relay else None

    def _find_links(self) -> dict[str, Link]:
        config = self._configuration.config
        return find_links(self.store.snapshot, config.mdns_relay, config.mdns)

    def _keep_wired(self) -> None:
        """With wire = true, points the DHCP servers of VirtualBox's networks at vmdns whenever the networks change."""
        config = self._configuration.config
        if not config.wire:
            return
        if self._wired is None:
            from vmdns.daemon.wire_watch import WireWatch

            self._wired = WireWatch(self._log)
        self._wired.changed(self.store.facts, config.vbox_home, config.zones, self.upstreams.found.resolvers)

    def _apply(self, before: Config) -> None:
        """Has every part use the configuration that was just reloaded."""
        config = self._configuration.config
        self._server.limits = config.limits
        self._listen()
        self._announce()
        self._configure_store()
        self._tasks.spawn(self.hosts.read())
        self.upstreams.configure()
        self._keep_wired()
        if (config.reader, config.vbox_home) != (before.reader, before.vbox_home):
            self._discovery.start(config)

    def _resume(self, seconds: float) -> None:
        """After a suspend: events were missed, so everything is looked at again."""
        self._log(f"this computer slept, or vmdns was stopped, for {seconds:.0f} s: everything is looked at again")
        self._discovery.resume()
        self._forwarder.retry_failed()
        self._multicast.restart()
        self._listening.resume()
        self.store.rebuild()
        self._tasks.spawn(self.upstreams.read())
        self._tasks.spawn(self.hosts.read())

    # -- signals ----------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Reads all files again, as when they change, and reports what came of it.

        The hosts file and resolv.conf too where the configuration is as before: a watch may have missed them, as on a
        network file system.
        """
        self._log(f"reading the configuration again: {self._configuration.path}")
        self._configuration.error = ""
        for read in (self._configuration.read, self.upstreams.read, self.hosts.read):
            self._tasks.spawn(read())

    def log_status(self) -> None:
        """Writes to the log what `vmdns status` prints."""

        async def log() -> None:
            from vmdns import cli_format

            response = await self._requests.status_with_verdict()
            for line in cli_format.status(response, cli_format.Style()):
                self._log(line)

        self._tasks.spawn(log())


async def chase(forwarder: Forwarder, query: Query, reply: Reply, target: bytes, limit: int) -> bytes:
    """The response to a query whose CNAME chain goes on outside of our zones, at `target`."""
    found = await forwarder.lookup(Question(target, query.type, query.dnssec_ok, query.checking_disabled))
    if isinstance(found, Failure):
        return encode_response(query, found.rcode, limit=limit, answer=reply.answer, extended_error=found.error)
    return encode_response(
        query, found.rcode, limit=limit, answer=[*reply.answer, *found.answer], authority=found.authority
    )


def _log_fault(what: str, error: BaseException | None) -> None:
    logging.getLogger("vmdns").error(what, exc_info=error)


def _name_owners_file(config: Config) -> Path | None:
    """Where the owners of names are remembered, for each VirtualBox home; None where no home folder is known."""
    try:
        return state_folder() / f"names-{instance_key(config.vbox_home)}.json"
    except RuntimeError:
        return None


def run(config: Config, config_path: Path, options: Options, log: Log, worker: Sequence[str] = WORKER) -> int:
    """Runs vmdns until SIGINT or SIGTERM. worker: the command line of the process that reads VirtualBox.

    Returns the exit status.
    """

    async def main() -> int:
        stop = asyncio.Event()
        app = App(config, config_path, options, log, worker)
        signals.install(stop.set, app.reload, app.log_status)
        return await app.run(stop)

    prepare_process(log)
    # The selector loop on Windows too: the sockets of the server need add_reader.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(main())
