"""What real resolvers of guests find, and how long it takes them; how soon a VM is known by its first packet.

    tests/live/clients/prepare
    tools/live-python tests/bench/clients.py [times]

Each question 20 times: a row for each resolver, network and question. The time is that of the library's call; of dig
that of the whole program. Then a bridged VM of which nothing is known takes one new address after the other, and
shows it by a packet to the host, or by a query. Exit status 1 where an answer was wrong, or took too long.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.live.clients.net import unavailable
from tests.live.clients.scene import Scene, scene
from tests.live.clients.stubs import AVAHI, GLIBC, STUBS, Stub

MAX_MS = 200.0
MAX_FIRST_MS = 300.0
GIVE_UP_SECONDS = 5.0


bad_rows = 0


def show(client: str, network: str, query: str, wrong: list[object], times: list[float], most: float) -> None:
    """Prints a row, and counts it if it is bad."""
    global bad_rows
    slow = max(times) > most
    bad_rows += bool(wrong or slow)
    verdict = f"WRONG {len(wrong)} times: {wrong[0]}" if wrong else "TOO SLOW" if slow else "right"
    median = statistics.median(times)
    print(f"{client:32} {network:10} {query:22} {median:7.1f} ms {max(times):7.1f} ms  {verdict}", flush=True)


def measure(stage: Scene, stub: Stub, network: str, times: int, *, silent: bool = False) -> None:
    link = stage.links[network]
    with stage.router(link, silent=silent), stage.guest(link, stub) as desk:
        for query, answer in stage.expected(link).items():
            if silent and query != "web.local":
                continue
            found = [stub.query(desk, query) for _ in range(times)]
            wrong: list[object] = [one for one, _ in found if one != (answer,)]
            where = "by mDNS" if silent else network
            show(stub.name, where, query, wrong, [spent for _, spent in found], MAX_MS)


def measure_first_packet(stage: Scene, times: int) -> None:
    """From a packet, or a query, of an unknown address to the first answer."""
    link = stage.links["bridged"]
    mac = stage.start_late()
    packets: list[float] = []
    questions: list[float] = []
    wrong: list[object] = []
    with stage.router(link), stage.guest(link, GLIBC, name="late", mac=mac) as guest:
        for number in range(times):
            for about, spent in (("packet", packets), ("question", questions)):
                address = link.near((100 if about == "packet" else 200) + number)
                guest.run("busybox", "ip", "addr", "flush", "dev", "eth0")
                guest.static(f"{address}/24")
                start = time.perf_counter()
                if about == "packet":
                    guest.run("busybox", "ping", "-c", "1", "-W", "1", link.host)
                    while (now := stage.server.addresses("late.local")) != [address]:
                        if time.perf_counter() - start > GIVE_UP_SECONDS:
                            wrong.append(now)
                            break
                        time.sleep(0.0005)
                    spent.append((time.perf_counter() - start) * 1000)
                else:
                    found, milliseconds = GLIBC.query(guest, "late.local")
                    wrong += [found] if found != (address,) else []
                    spent.append(milliseconds)
    show("the host", "bridged", "after its first packet", wrong, packets, MAX_FIRST_MS)
    show("a new guest, glibc", "bridged", "by its first question", wrong, questions, MAX_FIRST_MS)


def main() -> int:
    if why := unavailable():
        print(why)
        return 2
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    print(f"{'resolver':32} {'network':10} {'question':22} {'median':>10} {'worst':>10}")
    with scene(Path(tempfile.mkdtemp(prefix="vmdns-clients")) / "lab") as stage:
        for stub in STUBS:
            for network in stage.links:
                measure(stage, stub, network, times)
        measure(stage, AVAHI, "bridged", times, silent=True)
        measure_first_packet(stage, times)
    print(f"{bad_rows} rows are bad" if bad_rows else "all right, and in time")
    return 1 if bad_rows else 0


if __name__ == "__main__":
    raise SystemExit(main())
