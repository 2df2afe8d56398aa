"""The servers that are measured: vmdns, dnsmasq and Knot, each pinned to the same core.

    python tests/bench/peers.py            which of them are there
    python tests/bench/peers.py --fetch    gets the missing ones from Debian into a cache folder; installs nothing

They are found on PATH, or in that folder (`~/.cache/vmdns-bench`).
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import world
from tests.bench.frame import LOAD_CORE, SERVER_CORE, Benchmark, compile_program, pin
from tests.bench.world import REVERSE_ZONE, TTL, address, reverse
from tests.leases import lease_file, write_leases

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vmdns-bench"
PROGRAMS = {"dnsmasq": "dnsmasq", "Knot": "knotd"}
PACKAGES = ("dnsmasq-base", "knot")
CACHED_NAMES = 20_000  # that each cache has room for at least
IDLE_SECONDS, LOOK_SECONDS = 180.0, 0.5
PATIENCE = 60.0  # seconds until a server that does not answer is a failure
BEGINNING = time.time()  # when leases were issued


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


def dnsmasq(place: Path, port: int, count: int, upstream: int) -> list[str]:
    """Names in a hosts file."""
    (place / "names").write_text("".join(f"{address(n)} {world.name(n)}\n" for n in range(count)))
    ways = (
        f"server=127.0.0.1#{upstream}\n" if upstream
        else f"addn-hosts={place}/names\nlocal=/local/\nlocal=/{REVERSE_ZONE}/\n"
    )  # fmt: skip
    user = "user=root\n" if os.geteuid() == 0 else ""
    (place / "conf").write_text(
        f"port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\npid-file=\nlocal-ttl={TTL}\n"
        f"cache-size={CACHED_NAMES}\ndns-forward-max=1000\n{user}{ways}"
    )
    return ["-k", "-C", str(place / "conf")]


def knot(place: Path, port: int, count: int, upstream: int) -> list[str]:
    """Names as two zones."""
    soa = f"@ {TTL} SOA vmdns.local. hostmaster.local. 1 3600 1200 604800 {TTL}\n@ {TTL} NS vmdns.local.\n"
    (place / "local").write_text(
        f"$ORIGIN local.\n{soa}vmdns {TTL} A 127.0.0.1\n"
        + "".join(f"{world.name(n)}. {TTL} A {address(n)}\n" for n in range(count))
    )
    (place / "reverse").write_text(
        f"$ORIGIN {REVERSE_ZONE}.\n{soa}" + "".join(f"{reverse(n)}. {TTL} PTR {world.name(n)}.\n" for n in range(count))
    )
    (place / "conf").write_text(
        f"server:\n  rundir: {place}\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  tcp-workers: 1\n"
        f"  background-workers: 1\ndatabase:\n  storage: {place}\nlog:\n  - target: stderr\n    any: error\n"
        f"zone:\n  - domain: local\n    file: {place}/local\n  - domain: {REVERSE_ZONE}\n    file: {place}/reverse\n"
    )
    return ["-c", str(place / "conf")]


CONFIGURE = {"dnsmasq": dnsmasq, "Knot": knot}  # each returns the arguments of its program


def simulate_virtualbox(place: Path, count: int) -> None:
    """The files of tests/bench/fleet.py for that many VMs."""
    (place / "machines").write_text(str(count))
    os.mkfifo(place / "orders")
    replace_leases(place, leases(count))


def vmdns(place: Path, tree: Path, targets: Iterable[str], upstream: int) -> tuple[list[str], dict[str, str]]:
    """Command and environment of `vmdns run` with the simulated VirtualBox of this folder, listening at the targets."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("VBOX_")}
    env |= {"HOME": str(place), "XDG_CONFIG_HOME": str(place), "XDG_STATE_HOME": str(place), "XDG_RUNTIME_DIR": ""}
    listen = [word for target in targets for word in ("--listen", target)]
    program = str(Path(__file__).with_name("vmdns_server.py"))
    # Port 9: nobody is there where nothing is to be forwarded.
    return [sys.executable, program, str(tree), str(place), *listen, "--upstream", f"127.0.0.1:{upstream or 9}"], env


def order(folder: Path, text: str) -> None:
    """Gives the simulated VirtualBox an order (tests/bench/fleet.py)."""
    with (folder / "orders").open("w") as pipe:
        pipe.write(text + "\n")


def leases(count: int, more: int = 0, *, issued: float = BEGINNING) -> bytes:
    """A lease file for that many VMs, of which VM 0 has none. more: leases of unknown VMs beside them."""
    known = [(f"0800{n:08x}", address(n)) for n in range(1, count)]
    unknown = [(f"0800{100_000 + n:08x}", f"10.77.{60 + n // 250}.{1 + n % 250}") for n in range(more)]
    return lease_file(known + unknown, seconds=86400, issued=issued)


