"""The C programs of this folder, compiled when they are needed, and runs of the load generator."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SERVER_CORE = min(os.sched_getaffinity(0))
LOAD_CORE = max(os.sched_getaffinity(0))  # another one where there is another one
MOST_WARMING = 9  # runs, each twice as long as the one before, from a tenth of a second on


def compiled(name: str, folder: Path) -> Path:
    """The program made of NAME.c, in this folder. Raises CalledProcessError with gcc's words on standard error."""
    program = folder / name
    if not program.exists():
        subprocess.run(
            ["gcc", "-O2", "-Wall", "-Wno-unused-result", "-o", str(program), str(HERE / f"{name}.c")], check=True
        )
    return program


def pinned(core: int, *command: str | Path) -> list[str]:
    """The command, on that core alone."""
    return ["taskset", "-c", str(core), *map(str, command)]


class Generator:
    """Puts load on servers from a core of its own."""

    def __init__(self, folder: Path) -> None:
        self._program = compiled("load", folder)

    def start(self, questions: Path, targets: Sequence[str], seconds: float, *options: str) -> subprocess.Popen[str]:
        """Begins; the output is one line of JSON, after a line for each change with -c."""
        command = [self._program, "-q", questions, "-t", f"{seconds}", *options, *targets]
        return subprocess.Popen(pinned(LOAD_CORE, *command), stdout=subprocess.PIPE, text=True)

    def run(self, questions: Path, targets: Sequence[str], seconds: float, *options: str) -> dict[str, Any]:
        """What one run gave. Raises RuntimeError where the generator failed."""
        return finished(self.start(questions, targets, seconds, *options))[0]

    def warm(self, questions: Path, targets: Sequence[str], answers: int, *options: str) -> int:
        """Has each target answer so many questions in a row, for servers that remember answers; not for ever.

        Returns how many were answered in all.
        """
        total = 0
        for target in targets:
            seconds = 0.1
            for _ in range(MOST_WARMING if answers else 0):
                found = self.run(questions, [target], seconds, "-w", "0", *options)["answered"]
                total += found
                if found >= answers:  # one run goes through all of them in their order, wherever it begins
                    break
                seconds *= 2
        return total


def judging(name: str) -> list[str]:
    """Options of the generator: from an echo, an echo is an answer."""
    return ["-e"] if name == "echo" else []


def finished(process: subprocess.Popen[str]) -> tuple[dict[str, Any], list[str]]:
    """What a run gave, and the lines before it."""
    output = process.communicate()[0].splitlines()
    if process.returncode or not output:
        raise RuntimeError(f"the load generator ended with status {process.returncode}")
    return json.loads(output[-1]), output[:-1]
