"""The servers that are measured: vmdns, dnsmasq, unbound, Knot and a C echo, each pinned to the same core.

    python tests/bench/peers.py            which of them are there
    python tests/bench/peers.py --fetch    gets the missing ones from Debian into a cache folder; installs nothing

They are found on PATH, or in that folder (`~/.cache/vmdns-bench`).
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import confs, world
from tests.bench.generator import LOAD_CORE, SERVER_CORE, compiled, pinned

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vmdns-bench"
PROGRAMS = {"dnsmasq": "dnsmasq", "unbound": "unbound", "Knot": "knotd"}
PACKAGES = ("dnsmasq-base", "unbound", "knot")
SETTLE_SECONDS, LOOK_SECONDS = 180.0, 0.5
PATIENCE = 60.0  # seconds until a server that does not answer is a failure


def environ() -> dict[str, str]:
    """The environment in which programs and libraries of the cache folder are found."""
    libraries = CACHE / "root" / "usr" / "lib" / f"{platform.machine()}-linux-gnu"
    places = [os.environ.get("PATH", ""), "/usr/sbin", str(CACHE / "root" / "usr" / "sbin")]
    return {**os.environ, "PATH": os.pathsep.join(places), "LD_LIBRARY_PATH": str(libraries)}


def program(name: str) -> str | None:
    """Where the program of this server is."""
    return shutil.which(PROGRAMS[name], path=environ()["PATH"])


def fetch() -> None:
    """Downloads the packages with the libraries they need, and unpacks them. Raises CalledProcessError."""
    debs = CACHE / "debs"
    (debs / "partial").mkdir(parents=True, exist_ok=True)
    options = ["-y", "--download-only", "--no-install-recommends", "-o", f"Dir::Cache::archives={debs}"]
    subprocess.run(["apt-get", *options, "-o", "Debug::NoLocking=1", "install", *PACKAGES], check=True)
    for deb in sorted(debs.glob("*.deb")):
        subprocess.run(["dpkg", "-x", str(deb), str(CACHE / "root")], check=True)


def free_port() -> int:
    """A port that is free for UDP and TCP, below those that systems give to clients (Linux: from 32768 on)."""
    for port in random.sample(range(20_000, 30_000), 100):
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
        ):
            udp.bind(("127.0.0.1", port))
            tcp.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


class Server:
    """A program that runs on one core, that of the servers, with a log of its own."""

    def __init__(
        self, folder: Path, targets: list[str], command: list[str], env: dict[str, str], core: int = SERVER_CORE
    ) -> None:
        self.folder = folder
        self.targets = targets
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                pinned(core, *command), env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def cpu(self) -> float:
        """CPU seconds that it has taken, without its children."""
        return cpu([self.pid])

    def answers(self, ask: bytes, good: Callable[[bytes], bool]) -> None:
        """Waits until every target's answer to this packet is a good one. Raises RuntimeError with what it said."""
        end = time.monotonic() + PATIENCE
        for target in self.targets:
            address, port = target.split(":")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.connect((address, int(port)))
                client.settimeout(0.05)
                while True:
                    if time.monotonic() > end or self.process.poll() is not None:
                        raise RuntimeError(f"no answer; it said:\n{(self.folder / 'log').read_text()[-2000:]}")
                    try:
                        client.send(ask)
                        if good(client.recv(4096)):
                            break
                    except OSError:
                        pass
                    time.sleep(0.005)

    def settle(self) -> None:
        """Waits until what it has to do for itself has come to its end: until neither it nor its worker does anything.

        vmdns tells its names to the links by multicast for a while after it began, a few at a time.
        """
        pids = [self.pid, *workers(self.pid)]
        for _ in range(int(SETTLE_SECONDS / LOOK_SECONDS)):
            before = cpu(pids)
            time.sleep(LOOK_SECONDS)
            if cpu(pids) - before < 0.01 * LOOK_SECONDS:
                return

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)


