"""How long from VirtualBox's event, and from the renaming of a lease file, to the first changed answer.

    tools/live-python tests/bench/freshness.py [changes]

200 changes of each kind on a real VirtualBox. The time of an event is taken before the call that causes it, so that
what is printed is never better than what is true. Asks by UDP every half millisecond.

With VMDNS_WINBOX_PROGRAM set (tests/live/winlab.py), of vmdns as a Windows program by both readers. There a call of
VBoxManage causes the event, and how long it takes itself is printed too.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.leases import lease_file, write_leases
from tests.live import winlab
from tests.live.lab import NET, Lab, Server, on_nat_network
from vmdns.dns.name import to_wire
from vmdns.dns.query import encode_query
from vmdns.sources.installation import find
from vmdns.sources.virtualbox_api import connect

GIVE_UP_SECONDS = 30.0


def measure(server: Server, name: str, changes: Sequence[tuple[str, Callable[[], object]]]) -> tuple[list[float], int]:
    """Milliseconds from each change to the first answer with its address; how many never came."""
    packet = encode_query(7, to_wire(name), 1)
    times, lost = [], 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((server.address, server.port))
        client.settimeout(1.0)
        for address, change in changes:
            wanted = socket.inet_aton(address)
            start = time.perf_counter()
            change()
            while True:
                client.send(packet)
                if wanted in client.recv(2048):
                    times.append((time.perf_counter() - start) * 1000)
                    break
                if time.perf_counter() - start > GIVE_UP_SECONDS:
                    lost += 1
                    break
                time.sleep(0.0005)
            time.sleep(0.02)
    return sorted(times), lost


def show(what: str, times: list[float], lost: int, promise: float) -> None:
    p50, p99 = (times[min(len(times) - 1, int(len(times) * share))] for share in (0.5, 0.99))
    line = f"{what}: {len(times)} changes, p50 {p50:.1f} ms, p99 {p99:.1f} ms, most {times[-1]:.1f} ms"
    print(f"{line}; promised p99 {promise:.0f} ms" + (f"; {lost} NEVER CAME" if lost else ""))


def measure_reader(lab: Lab, reader: str, vms: tuple[str, str], report: Callable[[str], object], count: int) -> None:
    """Measures with this reader. vms: one for guest properties, which report sets, and one for leases."""
    mac = lab.mac(vms[1])
    lab.report(vms[0], "10.0.2.250")

    def lease(address: str) -> None:
        write_leases(lab.home, "N", lease_file([(mac, address)]))

    server = Server(lab, "--reader", reader, start=winlab.popen if winlab.COMMAND else subprocess.Popen)
    try:
        server.is_at("reporting.local", "10.0.2.250")
        addresses = [f"10.0.2.{10 + n % 100}" for n in range(count)]
        reports = [(one, partial(report, one)) for one in addresses]
        leases = [(one, partial(lease, one)) for one in addresses]
        show(f"{reader}: guest property", *measure(server, "reporting.local", reports), 100)
        show(f"{reader}: lease file", *measure(server, "leased.local", leases), 250)
    finally:
        server.stop()


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    lab = winlab.Windows() if winlab.COMMAND else Lab(Path(tempfile.mkdtemp(prefix="vmdns-fresh")) / "lab")
    try:
        lab.nat_network("N")
        reporting, _ = vms = lab.create("reporting", *on_nat_network("N")), lab.create("leased", *on_nat_network("N"))
        for uuid in vms:
            lab.start(uuid)
        if winlab.COMMAND:
            calls: list[float] = []

            def report(address: str) -> None:
                began = time.perf_counter()
                lab.set_property(reporting, "0/V4/IP", address, "--flags", "TRANSRESET")
                calls.append(time.perf_counter() - began)

            for reader in ("api", "vboxmanage"):
                measure_reader(lab, reader, vms, report, count)
            print(f"VBoxManage itself: p50 {sorted(calls)[len(calls) // 2] * 1000:.0f} ms")
            return 0
        os.environ.update(lab.environ)
        installation = find(os.environ)
        assert installation is not None
        manager = connect(installation)
        session = manager.openMachineSession(manager.getVirtualBox().findMachine(reporting), True)
        measure_reader(
            lab, "api", vms, lambda one: session.machine.setGuestProperty(f"{NET}/0/V4/IP", one, "TRANSRESET"), count
        )
        manager.closeMachineSession(session)
    finally:
        lab.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
