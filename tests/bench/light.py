"""What vmdns takes when nothing happens: CPU until it answers, memory and wake-ups.

    python tests/bench/light.py [--rounds 3] [--seconds 20] [--against FOLDER] [--json]

The server is the process that answers; its worker, which reads VirtualBox (fleet.py), is shown beside it. Memory
is taken after a query for every name. Needs what authoritative.py needs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import frame, world
from tests.bench.frame import Benchmark, middle
from tests.bench.peers import Peers, Server, cpu, free_port, resident, simulate_virtualbox, status_field, vmdns, workers

VMS, MOST_MIB = 100, 45.0


def switches(pids: Iterable[int]) -> int:
    """How often their threads gave up a core, to wait: about as often as they woke up."""
    threads = [thread for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir()]
    return sum(status_field(thread, "voluntary_ctxt_switches") for thread in threads)


def start(peers: Peers, name: str, count: int) -> dict[str, float]:
    """Starts a vmdns with that many VMs: CPU seconds and time until it answers, for its last VM as well."""
    place = peers.place("vmdns")
    targets = [f"127.0.0.1:{free_port()}"]
    simulate_virtualbox(place, count)
    command, env = vmdns(place, peers.trees[name], targets, 0)
    begin = time.perf_counter()
    server = peers.running[name] = Server(place, targets, command, env)
    found: dict[str, float] = {}
    for key, query in (("start", world.packet("local", 6)), ("known", world.packet(world.name(count - 1), world.A))):
        server.wait_for_answer(query)
        found |= {f"{key}_cpu": server.cpu(), key: time.perf_counter() - begin}
    return found


def measure_idling(server: Server, seconds: float) -> dict[str, float]:
    """Percent of a core, and wake-ups a second, without queries; of the server and of its worker."""
    processes = {"": [server.pid], "worker_": workers(server.pid)}
    begin = time.perf_counter()
    before = {key: (cpu(pids), switches(pids)) for key, pids in processes.items()}
    time.sleep(seconds)
    passed = time.perf_counter() - begin
    found = {}
    for key, pids in processes.items():
        found[f"{key}idle"] = (cpu(pids) - before[key][0]) / passed * 100
        found[f"{key}wakes"] = (switches(pids) - before[key][1]) / passed
    return found


def show_starts(bench: Benchmark) -> None:
    def measure(name: str) -> dict[str, float]:
        with Peers(bench) as peers:
            return start(peers, name, 100)

    samples = bench.interleave({name: partial(measure, name) for name in Peers(bench).trees})
    heads = ["", "to its first answer, s", "CPU s", "to the last of 100 VMs, s", "CPU s"]
    keys = ("start", "start_cpu", "known", "known_cpu")
    rows = [[name, *(f"{middle(found, key):.3f}" for key in keys)] for name, found in samples.items()]
    bench.table("start", heads, rows, samples)
    bench.target("CPU until the first answer", middle(samples["vmdns"], "start_cpu"), 0.25, most=True, unit="s")


def show_size(bench: Benchmark) -> None:
    """Memory, and idling."""
    count = bench.size(VMS)
    queries = bench.write("queries", world.addresses_only(count))
    rows = []
    found: dict[str, dict[str, Any]] = {}
    with Peers(bench) as peers:
        for name in peers.trees:
            start(peers, name, count)
        for name, server in peers.running.items():
            fresh = resident(server.pid)
            bench.generator.warm(queries, server.targets, count)
            server.wait_until_idle()
            memory = [fresh, resident(server.pid), sum(map(resident, workers(server.pid)))]
            one = measure_idling(server, bench.seconds)
            found[name] = {"memory": memory, **one}
            rows.append(
                [name, *(f"{value:.1f}" for value in memory), f"{one['idle']:.3f}", f"{one['worker_idle']:.3f}",
                 f"{one['wakes']:.1f}", f"{one['worker_wakes']:.1f}"]
            )  # fmt: skip
    heads = ["", "MiB", "all asked", "worker", "idle %", "worker", "wake-ups/s", "worker"]
    bench.table(f"{count:,} VMs, then idle for {bench.seconds:g} s", heads, rows, found)
    ours = found["vmdns"]
    bench.target(f"resident with {count:,} VMs, all asked", ours["memory"][1], MOST_MIB, most=True, unit="MiB")
    bench.target("idle, of a core", ours["idle"], 0.3, most=True, unit="%")


def main(folder: Path) -> int:
    bench = Benchmark(__doc__, folder, rounds=3, seconds=20.0)
    show_starts(bench)
    show_size(bench)
    return bench.end()


if __name__ == "__main__":
    raise SystemExit(frame.run(main))
