"""How soon a change is answered under 50,000 queries a second: one VM changes its address again and again.

    python tests/bench/churn.py [--rounds 5] [--seconds 2] [--against FOLDER] [--json]

The time runs from the moment at which the simulated VirtualBox's reader learns of a change (fleet.py) to the first
new answer at the load generator, which queries that VM every millisecond. No answer may be wrong or missing. A task in
the event loop that wakes up every half millisecond measures its pauses, also while the leases of all 10,000 VMs are
renewed. The pauses of a loop that does nothing, beside a C echo under the same load on the same core, are printed
first. Needs what authoritative.py needs.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import frame, world
from tests.bench.frame import Benchmark, Sample, Samples, finish, middle, total
from tests.bench.peers import Peers, Server, environ, order, replace_leases
from tests.bench.peers import leases as make_leases

RATE = 50_000
EVERY = 50  # one in so many queries is for the VM that changes
CHANGES = 8  # a second: each is over before the next, or its answers are never seen
WARM = 0.2


def measure(bench: Benchmark, server: Server, queries: Path, turns: Iterator[int], leases: int) -> Sample:
    """One run with changes. leases: how many are in the lease file that is replaced once; 0 for none."""
    done = server.folder / "done"
    before = done.stat().st_size if done.exists() else 0
    renewed = make_leases(leases, issued=time.time()) if leases else b""
    options = ("-r", f"{RATE}", "-c", f"{EVERY}", "-w", f"{WARM}")
    process = bench.generator.start(queries, server.targets, bench.seconds, *options)
    time.sleep(WARM)
    pause = server.folder / "pause"
    pause.unlink(missing_ok=True)
    for count in range(max(1, int((bench.seconds - 0.2) * CHANGES))):
        order(server.folder, f"address 0 10.77.200.{1 + next(turns) % 250}")
        if leases and count == 0:
            replace_leases(server.folder, renewed)
        time.sleep(1 / CHANGES)
    found, lines = finish(process)
    with done.open() as file:
        file.seek(before)
        changed = {words[3]: int(words[0]) for words in map(str.split, file) if words[1:3] == ["address", "0"]}
    seen: dict[str, int] = {}
    for _, when, address in map(str.split, lines):
        seen.setdefault(address, int(when))
    unknown = set(list(seen)[1:]) - set(changed)  # the first one seen is that of before
    fresh = sorted((seen[address] - when) / 1e6 for address, when in changed.items() if address in seen)
    return {
        **found, "fresh": fresh, "unseen": len(changed) - len(fresh), "wrong": found["wrong"] + len(unknown),
        "pause": float(pause.read_text() or 0) if pause.exists() else 0.0,
    }  # fmt: skip


def measure_idle_loop(bench: Benchmark, peers: Peers, queries: Path) -> list[float]:
    """The longest pause in ms of an event loop that does nothing, in each round, sorted."""
    echo = peers.start(["echo"], 1)["echo"]
    place = peers.place("beat")
    program = str(Path(__file__).with_name("vmdns_server.py"))
    peers.others.append(Server(place, [], [sys.executable, program, "--idle", str(place)], environ()))
    pauses = []
    for _ in range(bench.rounds):
        options = ("-e", "-r", f"{RATE}", "-w", f"{WARM}")
        process = bench.generator.start(queries, echo.targets, bench.seconds, *options)
        time.sleep(WARM)
        (place / "pause").unlink(missing_ok=True)
        finish(process)
        pauses.append(float((place / "pause").read_text()))
    return sorted(pauses)


def show(bench: Benchmark, title: str, samples: Samples) -> None:
    rows = []
    for name, found in samples.items():
        unseen = total(found, "unseen")
        # One that was never seen took until the next change at least.
        fresh = sorted([ms for one in found for ms in one["fresh"]] + [1000 / CHANGES] * unseen)
        p50, p99 = (fresh[min(len(fresh) - 1, int(len(fresh) * part))] if fresh else 0.0 for part in (0.5, 0.99))
        wrong, missing, pause = total(found, "wrong"), total(found, "missing"), middle(found, "pause")
        rows.append(
            [name, f"{len(fresh)}", f"{unseen}", f"{p50:.1f}", f"{p99:.1f}", f"{max(fresh, default=0):.1f}",
             f"{middle(found, 'rate'):,.0f}", f"{wrong}", f"{missing}",
             f"{max(one['max'] for one in found) / 1000:.1f}", f"{pause:.1f}",
             f"{max(one['pause'] for one in found):.1f}"]
        )  # fmt: skip
        if name == "vmdns":
            goals = [
                ("a change is answered within (p99)", p99, 100, "ms"),
                ("wrong and missing answers", wrong + missing, 0, "  "),
                ("longest pause of the event loop (median of the rounds)", pause, 5, "ms"),
            ]
    heads = ["", "changes", "never seen", "p50 ms", "p99 ms", "most ms", "answers/s", "wrong", "missing",
             "longest wait ms", "loop stood ms", "at most ms"]  # fmt: skip
    bench.table(title, heads, rows, samples)
    for what, measured, wanted, unit in goals:
        bench.target(what, measured, wanted, most=True, unit=unit)


def main(folder: Path) -> int:
    bench = Benchmark(__doc__, folder, seconds=2.0)
    turns = itertools.count()
    with Peers(bench) as peers:
        pauses = measure_idle_loop(bench, peers, bench.write("queries", world.addresses_only(1000)))
        longest = f"{pauses[len(pauses) // 2]:.1f} ms, {pauses[-1]:.1f} at most"
        bench.print(f"a loop that does nothing, beside the echo at {RATE:,} questions/s, stood {longest}")
    for full, renewed in ((1000, False), (10_000, False), (10_000, True)):
        count = bench.size(full)
        # The first query is for the VM that changes: any address will do, and is printed.
        watched = world.packet(world.name(0), world.A), world.NOERROR, world.ANY
        queries = bench.write("queries", [watched, *(world.query_a(number) for number in range(1, count))])
        with Peers(bench) as peers:
            running = peers.start(["vmdns"], count, beat=True)
            for server in running.values():
                bench.generator.warm(queries, server.targets, count)
            more = queries, turns, count * renewed
            samples = bench.interleave({name: partial(measure, bench, one, *more) for name, one in running.items()})
            what = "one VM changes" + ", and all leases are renewed" * renewed
            show(bench, f"{count:,} VMs, {RATE:,} questions/s: {what}", samples)
    return bench.end()


if __name__ == "__main__":
    raise SystemExit(frame.run(main))
