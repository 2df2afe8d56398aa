"""What real resolvers of guests find, and how long it takes them; how soon a VM is known by its first packet.

    tests/live/clients/prepare
    tools/live-python tests/bench/clients.py [times]

Each question 20 times: a row for each resolver, network and question. The time is that of the library's call; of dig
that of the whole program. Then a bridged VM of which nothing is known takes one new address after the other, and tells
it by a packet to the host, or by a question. Exit status 1 where an answer was wrong, or took too long.
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
from tests.live.lab import until

MOST_MS = 200.0
MOST_FIRST_MS = 300.0
GIVE_UP_SECONDS = 5.0


class Verdict:
    """Prints rows, and remembers which were bad."""

    def __init__(self) -> None:
        self.bad = 0

    def row(self, who: str, where: str, what: str, wrong: list[object], times: list[float], most: float) -> None:
        slow = max(times) > most
        self.bad += bool(wrong or slow)
        said = f"WRONG {len(wrong)} times: {wrong[0]}" if wrong else "TOO SLOW" if slow else "right"
        print(
            f"{who:32} {where:10} {what:22} {statistics.median(times):7.1f} ms {max(times):7.1f} ms  {said}", flush=True
        )


def ask(stage: Scene, verdict: Verdict, stub: Stub, network: str, times: int, *, silent: bool = False) -> None:
    link = stage.links[network]
    with stage.router(link, silent=silent), stage.guest(link, stub) as desk:
        for question, answer in stage.expected(link).items():
            if silent and question != "web.local":
                continue
            found = [stub.ask(desk, question) for _ in range(times)]
            wrong: list[object] = [one for one, _ in found if one != (answer,)]
            where = "by mDNS" if silent else network
            verdict.row(stub.name, where, question, wrong, [spent for _, spent in found], MOST_MS)


def first(stage: Scene, verdict: Verdict, times: int) -> None:
    """From a packet, or a question, of an address that nobody knows to the first answer."""
    link = stage.links["bridged"]
    uuid = stage.lab.create("late", "--nic1", "bridged", "--bridge-adapter1", "lan0")
    stage.lab.start(uuid)
    until(lambda: "late" in stage.server.dig("late.local") and not stage.server.addresses("late.local"), "late runs")
    mac = stage.lab.mac(uuid)
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
                    found, milliseconds = GLIBC.ask(guest, "late.local")
                    wrong += [found] if found != (address,) else []
                    spent.append(milliseconds)
    verdict.row("the host", "bridged", "after its first packet", wrong, packets, MOST_FIRST_MS)
    verdict.row("a new guest, glibc", "bridged", "by its first question", wrong, questions, MOST_FIRST_MS)


def main() -> int:
    if why := unavailable():
        print(why)
        return 2
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    verdict = Verdict()
    print(f"{'resolver':32} {'network':10} {'question':22} {'median':>10} {'worst':>10}")
    with scene(Path(tempfile.mkdtemp(prefix="vmdns-clients")) / "lab") as stage:
        for stub in STUBS:
            for network in stage.links:
                ask(stage, verdict, stub, network, times)
        ask(stage, verdict, AVAHI, "bridged", times, silent=True)
        first(stage, verdict, times)
    print(f"{verdict.bad} rows are bad" if verdict.bad else "all right, and in time")
    return 1 if verdict.bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
