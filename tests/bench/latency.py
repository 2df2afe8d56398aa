"""How long one question takes when little is asked, beside dnsmasq, unbound, Knot and a C echo; and amid disturbances.

    python tests/bench/latency.py [--rounds 5] [--seconds 2] [--only vmdns,dnsmasq] [--against FOLDER] [--nice -15]
        [--json]

Disturbances are made by the simulated VirtualBox of fleet.py, so they come through vmdns's own worker, on the same
core as the server: VMs are read over and over (4 ms of CPU time each), 50 VMs change state, a lease file of 1 MB is
replaced, ten times a second. A program that only burns the same CPU time on that core is the measure of what the
machine itself does then. Needs what authoritative.py needs.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import confs, surroundings, world
from tests.bench.generator import LOAD_CORE, SERVER_CORE, Generator, judging, pinned
from tests.bench.peers import Peers, Server
from tests.bench.rounds import Report, Sample, Samples, interleaved, middle, options, parsed, ratio

ALL = ("echo", "dnsmasq", "unbound", "Knot", "vmdns")
NAMES = 1000
EACH_SECONDS = 0.1  # ten times a second
STRANGERS = 5000  # leases of nobody's: with those of the VMs 1 MB
MEGABYTE = 1_000_000
DISTURBED_RATE = 1000
_BURN = "while True: pass"


def order(server: Server, text: str) -> None:
    """Has the simulated VirtualBox do something."""
    with (server.folder / "orders").open("w") as pipe:
        pipe.write(text + "\n")


@contextmanager
def repeated(act: Callable[[int], object], pause: float = EACH_SECONDS, lead: float = 0.0) -> Iterator[None]:
    """`act` again and again meanwhile, with its turn, and for `lead` seconds before."""
    over = threading.Event()

    def work() -> None:
        os.sched_setaffinity(0, {LOAD_CORE})  # this thread: the server's core is the server's
        for turn in itertools.count(1):
            if over.wait(pause):
                return
            act(turn)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        time.sleep(lead)
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def burning() -> Iterator[None]:
    """A program that does nothing but take the servers' core."""
    process = subprocess.Popen(pinned(SERVER_CORE, sys.executable, "-c", _BURN))
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def scanned(server: Server, seconds: float) -> Iterator[None]:
    order(server, f"scan {seconds}")
    yield


def leases(server: Server) -> Callable[[int], None]:
    """Replaces the lease file by another one of 1 MB, in which one lease comes or goes each time."""
    # Made before: what a benchmark is at work itself must not count.
    files = [confs.lease_file(NAMES, STRANGERS + more) for more in (0, 1)]

    def replace(turn: int) -> None:
        file = files[turn % 2]
        assert len(file) > MEGABYTE, len(file)
        confs.write_leases(server.folder, file)

    return replace


def timed(generator: Generator, server: Server, questions: Path, seconds: float, rate: int, *more: str) -> Sample:
    return generator.run(questions, server.targets, seconds, "-r", f"{rate}", "-s", "1", *more)


def show(report: Report, title: str, samples: Samples, base: str) -> None:
    rows = []
    for name, found in samples.items():
        compared = [ratio(samples, name, base, key) for key in ("p50", "p99")]
        rows.append(
            [name, *(f"{middle(found, key):.0f}" for key in ("p50", "p90", "p99", "max")),
             *("-" if one is None else f"{one:.2f}" for one in compared),
             f"{sum(one['wrong'] + one['missing'] for one in found)}"]
        )  # fmt: skip
    heads = ["", "p50 us", "p90 us", "p99 us", "most us", f"p50 x {base}", f"p99 x {base}", "wrong or missing"]
    report.table(title, heads, rows)
    report.keep("samples", samples)


def main(folder: Path) -> int:
    arguments = parsed(options(__doc__, seconds=2.0))
    report, generator = Report(arguments.json), Generator(folder)
    questions = world.write(folder / "questions", world.addresses_only(NAMES))
    with Peers(folder, report.say, only=arguments.only, against=arguments.against) as peers:
        for name, server in peers.start(ALL, NAMES).items():
            generator.warm(questions, server.targets, NAMES, *judging(name))
        for rate, seconds in ((100, 2 * arguments.seconds), (1000, arguments.seconds)):
            measures = {
                name: partial(timed, generator, server, questions, seconds, rate, *judging(name))
                for name, server in peers.running.items()
            }
            samples = interleaved(arguments.rounds, measures)
            show(report, f"one question at a time, {rate:,}/s", samples, "dnsmasq")
            for key, most in (("p50", 1.6), ("p99", 1.5)):
                report.target(f"vmdns / dnsmasq, {key}", ratio(samples, "vmdns", "dnsmasq", key), most, most=True)
        for name in [one for one in ("vmdns", "vmdns (other)") if one in peers.running]:
            disturb(arguments.rounds, arguments.seconds, report, generator, peers.running[name], name, questions)
    return report.end()


def disturb(
    rounds: int, seconds: float, report: Report, generator: Generator, server: Server, name: str, questions: Path
) -> None:
    """p99 while VirtualBox keeps vmdns busy, beside that of peace a moment before."""
    # What is asked about stays on and keeps its lease: the VMs behind the first hundred.
    quiet = world.write(questions.with_name("quiet"), [world.ask_a(number) for number in range(100, NAMES)])
    rewrite = leases(server)
    ways: dict[str, Callable[[], AbstractContextManager[None]]] = {
        "in peace": lambda: repeated(lambda _: None),
        "the core shared with a busy program": burning,
        "VirtualBox scanned": lambda: scanned(server, seconds + 0.3),
        "50 VMs change state": lambda: repeated(lambda _: order(server, "states 1 51")),
        "1 MB of leases rewritten": lambda: repeated(rewrite),
    }

    def measure(way: Callable[[], AbstractContextManager[None]]) -> Sample:
        with way():
            found = timed(generator, server, quiet, seconds, DISTURBED_RATE)
        server.settle()
        return found

    samples = interleaved(rounds, {what: partial(measure, way) for what, way in ways.items()})
    show(report, f"{name}: what happens beside it, {DISTURBED_RATE:,}/s", samples, "in peace")
    for what in list(ways)[2:] if name == "vmdns" else ():
        report.target(f"p99, {what} / in peace", ratio(samples, what, "in peace", "p99"), 2.0, most=True)


if __name__ == "__main__":
    raise SystemExit(surroundings.run(main))
