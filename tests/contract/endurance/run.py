"""vmdns under mixed load while its VMs change, for as long as one likes: nothing wrong, nothing lost, nothing grows.

    python tests/contract/endurance/run.py [--seconds 60] [--vms 200] [--changes 5] [--rate 800] [--json]

The host and a guest on a host-only network ask, by UDP and TCP, for names of VMs in both zones, reverse names, names
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

from tests.bench import surroundings
from tests.contract.endurance.askers import Asker, ByTcp, ByUdp
from tests.contract.endurance.lab import GUEST_DOOR, HOST_DOOR, Churn, Server, Vms, footprint, guest
from tests.contract.endurance.oracle import Oracle
from tests.contract.endurance.upstream import Upstream

WARM_PART = 0.4  # of the time; what fills up is full then
LOOK_SECONDS = 1.0
ASKERS = 4  # of each sort
# What resident memory may still grow, in KiB, from the middle of the run to its end: allocators are not exact.
MOST_GROWTH = {"server": 2048, "worker": 2048}
MOST_MORE_DESCRIPTORS = 40  # questions under way each have one


def summary(
    askers: list[Asker], sizes: dict[str, list[tuple[int, int]]], changes: int, seconds: float
) -> dict[str, Any]:
    """What came of the run, and under `faults` what must not be."""
    counts = sum((one.counts for one in askers), Counter[str]())
    late = sorted(seconds for one in askers for seconds in one.late)
    found: dict[str, Any] = {
        "seconds": round(seconds), "changes": changes, **counts,
        "answers a second": round(counts["answered"] / seconds),
        "longest wait ms": round(max(one.longest for one in askers) * 1000),
        "late answers": len(late), "latest ms": round(1000 * late[-1], 1) if late else 0.0,
        "p99 of the late ms": round(1000 * late[int(len(late) * 0.99)], 1) if late else 0.0,
    }  # fmt: skip
    faults = [line for one in askers for line in one.wrong]
    faults += [f"{one.name} ended" for one in askers if not one.is_alive() and not one.over.is_set()]
    faults += [f"{one.name} had no answer" for one in askers if not one.counts["answered"]]
    for name, looks in sizes.items():
        warm = looks[int(len(looks) * WARM_PART) :]
        third = max(1, len(warm) // 3)
        before, after = warm[:third], warm[-third:]
        first, last = (statistics.median(size for size, _ in part) for part in (before, after))
        opened = max(count for _, count in after) - min(count for _, count in before)
        hours = max(1e-9, (seconds * (1 - WARM_PART) * 2 / 3) / 3600)
        found[f"memory of the {name} MiB"] = round(last / 1024, 1)
        found[f"growth of the {name} KiB"] = round(last - first)
        found[f"slope of the {name} KiB an hour"] = round((last - first) / hours)
        found[f"descriptors of the {name}"] = f"{min(c for _, c in warm)} to {max(c for _, c in warm)}"
        if last - first > MOST_GROWTH[name]:
            faults.append(f"the {name} grew by {last - first:.0f} KiB")
        if opened > MOST_MORE_DESCRIPTORS:
            faults.append(f"the {name} has {opened} more descriptors")
    return {**found, "faults": faults}


def main(folder: Path) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long it runs (60)")
    parser.add_argument("--vms", type=int, default=200, help="how many VMs there are (200)")
    parser.add_argument("--changes", type=float, default=5.0, help="changes a second (5)")
    parser.add_argument("--rate", type=float, default=800.0, help="questions a second of all askers at most (800)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    arguments = parser.parse_args()
    oracle, upstream = Oracle(), Upstream()
    vms = Vms(folder, arguments.vms, oracle)
    with guest() as namespace:
        server = Server(folder, upstream.port)
        try:
            vms.settle()
            time.sleep(2.0)
            askers = make_askers(oracle, vms, arguments.rate, namespace)
            churn = Churn(vms, arguments.changes)
            sizes: dict[str, list[tuple[int, int]]] = {}
            began = time.monotonic()
            for one in (*askers, churn):
                one.start()
            while time.monotonic() - began < arguments.seconds and server.process.poll() is None:
                time.sleep(LOOK_SECONDS)
                for name, pid in server.pids().items():
                    sizes.setdefault(name, []).append(footprint(pid))
            churn.over.set()
            seconds = time.monotonic() - began
            found = summary(askers, sizes, vms.changes, seconds)
            for one in askers:
                one.over.set()
            for one in askers:
                one.join(10.0)
        finally:
            status = server.stop()
        said = server.log.read_text()
    found["faults"] += [f"it ended with {status}"] if status else []
    found["faults"] += [line for line in said.splitlines() if "Traceback" in line or "could not be" in line]
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            if name != "faults":
                print(f"{name:36} {value}")
        print("\n".join(found["faults"]) or "nothing was wrong")
    if found["faults"] and os.environ.get("VMDNS_ENDURANCE_LOG"):
        Path(os.environ["VMDNS_ENDURANCE_LOG"]).write_text(said)
    return 1 if found["faults"] else 0


def make_askers(oracle: Oracle, vms: Vms, rate: float, namespace: str) -> list[Asker]:
    """Several on the host and in the guest, by UDP and by TCP: one that waits for an answer asks nothing meanwhile."""
    made: list[Asker] = []
    for at in range(ASKERS):
        for kind, title in ((ByUdp, "UDP"), (ByTcp, "TCP")):
            for door, place, where in ((HOST_DOOR, "the host", ""), (GUEST_DOOR, "a guest", namespace)):
                each = rate / (4 * ASKERS)
                made.append(kind(f"{place} by {title}, {at + 1}", door, oracle, vms, each, where))
    return made


if __name__ == "__main__":
    raise SystemExit(surroundings.run(main))
