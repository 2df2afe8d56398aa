"""How fresh answers are while 50,000 questions a second come in: one VM changes its address, over and over.

    python tests/bench/churn.py [--rounds 5] [--seconds 2] [--against FOLDER] [--nice -15] [--json]

The time runs from the moment at which the simulated VirtualBox's reader learns of a change (fleet.py) to the first
new answer at the load generator, which asks for that VM every millisecond. No answer to any question may be wrong or
missing. Pauses of the event loop are taken by a task in it that wakes up every half millisecond, while one VM changes,
and while the leases of all 10,000 are renewed. What the machine itself makes of it is told first: the pauses of a loop
that does nothing, in a process beside the C echo that answers as many questions on the same core. Needs what
authoritative.py needs.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import confs, surroundings, world
from tests.bench.generator import Generator, finished
from tests.bench.latency import order
from tests.bench.peers import Peers, Server, environ
from tests.bench.rounds import Report, Samples, interleaved, middle, options, parsed

RATE = 50_000
EVERY = 50  # each so many questions are for the VM that changes
CHANGES = 8  # a second: each is over before the next, or its answers are never seen
WARM = 0.2


def new_address(turn: int) -> str:
    return f"10.77.200.{1 + turn % 250}"


def changed(
    generator: Generator, server: Server, questions: Path, seconds: float, rate: int, turns: Iterator[int], leases: int
) -> dict[str, Any]:
    """One run with changes. leases: so many VMs are in the lease file that is replaced once; 0 for none."""
    done = server.folder / "done"
    before = done.stat().st_size if done.exists() else 0
    renewed = confs.lease_file(leases, issued=time.time()) if leases else b""
    pause = server.folder / "pause"
    process = generator.start(questions, server.targets, seconds, "-r", f"{rate}", "-c", f"{EVERY}", "-w", f"{WARM}")
    time.sleep(WARM)
    pause.unlink(missing_ok=True)
    for count in range(max(1, int((seconds - 0.2) * CHANGES))):
        turn = next(turns)
        order(server, f"address 0 {new_address(turn)}")
        if leases and count == 0:
            confs.write_leases(server.folder, renewed)
        time.sleep(1 / CHANGES)
    found, lines = finished(process)
    with done.open() as file:
        file.seek(before)
        when_told = {words[3]: int(words[0]) for words in map(str.split, file) if words[1:3] == ["address", "0"]}
    seen: dict[str, int] = {}
    for _, when, where in map(str.split, lines):
        seen.setdefault(where, int(when))
    # The first one seen is that of before; all others were told.
    strange = set(list(seen)[1:]) - set(when_told)
    late = [(seen[where] - when) / 1e6 for where, when in when_told.items() if where in seen]
    return {
        **found, "fresh": sorted(late), "unseen": len(when_told) - len(late), "wrong": found["wrong"] + len(strange),
        "pause": float(pause.read_text() or 0) if pause.exists() else 0.0,
    }  # fmt: skip


def bare(generator: Generator, peers: Peers, questions: Path, arguments: Any) -> list[float]:
    """The longest pause in ms of a loop that does nothing, in each round."""
    echo = peers.start(["echo"], 1).popitem()[1]
    place = peers.place("beat")
    peers.held += [
        echo,
        Server(place, [], [sys.executable, str(Path(__file__).with_name("beat.py")), str(place)], environ()),
    ]
    pauses = []
    for _ in range(arguments.rounds):
        process = generator.start(
            questions, echo.targets, arguments.seconds, "-e", "-r", f"{arguments.rate}", "-w", f"{WARM}"
        )
        time.sleep(WARM)
        (place / "pause").unlink(missing_ok=True)
        finished(process)
        pauses.append(float((place / "pause").read_text()))
    return sorted(pauses)


def show(report: Report, title: str, samples: Samples) -> None:
    rows = []
    for name, found in samples.items():
        unseen = sum(one["unseen"] for one in found)
        # One that was never seen took until the next change at least.
        fresh = sorted([ms for one in found for ms in one["fresh"]] + [1000 / CHANGES] * unseen)
        p50, p99 = (fresh[min(len(fresh) - 1, int(len(fresh) * part))] if fresh else 0.0 for part in (0.5, 0.99))
        rows.append(
            [name, f"{len(fresh)}", f"{unseen}", f"{p50:.1f}", f"{p99:.1f}",
             f"{max(fresh, default=0):.1f}", f"{middle(found, 'rate'):,.0f}", f"{sum(one['wrong'] for one in found)}",
             f"{sum(one['missing'] for one in found)}", f"{max(one['max'] for one in found) / 1000:.1f}",
             f"{middle(found, 'pause'):.1f}", f"{max(one['pause'] for one in found):.1f}"]
        )  # fmt: skip
        if name == "vmdns":
            goals = p99, sum(one["wrong"] + one["missing"] for one in found), middle(found, "pause")
    heads = ["", "changes", "never seen", "p50 ms", "p99 ms", "most ms", "answers/s", "wrong", "missing",
             "longest wait ms", "loop stood ms", "at most ms"]  # fmt: skip
    report.table(title, heads, rows)
    report.keep("samples", samples)
    report.target("a change is answered within (p99)", goals[0], 100, most=True, unit="ms")
    report.target("wrong and missing answers", goals[1], 0, most=True, unit="  ")
    report.target("longest pause of the event loop (median of the rounds)", goals[2], 5, most=True, unit="ms")


def main(folder: Path) -> int:
    parser = options(__doc__, seconds=2.0)
    parser.add_argument("--rate", type=int, default=RATE, help=f"questions a second ({RATE:,})")
    arguments = parsed(parser)
    report, generator = Report(arguments.json), Generator(folder)
    turns = itertools.count()
    with Peers(folder, report.say) as peers:
        pauses = bare(generator, peers, world.write(folder / "questions", world.addresses_only(1000)), arguments)
        longest = f"{pauses[len(pauses) // 2]:.1f} ms, {pauses[-1]:.1f} at most"
        report.say(f"a loop that does nothing, beside the echo at {arguments.rate:,} questions/s, stood {longest}")
    for count, leases, what in ((1000, 0, "one VM changes"), (10_000, 0, "one VM changes"),
                                (10_000, 10_000, "one VM changes, and all leases are renewed")):  # fmt: skip
        count, leases = count // arguments.share, leases // arguments.share
        # The first question is about the VM that changes: any address will do, and which one is noted.
        watched = world.packet(world.name(0), world.A), world.NOERROR, world.ANY
        asks = [watched, *(world.ask_a(number) for number in range(1, count))]
        questions = world.write(folder / "questions", asks)
        with Peers(folder, report.say, against=arguments.against) as peers:
            running = peers.start(["vmdns"], count, beat=True)
            for server in running.values():
                generator.warm(questions, server.targets, count)

            more = questions, arguments.seconds, arguments.rate, turns, leases
            measures = {name: partial(changed, generator, one, *more) for name, one in running.items()}
            samples = interleaved(arguments.rounds, measures)
            show(report, f"{count:,} VMs, {arguments.rate:,} questions/s: {what}", samples)
    return report.end()


if __name__ == "__main__":
    raise SystemExit(surroundings.run(main))
