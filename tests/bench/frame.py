"""The frame of all benchmarks: options, a network namespace, rounds in which servers take turns, and tables of results.

The machine's speed changes from second to second, so a server is compared with another one of the same round: a ratio
is the median over the rounds of one server's value by the other's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench import world

HERE = Path(__file__).resolve().parent
_CORES = os.sched_getaffinity(0) if sys.platform == "linux" else {0}
SERVER_CORE, LOAD_CORE = min(_CORES), max(_CORES)  # another one if there are two
MAX_WARMING = 9  # runs, each twice as long as the one before, from a tenth of a second on
_INSIDE = "VMDNS_BENCH_INSIDE"

Sample = Mapping[str, Any]
Samples = dict[str, list[Sample]]


def run(main: Callable[[Path], int]) -> int:
    """Runs this program again in a network namespace, and calls `main` there with a temporary folder.

    The namespace has loopback, vboxnet0 with the host's address, and a LAN where nobody answers.
    """
    if os.environ.get(_INSIDE) != "1":
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        command = ["unshare", *user, "--net", "--", sys.executable, *sys.argv]
        return subprocess.run(command, env={**os.environ, _INSIDE: "1"}, check=False).returncode
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for link, prefix in ((world.LINK, world.PREFIX), (world.LAN, world.LAN_PREFIX)):
        for words in (
            f"link add {link} type veth peer name peer-{link}",
            f"addr add {prefix} dev {link}",
            f"link set {link} up",
            f"link set peer-{link} up",
        ):
            subprocess.run(["ip", *words.split()], check=True)
    with tempfile.TemporaryDirectory(prefix="vmdns-bench-") as folder:
        return main(Path(folder))


def compile_program(name: str, folder: Path) -> Path:
    """The program made of NAME.c, in this folder. Raises CalledProcessError; gcc's messages go to standard error."""
    program = folder / name
    if not program.exists():
        command = ["gcc", "-O2", "-Wall", "-Wno-unused-result", "-o", str(program), str(HERE / f"{name}.c")]
        subprocess.run(command, check=True)
    return program


def pin(core: int, *command: str | Path) -> list[str]:
    """The command, on that core alone."""
    return ["taskset", "-c", str(core), *map(str, command)]


class Generator:
    """The load generator (load.c), on a core of its own."""

    def __init__(self, folder: Path) -> None:
        self._program = compile_program("load", folder)

    def start(self, queries: Path, targets: Sequence[str], seconds: float, *options: str) -> subprocess.Popen[str]:
        """Starts it; it prints a line of JSON, after one for each change (-c)."""
        command = pin(LOAD_CORE, self._program, "-q", queries, "-t", f"{seconds}", *options, *targets)
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def run(self, queries: Path, targets: Sequence[str], seconds: float, *options: str) -> dict[str, Any]:
        """The result of one run. Raises RuntimeError where the generator failed."""
        return finish(self.start(queries, targets, seconds, *options))[0]

    def warm(self, queries: Path, targets: Sequence[str], answers: int, *options: str) -> int:
        """Has each target answer that many queries in one run, to fill caches. Returns how many were answered."""
        total = 0
        for target in targets:
            seconds = 0.1
            for _ in range(MAX_WARMING if answers else 0):
                found = self.run(queries, [target], seconds, "-w", "0", *options)["answered"]
                total += found
                if found >= answers:  # one run goes through all of them in their order, wherever it begins
                    break
                seconds *= 2
        return total


def finish(process: subprocess.Popen[str]) -> tuple[dict[str, Any], list[str]]:
    """The result of a run of the generator, and the lines before it. Raises RuntimeError where it failed."""
    output = process.communicate()[0].splitlines()
    if process.returncode or not output:
        raise RuntimeError(f"the load generator ended with status {process.returncode}")
    return json.loads(output[-1]), output[:-1]


def middle(samples: Sequence[Sample], key: str) -> float:
    return float(median(one[key] for one in samples))


def total(samples: Sequence[Sample], *keys: str) -> int:
    return sum(int(one[key]) for one in samples for key in keys)


