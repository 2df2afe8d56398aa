"""vmdns under mixed load while its VMs change: nothing may be wrong, lost or growing.

    python tests/contract/endurance/run.py [--seconds 60] [--vms 200] [--changes 5] [--rate 800] [--json]

The host and a guest on a host-only network query, by UDP and TCP, names of VMs in both zones, reverse names, names
that are not there, and names of a local upstream, which cuts and loses answers. VMs start, stop, are renamed and get
other addresses by lease files and Guest Additions, through vmdns's own worker process with a simulated VirtualBox. An
oracle knows what is true at each moment. Exit status 1 where anything is wrong. Needs Linux, iproute2 and util-linux;
runs in a network namespace of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.bench import frame
from tests.bench.peers import Server
from tests.contract.endurance.clients import ByTcp, ByUdp, Client
from tests.contract.endurance.lab import (
    GUEST_TARGET,
    HOST_TARGET,
    Churn,
    Vms,
    footprints,
    guest_namespace,
    start_server,
)
from tests.contract.endurance.oracle import Oracle
from tests.contract.endurance.upstream import Upstream

WARM_PART = 0.4  # of the time; what fills up is full then
LOOK_SECONDS = 1.0
CLIENTS = 4  # of each sort
# What resident memory may still grow, in KiB, from the middle of the run to its end: allocators are not exact.
MAX_GROWTH = {"server": 2048, "worker": 2048}
IDLE_SECONDS = 15.0  # after the load; idle sockets to upstreams and connections are closed by then
MAX_MORE_DESCRIPTORS = 3  # than before the load


def summary(
    clients: list[Client], sizes: dict[str, list[tuple[int, int]]], changes: int, seconds: float
) -> dict[str, Any]:
    """What came of the run, and under `faults` what must not be."""
    counts = sum((one.counts for one in clients), Counter[str]())
    late = sorted(seconds for one in clients for seconds in one.late)
    found: dict[str, Any] = {
        "seconds": round(seconds), "changes": changes, **counts,
        "answers a second": round(counts["answered"] / seconds),
        "longest wait ms": round(max(one.longest for one in clients) * 1000),
        "late answers": len(late), "latest ms": round(1000 * late[-1], 1) if late else 0.0,
        "p99 of the late ms": round(1000 * late[int(len(late) * 0.99)], 1) if late else 0.0,
    }  # fmt: skip
    faults = [line for one in clients for line in one.wrong]
    faults += [f"{one.name} ended" for one in clients if not one.is_alive() and not one.over.is_set()]
    faults += [f"{one.name} had no answer" for one in clients if not one.counts["answered"]]
    for name, looks in sizes.items():
        warm = looks[int(len(looks) * WARM_PART) :]
        third = max(1, len(warm) // 3)
        before, after = warm[:third], warm[-third:]
        first, last = (statistics.median(size for size, _ in part) for part in (before, after))
        hours = max(1e-9, (seconds * (1 - WARM_PART) * 2 / 3) / 3600)
        found[f"memory of the {name} MiB"] = round(last / 1024, 1)
        found[f"growth of the {name} KiB"] = round(last - first)
        found[f"slope of the {name} KiB an hour"] = round((last - first) / hours)
        found[f"descriptors of the {name}"] = f"{min(c for _, c in warm)} to {max(c for _, c in warm)}"
        if last - first > MAX_GROWTH[name]:
            faults.append(f"the {name} grew by {last - first:.0f} KiB")
    return {**found, "faults": faults}


def main(folder: Path) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long it runs (60)")
    parser.add_argument("--vms", type=int, default=200, help="how many VMs there are (200)")
    parser.add_argument("--changes", type=float, default=5.0, help="changes a second (5)")
    parser.add_argument("--rate", type=float, default=800.0, help="queries a second of all clients at most (800)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    arguments = parser.parse_args()
    oracle, upstream = Oracle(), Upstream()
    vms = Vms(folder, arguments.vms, oracle)
    with guest_namespace() as pid:
        server = start_server(folder, upstream.port)
        try:
            vms.settle()
            time.sleep(2.0)
            idle = footprints(server)
            clients = make_clients(oracle, vms, arguments.rate, f"/proc/{pid}/ns/net")
            churn = Churn(vms, arguments.changes)
            sizes: dict[str, list[tuple[int, int]]] = {}
            began = time.monotonic()
            for one in (*clients, churn):
                one.start()
            while time.monotonic() - began < arguments.seconds and server.process.poll() is None:
                time.sleep(LOOK_SECONDS)
                for name, size in footprints(server).items():
                    sizes.setdefault(name, []).append(size)
            churn.over.set()
            seconds = time.monotonic() - began
            found = summary(clients, sizes, vms.changes, seconds)
            for one in clients:
                one.over.set()
            for one in clients:
                one.join(10.0)
            left_open = descriptors_left_open(server, idle)
        finally:
            status = server.stop()
        log = (folder / "log").read_text()
    found["faults"] += left_open
    found["faults"] += [f"it ended with {status}"] if status else []
    found["faults"] += [line for line in log.splitlines() if "Traceback" in line or "could not be" in line]
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            if name != "faults":
                print(f"{name:36} {value}")
        print("\n".join(found["faults"]) or "nothing was wrong")
    if found["faults"] and os.environ.get("VMDNS_ENDURANCE_LOG"):
        Path(os.environ["VMDNS_ENDURANCE_LOG"]).write_text(log)
    return 1 if found["faults"] else 0


def descriptors_left_open(server: Server, idle: dict[str, tuple[int, int]]) -> list[str]:
    """Returns what is wrong where a process does not get back to its number of descriptors before the load."""
    deadline = time.monotonic() + IDLE_SECONDS
    while True:
        more = {name: count - idle[name][1] for name, (_, count) in footprints(server).items()}
        faults = [f"the {name} left {n} descriptors open" for name, n in more.items() if n > MAX_MORE_DESCRIPTORS]
        if not faults or time.monotonic() > deadline:
            return faults
        time.sleep(0.2)


def make_clients(oracle: Oracle, vms: Vms, rate: float, namespace: str) -> list[Client]:
    """Several on the host and in the guest, by UDP and by TCP: one that waits for an answer sends nothing meanwhile."""
    made: list[Client] = []
    for at in range(CLIENTS):
        for kind, title in ((ByUdp, "UDP"), (ByTcp, "TCP")):
            for target, place, where in ((HOST_TARGET, "the host", ""), (GUEST_TARGET, "a guest", namespace)):
                each = rate / (4 * CLIENTS)
                made.append(kind(f"{place} by {title}, {at + 1}", target, oracle, vms, each, where))
    return made


if __name__ == "__main__":
    raise SystemExit(frame.run(main))
