"""The composition root: builds every part from the configuration, joins them, and runs them until told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vmdns import __version__
from vmdns.config import Config, ConfigError, ConfigMissing, Options, load
from vmdns.control import report
from vmdns.control.ask import chase
from vmdns.control.paths import DEMO
from vmdns.control.server import ControlBusy, ControlServer, instance_key
from vmdns.daemon import signals
from vmdns.daemon.admission import Admission
from vmdns.daemon.discovery import Discovery, Source
from vmdns.daemon.listening import Listening
from vmdns.daemon.log_limit import Sparing
from vmdns.daemon.output import take_over
from vmdns.daemon.requests import Requests
from vmdns.daemon.suspend_detector import Waking, clock
from vmdns.daemon.task_restart import Faults, lasting
from vmdns.dns.builtin_zones import domains_to_forward
from vmdns.dns.escaping import safe
from vmdns.dns.message import Record
from vmdns.dns.upstreams import Upstreams
from vmdns.dns.zonefile import check_records, parse_records
from vmdns.host.capabilities_linux import keep_to_ourselves
from vmdns.host.folders import control_folders, state_folder
from vmdns.host.name_owners import NameOwners
from vmdns.host.upstreams import POLL_SECONDS, read_upstreams, watched
from vmdns.mdns.publisher import MdnsPublisher
from vmdns.mdns.transport import Multicast
from vmdns.server.dns_server import DnsServer
from vmdns.server.external_names import Others
from vmdns.server.forward_routes import is_own_listener
from vmdns.server.forwarder import Forwarder
from vmdns.sources import hosts_file
from vmdns.sources.file_watcher import FolderWatch
from vmdns.sources.supervisor import WORKER
from vmdns.sources.supervisor import look_once as look_by_worker
from vmdns.state.build import build
from vmdns.state.facts import Fact, Machine, from_json
from vmdns.state.hosts_names import Hosts
from vmdns.state.policy import Policy
from vmdns.state.vm_change import Change
from vmdns.state.withheld_names import domain_to_allow
from vmdns.store import Table

Say = Callable[[str], None]
FIRST_LOOK_SECONDS = 10.0  # after that, names that are not known count as not there


class App:
    """One running vmdns."""

    def __init__(
        self,
        config: Config,
        config_path: Path,
        options: Options,
        say: Say,
        worker: Sequence[str] = WORKER,
    ) -> None:
        self.config = config
        self.config_path = config_path
        self._options = options
        self._say = say
        self.started = time.time()
        self._looked = False
        self._ready = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.faults = Faults(_log_fault)
        self.config_error = ""
        self.left_out: list[str] = []
        self._found_upstreams = Upstreams()
        self._requests = Requests(self, simulation=options.demo)
        self.forwarder = Forwarder(config.limits, clock, self._say_held_back)
        self._admission = Admission(
            lambda peer: self.table.snapshot.is_guest(peer), lambda: self.discovery.nudge("neighbours")
        )
        self.server = DnsServer(
            lambda: self.table.snapshot,
            Others(
                self.forwarder.resolve,
                self.forwarder.cached,
                partial(chase, self.forwarder.find),
                self._admission.admit,
                begin=self.forwarder.begin,
                tries=self.forwarder.tries,
                settle=self.forwarder.settle,
            ),
            config.limits,
        )
        self.multicast = Multicast(say, forgotten=self.server.datagrams.answer_cache.drop_absent)
        self._mdns = MdnsPublisher(self.multicast, lambda: self.table.snapshot)
        self.listening = Listening(self.server, say, self._configure_forwarder)
        self._listens: object = None
        self._hosts = Hosts()
        self._reading = asyncio.Lock()  # files are read in threads, one at a time, so that the newest content wins
        self._records: tuple[Record, ...] = ()  # until there is a table, which would be built twice with them
        self._name_owners = NameOwners(_name_owners_file(config) if worker == WORKER else None, say)
        self.table = Table(self._policy(), owners=self._name_owners.read())
        self._records = _records(config)
        self.table.subscribe(self._tell)
        self.discovery = Discovery(
            self.table, say, self._first_look_is_over, lambda source: self._admission.looked(), worker
        )
        self.sources = {
            **self.discovery.sources,
            "hosts": Source(since=self.started),
            "upstreams": Source(since=self.started),
        }
        self._sparing = Sparing()
        self._problems: tuple[str, ...] = ()
        self._wired: Any = None
        self._readiness: Any = None
        self._files = FolderWatch()
        self._control = ControlServer()
        self._waking = Waking(self._wake)

    # -- life -------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> int:
        """Serves until `stop` is set. Returns the exit status: 1 where nothing could be listened on."""
        self._say(f"vmdns {__version__}")
        if self._name_owners.trouble:
            self._say(self._name_owners.trouble)
        self.faults.watch(asyncio.get_running_loop())
        self._meet_manager()
        self._listen()
        if not self.server.listeners:
            self._say("vmdns ends: it can listen nowhere")
            return 1
        await self._read_upstreams()
        await self._read_hosts()
        self.table.rebuild()
        tasks = [asyncio.create_task(self._say_ready())]
        if POLL_SECONDS:
            tasks.append(asyncio.create_task(lasting("reading upstreams", self._poll_upstreams)))
        if sys.platform == "win32" and not self._options.demo:
            self._spawn(self._clean())
        await self._open_control()
        self._watch_files()
        self.discovery.start(self.config)
        self._waking.start()
        await stop.wait()
        self._say("stopping")
        if self._readiness is not None:
            await self._readiness.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.discovery.stop()
        if self._wired is not None:
            await self._wired.stop()
        self._waking.stop()
        self._files.stop()
        self._mdns.close()
        self.multicast.close()
        self.listening.close()
        await self._control.close()
        await self.server.stop()
        await self.forwarder.close()
        self.table.close()
        await self._name_owners.close()
        return 0

    async def _say_ready(self) -> None:
        for seconds, text in (
            (1.0, "looking at VirtualBox and its VMs"),
            (FIRST_LOOK_SECONDS, "VirtualBox is still being looked at; its names follow"),
        ):
            try:
                async with asyncio.timeout(seconds):
                    await self._ready.wait()
                break
            except TimeoutError:
                self._say(text)
        self._first_look_is_over()
        await self.table.settled()
        zones = " and ".join(self.config.zones)
        by_port: dict[int, list[str]] = {}
        for one in self.server.listeners:
            by_port.setdefault(one.port, []).append(one.address)
        where = ", ".join(f"{', '.join(addresses)} port {port}" for port, addresses in by_port.items())
        simulation = "this is a simulation; " if self._options.demo else ""
        ready = f"ready: {simulation}names in {zones} are answered at {where}"
        self._say(ready)
        if self._options.demo:
            from vmdns.commands.demo import guide

            for line in guide(self.config.zones[0], [(one.address, one.port) for one in self.server.listeners]):
                self._say(line)
        if self._readiness is not None:
            self._readiness.ready(ready)
        await self._say_whose_vms()

    async def _say_whose_vms(self) -> None:
        """Where this user has no VMs, as root under sudo, names another user who has."""
        found = self.discovery.virtualbox
        machines = (one for one in self.table.held("virtualbox").values() if isinstance(one, Machine))
        if self._options.demo or self.config.vbox_home or not found["version"] or next(machines, None):
            return
        from vmdns.host.other_users import hint

        if text := await asyncio.to_thread(hint, Path(found["home"])):
            self._say(text)

    def _meet_manager(self) -> None:
        """Takes what a service manager hands over: sockets that it opened, and where it wants to be told that all is
        well."""
        if "NOTIFY_SOCKET" in os.environ:
            from vmdns.daemon.readiness import Readiness
            from vmdns.host.systemd_notify import from_environ

            self._readiness = Readiness(from_environ(os.environ), lambda: self.server.listeners)
        if "LISTEN_FDS" in os.environ:
            from vmdns.server.socket_activation import take

            listeners, troubles = take(os.environ)
            self.listening.give(listeners)
            for trouble in troubles:
                self._say(trouble)

    def _first_look_is_over(self) -> None:
        if not self._looked:
            self._looked = True
            self.table.configure(self._policy())
        self._ready.set()

    async def _clean(self) -> None:
        """Says, or takes away, what an earlier vmdns left in the system's settings. Not run on Windows yet."""
        from vmdns.commands import host as hosting

        try:
            for line in await asyncio.to_thread(hosting.clean):
                self._say(line)
        except OSError as error:
            self._say(f"whether an earlier vmdns left settings cannot be found out: {error}")

    def _listen(self) -> None:
        """Listens where the configuration says, or where guests ask: at addresses that come and go with networks."""
        wanted = self.config.listen, self.table.snapshot.ways.doors(self.config.lan != "off")
        if wanted != self._listens:
            self._listens = wanted
            self.listening.want(*wanted)

    def _announce(self) -> None:
        """Keeps multicast DNS up with the snapshot and the configuration."""
        self._mdns.names, self._mdns.relay = self.config.mdns, self.config.mdns_relay
        self._mdns.schedule()
        self.server.others.links = self.multicast if self.config.mdns_relay else None

    def _wake(self, seconds: float) -> None:
        """What was missed fired no event, or nobody took it: everything is looked at again."""
        self._say(f"this computer slept, or vmdns was held up, for {seconds:.0f} s: everything is looked at again")
        self.discovery.woke()
        self.forwarder.woke()
        self.multicast.again()
        self.listening.woke()
        self.table.rebuild()
        self._spawn(self._read_upstreams())
        self._spawn(self._read_hosts())

    # -- sources ----------------------------------------------------------------------------------------------

    async def _read_hosts(self) -> None:
        """Reads the hosts file in a thread: a block list of 230,000 names takes a second or two."""
        async with self._reading:
            await self._read_hosts_file(self._policy())

    async def _read_hosts_file(self, policy: Policy) -> None:
        def read() -> Hosts:
            if not self.config.hosts:
                return Hosts()
            return hosts_file.read_digest(hosts_file.path(), policy.apexes, policy.ttl, self._hosts)

        try:
            self._hosts = hosts = await asyncio.to_thread(read)
        except OSError as error:
            text = f"the hosts file cannot be read ({error.strerror}); its last content stays in force"
            self.sources["hosts"].become("failing", text)
            self._say(text)
            return
        if hosts.trouble and hosts.trouble != self.sources["hosts"].detail:
            self._say(hosts.trouble)
        self.sources["hosts"].become("failing" if hosts.trouble else "ok", hosts.trouble)
        self.table.put_hosts(hosts)

    def _keep_wired(self) -> None:
        """Has guests' networks hand vmdns out where that is wanted, whenever VirtualBox's networks changed."""
        if not self.config.wire:
            return
        if self._wired is None:
            from vmdns.daemon.keep_wired import Wired

            self._wired = Wired(self._say)
        home = str(self.config.vbox_home) if self.config.vbox_home else None
        self._wired.changed(self.table.networks, home, self.config.zones, self._found_upstreams.resolvers)

    # -- upstreams --------------------------------------------------------------------------------------------

    async def _read_upstreams(self) -> None:
        try:
            self._found_upstreams = await asyncio.to_thread(read_upstreams)
            self.sources["upstreams"].become("ok")
        except OSError as error:
            self.sources["upstreams"].become("failing", str(error))
            self._say(f"the name servers of this host cannot be found out: {error}")
        self.table.configure(self._policy())
        self._configure_forwarder()

    def _configure_forwarder(self) -> None:
        own, zones = self.listening.own, frozenset(self.config.zone_names)
        found = self._found_upstreams.by_proxy(lambda server: is_own_listener(server, own))
        default = self.config.upstreams or found.default
        domains = dict.fromkeys(self._host_domains, default)
        # `vmdns host --apply` has the host ask us for our zones.
        domains |= {key: servers for key, servers in found.domains.items() if key not in zones}
        search = found.search | self.config.private_names
        upstreams = Upstreams(default, {**domains, **self.config.forward_names}, search)
        left_out = self.forwarder.configure(upstreams, own, zones, self.config.limits)
        for sentence in left_out:
            if sentence not in self.left_out:
                self._say(sentence)
        self.left_out = left_out

    def _say_held_back(self, name: str) -> None:
        line = (
            f"! {safe(name)}: an answer from outside held a private address and was withheld (DNS rebinding); if the "
            f'name is yours, write in vmdns.toml: private_domains = ["{safe(domain_to_allow(name))}"]'
        )
        self._say_sparingly("answers withheld", line, time.time())

    async def _poll_upstreams(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self._read_upstreams()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self.faults.ended)

    # -- configuration ----------------------------------------------------------------------------------------

    def _policy(self) -> Policy:
        return Policy(
            zones=self.config.zones,
            ttl=self.config.limits.ttl,
            records=self._records,
            reserved_allowed=frozenset(self.config.reserved_allowed),
            # In a simulation no guest asks through this computer's own name server.
            resolvers=() if self._options.demo else self._found_upstreams.resolvers,
            wildcards=self.config.wildcards,
            lan=self.config.lan,
            forwarded=self._host_domains | frozenset(self.config.forward_names),
            looked=self._looked,
        )

    @property
    def _host_domains(self) -> frozenset[bytes]:
        """The host's domains that are forwarded although a zone of ours is above them."""
        found = self._found_upstreams
        return domains_to_forward({*found.search, *found.domains}, self.config.zone_names)

    def _watch_files(self) -> None:
        troubles = self._files.add(lambda: [hosts_file.path()], lambda: self._spawn(self._read_hosts()))
        troubles += self._files.add(watched, lambda: self._spawn(self._read_upstreams()))
        troubles += self._files.add(lambda: [self.config_path], lambda: self._spawn(self._reload()))
        try:
            self._files.start()
        except OSError as error:
            troubles.append(f"files cannot be watched ({error}); changes of them need a restart")
        for trouble in troubles:
            self._say(trouble)

    def reload(self) -> None:
        """Reads all files again, as when they change, and reports what came of it.

        The hosts file and resolv.conf too where the configuration is as before: a watch may have missed them, as on a
        network file system.
        """
        self._say(f"reading the configuration again: {self.config_path}")
        self.config_error = ""
        for read in (self._reload, self._read_upstreams, self._read_hosts):
            self._spawn(read())

    def log_status(self) -> None:
        """Writes to the log what `vmdns status` prints."""

        async def log() -> None:
            from vmdns import cli_format

            response = await self._requests.status_with_verdict()
            for line in cli_format.status(response, time.time(), cli_format.Look()):
                self._say(line)

        self._spawn(log())

    async def _reload(self) -> None:
        """Reads the configuration file in a thread: a right one is applied at once, a wrong one changes nothing."""

        def read() -> tuple[Config, tuple[Record, ...]]:
            try:
                fresh = load(self.config_path, check_records)
            except ConfigMissing:
                fresh = Config()
            fresh = fresh.with_options(self._options)
            return fresh, _records(fresh)

        async with self._reading:
            try:
                fresh, records = await asyncio.to_thread(read)
            except ConfigError as error:
                if str(error) != self.config_error:
                    self._say(f"{error}; the configuration before stays in force")
                self.config_error = str(error)
                return
            self.config_error = ""
            if fresh != self.config:
                self._apply(fresh, records)
                self._say(f"the configuration was read again: {self.config_path}")

    def _apply(self, fresh: Config, records: tuple[Record, ...]) -> None:
        before, self.config = self.config, fresh
        self.server.limits = fresh.limits
        self._listen()
        self._announce()
        self._records = records
        self.table.configure(self._policy())
        self._spawn(self._read_hosts())
        self._configure_forwarder()
        self._keep_wired()
        source = ("reader", "vbox_home")
        if any(getattr(fresh, key) != getattr(before, key) for key in source):
            self.discovery.start(fresh)

    # -- what is told -----------------------------------------------------------------------------------------

    def _tell(self, changes: list[Change]) -> None:
        self.server.publish(self.table.snapshot)
        try:
            self._follow(changes)
        except Exception as error:  # questions are answered by what is new already
            asyncio.get_running_loop().call_exception_handler({"message": "a change was not told", "exception": error})

    def _follow(self, changes: list[Change]) -> None:
        """All that follows a change, but for the answers."""
        self._name_owners.keep(self.table.snapshot.name_owners)
        self._listen()
        self._keep_wired()
        self._admission.changed()
        self._announce()
        now = time.time()
        for one in changes:
            value = report.change(one, self.config.zones, now)
            self._say_sparingly(f"VM {value['vm']!r}", report.change_line(value), now)
            self._requests.tell(value)
        problems = self.table.snapshot.problems
        if problems != self._problems:
            known, self._problems = frozenset(self._problems), problems
            for text in problems:
                if text not in known:
                    self._say_sparingly(text.partition(": ")[0], f"! {text}", now)

    def _say_sparingly(self, key: str, line: str, now: float) -> None:
        for told in self._sparing.lines(key, line, now):
            self._say(told)

    async def _open_control(self) -> None:
        key = DEMO if self._options.demo else instance_key(self.config.vbox_home)
        try:
            await self._control.start(control_folders()[0], key, self._requests.handle)
        except ControlBusy as busy:
            self._say(f"another vmdns of yours runs already (pid {busy.pid}): commands talk to that one")
        except OSError as error:
            self._say(f"commands cannot reach this vmdns: {error}")