def cpu(pids: Iterable[int]) -> float:
    """CPU seconds that the threads of these processes have taken, to the microsecond."""
    total = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            try:
                total += int((thread / "schedstat").read_text().split()[0])
            except OSError:
                continue
    return total / 1e9


def workers(pid: int) -> list[int]:
    """The processes that this one started."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for file in found for word in file.read_text().split()]


class Peers:
    """Starts servers that know `count` names, or forward to an upstream; stops them all in the end."""

    def __init__(self, folder: Path, report: Callable[[str], None], *, only: str = "", against: Path | None = None):
        self.folder = folder
        self.running: dict[str, Server] = {}
        self.held: list[Server] = []  # others that are stopped in the end
        self.trees = {"vmdns": ROOT, **({"vmdns (other)": against.resolve()} if against is not None else {})}
        self._say = report
        self._only = [word for word in only.split(",") if word]
        self._upstream: Server | None = None

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stops all that run."""
        for one in (*self.running.values(), *self.held, *([self._upstream] if self._upstream else [])):
            one.stop()
        self.running.clear()
        self.held.clear()
        self._upstream = None

    def start(self, names: Iterable[str], count: int, *, upstream: int = 0, **more: Any) -> dict[str, Server]:
        """Starts these servers, those that are there; what is missing is said. They answer when this returns."""
        for name in names:
            base = name.partition(" ")[0]
            if self._only and not any(word.lower() in name.lower() for word in self._only):
                continue
            if base in PROGRAMS and program(base) is None:
                self._say(f"{base} is not there (python tests/bench/peers.py --fetch): left out")
                continue
            trees = [name, "vmdns (other)"] if name == "vmdns" and len(self.trees) > 1 else [name]
            for one in trees:
                self.running[one] = self._start(one, count, upstream, **more)
        return self.running

    def upstream(self) -> int:
        """The port of an upstream that answers everything; it runs on the load's core."""
        port = free_port()
        place = self.place("upstream")
        command = [str(compiled("upstream", self.folder)), str(port)]
        self._upstream = Server(place, [f"127.0.0.1:{port}"], command, environ(), LOAD_CORE)
        self._upstream.answers(world.packet("a.example", world.A), lambda answer: len(answer) > 12)
        return port

    def place(self, name: str) -> Path:
        """A folder of its own for a server."""
        return Path(tempfile.mkdtemp(prefix=f"{name.partition(' ')[0]}-", dir=self.folder))

    def _start(self, name: str, count: int, upstream: int, **more: Any) -> Server:
        place, port = self.place(name), free_port()
        targets, env = [f"127.0.0.1:{port}"], environ()
        base = name.partition(" ")[0]
        if base == "echo":
            command = [str(compiled("echo", self.folder)), str(port)]
        elif base == "vmdns":
            tree = self.trees.get(name, ROOT)
            targets, command, env = confs.vmdns(place, tree, port, count, upstream, **more)
        else:
            command = [str(program(base)), *confs.COMMANDS[base](place, port, count, upstream)]
        server = Server(place, targets, command, env)
        try:
            self._wait(server, base, count, upstream)
            if base == "vmdns" and not more.get("beat"):  # which keeps it awake
                server.settle()
        except BaseException:
            server.stop()
            raise
        return server

    @staticmethod
    def _wait(server: Server, base: str, count: int, upstream: int) -> None:
        if upstream:
            server.answers(world.packet("a.example", world.A), lambda answer: answer[7] == 1)
        elif base == "echo":
            server.answers(world.packet("a.example", world.A), lambda answer: len(answer) > 12)
        else:
            last = world.packet(world.name(count - 1), world.A)
            server.answers(last, lambda answer: answer[7] == 1)


def main() -> int:
    if "--fetch" in sys.argv[1:]:
        fetch()
    for name in PROGRAMS:
        print(f"{name}: {program(name) or 'not there'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
