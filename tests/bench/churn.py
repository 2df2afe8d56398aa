"""How soon a change is answered under 50,000 queries a second: one VM changes its address again and again.

    python tests/bench/churn.py [--rounds 5] [--seconds 2] [--against FOLDER] [--json]

The time runs from the moment at which the simulated VirtualBox's reader learns of a change (fleet.py) to the first
new answer at the load generator, which queries that VM every millisecond, also while the leases of all VMs are renewed.
No answer may be wrong or missing. Needs what authoritative.py needs.
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
from tests.bench.peers import Peers, Server, order, replace_leases
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
    }  # fmt: skip


def show(bench: Benchmark, title: str, samples: Samples) -> None:
    rows = []
    for name, found in samples.items():
        unseen = total(found, "unseen")
        # One that was never seen took until the next change at least.
        fresh = sorted([ms for one in found for ms in one["fresh"]] + [1000 / CHANGES] * unseen)
        p50, p99 = (fresh[min(len(fresh) - 1, int(len(fresh) * part))] if fresh else 0.0 for part in (0.5, 0.99))
        wrong, missing = total(found, "wrong"), total(found, "missing")
        rows.append(
            [name, f"{len(fresh)}", f"{unseen}", f"{p50:.1f}", f"{p99:.1f}", f"{max(fresh, default=0):.1f}",
             f"{middle(found, 'rate'):,.0f}", f"{wrong}", f"{missing}",
             f"{max(one['max'] for one in found) / 1000:.1f}"]
        )  # fmt: skip
        if name == "vmdns":
            goals = [
                ("a change is answered within (p99)", p99, 100, "ms"),
                ("wrong and missing answers", wrong + missing, 0, "  "),
            ]
    heads = ["", "changes", "never seen", "p50 ms", "p99 ms", "most ms", "answers/s", "wrong", "missing",
             "longest wait ms"]  # fmt: skip
    bench.table(title, heads, rows, samples)
    for what, measured, wanted, unit in goals:
        bench.target(what, measured, wanted, most=True, unit=unit)


def main(folder: Path) -> int:
    bench = Benchmark(__doc__, folder, seconds=2.0)
    turns = itertools.count()
    for full, renewed in ((300, False), (1000, False), (1000, True)):
        count = bench.size(full)
        # The first query is for the VM that changes: any address will do, and is printed.
        watched = world.packet(world.name(0), world.A), world.NOERROR, world.ANY
        queries = bench.write("queries", [watched, *(world.query_a(number) for number in range(1, count))])
        with Peers(bench) as peers:
            running = peers.start(["vmdns"], count)
            for server in running.values():
                bench.generator.warm(queries, server.targets, count)
            more = queries, turns, count * renewed
            samples = bench.interleave({name: partial(measure, bench, one, *more) for name, one in running.items()})
            what = "one VM changes" + ", and all leases are renewed" * renewed
            show(bench, f"{count:,} VMs, {RATE:,} questions/s: {what}", samples)
    return bench.end()


if __name__ == "__main__":
    raise SystemExit(frame.run(main))