def _log_fault(what: str, error: BaseException | None) -> None:
    logging.getLogger("vmdns").error(what, exc_info=error)


def _name_owners_file(config: Config) -> Path | None:
    """Where the owners of names are remembered, for each VirtualBox home; None where no home folder is known."""
    try:
        return state_folder() / f"names-{instance_key(config.vbox_home)}.json"
    except RuntimeError:
        return None


def _records(config: Config) -> tuple[Record, ...]:
    return parse_records(config.records, config.zones, config.limits.ttl)


def _allow_sockets() -> None:
    """Raises the soft limit of open files (256 on macOS, 1024 on Linux): each question forwarded takes one."""
    try:
        import resource
    except ImportError:
        return  # Windows has no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run(config: Config, config_path: Path, options: Options, say: Say, worker: Sequence[str] = WORKER) -> int:
    """Runs vmdns until SIGINT or SIGTERM. worker: the command line of the process that reads VirtualBox.

    Returns the exit status.
    """

    async def main() -> int:
        stop = asyncio.Event()
        app = App(config, config_path, options, say, worker)
        signals.install(stop.set, app.reload, app.log_status)
        return await app.run(stop)

    take_over(say)
    _allow_sockets()
    keep_to_ourselves()
    # The UDP thread waits this long at most for the interpreter lock while the event loop runs Python code.
    sys.setswitchinterval(0.0001)
    # The selector loop on Windows too: the sockets of the server need add_reader.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(main())


def facts_once(config: Config) -> list[Fact]:
    """What one look of its own finds, for when no server runs. Raises `Unavailable`."""
    home = str(config.vbox_home) if config.vbox_home else None
    facts: dict[str, Fact] = {}
    for message in look_by_worker(config.reader, home, config.limits.look_interval):
        facts.update({key: from_json(one) for key, one in message.get("facts", {}).items() if one is not None})
    if config.hosts:
        policy = policy_of(config)
        hosts = hosts_file.read_digest(hosts_file.path(), policy.apexes, policy.ttl)
        facts.update({f"hosts:{one.name} {one.address}": one for one in hosts.inside})  # others are no names of ours
    return list(facts.values())


def policy_of(config: Config) -> Policy:
    """The policy without what only a running server knows."""
    return Policy(
        zones=config.zones,
        records=_records(config),
        reserved_allowed=frozenset(config.reserved_allowed),
        lan=config.lan,
        wildcards=config.wildcards,
    )


def look_once(config: Config) -> dict[str, Any]:
    """The names as one look of its own finds them. Raises `Unavailable`."""
    now = time.time()
    return report.names(build(facts_once(config), policy_of(config), now, 0), config.zones, now)
