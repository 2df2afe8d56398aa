"""The composition root: builds every part from the configuration, joins them, and runs them until told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vmdns import __version__, report
from vmdns.asking import ask, chase
from vmdns.config import Config, ConfigError, ConfigMissing, Options, load
from vmdns.core.build import Policy, Snapshot, build
from vmdns.core.model import Fact, from_json
from vmdns.core.records import check_records, parse_records
from vmdns.core.upstream import Upstreams
from vmdns.host.folders import control_folders
from vmdns.host.upstreams import POLL_SECONDS, read_upstreams, watched
from vmdns.listening import Listening
from vmdns.serve.control import ControlBusy, ControlServer, instance_key
from vmdns.serve.dns import DnsServer
from vmdns.serve.forward import Forwarder
from vmdns.sources import hostsfile
from vmdns.sources.files import FolderWatch
from vmdns.sources.supervise import Supervisor
from vmdns.sources.supervise import look_once as look_by_worker
from vmdns.table import Change, Table

Say = Callable[[str], None]
FIRST_LOOK_SECONDS = 10.0  # after that, names that are not known count as not there


@dataclass(slots=True)
class Source:
    """The health of one source, for the status: ok, waiting, failing or stale. since in Unix seconds."""

    state: str = "waiting"
    detail: str = ""
    since: float = 0.0

    def become(self, state: str, detail: str = "") -> None:
        if (state, detail) != (self.state, self.detail):
            self.state, self.detail, self.since = state, detail, time.time()


class App:
    """One running vmdns."""

    def __init__(self, config: Config, config_path: Path | None, options: Options, say: Say) -> None:
        self.config = config
        self._path = config_path
        self._options = options
        self._say = say
        self._started = time.time()
        self._looked = False
        self._ready = asyncio.Event()
        self._sources = {name: Source(since=self._started) for name in ("virtualbox", "leases", "hosts", "upstreams")}
        self._virtualbox: dict[str, str] = {"version": "", "reader": "", "home": "", "detail": ""}
        self._config_error = ""
        self._left_out: list[str] = []
        self._found_upstreams = Upstreams()
        self._watchers: set[asyncio.Queue[dict[str, Any]]] = set()
        self._stale: asyncio.TimerHandle | None = None
        self.table = Table(self._policy())
        self.table.subscribe(self._tell)
        self.forwarder = Forwarder(config.limits, _clock)
        self.server = DnsServer(
            lambda: self.table.snapshot,
            self.forwarder.cached,
            self.forwarder.resolve,
            partial(chase, self.forwarder.find),
            config.limits,
        )
        self.listening = Listening(self.server, say)
        self._files = FolderWatch()
        self._supervisor: asyncio.Task[None] | None = None
        self._control = ControlServer()

    # -- life -------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> int:
        """Serves until `stop` is set. Returns the exit status: 1 where nothing could be listened on."""
        self._say(f"vmdns {__version__}")
        self.listening.want(self.config.listen)
        if not self.server.listeners:
            self._say("vmdns ends: it can listen nowhere")
            return 1
        self.table.configure(self._policy())
        await self._read_upstreams()
        self._read_hosts()
        self.table.rebuild()
        tasks = [asyncio.create_task(self._say_ready())]
        if POLL_SECONDS:
            tasks.append(asyncio.create_task(self._poll_upstreams()))
        await self._open_control()
        self._watch_files()
        self._start_supervisor()
        await stop.wait()
        self._say("stopping")
        for task in [*tasks, self._supervisor]:
            if task is not None:
                task.cancel()
        await asyncio.gather(*tasks, *([self._supervisor] if self._supervisor else []), return_exceptions=True)
        self._files.stop()
        self.listening.close()
        await self._control.close()
        await self.server.stop()
        await self.forwarder.close()
        self.table.close()
        return 0

    async def _say_ready(self) -> None:
        try:
            async with asyncio.timeout(FIRST_LOOK_SECONDS):
                await self._ready.wait()
        except TimeoutError:
            self._first_look_is_over()
        self.table.rebuild()
        zones = " and ".join(self.config.zones)
        where = ", ".join(f"{one.address} port {one.port}" for one in self.server.listeners)
        self._say(f"ready: names in {zones} are answered at {where}")

    def _first_look_is_over(self) -> None:
        if not self._looked:
            self._looked = True
            self.table.configure(self._policy())
        self._ready.set()

    # -- sources ----------------------------------------------------------------------------------------------

    def _start_supervisor(self) -> None:
        home = str(self.config.vbox_home) if self.config.vbox_home else None
        supervisor = Supervisor(self.config.reader, home, self.config.limits.look_interval, self._hear)
        self._supervisor = asyncio.create_task(supervisor.run())

    def _hear(self, message: dict[str, Any]) -> None:
        """One message of the worker."""
        source = message.get("put") or message.get("patch") or message.get("trouble") or ""
        if "put" in message or "patch" in message:
            facts = {key: None if one is None else from_json(one) for key, one in message["facts"].items()}
            if "put" in message:
                self.table.put(source, {key: one for key, one in facts.items() if one is not None})
            else:
                self.table.patch(source, facts)
            if source == "virtualbox":
                self._back()
                self._first_look_is_over()
            else:
                self._sources[source].become("ok")
        elif source:
            self._sources[source].become("failing" if message["text"] else "ok", message["text"])
            if message["text"]:
                self._say(message["text"])
        elif "found" in message:
            self._find(message["found"], message["detail"])
        elif "absent" in message:
            self._away("VirtualBox is not installed here; vmdns serves what it has and picks it up when it appears")
        elif "lost" in message:
            self._away(f"VirtualBox: {message['lost']}; its last names stay in force")

    def _find(self, found: dict[str, str], detail: str) -> None:
        if {**found, "detail": detail} == self._virtualbox:
            return
        self._virtualbox = {**found, "detail": detail}
        through = "its API (pyvbox)" if found["reader"] == "api" else "VBoxManage"
        because = f", because {detail}" if detail else ""
        self._say(f"VirtualBox {found['version']}, read through {through}, settings in {found['home']}{because}")

    def _back(self) -> None:
        source = self._sources["virtualbox"]
        if source.state in ("failing", "stale"):
            self._say("VirtualBox is read again")
        source.become("ok")
        if self._stale is not None:
            self._stale.cancel()
            self._stale = None

    def _away(self, why: str) -> None:
        source = self._sources["virtualbox"]
        if source.detail != why:
            self._say(why)
        if source.state != "stale":
            source.become("failing" if self.table.count("virtualbox") else "waiting", why)
        if self._stale is None and self.table.count("virtualbox"):
            seconds = self.config.limits.source_stale
            self._stale = asyncio.get_running_loop().call_later(seconds, self._forget)
        self._first_look_is_over()

    def _forget(self) -> None:
        """The last report is too old to be true any more."""
        self._stale = None
        self._sources["virtualbox"].become("stale", self._sources["virtualbox"].detail)
        self._say("VirtualBox was away for too long: its names are taken back")
        self.table.put("virtualbox", {})

    def _read_hosts(self) -> None:
        facts: dict[str, Fact] = {}
        try:
            if self.config.hosts:
                facts.update(hostsfile.read_hosts(hostsfile.path()))
            self._sources["hosts"].become("ok")
        except OSError as error:
            text = f"the hosts file cannot be read ({error.strerror}); its last content stays in force"
            self._sources["hosts"].become("failing", text)
            self._say(text)
            return
        self.table.put("hosts", facts)

    # -- upstreams --------------------------------------------------------------------------------------------

    async def _read_upstreams(self) -> None:
        if not self.config.upstreams:
            try:
                self._found_upstreams = await asyncio.to_thread(read_upstreams)
                self._sources["upstreams"].become("ok")
            except OSError as error:
                self._sources["upstreams"].become("failing", str(error))
                self._say(f"the name servers of this host cannot be found out: {error}")
        self._configure_forwarder()

    def _configure_forwarder(self) -> None:
        found = self._found_upstreams
        upstreams = Upstreams(
            default=self.config.upstreams or found.default,
            domains={**found.domains, **self.config.forward_names},
            search=found.search,
        )
        zones = frozenset(self.config.zone_names)
        left_out = self.forwarder.configure(upstreams, self.listening.own, zones, self.config.limits)
        for sentence in left_out:
            if sentence not in self._left_out:
                self._say(sentence)
        self._left_out = left_out

    async def _poll_upstreams(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self._read_upstreams()

    # -- configuration ----------------------------------------------------------------------------------------

    def _policy(self) -> Policy:
        own = [address for address, _ in self.listening.own] if hasattr(self, "listening") else []
        public = [one for one in own if one not in ("127.0.0.1", "::1")]
        return Policy(
            zones=self.config.zones,
            ttl=self.config.limits.ttl,
            records=parse_records(self.config.records, self.config.zones, self.config.limits.ttl),
            reserved_allowed=frozenset(self.config.reserved_allowed),
            listeners=tuple(sorted(public or own)),
            forwarded=frozenset(self.config.forward_names),
            looked=self._looked,
        )

    def _watch_files(self) -> None:
        loop = asyncio.get_running_loop()

        def again() -> None:
            task = loop.create_task(self._read_upstreams())
            self._pending = task

        troubles = self._files.add([hostsfile.path()], self._read_hosts)
        troubles += self._files.add(watched(), again)
        if self._path is not None:
            troubles += self._files.add([self._path], self._reload)
        try:
            self._files.start()
        except OSError as error:
            troubles.append(f"files cannot be watched ({error}); changes of them need a restart")
        for trouble in troubles:
            self._say(trouble)

    def _reload(self) -> None:
        """The configuration file changed: what is right is applied at once, what is wrong changes nothing."""
        assert self._path is not None
        try:
            fresh = load(self._path, check_records).with_options(self._options)
        except ConfigMissing:
            fresh = Config().with_options(self._options)
        except ConfigError as error:
            if str(error) != self._config_error:
                self._say(f"{error}; the configuration before stays in force")
            self._config_error = str(error)
            return
        self._config_error = ""
        before, self.config = self.config, fresh
        if fresh == before:
            return
        self.server.limits = fresh.limits
        if fresh.listen != before.listen:
            self.listening.want(fresh.listen)
        self.table.configure(self._policy())
        self._read_hosts()
        self._configure_forwarder()
        if not fresh.upstreams and before.upstreams:
            self._pending = asyncio.get_running_loop().create_task(self._read_upstreams())
        source = ("reader", "vbox_home")
        if any(getattr(fresh, key) != getattr(before, key) for key in source) and self._supervisor is not None:
            self._supervisor.cancel()
            self._start_supervisor()
        self._say(f"the configuration was read again: {self._path}")

    # -- what is told -----------------------------------------------------------------------------------------

    def _tell(self, changes: list[Change]) -> None:
        now = time.time()
        for one in changes:
            value = report.change(one, self.config.zones, now)
            self._say(report.change_line(value))
            for queue in self._watchers:
                if queue.qsize() < 10_000:
                    queue.put_nowait(value)

    async def _open_control(self) -> None:
        home = str(self.config.vbox_home) if self.config.vbox_home else None
        try:
            await self._control.start(control_folders()[0], instance_key(home), self._handle)
        except ControlBusy as busy:
            self._say(f"another vmdns of yours runs already (pid {busy.pid}): commands talk to that one")
        except OSError as error:
            self._say(f"commands cannot reach this vmdns: {error}")

    def _handle(self, message: dict[str, Any]) -> Awaitable[dict[str, Any]] | AsyncIterator[dict[str, Any]]:
        match message.get("do"):
            case "watch":
                return self._watch()
            case "names":
                return _soon(report.names(self.table.snapshot, self.config.zones, time.time()))
            case "status":
                return _soon(self.status())
            case "ask":
                return ask(self.server.handle, self.table.snapshot, message)
            case other:
                return _soon({"error": f"this vmdns does not know {other!r}; it is version {__version__}"})

    async def _watch(self) -> AsyncIterator[dict[str, Any]]:
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            yield report.names(self.table.snapshot, self.config.zones, time.time())
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)

    def status(self) -> dict[str, Any]:
        """Everything about this server's health, as JSON values."""
        snapshot: Snapshot = self.table.snapshot
        forwarder = self.forwarder.status()
        problems = [*snapshot.problems, *self._left_out, *([self._config_error] if self._config_error else [])]
        source = self._sources["virtualbox"]
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started": self._started,
            "zones": list(self.config.zones),
            "serial": snapshot.serial,
            "listeners": self.listening.status(),
            "virtualbox": {
                **self._virtualbox,
                "state": source.state,
                "detail": source.detail or self._virtualbox["detail"],
            },
            "sources": [
                {
                    "name": name,
                    "state": one.state,
                    "detail": one.detail,
                    "since": one.since,
                    "facts": self.table.count(name),
                }
                for name, one in self._sources.items()
            ],
            "upstreams": forwarder.pop("upstreams", []),
            "counts": {**self.server.counts.as_dict(), "tcp_open": self.server.connections},
            "cache": forwarder,
            "problems": problems,
        }


