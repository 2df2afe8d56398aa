"""A host with vmdns and its guests, each in a network namespace of its own, on one bridge as the host-only network."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.needs import no_named_namespace

HOST, VM, OTHER = "192.168.56.1", "192.168.56.11", "192.168.56.50"
WEB = {"web.local": [VM], "db.local": ["192.168.56.12", "fd00:56::12"]}
PROJECT = Path(__file__).parents[2]
ROOT = Path(os.environ.get("VMDNS_CLIENTS", "/var/tmp/vmdns-clients"))
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


def unavailable() -> str:
    """Why there can be no such network here; '' if there can."""
    return no_named_namespace()


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, check=False)
    if done.returncode:
        raise AssertionError(f"ip {' '.join(words)}: {done.stderr.decode()}")


class Lines:
    """A process in a namespace that is told lines of JSON, and says some."""

    def __init__(self, *command: str) -> None:
        self.said: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=PROJECT)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _next(self, seconds: float = 20) -> Any:
        line = self._lines.get(timeout=seconds)
        if not line:
            raise AssertionError("it ended")
        return json.loads(line)

    def hear(self) -> Any:
        """The next line; what is said to the user goes to `said`."""
        while isinstance(value := self._next(), dict) and "said" in value:
            self.said.append(value["said"])
        return value

    def hear_said(self) -> str:
        """The next sentence to the user."""
        said: str = self._next()["said"]
        return said

    def tell(self, value: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()
        return self.hear()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)


class Avahi:
    """avahi-daemon in a namespace, out of the root that tests/live/clients/prepare makes, and nss-mdns that asks it."""

    def __init__(self, inside: list[str], name: str, interface: str) -> None:
        self.lines: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        conf = (
            f"[server]\nhost-name={name}\nallow-interfaces={interface}\nuse-ipv6=no\nenable-dbus=no\n"
            "[publish]\npublish-hinfo=no\npublish-workstation=no\n"
        )
        command = [
            *inside,
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-euc",
            AVAHI,
            "sh",
            str(ROOT),
            conf,
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line.rstrip())
        self._lines.put("")

    def says(self, text: str) -> str:
        """The next line of its log that has this in it."""
        while text not in (line := self._lines.get(timeout=20)):
            if not line:
                raise AssertionError("avahi-daemon ended:\n" + "\n".join(self.lines))
            self.lines.append(line)
        self.lines.append(line)
        return line

    @property
    def name(self) -> str:
        """The name that it has in the end."""
        return self.says("Server startup complete").partition("Host name is ")[2].split()[0].rstrip(".")

    def getent(self, what: str) -> list[str]:
        """Address and names, as programs in this namespace get them."""
        enter = ["nsenter", "-t", str(self.process.pid), "-m", "-n", "chroot", str(ROOT)]
        done = subprocess.run(
            [*enter, "getent", "-s", "mdns4", "hosts", what], capture_output=True, text=True, timeout=30, check=False
        )
        return done.stdout.split()

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)


class Network:
    """Namespaces on one bridge. The host's own is `host`, with the bridge as its vboxnet0."""

    def __init__(self) -> None:
        self._made: list[str] = []
        self._running: list[Lines | Avahi] = []
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
        # Addresses of IPv6 that can be used at once.
        subprocess.run(
            self.inside(computer, "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad"), check=True
        )

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

    def start(self, computer: str, *command: str) -> Lines:
        running = Lines(*self.inside(computer, *command))
        self._running.append(running)
        return running

    def raw(self, computer: str, name: str, port: int, source: str) -> list[dict[str, Any]]:
        """What comes back in a second to a question from this port and address (or interface, for IPv6)."""
        command = self.inside(computer, sys.executable, "-m", "tests.live.mdns_raw", name, str(port), source)
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def client(self, computer: str, *arguments: str) -> Any:
        """What another program there finds."""
        running = self.announce(computer, *arguments)
        try:
            return running.hear()
        finally:
            running.close()

    def announce(self, computer: str, *arguments: str) -> Lines:
        return self.start(computer, sys.executable, "-m", "tests.live.mdns_client", *arguments)

    def avahi(self, computer: str, name: str) -> Avahi:
        """avahi-daemon there, which is to have this name."""
        interface = "vboxnet0" if computer == "host" else "eth0"
        running = Avahi(self.inside(computer), name, interface)
        self._running.append(running)
        return running

    def vmdns(self, names: dict[str, list[str]]) -> Lines:
        """Multicast DNS of vmdns, on the host."""
        host = self.start("host", sys.executable, "-m", "tests.live.mdns_host")
        host.tell(links(names))
        return host

    def close(self) -> None:
        for one in self._running:
            one.close()
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
