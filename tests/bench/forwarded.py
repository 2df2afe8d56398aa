"""How many forwarded queries one core answers in a second: from the cache, and by an upstream query each.

    python tests/bench/forwarded.py [--rounds 5] [--seconds 1] [--only vmdns,dnsmasq] [--against FOLDER] [--json]

The upstream is a C program on the load's core that answers everything at once. Needs what authoritative.py needs.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import frame, world
from tests.bench.authoritative import compare
from tests.bench.frame import Benchmark
from tests.bench.peers import Peers

OUTSTANDING = "100"
ALWAYS_NEW = str(2**32 - 1)


def main(folder: Path) -> int:
    bench = Benchmark(__doc__, folder)
    count = bench.size(1000)
    queries = world.forwarded(count)
    with Peers(bench) as peers:
        peers.start(("dnsmasq", "vmdns"), 1, upstream=peers.upstream())
        title = f"from the cache, {count:,} names"
        compare(bench, peers, title, queries, wanted=[("dnsmasq", 1.3)])
        title = f"new names, {OUTSTANDING} outstanding"
        more = ("-n", OUTSTANDING, "-s", "4", "-m", ALWAYS_NEW)
        compare(bench, peers, title, queries, *more, wanted=[("dnsmasq", 2.0)], first=0)
    return bench.end()


if __name__ == "__main__":
    raise SystemExit(frame.run(main))
