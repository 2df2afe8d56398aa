"""vmdns's worker process with any number of simulated VMs (vmdns/demo) that take orders; all else of it is real.

    python fleet.py TREE FOLDER        standard input and output: as vmdns/sources/worker.py

FOLDER/machines holds how many VMs there are; their leases are in a lease file there, as VirtualBox's. Orders come
through the named pipe FOLDER/orders, a line each; when each was seen is noted in FOLDER/done, in ns of CLOCK_MONOTONIC:

    address N A.B.C.D     Guest Additions of VM N report this address
    states N M            VMs N to M - 1 are switched on or off
    name N TEXT           VM N gets this name
    scan S                VirtualBox is read without a pause for S seconds
"""

# ruff: noqa: E402
from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

TREE, FOLDER = sys.argv[1:3]
sys.path.insert(0, TREE)  # whose own tests may be older than this file: `world` is the one beside it

from world import DHCP, LINK, PREFIX, address

from vmdns.sources import worker
from vmdns.sources.installation import Installation
from vmdns.sources.reader import VirtualBoxInfo, fact_key
from vmdns.state.facts import Adapter, DhcpServer, Fact, GuestReport, HostInterface, Machine, Network

# CPU time that the reader of VirtualBox's API takes for a VM that runs (docs/testing.md has how that was measured).
SCAN_SECONDS = 0.004
NETWORK = Network("hostonly", LINK)


def mac(number: int) -> str:
    return f"0800{number:08x}"


def machine(number: int) -> Machine:
    """VM n; its names are those of tests/bench/world.py. VM 0 has no lease: its Guest Additions report its address."""
    uuid = f"00000000-0000-4000-8000-{number:012x}"
    reports = (GuestReport(mac(number), address(number), time.time()),) if number == 0 else ()
    return Machine(uuid, f"vm{number:05d}", "Running", adapters=(Adapter(0, mac(number), NETWORK),), reports=reports)


class Fleet:
    """The VMs, and the orders that change them, as a reader of VirtualBox (vmdns/sources/reader.py)."""

    def __init__(self) -> None:
        self.found = VirtualBoxInfo("7.2.0", "api", FOLDER)
        self._machines = [machine(number) for number in range(int((Path(FOLDER) / "machines").read_text()))]
        # Open for writing as well: a pipe whose last writer has gone is always readable.
        self._orders = os.open(Path(FOLDER) / "orders", os.O_RDWR | os.O_NONBLOCK)
        self._done = (Path(FOLDER) / "done").open("a", buffering=1)
        self._rest = b""
        self._was_read = False
        network = HostInterface(LINK, PREFIX), DhcpServer(NETWORK.dhcp_name, DHCP, "255.255.0.0")
        self._facts = {fact_key(fact): fact for fact in (*self._machines, *network)}
        self._alive: Callable[[], object] = lambda: None

    def open(self, installation: Installation, options: Mapping[str, Any], alive: Callable[[], object]) -> Any:
        """The reader, as vmdns/sources/worker.py opens it."""
        self._alive = alive
        return self, ""

    def read(self, seconds: float) -> Mapping[str, Fact]:
        """Waits for orders, but not at first."""
        if not self._was_read or not select.select([self._orders], [], [], seconds)[0]:
            self._was_read = True
            return self._facts
        *lines, self._rest = (self._rest + os.read(self._orders, 65536)).split(b"\n")
        changed: dict[str, Fact] = {}
        for line in lines:
            now = time.monotonic_ns()
            for one in self._obey(line.decode().split()):
                self._machines[int(one.uuid[-12:], 16)] = one
                changed[fact_key(one)] = one
            self._done.write(f"{now} {line.decode()}\n")
        self._facts = {**self._facts, **changed}
        return self._facts

    def request_look(self) -> None:
        """Does nothing: only orders change anything."""

    def close(self) -> None:
        """Does nothing: no VirtualBox is open."""

    def _obey(self, words: list[str]) -> list[Machine]:
        match words:
            case ["address", number, where]:
                one = self._machines[int(number)]
                return [replace(one, reports=(GuestReport(one.adapters[0].mac, where, time.time()),))]
            case ["states", first, last]:
                off = self._machines[int(first)].online
                return [
                    replace(one, state="PoweredOff" if off else "Running")
                    for one in self._machines[int(first) : int(last)]
                ]
            case ["name", number, text]:
                return [replace(self._machines[int(number)], name=text)]
            case ["scan", seconds]:
                self._scan(float(seconds))
        return []

    def _scan(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            for _ in self._machines:
                busy = time.thread_time() + SCAN_SECONDS
                while time.thread_time() < busy:
                    if time.monotonic() > end:
                        return
                self._alive()


if __name__ == "__main__":
    home = Path(FOLDER)
    worker.main(worker.WorkerSources(lambda environ: Installation(home, home / "VBoxManage"), Fleet().open))