def ratio(samples: Samples, one: str, other: str, key: str) -> float | None:
    """The median over all rounds of one's value by the other's in the same round; None where one of them is missing."""
    pairs = zip(samples.get(one, ()), samples.get(other, ()), strict=False)
    found = [a[key] / b[key] for a, b in pairs if b[key]]
    return float(median(found)) if found else None


def show_ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


class Benchmark:
    """The options of a benchmark, its load generator, and its tables: printed as they come, or as JSON at the end."""

    def __init__(self, about: str | None, folder: Path, *, rounds: int = 5, seconds: float = 1.0) -> None:
        parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
        add = parser.add_argument
        add("--rounds", type=int, default=rounds, help=f"how often each is measured ({rounds})")
        add("--seconds", type=float, default=seconds, help=f"how long each time ({seconds:g})")
        add("--only", default="", help="parts of the names of what is measured, with commas")
        add("--against", type=Path, help="the folder of another vmdns, measured beside this one")
        add("--small", action="store_true", help="a fiftieth of the names: to see whether it works")
        add("--json", action="store_true", help="print all that was measured as JSON")
        options = parser.parse_args()
        self.rounds: int = options.rounds
        self.seconds: float = options.seconds
        self.only = [word.lower() for word in options.only.split(",") if word]
        self.against: Path | None = options.against
        self.folder = folder
        self.generator = Generator(folder)
        self._share = 50 if options.small else 1
        self._json: bool = options.json
        self._sections: list[dict[str, Any]] = []

    def size(self, count: int) -> int:
        """That many names, or a fiftieth with --small."""
        return count // self._share

    def write(self, name: str, queries: list[world.Query]) -> Path:
        """A file of queries for the generator."""
        return world.write(self.folder / name, queries)

    def interleave(self, measures: Mapping[str, Callable[[], Sample]]) -> Samples:
        """A B C A B C ..., for all rounds."""
        samples: Samples = {name: [] for name in measures}
        for _ in range(self.rounds):
            for name, measure in measures.items():
                samples[name].append(measure())
        return samples

    def print(self, text: str) -> None:
        if not self._json:
            print(text, flush=True)

    def table(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], samples: object) -> None:
        """Prints a table; the samples behind it are for JSON alone."""
        self._sections.append({"title": title, "heads": list(heads), "rows": [list(row) for row in rows]})
        self._sections.append({"samples": samples})
        widths = [max(len(row[at]) for row in (heads, *rows)) for at in range(len(heads))]
        self.print(f"\n{title}")
        for row in (heads, *rows):
            name, *cells = zip(row, widths, strict=True)
            words = [name[0].ljust(name[1]), *(cell.rjust(width) for cell, width in cells)]
            self.print("  " + "  ".join(words).rstrip())

    def times_table(self, title: str, samples: Samples, base: Callable[[str], str], head: str) -> None:
        """Response times of each, compared with those of another row. head: what the table calls that one."""
        rows = []
        for name, found in samples.items():
            compared = [show_ratio(ratio(samples, name, base(name), key)) for key in ("p50", "p99")]
            times = [f"{middle(found, key):.0f}" for key in ("p50", "p90", "p99", "max")]
            rows.append([name, *times, *compared, f"{total(found, 'wrong', 'missing')}"])
        heads = ["", "p50 us", "p90 us", "p99 us", "most us", f"p50 x {head}", f"p99 x {head}", "wrong or missing"]
        self.table(title, heads, rows, samples)

    def target(self, what: str, measured: float | None, wanted: float, *, most: bool = False, unit: str = "x") -> None:
        """One line: what was measured, what is wanted (at least; or at most), and whether that is so."""
        good = measured is not None and (measured <= wanted if most else measured >= wanted)
        verdict = "not measured" if measured is None else "ok" if good else "SHORT"
        self._sections.append({"target": what, "measured": measured, "wanted": wanted, "most": most, "ok": good})
        value = "-" if measured is None else f"{measured:.3g}"
        self.print(f"  {what:<58} {value:>7} {unit}  {'<=' if most else '>='} {wanted:g} {unit}  {verdict}")

    def end(self) -> int:
        if self._json:
            json.dump(self._sections, sys.stdout, indent=1)
            print()
        return 0
