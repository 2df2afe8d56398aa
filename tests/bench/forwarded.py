"""How many forwarded questions one core answers in a second: from the cache, and asking an upstream each time.

    python tests/bench/forwarded.py [--rounds 5] [--seconds 1] [--only vmdns,unbound] [--against FOLDER] [--nice -15]
        [--json]

The upstream is a C program on the load's core that answers everything at once. Needs what authoritative.py needs.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import surroundings, world
from tests.bench.authoritative import asked, show, targets
from tests.bench.generator import Generator
from tests.bench.peers import Peers
from tests.bench.rounds import Report, interleaved, options, parsed

SERVERS = ("dnsmasq", "unbound", "vmdns")
NAMES = 1000
OUTSTANDING = "100"
ALWAYS_NEW = str(2**32 - 1)


def main(folder: Path) -> int:
    arguments = parsed(options(__doc__))
    report, generator = Report(arguments.json), Generator(folder)
    questions = world.write(folder / "questions", world.forwarded(NAMES // arguments.share))
    with Peers(folder, report.say, only=arguments.only, against=arguments.against) as peers:
        running = peers.start(SERVERS, 1, upstream=peers.upstream())
        samples = interleaved(
            arguments.rounds,
            {
                name: asked(generator, one, questions, arguments.seconds, first=NAMES // arguments.share)
                for name, one in running.items()
            },
        )
        show(report, f"from the cache, {NAMES // arguments.share:,} names", samples)
        targets(report, samples, [("dnsmasq", 1.3), ("unbound", 0.9)])
        more = ("-n", OUTSTANDING, "-s", "4", "-m", ALWAYS_NEW)
        samples = interleaved(
            arguments.rounds,
            {name: asked(generator, one, questions, arguments.seconds, *more) for name, one in running.items()},
        )
        show(report, f"names that nobody asked before, {OUTSTANDING} outstanding", samples)
        targets(report, samples, [("dnsmasq", 3.0), ("unbound", 0.6)])
    return report.end()


if __name__ == "__main__":
    raise SystemExit(surroundings.run(main))
