"""Whether a guest that floods slows the answers to another one, and how many bytes an address gets that is not proven.

    python tests/bench/flood.py [--rounds 5] [--seconds 6] [--against FOLDER] [--nice -15] [--json]

Two guests in a network namespace of their own, on the host-only network of the bench. One asks about VMs, 100 times a
second; the other one asks 50,000 questions a second, or changes its properties 100 times a second, or has a lease file
of 10,000 leases rewritten each second. The measure for the floods of questions is the same flood at a socket of the
host that nobody reads: what the machine itself takes. Needs what authoritative.py needs, and root.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import confs, surroundings, world
from tests.bench.generator import LOAD_CORE, Generator, finished, pinned
from tests.bench.latency import order, repeated
from tests.bench.peers import Peers, Server
from tests.bench.rounds import Report, Sample, interleaved, middle, options, parsed, ratio

NAMES = 1000
RATE, FLOOD = 100, 50_000
SOCKETS = 16  # of the flood: so many ports
LEASES = 10_000
ASKER, FLOODER, UNPROVEN = world.address(1), world.address(2), world.address(3)
REPLAYS = 20_000
LEAD_SECONDS = 1.5  # of a flood, before it is measured what it does: the first second is what each may do at once
_REPLAY = """
import socket, sys
door, port, source = sys.argv[1], int(sys.argv[2]), sys.argv[3]
count, query = int(sys.argv[4]), bytes.fromhex(sys.argv[5])
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind((source, 0))
one.connect((door, port))
one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
sent = received = 0
for _ in range(count):
    sent += one.send(query)
    try:
        while True:
            received += len(one.recv(65535, socket.MSG_DONTWAIT))
    except BlockingIOError:
        pass
one.settimeout(1)
try:
    while True:
        received += len(one.recv(65535))
except TimeoutError:
    pass