def replace_leases(place: Path, content: bytes) -> None:
    write_leases(place, f"HostInterfaceNetworking-{world.LINK}", content)


class Server:
    """A program that runs on one core, with a log of its own."""

    def __init__(
        self, folder: Path, targets: list[str], command: list[str], env: dict[str, str], core: int = SERVER_CORE
    ) -> None:
        self.folder = folder
        self.targets = targets
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                pin(core, *command), env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

        self.pid = self.process.pid

    def cpu(self) -> float:
        """CPU seconds that it has taken, without its children."""
        return cpu([self.pid])

    def wait_for_answer(self, query: bytes, good: Callable[[bytes], bool] = lambda answer: answer[7] == 1) -> None:
        """Waits until every target's answer to this query is good: has one record, if nothing else is given.

        Raises RuntimeError with the end of the log.
        """
        end = time.monotonic() + PATIENCE
        for target in self.targets:
            address, port = target.split(":")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.connect((address, int(port)))
                client.settimeout(0.05)
                while True:
                    if time.monotonic() > end or self.process.poll() is not None:
                        raise RuntimeError(f"no answer; its log:\n{(self.folder / 'log').read_text()[-2000:]}")
                    try:
                        client.send(query)
                        if good(client.recv(4096)):
                            break
                    except OSError:
                        pass
                    time.sleep(0.005)

    def wait_until_idle(self) -> None:
        """Waits until neither it nor its worker does anything: vmdns announces names by multicast after its start."""
        pids = [self.pid, *workers(self.pid)]
        for _ in range(int(IDLE_SECONDS / LOOK_SECONDS)):
            before = cpu(pids)
            time.sleep(LOOK_SECONDS)
            if cpu(pids) - before < 0.01 * LOOK_SECONDS:
                return

    def stop(self) -> int:
        """Its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(5)


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
    """Its child processes."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for file in found for word in file.read_text().split()]


def status_field(process: Path, field: str) -> int:
    """A number of /proc/PID/status, of a process or a thread: KiB, or a count."""
    found = re.search(rf"^{field}:\s+(\d+)", (process / "status").read_text(), re.M)
    assert found is not None, field
    return int(found[1])


def resident(pid: int) -> float:
    """Resident memory in MiB."""
    return status_field(Path(f"/proc/{pid}"), "VmRSS") / 1024


class Peers:
    """Starts servers that know `count` names, or forward to an upstream; stops them all in the end."""

    def __init__(self, bench: Benchmark) -> None:
        self.running: dict[str, Server] = {}
        self.others: list[Server] = []  # that are not measured
        against = {} if bench.against is None else {"vmdns (other)": bench.against.resolve()}
        self.trees = {"vmdns": ROOT, **against}
        self._bench = bench

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (*self.running.values(), *self.others):
            one.stop()

    def start(self, names: Iterable[str], count: int, *, upstream: int = 0) -> dict[str, Server]:
        """Starts these servers, except missing ones, which are reported. They answer when this returns."""
        for name in names:
            if self._bench.only and not any(word in name.lower() for word in self._bench.only):
                continue
            if name in PROGRAMS and program(name) is None:
                self._bench.print(f"{name} is not there (python tests/bench/peers.py --fetch): left out")
                continue
            for key in self.trees if name == "vmdns" else (name,):
                place, port, env = self.place(name), free_port(), environ()
                targets = [f"127.0.0.1:{port}"]
                if name == "vmdns":
                    simulate_virtualbox(place, count)
                    command, env = vmdns(place, self.trees[key], targets, upstream)
                else:
                    command = [str(program(name)), *CONFIGURE[name](place, port, count, upstream)]
                server = self.running[key] = Server(place, targets, command, env)
                last = "a.example" if upstream else world.name(count - 1)
                server.wait_for_answer(world.packet(last, world.A))
                if name == "vmdns":
                    server.wait_until_idle()
        return self.running

    def upstream(self) -> int:
        """The port of an upstream that answers everything; it runs on the load's core."""
        server = start_upstream(self.place("upstream"), self._bench.folder)
        self.others.append(server)
        return int(server.targets[0].split(":")[1])

    def place(self, name: str) -> Path:
        """A folder of its own for a server."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._bench.folder))


def start_upstream(place: Path, programs: Path) -> Server:
    """upstream.c, which answers everything at once, on the load's core. It answers when this returns."""
    port = free_port()
    command = [str(compile_program("upstream", programs)), str(port)]
    server = Server(place, [f"127.0.0.1:{port}"], command, environ(), LOAD_CORE)
    server.wait_for_answer(world.packet("a.example", world.A), lambda answer: len(answer) > 12)
    return server


def main() -> int:
    if "--fetch" in sys.argv[1:]:
        fetch()
    for name in PROGRAMS:
        print(f"{name}: {program(name) or 'not there'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
