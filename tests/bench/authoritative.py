"""How many queries for VMs one core answers in a second, beside dnsmasq and Knot.

    python tests/bench/authoritative.py [--rounds 5] [--seconds 1] [--only vmdns,Knot] [--against FOLDER] [--json]

Needs Linux, gcc and network namespaces; missing peers are reported (tests/bench/peers.py gets them).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import frame, world
from tests.bench.frame import Benchmark, Sample, Samples, middle, ratio, show_ratio, total
from tests.bench.peers import Peers, Server

ALL = ("dnsmasq", "Knot", "vmdns")
WARM_SECONDS = 0.1


def rate_of(bench: Benchmark, server: Server, queries: Path, *more: str, first: int = 0) -> Callable[[], Sample]:
    """Measures one server once: answers a second, its CPU time for each, and what went wrong.

    first: how many queries are answered before at each address, to fill caches.
    """
    bench.generator.warm(queries, server.targets, first, *more)

    def measure() -> Sample:
        cpu, busy, began = server.cpu(), busy_seconds(), time.monotonic()
        found = bench.generator.run(queries, server.targets, bench.seconds, "-w", f"{WARM_SECONDS}", *more)
        cpu, busy, passed = server.cpu() - cpu, busy_seconds() - busy, time.monotonic() - began
        # The generator keeps its own core busy.
        others = max(0.0, (busy - cpu - bench.seconds - WARM_SECONDS) / passed)
        return {**found, "cpu": cpu / max(1, found["answered"]) * 1e6, "others": others}

    return measure


def busy_seconds() -> float:
    """CPU seconds of all processes of the machine."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(words[at]) for at in (0, 1, 2, 7)) / os.sysconf("SC_CLK_TCK")  # user, nice, system, stolen


def show(bench: Benchmark, title: str, samples: Samples) -> None:
    """A row for each server, compared with dnsmasq."""
    rows = []
    for name, found in samples.items():
        rates = [one["rate"] for one in found]
        rows.append(
            [name, f"{middle(found, 'rate'):,.0f}", f"{min(rates):,.0f}-{max(rates):,.0f}",
             f"{middle(found, 'cpu'):.2f}", show_ratio(ratio(samples, name, "dnsmasq", "rate")),
             f"{total(found, 'wrong')}", f"{total(found, 'missing')}"]
        )  # fmt: skip
    bench.table(title, ["", "answers/s", "from-to", "us of CPU", "x dnsmasq", "wrong", "missing"], rows, samples)
    others = [one["others"] for found in samples.values() for one in found]
    if others:
        bench.print(f"  other work on this machine meanwhile: {sum(others) / len(others):.0%} of a core on average")


def compare(
    bench: Benchmark, peers: Peers, title: str, queries: list[world.Query], *more: str,
    wanted: Sequence[tuple[str, float]] = (), first: int | None = None,
) -> None:  # fmt: skip
    """All running servers with these queries. wanted: other servers, and how many times as fast vmdns is to be.

    The ratio of CPU times is printed too: it stays true when others use the machine.
    """
    file = bench.write("queries", queries)
    first = len(queries) if first is None else first
    measures = {}
    for name, server in peers.running.items():
        measures[name] = rate_of(bench, server, file, *more, first=first)
    samples = bench.interleave(measures)
    show(bench, title, samples)
    for other, least in wanted:
        by_cpu = ratio(samples, other, "vmdns", "cpu")
        beside = "" if by_cpu is None else f" (by CPU time {by_cpu:.2f})"
        bench.target(f"vmdns / {other}{beside}", ratio(samples, "vmdns", other, "rate"), least)


def main(folder: Path) -> int:
    bench = Benchmark(__doc__, folder)
    few = bench.size(1000)
    with Peers(bench) as peers:
        peers.start(ALL, few)
        wanted = [("dnsmasq", 1.5), ("Knot", 1.0)]
        compare(bench, peers, f"A, {few:,} names", world.addresses_only(few), wanted=wanted)
        title = f"mix of A, AAAA, PTR and unknown names, {few:,} names"
        compare(bench, peers, title, world.mix(few), "-x", "100", wanted=[("dnsmasq", 1.5), ("Knot", 1.0)])
        title = "the mix, all in random case"
        compare(bench, peers, title, world.mix(few), "-x", "1000", wanted=[("dnsmasq", 1.0)])
    return bench.end()


if __name__ == "__main__":
    raise SystemExit(frame.run(main))
