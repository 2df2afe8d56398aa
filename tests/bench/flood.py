"""Whether a guest that floods slows the answers to another one, and how many bytes an unvalidated address gets.

    python tests/bench/flood.py [--rounds 5] [--seconds 6] [--against FOLDER] [--json]

Two guests in a network namespace of their own, on the host-only network. One sends 100 queries a second for VMs; the
other one sends 50,000 queries a second, or changes its properties 100 times a second, or has a lease file of 10,000
leases rewritten each second. A flood of queries is compared with the same flood to a socket of the host that nobody
reads: what the machine itself takes. Needs what authoritative.py needs, and root.
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

from tests.bench import frame, world
from tests.bench.frame import Benchmark, Sample, finish, ratio
from tests.bench.latency import repeating, rewrite_leases
from tests.bench.peers import Peers, Server, order

NAMES = 1000
RATE, FLOOD = 100, 50_000
LEASES = 10_000
CLIENT, FLOODER, UNVALIDATED = world.address(1), world.address(2), world.address(3)
REPLAYS = 20_000
LEAD_SECONDS = 1.5  # of a flood before its effect is measured: in the first second each client has its allowance
_REPLAY = """
import socket, sys
host, port, source = sys.argv[1], int(sys.argv[2]), sys.argv[3]
count, query = int(sys.argv[4]), bytes.fromhex(sys.argv[5])
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind((source, 0))
one.connect((host, port))
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
def guest_namespace(*addresses: str) -> Iterator[int]:
    """A network namespace with these addresses at the other end of vboxnet0; the id of a process in it."""
    command = ["unshare", "--net", "sh", "-c", "ip link set lo up; echo; read _"]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        peer = f"peer-{world.LINK}"
        subprocess.run(["ip", "link", "set", peer, "netns", str(holder.pid)], check=True)
        for words in (*(f"addr add {one}/16 dev {peer}" for one in addresses), f"link set {peer} up"):
            subprocess.run([*inside(holder.pid), "ip", *words.split()], check=True)
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()


def inside(pid: int) -> list[str]:
    """The words that run a command in the network namespace of this process."""
    return ["nsenter", "-t", str(pid), "-n"]


def main(folder: Path) -> int:
    bench = Benchmark(__doc__, folder, seconds=6.0)
    with (
        guest_namespace(CLIENT, FLOODER, UNVALIDATED) as pid,
        Peers(bench) as peers,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unread,
    ):
        unread.bind((world.HOST, 0))
        for name, server in peers.start(["vmdns"], NAMES, upstream=peers.upstream(), host_only=True).items():
            server.wait_for_answer(world.packet(world.name(NAMES - 1), world.A))
            server.wait_until_idle()
            measure_floods(bench, name, server, inside(pid), f"{world.HOST}:{unread.getsockname()[1]}")
            measure_amplification(bench, name, server, inside(pid))
    return bench.end()


def measure_floods(bench: Benchmark, name: str, server: Server, within: list[str], unread: str) -> None:
    """One guest's times in peace and amid each flood."""
    known = bench.write("known", [world.query_a(number) for number in range(100, NAMES)])
    unknown = bench.write("unknown", [(world.packet("0" * 12 + ".local", world.A), world.NEGATIVE, 0)])
    outside = bench.write("outside", [(world.packet("0" * 12 + ".example", world.A), 0, world.ANY)])
    target = server.targets[-1]

    @contextmanager
    def flood(queries: Path, target: str = target) -> Iterator[None]:
        options = ("-r", f"{FLOOD}", "-s", "16", "-b", FLOODER, "-m", "100000000")
        seconds = bench.seconds + 2 * LEAD_SECONDS + 1
        process = bench.generator.start(queries, [target], seconds, *options, inside=within)
        time.sleep(LEAD_SECONDS)
        try:
            yield
        finally:
            process.kill()
            process.wait()

    def change(turn: int) -> None:
        order(server.folder, f"address 0 10.77.1.{200 + turn % 50}")

    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "in peace": nullcontext,
        "a flood that nobody reads": partial(flood, unknown, unread),
        "names that nobody has": partial(flood, unknown),
        "names of others": partial(flood, outside),
        "property changes": partial(repeating, change, 0.01, LEAD_SECONDS),
        "10,000 leases rewritten": partial(repeating, rewrite_leases(server, NAMES, LEASES - NAMES), 1.0, LEAD_SECONDS),
    }

    def measure(way: Callable[[], AbstractContextManager[object]]) -> Sample:
        options = ("-r", f"{RATE}", "-s", "1", "-b", CLIENT)
        with way():
            found, _ = finish(bench.generator.start(known, [target], bench.seconds, *options, inside=within))
        server.wait_until_idle()
        return found

    def base(what: str) -> str:
        return "a flood that nobody reads" if what.startswith("names") else "in peace"

    samples = bench.interleave({what: partial(measure, way) for what, way in ways.items()})
    bench.times_table(f"{name}: one guest asks {RATE}/s, another one floods", samples, base, "without it")
    for what in list(ways)[2:]:
        for key in ("p50", "p99"):
            measured = ratio(samples, what, base(what), key)
            bench.target(f"{name}, {what}: {key} / {base(what)}", measured, 1.2, most=True)


def measure_amplification(bench: Benchmark, name: str, server: Server, within: list[str]) -> None:
    """Bytes out by bytes in, for an unvalidated address, beside its allowance."""
    address, port = server.targets[-1].split(":")
    query = world.packet("nobody.local", world.A, edns=True).hex()
    begun = time.monotonic()
    words = [*within, sys.executable, "-c", _REPLAY, address, port, UNVALIDATED, str(REPLAYS), query]
    sent, received = map(int, subprocess.run(words, check=True, capture_output=True, text=True).stdout.split())
    allowed = 65_536 + 2_000 * (time.monotonic() - begun)
    bench.print(f"{name}: {sent:,} bytes in, {received:,} out: {received / sent:.2f} x")
    bench.target(f"{name}, bytes out / in, beside the allowance", max(0.0, received - allowed) / sent, 3.0, most=True)


if __name__ == "__main__":
    raise SystemExit(frame.run(main))