def _clock() -> float:
    """Seconds that go on while the machine sleeps, where it tells them: answers age meanwhile."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


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


async def _soon(value: dict[str, Any]) -> dict[str, Any]:
    return value


def run(config: Config, config_path: Path | None, options: Options, say: Say) -> int:
    """Runs vmdns until SIGINT or SIGTERM. Returns the exit status."""

    async def main() -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
            number = getattr(signal, name, None)
            if number is None:
                continue
            try:
                loop.add_signal_handler(number, stop.set)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
        return await App(config, config_path, options, say).run(stop)

    _allow_sockets()
    sys.setswitchinterval(0.0005)
    # The selector loop on Windows too: the sockets of the server need add_reader.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(main())


def look_once(config: Config) -> dict[str, Any]:
    """The names as one look of its own finds them, for when no server runs. Raises `Unavailable`."""
    home = str(config.vbox_home) if config.vbox_home else None
    facts: dict[str, Fact] = {}
    for message in look_by_worker(config.reader, home, config.limits.look_interval):
        facts.update({key: from_json(one) for key, one in message.get("facts", {}).items() if one is not None})
    if config.hosts:
        facts.update(hostsfile.read_hosts(hostsfile.path()))
    records = parse_records(config.records, config.zones, config.limits.ttl)
    policy = Policy(zones=config.zones, records=records, reserved_allowed=frozenset(config.reserved_allowed))
    now = time.time()
    return report.names(build(facts.values(), policy, now, 0), config.zones, now)
