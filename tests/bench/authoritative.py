"""How many questions about VMs are answered in a second by one core, beside dnsmasq, unbound, Knot and a C echo.

    python tests/bench/authoritative.py [--rounds 5] [--seconds 1] [--only vmdns,Knot] [--against FOLDER] [--nice -15]
        [--json]

Needs Linux, gcc and network namespaces; peers that are missing are said (tests/bench/peers.py gets them).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import surroundings, world
from tests.bench.generator import Generator, judging
from tests.bench.peers import Peers, Server
from tests.bench.rounds import Busy, Report, Sample, Samples, interleaved, middle, options, parsed, ratio

ALL = ("echo", "dnsmasq", "unbound", "Knot", "vmdns")
WARM_SECONDS = 0.1
# For six addresses: two sockets each, and so many questions under way that each address has a batch of them. One
# address answers no more for it than with 160.
SPREAD = ("-s", "12", "-n", "400")


def asked(
    generator: Generator, server: Server, questions: Path, seconds: float, *more: str, first: int = 0
) -> Callable[[], Sample]:
    """Measures one server once: answers a second, its CPU time for each, and what went wrong.

    first: so many questions are answered before at each address, for who remembers answers.
    """
    generator.warm(questions, server.targets, first, *more)

    def measure() -> Sample:
        before, busy = server.cpu(), Busy()
        found = generator.run(questions, server.targets, seconds, "-w", f"{WARM_SECONDS}", *more)
        spent = server.cpu() - before
        # The generator keeps its own core busy.
        others = busy.others(spent + seconds + WARM_SECONDS)
        return {**found, "cpu": spent / max(1, found["answered"]) * 1e6, "others": others}

    return measure


def show(report: Report, title: str, samples: Samples, base: str = "dnsmasq", call: str = "") -> None:
    """A row for each server, compared with `base`, which the table calls `call`."""
    rows = []
    for name, found in samples.items():
        rates = [one["rate"] for one in found]
        times = ratio(samples, name, base, "rate")
        bad = sum(one["wrong"] for one in found), sum(one["missing"] for one in found)
        rows.append(
            [name, f"{middle(found, 'rate'):,.0f}", f"{min(rates):,.0f}-{max(rates):,.0f}",
             f"{middle(found, 'cpu'):.2f}", "-" if times is None else f"{times:.2f}", f"{bad[0]}", f"{bad[1]}"]
        )  # fmt: skip
    report.table(title, ["", "answers/s", "from-to", "us of CPU", f"x {call or base}", "wrong", "missing"], rows)
    report.keep("samples", samples)
    others = [one["others"] for found in samples.values() for one in found]
    if others:
        report.say(f"  other work on this machine meanwhile: {sum(others) / len(others):.0%} of a core on average")


def targets(report: Report, samples: Samples, wanted: Sequence[tuple[str, float]]) -> None:
    """A line for each; the ratio of CPU times beside it is what remains true when others use the machine."""
    for other, least in wanted:
        by_cpu = ratio(samples, other, "vmdns", "cpu")
        beside = "" if by_cpu is None else f" (by CPU time {by_cpu:.2f})"
        report.target(f"vmdns / {other}{beside}", ratio(samples, "vmdns", other, "rate"), least)


def main(folder: Path) -> int:
    arguments = parsed(options(__doc__))
    report, generator = Report(arguments.json), Generator(folder)

    def compare(title: str, names: Sequence[str], asks: list[world.Ask], *more: str, **how: Any) -> Samples:
        questions = world.write(folder / "questions", asks)
        samples = interleaved(
            arguments.rounds,
            {
                name: asked(
                    generator,
                    server,
                    questions,
                    arguments.seconds,
                    *more,
                    *judging(name),
                    first=len(asks),
                )
                for name, server in peers.running.items()
                if name.partition(" ")[0] in names
            },
        )
        show(report, title, samples, **how)
        return samples

    with Peers(folder, report.say, only=arguments.only, against=arguments.against) as peers:
        few, many = 1000 // arguments.share, 10_000 // arguments.share
        peers.start(ALL, few)
        found = compare(f"A, {few:,} names", ALL, world.addresses_only(few))
        targets(report, found, [("dnsmasq", 1.5), ("unbound", 1.2), ("Knot", 1.05), ("echo", 0.8)])
        found = compare(f"mix of A, AAAA, PTR and unknown names, {few:,} names", ALL[1:], world.mix(few), "-x", "100")
        targets(report, found, [("dnsmasq", 1.5), ("Knot", 1.0)])
        if "vmdns" in peers.running:
            compared = with_unknown(arguments, folder, report, generator, peers.running["vmdns"], few)
            report.target("vmdns: the mix / without unknown names", ratio(compared, "mix", "known", "rate"), 0.85)
        found = compare("the mix, all in random case", ALL[1:], world.mix(few), "-x", "1000")
        targets(report, found, [("dnsmasq", 1.0)])
    with Peers(folder, report.say, only=arguments.only, against=arguments.against) as peers:
        peers.start(ALL[1:], many)
        compare(f"A, {many:,} names", ALL[1:], world.addresses_only(many))
    with Peers(folder, report.say, only=arguments.only, against=arguments.against) as peers:
        sizes(arguments, folder, report, generator, peers)
    return report.end()


def with_unknown(
    arguments: Any, folder: Path, report: Report, generator: Generator, server: Server, count: int
) -> Samples:
    """The mix beside itself with known names only, both asked of one server."""
    measures = {}
    for kind, make in (("known", world.known), ("mix", world.mix)):
        questions = world.write(folder / f"{kind}-{count}", make(count))
        measures[kind] = asked(generator, server, questions, arguments.seconds, "-x", "100", first=10 * count)
    samples = interleaved(arguments.rounds, measures)
    show(report, "vmdns: the mix with and without unknown names", samples, "known", "known")
    return samples


def sizes(arguments: Any, folder: Path, report: Report, generator: Generator, peers: Peers) -> None:
    """vmdns with 10,000 names and six views beside itself with 1,000 names and one."""
    few, many = 1000 // arguments.share, 10_000 // arguments.share
    small, large = f"{few:,} names, 1 view", f"{many:,} names, 6 views"
    servers = {}
    for what, count, views in ((small, few, 1), (large, many, 6)):
        for name, server in peers.start(["vmdns"], count, views=views).items():
            servers.setdefault(f"{name}, {what}", (server, count))
        peers.held += peers.running.values()
        peers.running.clear()
    for kind, make, more in (("A", world.addresses_only, ()), ("mix", world.mix, ("-x", "100"))):
        measures = {}
        for name, (server, count) in servers.items():
            asks = make(count)
            questions = world.write(folder / f"{kind}-{count}", asks)
            before = server.cpu()
            answers = generator.warm(questions, server.targets, len(asks), *more)
            report.say(f"{name}, {kind}: first answers {(server.cpu() - before) / answers * 1e6:.1f} us of CPU each")
            measures[name] = asked(generator, server, questions, arguments.seconds, *SPREAD, *more)
        samples = interleaved(arguments.rounds, measures)
        for name in dict.fromkeys(key.partition(", ")[0] for key in samples):
            one, other = f"{name}, {small}", f"{name}, {large}"
            show(report, f"{kind}: sizes", {key: samples[key] for key in (one, other)}, one, "small")
            if name == "vmdns":
                report.target(f"{large} / {small}", ratio(samples, other, one, "rate"), 0.85)


if __name__ == "__main__":
    raise SystemExit(surroundings.run(main))
