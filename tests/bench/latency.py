"""How long one query takes under little load, beside dnsmasq and Knot; and amid disturbances.

    python tests/bench/latency.py [--rounds 5] [--seconds 2] [--only vmdns,dnsmasq] [--against FOLDER] [--json]

Disturbances come from the simulated VirtualBox of fleet.py through vmdns's own worker, on the same core as the server:
VMs are read without a pause (4 ms of CPU time each), 50 VMs change state, a lease file of 1 MB is replaced, ten times a
second. A program that burns CPU time on that core shows what the machine itself does then. Needs what authoritative.py
needs.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import frame, world
from tests.bench.frame import LOAD_CORE, SERVER_CORE, Benchmark, Sample, pin, ratio
from tests.bench.peers import Peers, Server, order, replace_leases
from tests.bench.peers import leases as make_leases

ALL = ("dnsmasq", "Knot", "vmdns")
NAMES = 1000
UNKNOWN_LEASES = 5000  # with those of the VMs 1 MB
DISTURBED_RATE = 1000


@contextmanager
def repeating(act: Callable[[int], object]) -> Iterator[None]:
    """Calls `act` with its turn ten times a second meanwhile."""
    over = threading.Event()

    def work() -> None:
        os.sched_setaffinity(0, {LOAD_CORE})  # this thread: the server's core is the server's
        for turn in itertools.count(1):
            if over.wait(0.1):
                return
            act(turn)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def burning() -> Iterator[None]:
    """A program that does nothing but take the servers' core."""
    process = subprocess.Popen(pin(SERVER_CORE, sys.executable, "-c", "while True: pass"))
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def scanning(server: Server, seconds: float) -> Iterator[None]:
    order(server.folder, f"scan {seconds}")
    yield


def rewrite_leases(server: Server, names: int, unknown: int) -> Callable[[int], None]:
    """Replaces the lease file by another one, in which one lease comes or goes each time."""
    files = [make_leases(names, unknown + more) for more in (0, 1)]  # made before the measurement
    return lambda turn: replace_leases(server.folder, files[turn % 2])


def measure(bench: Benchmark, server: Server, queries: Path, seconds: float, rate: int) -> Sample:
    return bench.generator.run(queries, server.targets, seconds, "-r", f"{rate}", "-s", "1")


def main(folder: Path) -> int:
    bench = Benchmark(__doc__, folder, seconds=2.0)
    queries = bench.write("queries", world.addresses_only(NAMES))
    with Peers(bench) as peers:
        peers.start(ALL, NAMES)
        for server in peers.running.values():
            bench.generator.warm(queries, server.targets, NAMES)
        for rate, seconds in ((100, 2 * bench.seconds), (1000, bench.seconds)):
            measures = {
                name: partial(measure, bench, server, queries, seconds, rate) for name, server in peers.running.items()
            }
            samples = bench.interleave(measures)
            bench.times_table(f"one question at a time, {rate:,}/s", samples, lambda name: "dnsmasq", "dnsmasq")
            for key, most in (("p50", 1.6), ("p99", 2.0)):
                bench.target(f"vmdns / dnsmasq, {key}", ratio(samples, "vmdns", "dnsmasq", key), most, most=True)
        for name in peers.trees:
            if name in peers.running:
                disturb(bench, peers.running[name], name)
    return bench.end()


def disturb(bench: Benchmark, server: Server, name: str) -> None:
    """p99 while VirtualBox keeps vmdns busy, beside that without disturbance a moment before."""
    # The VMs behind the first hundred stay on and keep their leases.
    queries = bench.write("quiet", [world.query_a(number) for number in range(100, NAMES)])
    ways: dict[str, Callable[[], AbstractContextManager[None]]] = {
        "in peace": lambda: repeating(lambda _: None),
        "the core shared with a busy program": burning,
        "VirtualBox scanned": lambda: scanning(server, bench.seconds + 0.3),
        "50 VMs change state": lambda: repeating(lambda _: order(server.folder, "states 1 51")),
        "1 MB of leases rewritten": partial(repeating, rewrite_leases(server, NAMES, UNKNOWN_LEASES)),
    }

    def measure_amid(way: Callable[[], AbstractContextManager[None]]) -> Sample:
        with way():
            found = measure(bench, server, queries, bench.seconds, DISTURBED_RATE)
        server.wait_until_idle()
        return found

    samples = bench.interleave({what: partial(measure_amid, way) for what, way in ways.items()})
    title = f"{name}: what happens beside it, {DISTURBED_RATE:,}/s"
    bench.times_table(title, samples, lambda what: "in peace", "in peace")
    for what in list(ways)[2:] if name == "vmdns" else ():
        bench.target(f"p99, {what} / in peace", ratio(samples, what, "in peace", "p99"), 2.0, most=True)


if __name__ == "__main__":
    raise SystemExit(frame.run(main))
