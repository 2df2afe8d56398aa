"""Starts the worker process that reads VirtualBox, passes its reports to the store, and keeps each source's health."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vmdns.commands import command_name
from vmdns.config import Config
from vmdns.daemon.process import Log, run_with_restarts
from vmdns.sources.installation import WSL_HINT, is_wsl
from vmdns.sources.supervisor import WORKER, Supervisor
from vmdns.state.facts import Fact, Neighbour, from_json
from vmdns.store import Store

SIMULATION = "simulation"  # the name of the reader of vmdns/demo
ADMISSION_SECONDS = 0.9  # resolvers send a query again after a second at the earliest
POLL_SECONDS = 0.02
# Between looks at the neighbour table for a peer, on systems that do not notify of its changes (host_network.py).
LOOK_SECONDS = 0.0 if sys.platform == "linux" else 0.1
STRANGER_SECONDS = 2.0  # for which a peer that is no VM is not looked for again
MAX_LOOKUPS = 256
_DISCARD = 9  # the port of RFC 863, on which nothing listens


@dataclass(slots=True)
class Source:
    """The health of one source, for the status: ok, waiting, failing or stale. since in Unix seconds."""

    state: str = "waiting"
    detail: str = ""
    since: float = field(default_factory=time.time)

    def become(self, state: str, detail: str = "") -> None:
        if (state, detail) != (self.state, self.detail):
            self.state, self.detail, self.since = state, detail, time.time()


class Discovery:
    """Keeps a worker running and stores its reports. looked is called once VirtualBox was read or is missing."""

    def __init__(self, store: Store, log: Log, looked: Callable[[], None], worker: Sequence[str] = WORKER) -> None:
        self.virtualbox: dict[str, str] = {"version": "", "reader": "", "home": "", "detail": ""}
        self.sources = {name: Source() for name in ("virtualbox", "leases", "addresses", "neighbours")}
        self._store = store
        self._log = log
        self._looked = looked
        self._worker = worker
        self._supervisor: Supervisor | None = None
        self._task: asyncio.Task[None] | None = None
        self._stale_seconds = 0.0
        self._stale: asyncio.TimerHandle | None = None
        self._lookups: dict[str, asyncio.Task[None]] = {}  # of peers that may be guests

    def start(self, config: Config) -> None:
        """Starts a worker, in place of the one that runs."""
        if self._task is not None:
            self._task.cancel()
        elif self._worker == WORKER and is_wsl():
            self._log(WSL_HINT)
        self._stale_seconds = config.limits.source_stale
        interval = config.limits.look_interval
        self._supervisor = Supervisor(config.reader, config.vbox_home, interval, self._receive, self._worker)
        self._task = asyncio.create_task(run_with_restarts("reading VirtualBox", self._supervisor.run))

    def request_looks(self, *sources: str) -> None:
        """Requests looks at once (at `virtualbox`, `addresses`, `neighbours`); their reports come like any other."""
        for source in sources:
            if self._supervisor is not None:
                self._supervisor.request_look(source)

    async def wait_for_guest(self, peer: str) -> None:
        """Waits until the neighbour table shows that a VM has this address, ADMISSION_SECONDS at most.

        A VM that knows the host's MAC since before it was paused sends queries without ARP, and the host's table has
        lost it meanwhile: so the host is made to look for it, as the response would.
        """
        lookup = self._lookups.get(peer)
        if lookup is None:
            if len(self._lookups) >= MAX_LOOKUPS:
                return
            lookup = self._lookups[peer] = asyncio.create_task(self._look_for(peer))
        await asyncio.shield(lookup)

    async def _look_for(self, peer: str) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + ADMISSION_SECONDS
        try:
            solicit(peer)
            self.request_looks("neighbours")
            next_look = loop.time() + LOOK_SECONDS
            while not self._store.snapshot.is_guest(peer) and loop.time() < end:
                await asyncio.sleep(POLL_SECONDS)
                if LOOK_SECONDS and loop.time() >= next_look:
                    self.request_looks("neighbours")
                    next_look += LOOK_SECONDS
        finally:
            # A guest may be lost again at once; other peers are not looked for again for a while.
            seconds = 0.0 if self._store.snapshot.is_guest(peer) else STRANGER_SECONDS
            loop.call_later(seconds, self._lookups.pop, peer)

    async def stop(self) -> None:
        """Ends the worker."""
        self._stop_timer()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _receive(self, message: dict[str, Any]) -> None:
        """Receives one message of the worker. An invalid one must not keep those that follow from being read."""
        try:
            self._take(message)
        except (KeyError, TypeError, ValueError) as error:
            self._log(f"a message about VirtualBox made no sense ({type(error).__name__}: {error})")

    def _take(self, message: dict[str, Any]) -> None:
        source = message.get("put") or message.get("patch") or message.get("trouble") or ""
        if "put" in message or "patch" in message:
            facts: dict[str, Fact | None] = {key: _fact(one) for key, one in message["facts"].items()}
            if "put" in message:
                kept = {key: self._kept(source, key, one) for key, one in facts.items() if one}
                self._store.put(source, kept)
            else:
                self._store.patch(source, facts)
            if source == "virtualbox":
                if self.sources[source].state in ("failing", "stale"):
                    self._log("VirtualBox is read again")
                self.sources[source].become("ok")
                self._stop_timer()
                self._store.after(self._looked)
            elif "put" in message or self.sources[source].state != "failing":
                # A change does not end the trouble that a part of the source may have; a new worker's report does.
                self.sources[source].become("ok")
        elif source:
            self.sources[source].become("failing" if message["text"] else "ok", message["text"])
            if message["text"]:
                self._log(message["text"])
        elif "found" in message:
            self._find(message["found"], message["detail"])
        elif "absent" in message:
            self._away(
                "VirtualBox is not installed here; vmdns serves what it has and picks it up when it appears (to see "
                f"vmdns work without VirtualBox: {command_name()} demo)"
            )
        elif "lost" in message:
            self._away(f"VirtualBox: {message['lost']}; its last names stay in force")

    def _kept(self, source: str, key: str, fact: Fact) -> Fact:
        """The fact; a neighbour that a worker before this one had seen has been there since then."""
        before = self._store.reported(source).get(key)
        if isinstance(fact, Neighbour) and isinstance(before, Neighbour) and fact.mac == before.mac:
            return replace(fact, since=min(fact.since, before.since))
        return fact

    def _find(self, found: dict[str, str], detail: str) -> None:
        if {**found, "detail": detail} == self.virtualbox:
            return
        self.virtualbox = {**found, "detail": detail}
        if found["reader"] == SIMULATION:
            self._log(f"a simulated VirtualBox {found['version']} takes the place of the real one")
            return
        through = "its API (pyvbox)" if found["reader"] == "api" else "VBoxManage"
        because = f", because {detail}" if detail else ""
        self._log(f"VirtualBox {found['version']}, read through {through}, settings in {found['home']}{because}")

    def _stop_timer(self) -> None:
        if self._stale is not None:
            self._stale.cancel()
            self._stale = None

    def _away(self, why: str) -> None:
        source = self.sources["virtualbox"]
        if source.detail != why:
            self._log(why)
        if source.state != "stale":
            source.become("failing" if self._store.count("virtualbox") else "waiting", why)
        if self._stale is None and self._store.count("virtualbox"):
            self._stale = asyncio.get_running_loop().call_later(self._stale_seconds, self._expire)
        self._looked()

    def _expire(self) -> None:
        """The last report is too old to be true any more."""
        self._stale = None
        self.sources["virtualbox"].become("stale", self.sources["virtualbox"].detail)
        self._log("VirtualBox was away for too long: its names are taken back")
        self._store.put("virtualbox", {})


def solicit(peer: str) -> None:
    """Has the system ask a neighbour for its MAC (ARP, or RFC 4861 section 7.2), by an empty datagram that no router
    forwards: the neighbour table is true of it then, if it is there. Never raises."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        if family == socket.AF_INET:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        else:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)
        sender.sendto(b"", (peer, _DISCARD))


def _fact(value: Any) -> Fact | None:
    """A fact of a message, which the reading thread may have made of JSON already."""
    return from_json(value) if isinstance(value, dict) else value
