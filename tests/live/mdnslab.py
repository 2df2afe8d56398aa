"""A host with vmdns and its guests, each in a network namespace of its own, on one bridge as the host-only network."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.live.clients.net import ROOT
from tests.live.lab import ip, run
from tests.program import Program

HOST, VM, OTHER = "192.168.56.1", "192.168.56.11", "192.168.56.50"
WEB = {"web.local": [VM], "db.local": ["192.168.56.12", "fd00:56::12"]}
PROJECT = Path(__file__).parents[2]
AVAHI = """
    mount -t tmpfs tmpfs "$1/run"
    mount --rbind /dev "$1/dev"
    mkdir "$1/run/avahi-daemon"
    printf %s "$2" >"$1/run/avahi.conf"
    exec chroot "$1" avahi-daemon --no-drop-root --no-chroot --no-rlimits -f /run/avahi.conf
"""


def no_avahi() -> str:
    """Why there can be no avahi here; '' if there can."""
    return "" if (ROOT / ".ready").exists() else f"no avahi in {ROOT}: tests/live/clients/prepare gets it"


class JsonProgram(Program):
    """A program that reads and prints lines of JSON; {"said": text} is what it prints for the user."""

    def __init__(self, *command: str) -> None:
        super().__init__(command, stdin=subprocess.PIPE, stderr=None, cwd=PROJECT)
        self._read_lines = 0
        self.said: list[str] = []

    def _next(self) -> Any:
        line = self.saw("", after=self._read_lines)
        self._read_lines += 1
        return json.loads(line)

    def receive(self) -> Any:
        """The next line that is not for the user."""
        while isinstance(value := self._next(), dict) and "said" in value:
            self.said.append(value["said"])
        return value

    def receive_said(self) -> str:
        """The next sentence for the user."""
        text: str = self._next()["said"]
        return text

    def request(self, value: object) -> Any:
        """Sends a line; the response."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(value).encode() + b"\n")
        self.process.stdin.flush()
        return self.receive()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Closes its input, which ends it."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(10)
        return super().stop(number)


class Avahi(Program):
    """avahi-daemon in a namespace, out of the root that tests/live/clients/prepare makes, with nss-mdns."""

    def __init__(self, inside: list[str], name: str, interface: str) -> None:
        conf = (
            f"[server]\nhost-name={name}\nallow-interfaces={interface}\nuse-ipv6=no\nenable-dbus=no\n"
            "[publish]\npublish-hinfo=no\npublish-workstation=no\n"
        )
        isolate = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", AVAHI, "sh", str(ROOT), conf]
        super().__init__([*inside, *isolate])

    @property
    def name(self) -> str:
        """The name that it has in the end."""
        return self.saw("Server startup complete").partition("Host name is ")[2].split()[0].rstrip(".")

    def getent(self, what: str) -> list[str]:
        """Address and names, as programs in this namespace get them."""
        enter = ["nsenter", "-t", str(self.process.pid), "-m", "-n", "chroot", str(ROOT)]
        return run(*enter, "getent", "-s", "mdns4", "hosts", what, check=False).split()


class Network:
    """Namespaces on one bridge. The host's own is `host`, with the bridge as its vboxnet0."""

    def __init__(self) -> None:
        self._made: list[str] = []
        self._running: list[Program] = []
        self._add("host")
        self._ip("host", "link", "add", "vboxnet0", "type", "bridge", "mcast_snooping", "0")
        self._ip("host", "link", "set", "vboxnet0", "up")
        self._ip("host", "addr", "add", f"{HOST}/24", "dev", "vboxnet0")
        self._ip("host", "addr", "add", "fd00:56::1/64", "dev", "vboxnet0", "nodad")

    def _name(self, computer: str) -> str:
        return f"vmdns-mdns-{os.getpid()}-{computer}"

    def _ip(self, computer: str, *words: str) -> None:
        ip("-n", self._name(computer), *words)

    def _add(self, computer: str) -> None:
        ip("netns", "add", self._name(computer))
        self._made.append(self._name(computer))
        self._ip(computer, "link", "set", "lo", "up")
        # IPv6 addresses that can be used at once.
        run(*self.inside(computer, "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad"))

    def add_address(self, computer: str, prefix: str) -> None:
        self._ip(computer, "addr", "add", prefix, "dev", "eth0")

    def plug(self, computer: str, address: str) -> None:
        """Makes a guest with this address."""
        self._add(computer)
        port = f"port-{computer}"
        self._ip("host", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", self._name(computer))
        self._ip("host", "link", "set", port, "master", "vboxnet0", "up")
        self._ip(computer, "addr", "add", f"{address}/24", "dev", "eth0")
        self._ip(computer, "link", "set", "eth0", "up")
        self._ip(computer, "route", "add", "default", "via", HOST)

    def inside(self, computer: str, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self._name(computer), *command]

    def start(self, computer: str, *command: str) -> JsonProgram:
        running = JsonProgram(*self.inside(computer, *command))
        self._running.append(running)
        return running

    def raw(self, computer: str, name: str, port: int, source: str) -> list[dict[str, Any]]:
        """The responses within a second to a query from this port and address (or interface, for IPv6)."""
        query = (sys.executable, "-m", "tests.live.mdns_client", "query", name, str(port), source)
        return [json.loads(line) for line in run(*self.inside(computer, *query)).splitlines()]

    def client(self, computer: str, *arguments: str) -> Any:
        """The response of another program there."""
        running = self.announce(computer, *arguments)
        try:
            return running.receive()
        finally:
            running.stop()

    def announce(self, computer: str, *arguments: str) -> JsonProgram:
        return self.start(computer, sys.executable, "-m", "tests.live.mdns_client", *arguments)

    def avahi(self, computer: str, name: str) -> Avahi:
        """avahi-daemon there, which is to have this name."""
        interface = "vboxnet0" if computer == "host" else "eth0"
        running = Avahi(self.inside(computer), name, interface)
        self._running.append(running)
        return running

    def vmdns(self, names: dict[str, list[str]]) -> JsonProgram:
        """Multicast DNS of vmdns, on the host."""
        host = self.start("host", sys.executable, "-m", "tests.live.mdns_host")
        host.request(links(names))
        return host

    def close(self) -> None:
        for one in self._running:
            one.stop()
        for name in self._made:
            ip("netns", "del", name)


def links(names: dict[str, list[str]]) -> dict[str, Any]:
    return {"links": {"vboxnet0": {"prefixes": [f"{HOST}/24", "fd00:56::1/64"], "names": names}}}


@contextlib.contextmanager
def network() -> Iterator[Network]:
    made = Network()
    try:
        yield made
    finally:
        made.close()
