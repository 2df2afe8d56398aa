"""What vmdns takes when nothing happens: CPU until it answers, memory, wake-ups, and the modules that `run` imports.

    python tests/bench/light.py [--rounds 3] [--seconds 20] [--against FOLDER] [--json]

The server is the process that answers; its worker, which reads VirtualBox (fleet.py), is told beside it. Memory
is taken after every name was asked for. Needs what authoritative.py needs.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import confs, surroundings, world
from tests.bench.generator import Generator
from tests.bench.peers import Peers, Server, cpu, free_port, workers
from tests.bench.rounds import Report, Samples, interleaved, middle, options, parsed

SIZES = {100: 45.0, 10_000: 120.0}  # VMs, and the most MiB
READY_SECONDS = 30.0
MEBIBYTE = 1024


def resident(pids: Iterable[int]) -> float:
    """MiB."""
    return sum(_status(Path(f"/proc/{pid}"), "VmRSS") for pid in pids) / MEBIBYTE


def switches(pids: Iterable[int]) -> int:
    """How often their threads gave up a core, to wait: about as often as they woke up."""
    threads = [thread for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir()]
    return sum(_status(thread, "voluntary_ctxt_switches") for thread in threads)


def _status(place: Path, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+)", (place / "status").read_text(), re.M)
    assert found is not None, field
    return int(found[1])


def started(peers: Peers, count: int) -> dict[str, dict[str, Any]]:
    """Starts each vmdns with that many VMs: CPU seconds and time until it answers, for its last VM as well."""
    found = {}
    for name, tree in peers.trees.items():
        place, port = peers.place(name), free_port()
        targets, command, env = confs.vmdns(place, tree, port, count, 0)
        begin = time.perf_counter()
        server = peers.running[name] = Server(place, targets, command, env)
        server.answers(world.packet("local", 6), lambda answer: answer[7] == 1)
        first = {"start_cpu": server.cpu(), "start": time.perf_counter() - begin}
        server.answers(world.packet(world.name(count - 1), world.A), lambda answer: answer[7] == 1)
        found[name] = {**first, "known_cpu": server.cpu(), "known": time.perf_counter() - begin}
    return found


def idle(server: Server, seconds: float) -> dict[str, float]:
    """Shares of a core, and wake-ups a second, while nothing is asked."""
    ours, theirs = [server.pid], workers(server.pid)
    before = cpu(ours), cpu(theirs), switches(ours), switches(theirs)
    begin = time.perf_counter()
    time.sleep(seconds)
    passed = time.perf_counter() - begin
    after = cpu(ours), cpu(theirs), switches(ours), switches(theirs)
    spent = [(now - then) / passed for now, then in zip(after, before, strict=True)]
    return {"idle": spent[0] * 100, "worker_idle": spent[1] * 100, "wakes": spent[2], "worker_wakes": spent[3]}


def imported(tree: Path, folder: Path) -> list[str]:
    """The modules that `vmdns run` has imported once it is ready, in their order."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "vmdns", "run", "--listen", "127.0.0.1:0"],
        cwd=tree, env={"PATH": "", "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=(told := (folder / "imports")).open("w"), text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready"):
            break
    process.terminate()
    process.communicate(timeout=READY_SECONDS)
    return [
        line.rpartition("|")[2].strip() for line in told.read_text().splitlines() if line.startswith("import time:")
    ][1:]


def show_starts(report: Report, arguments: argparse.Namespace, folder: Path) -> None:
    """Starts, again and again."""

    def one(name: str) -> dict[str, Any]:
        with Peers(folder, report.say, against=arguments.against) as peers:
            peers.trees = {name: peers.trees[name]}
            return started(peers, 100)[name]

    names = list(Peers(folder, report.say, against=arguments.against).trees)
    samples: Samples = interleaved(arguments.rounds, {name: partial(one, name) for name in names})
    heads = ["", "to its first answer, s", "CPU s", "to the last of 100 VMs, s", "CPU s"]
    rows = [
        [name, *(f"{middle(found, key):.3f}" for key in ("start", "start_cpu", "known", "known_cpu"))]
        for name, found in samples.items()
    ]
    report.table("start", heads, rows)
    report.keep("samples", samples)
    report.target("CPU until the first answer", middle(samples["vmdns"], "start_cpu"), 0.4, most=True, unit="s")


def show_sizes(report: Report, arguments: argparse.Namespace, folder: Path, generator: Generator) -> None:
    """Memory, and peace."""
    for full, most in SIZES.items():
        count = full // arguments.share
        with Peers(folder, report.say, against=arguments.against) as peers:
            rows, found = [], {}
            started(peers, count)
            questions = world.write(folder / "questions", world.addresses_only(count))
            for name, server in peers.running.items():
                fresh = resident([server.pid])
                generator.warm(questions, server.targets, count)
                server.settle()
                theirs = workers(server.pid)
                one = {"fresh": fresh, "memory": resident([server.pid]), "worker": resident(theirs)}
                found[name] = one = {**one, **idle(server, arguments.seconds)}
                keys = ("fresh", "memory", "worker"), ("idle", "worker_idle"), ("wakes", "worker_wakes")
                rows.append(
                    [name, *(f"{one[key]:.1f}" for key in keys[0]), *(f"{one[key]:.3f}" for key in keys[1]),
                     *(f"{one[key]:.1f}" for key in keys[2])]
                )  # fmt: skip
        heads = ["", "MiB", "all asked", "worker", "idle %", "worker", "wake-ups/s", "worker"]
        report.table(f"{count:,} VMs, then idle for {arguments.seconds:g} s", heads, rows)
        report.keep("found", found)
        ours = found["vmdns"]
        report.target(f"resident with {count:,} VMs, all asked", ours["memory"], most, most=True, unit="MiB")
        report.target("idle, of a core", ours["idle"], 0.3, most=True, unit="%")
        report.target("wake-ups a second", ours["wakes"], 5, most=True, unit="  ")


def show_modules(report: Report, folder: Path, trees: dict[str, Path]) -> None:
    """What `run` imports, by its outermost package."""
    for name, tree in trees.items():
        modules = imported(tree, folder)
        ours = [module for module in modules if module.split(".")[0] == "vmdns"]
        other = [
            module
            for module in modules
            if module.split(".")[0] not in {*sys.stdlib_module_names, "vmdns", "sitecustomize"}
        ]
        packages = sorted({module.split(".")[0] for module in other if not module.startswith("_")})
        report.say(f"\n{name} imports {len(modules)} modules to run, {len(ours)} of its own, {len(other)} of others")
        report.say(f"  of others: {', '.join(packages)}")
        report.say(f"  its own: {', '.join(module.removeprefix('vmdns.') for module in sorted(ours))}")
        report.keep(f"modules of {name}", modules)


def main(folder: Path) -> int:
    arguments = parsed(options(__doc__, rounds=3, seconds=20.0))
    report = Report(arguments.json)
    show_starts(report, arguments, folder)
    show_sizes(report, arguments, folder, Generator(folder))
    show_modules(report, folder, Peers(folder, report.say, against=arguments.against).trees)
    return report.end()


if __name__ == "__main__":
    raise SystemExit(surroundings.run(main))