print(sent, received)
"""


@contextmanager
def guests() -> Iterator[list[str]]:
    """A namespace at the other end of the host-only network; the words that run a command there."""
    holder = subprocess.Popen(["unshare", "--net", "sleep", "3600"])
    try:
        own = Path("/proc/self/ns/net").readlink()
        for _ in range(1000):
            if Path(f"/proc/{holder.pid}/ns/net").readlink() != own:
                break
            time.sleep(0.005)
        peer = f"peer-{world.LINK}"
        subprocess.run(["ip", "link", "set", peer, "netns", str(holder.pid)], check=True)
        inside = ["nsenter", "-t", str(holder.pid), "-n"]
        for words in (
            "link set lo up",
            *(f"addr add {one}/16 dev {peer}" for one in (ASKER, FLOODER, UNPROVEN)),
            f"link set {peer} up",
        ):
            subprocess.run([*inside, "ip", *words.split()], check=True)
        yield inside
    finally:
        holder.kill()
        holder.wait()


class Load:
    """The load generator among the guests."""

    def __init__(self, generator: Generator, inside: list[str]) -> None:
        self._program, self._inside = generator._program, inside

    def start(self, questions: Path, target: str, seconds: float, *more: str) -> subprocess.Popen[str]:
        command = pinned(LOAD_CORE, self._program, "-q", questions, "-t", f"{seconds}", *more, target)
        return subprocess.Popen([*self._inside, *command], stdout=subprocess.PIPE, text=True)

    @contextmanager
    def flood(self, questions: Path, target: str, seconds: float) -> Iterator[None]:
        process = self.start(
            questions, target, seconds, "-r", f"{FLOOD}", "-s", f"{SOCKETS}", "-b", FLOODER, "-m", "100000000"
        )
        time.sleep(LEAD_SECONDS)
        try:
            yield
        finally:
            process.kill()
            process.wait()


def main(folder: Path) -> int:
    arguments = parsed(options(__doc__, rounds=5, seconds=6.0))
    report, generator = Report(arguments.json), Generator(folder)
    asked = world.write(folder / "asked", [world.ask_a(number) for number in range(100, NAMES)])
    nobodys = world.write(folder / "nobodys", [(world.packet("0" * 12 + ".local", world.A), world.NEGATIVE, 0)])
    others = world.write(folder / "others", [(world.packet("0" * 12 + ".example", world.A), 0, world.ANY)])
    with guests() as inside, Peers(folder, report.say, only="vmdns", against=arguments.against) as peers:
        load = Load(generator, inside)
        running = peers.start(["vmdns"], NAMES, upstream=peers.upstream(), door=True)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
            sink.bind((world.HOST, 0))
            for name, server in running.items():
                server.answers(world.packet(world.name(NAMES - 1), world.A), lambda answer: answer[7] == 1)
                server.settle()
                measured(report, name, server, load, asked, nobodys, others, sink.getsockname()[1], arguments)
                amplified(report, name, server, inside)
    return report.end()


def measured(
    report: Report,
    name: str,
    server: Server,
    load: Load,
    asked: Path,
    nobodys: Path,
    others: Path,
    sink: int,
    how: object,
) -> None:
    """One guest's times in peace and amid each flood."""
    seconds, rounds = how.seconds, how.rounds  # type: ignore[attr-defined]
    door = server.targets[-1]
    longer = seconds + 2 * LEAD_SECONDS + 1
    files = [confs.lease_file(NAMES, LEASES - NAMES + more) for more in (0, 1)]

    def change(turn: int) -> None:
        order(server, f"address 0 10.77.1.{200 + turn % 50}")

    def rewrite(turn: int) -> None:
        confs.write_leases(server.folder, files[turn % 2])

    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "in peace": nullcontext,
        "a flood that nobody reads": lambda: load.flood(nobodys, f"{world.HOST}:{sink}", longer),
        "names that nobody has": lambda: load.flood(nobodys, door, longer),
        "names of others": lambda: load.flood(others, door, longer),
        "property changes": lambda: repeated(change, 0.01, LEAD_SECONDS),
        "10,000 leases rewritten": lambda: repeated(rewrite, 1.0, LEAD_SECONDS),
    }

    def measure(way: Callable[[], AbstractContextManager[object]]) -> Sample:
        with way():
            found, _ = finished(load.start(asked, door, seconds, "-r", f"{RATE}", "-s", "1", "-b", ASKER))
        server.settle()
        return found

    samples = interleaved(rounds, {what: partial(measure, way) for what, way in ways.items()})
    rows = []
    for what, found in samples.items():
        base = "a flood that nobody reads" if what.startswith("names") else "in peace"
        compared = [ratio(samples, what, base, key) for key in ("p50", "p99")]
        rows.append(
            [what, *(f"{middle(found, key):.0f}" for key in ("p50", "p99", "max")),
             *("-" if one is None else f"{one:.2f}" for one in compared),
             f"{sum(one['wrong'] + one['missing'] for one in found)}"]
        )  # fmt: skip
        if what not in ("in peace", "a flood that nobody reads"):
            for key in ("p50", "p99"):
                report.target(f"{name}, {what}: {key} / {base}", ratio(samples, what, base, key), 1.2, most=True)
    heads = ["", "p50 us", "p99 us", "most us", "p50 x", "p99 x", "wrong or missing"]
    report.table(f"{name}: one guest asks {RATE}/s, another one floods", heads, rows)
    report.keep(f"samples of {name}", samples)


def amplified(report: Report, name: str, server: Server, inside: list[str]) -> None:
    """Bytes out by bytes in, for an address that is not proven, beside its allowance."""
    address, port = server.targets[-1].split(":")
    query = world.packet("nobody.local", world.A, edns=True).hex()
    begun = time.monotonic()
    words = [*inside, sys.executable, "-c", _REPLAY, address, port, UNPROVEN, str(REPLAYS), query]
    sent, received = map(int, subprocess.run(words, check=True, capture_output=True, text=True).stdout.split())
    allowed = 65_536 + 2_000 * (time.monotonic() - begun)
    report.say(f"{name}: {sent:,} bytes in, {received:,} out: {received / sent:.2f} x")
    report.target(f"{name}, bytes out / in, beside the allowance", max(0.0, received - allowed) / sent, 3.0, most=True)


if __name__ == "__main__":
    raise SystemExit(surroundings.run(main))
