"""Rounds in which all servers take turns, and the tables of what came out: medians, and ratios within a round.

The machine's speed changes from second to second, so a server is compared with another one of the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

Sample = Mapping[str, Any]
Samples = dict[str, list[Sample]]


def options(about: str | None, *, rounds: int = 5, seconds: float = 1.0) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"how often each is measured ({rounds})")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"how long each time ({seconds:g})")
    parser.add_argument("--only", default="", help="parts of the names of what is measured, with commas")
    parser.add_argument("--against", type=Path, help="the folder of another vmdns, measured beside this one")
    parser.add_argument("--small", action="store_true", help="a fiftieth of the names: to see whether it works")
    parser.add_argument("--nice", type=int, default=0, help="priority of all of it; -15 goes before others' work")
    parser.add_argument("--json", action="store_true", help="print all that was measured as JSON")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options in force; from now on all runs with the priority that was asked for."""
    arguments = parser.parse_args()
    if arguments.nice:
        os.nice(arguments.nice)
    arguments.share = 50 if arguments.small else 1
    return arguments


def interleaved(rounds: int, measures: Mapping[str, Callable[[], Sample]]) -> Samples:
    """A B C A B C ..., each so many times. What fails is left out, and said."""
    samples: Samples = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            samples[name].append(measure())
    return samples


def middle(samples: Sequence[Sample], key: str) -> float:
    return float(median(one[key] for one in samples))


def ratio(samples: Samples, one: str, other: str, key: str) -> float | None:
    """The median over all rounds of one's value by the other's in the same round; None where one of them is missing."""
    pairs = zip(samples.get(one, ()), samples.get(other, ()), strict=False)
    found = [a[key] / b[key] for a, b in pairs if b[key]]
    return float(median(found)) if found else None


class Busy:
    """How much of the machine others take meanwhile: CPU seconds of all processes."""

    def __init__(self) -> None:
        self._start = time.monotonic(), _busy_seconds()

    def others(self, ours: float) -> float:
        """Cores that were busy since the start with other work than `ours` CPU seconds of it."""
        passed = time.monotonic() - self._start[0]
        return max(0.0, (_busy_seconds() - self._start[1] - ours) / passed)


def _busy_seconds() -> float:
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(words[at]) for at in (0, 1, 2, 7)) / os.sysconf("SC_CLK_TCK")  # user, nice, system, stolen


class Report:
    """Prints tables as they come, or everything as JSON at the end."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._sections: list[dict[str, Any]] = []

    def say(self, text: str) -> None:
        if not self._json:
            print(text, flush=True)

    def table(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self._sections.append({"title": title, "heads": list(heads), "rows": [list(row) for row in rows]})
        widths = [max(len(row[at]) for row in (heads, *rows)) for at in range(len(heads))]
        self.say(f"\n{title}")
        for row in (heads, *rows):
            cells = [cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in
                     enumerate(zip(row, widths, strict=True))]  # fmt: skip
            self.say("  " + "  ".join(cells).rstrip())

    def keep(self, name: str, value: object) -> None:
        """Only for JSON."""
        self._sections.append({name: value})

    def target(self, what: str, measured: float | None, wanted: float, *, most: bool = False, unit: str = "x") -> None:
        """One line: what was measured, what is wanted (at least; or at most), and whether that is so."""
        good = measured is not None and (measured <= wanted if most else measured >= wanted)
        verdict = "not measured" if measured is None else "ok" if good else "SHORT"
        self._sections.append({"target": what, "measured": measured, "wanted": wanted, "most": most, "ok": good})
        value = "-" if measured is None else f"{measured:.3g}"
        self.say(f"  {what:<58} {value:>7} {unit}  {'<=' if most else '>='} {wanted:g} {unit}  {verdict}")

    def end(self) -> int:
        if self._json:
            json.dump(self._sections, sys.stdout, indent=1)
            print()
        return 0
