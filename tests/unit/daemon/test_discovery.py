"""What the worker's messages change in the store and in the status, on a loop with a simulated clock."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests import clock
from tests.facts import EVERYWHERE, NOW, lease, mac, vm
from vmdns.daemon import discovery
from vmdns.daemon.discovery import ADMISSION_SECONDS, MAX_LOOKUPS, STRANGER_SECONDS, Discovery, solicit
from vmdns.dns.name import to_wire
from vmdns.state.facts import Fact, Neighbour, to_json
from vmdns.state.snapshot import Policy
from vmdns.store import Store

FOUND = {"version": "7.2.22", "reader": "api", "home": "/home"}


class Bench:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.looked = 0
        self.table = Store(Policy(), lambda: NOW, clock.inline)
        self.discovery = Discovery(self.table, self.lines.append, self.look)
        self.discovery._stale_seconds = 600.0  # what start() takes from the configuration

    def look(self) -> None:
        self.looked += 1

    def hear(self, **message: Any) -> None:
        self.discovery._receive(message)

    def put(self, source: str, *facts: Fact) -> None:
        self.hear(put=source, facts={str(at): to_json(fact) for at, fact in enumerate(facts)})

    async def answers(self, name: str = "web.local") -> bool:
        await asyncio.sleep(0.1)
        return bool(self.table.snapshot.find(to_wire(name), EVERYWHERE))

    @property
    def state(self) -> str:
        return self.discovery.sources["virtualbox"].state

    async def close(self) -> None:
        self.table.close()
        await self.discovery.stop()


on_a_clock = clock.scenarios(Bench)


@on_a_clock
async def test_what_is_found_is_answered(bench: Bench) -> None:
    bench.hear(found=FOUND, detail="")
    assert "VirtualBox 7.2.22, read through its API" in bench.lines[-1]
    assert not bench.looked
    bench.put("leases", lease(1, "10.0.2.4"))
    bench.put("virtualbox", vm(1))
    assert await bench.answers()
    assert (bench.state, bench.looked) == ("ok", 1)
    bench.hear(patch="virtualbox", facts={"0": None})
    assert not await bench.answers()
    assert len(bench.lines) == 1


@on_a_clock
async def test_names_of_a_lost_virtualbox_stay_until_they_are_stale(bench: Bench) -> None:
    bench.put("leases", lease(1, "10.0.2.4", seconds=100_000))
    bench.put("virtualbox", vm(1))
    bench.hear(lost="VBoxSVC went away")
    bench.hear(lost="VBoxSVC does not answer")
    assert bench.state == "failing"
    await asyncio.sleep(590)
    assert await bench.answers()
    await asyncio.sleep(20)
    assert not await bench.answers()
    assert bench.state == "stale"
    bench.hear(found=FOUND, detail="")
    bench.put("virtualbox", vm(1))
    assert await bench.answers()
    assert (bench.state, bench.lines[-1]) == ("ok", "VirtualBox is read again")


@on_a_clock
async def test_names_of_a_virtualbox_that_comes_back_in_time_stay(bench: Bench) -> None:
    bench.put("leases", lease(1, "10.0.2.4", seconds=100_000))
    bench.put("virtualbox", vm(1))
    bench.hear(lost="VBoxSVC went away")
    await asyncio.sleep(500)
    bench.put("virtualbox", vm(1))
    await asyncio.sleep(500)
    assert await bench.answers()
    assert bench.state == "ok"


@on_a_clock
async def test_no_virtualbox_is_one_sentence_and_ends_the_first_look(bench: Bench) -> None:
    bench.hear(absent=True)
    bench.hear(absent=True)
    assert len(bench.lines) == 1
    assert "not installed" in bench.lines[0]
    assert (bench.state, bench.looked > 0) == ("waiting", True)


@on_a_clock
async def test_an_invalid_message_is_logged_and_the_next_one_counts(bench: Bench) -> None:
    bench.hear(put="virtualbox", facts={"machine:x": {"is": "Nothing"}})
    bench.hear(put="virtualbox", facts={"machine:x": {"is": "Machine", "uuid": 5}})
    assert len([line for line in bench.lines if "made no sense" in line]) == 2
    bench.put("leases", lease(1, "10.0.2.4"))
    bench.put("virtualbox", vm(1))
    assert await bench.answers()


@on_a_clock
async def test_a_lease_file_that_cannot_be_read(bench: Bench) -> None:
    source = bench.discovery.sources["leases"]
    text = "N-Dhcpd.leases cannot be read (damaged)"
    one = {"another": to_json(lease(1, "10.0.2.4"))}
    steps: list[tuple[dict[str, Any], str]] = [
        ({"trouble": "leases", "text": text}, "failing"),
        ({"patch": "leases", "facts": one}, "failing"),  # of another file
        ({"trouble": "leases", "text": ""}, "ok"),
        ({"trouble": "leases", "text": text}, "failing"),
        ({"put": "leases", "facts": one}, "ok"),  # the first report of another worker
    ]
    for message, state in steps:
        bench.hear(**message)
        assert source.state == state, message
    assert bench.lines == [text] * 2


@on_a_clock
async def test_a_neighbour_keeps_its_age_when_the_worker_is_replaced(bench: Bench) -> None:
    seen = Neighbour("eth0", mac(1), "192.168.1.7", NOW - 60)
    bench.hear(put="neighbours", facts={"n": to_json(seen)})
    bench.hear(lost="VBoxSVC went away")
    assert list(bench.table.reported("neighbours").values()) == [seen]
    bench.hear(put="neighbours", facts={"n": to_json(replace(seen, since=NOW))})
    assert list(bench.table.reported("neighbours").values()) == [seen]
    other = replace(seen, mac=mac(2), since=NOW)
    bench.hear(put="neighbours", facts={"n": to_json(other)})
    assert list(bench.table.reported("neighbours").values()) == [other]
    assert bench.discovery.sources["neighbours"].state == "ok"
    bench.discovery.request_looks("neighbours")  # nothing without a worker


PEER = "192.168.1.77"


class Admission:
    """Clients that wait to be recognised as guests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.guests: set[str] = set()
        self.solicited: list[str] = []
        store: Any = SimpleNamespace(snapshot=SimpleNamespace(is_guest=self.guests.__contains__))
        self.discovery = Discovery(store, lambda line: None, lambda: None)
        monkeypatch.setattr(discovery, "solicit", self.solicited.append)

    async def waited(self, peer: str = PEER) -> float:
        """How long a query of this peer waits, in seconds."""
        begun = asyncio.get_running_loop().time()
        await self.discovery.wait_for_guest(peer)
        return round(asyncio.get_running_loop().time() - begun, 3)


@pytest.fixture
def admission(monkeypatch: pytest.MonkeyPatch) -> Admission:
    return Admission(monkeypatch)


@clock.in_loop
async def test_a_guest_waits_until_it_is_known_and_equal_peers_wait_together(admission: Admission) -> None:
    asyncio.get_running_loop().call_later(0.05, admission.guests.add, PEER)
    waits = await asyncio.gather(*(admission.waited() for _ in range(5)))
    assert max(waits) < 0.1
    assert admission.solicited == [PEER]


@clock.in_loop
async def test_a_guest_that_is_lost_again_is_looked_for_again(admission: Admission) -> None:
    loop = asyncio.get_running_loop()
    for number in (1, 2):
        loop.call_later(0.05, admission.guests.add, PEER)
        assert 0.05 <= await admission.waited() < 0.1
        assert admission.solicited == [PEER] * number
        await asyncio.sleep(0.01)
        admission.guests.clear()


@clock.in_loop
async def test_the_neighbour_table_is_read_again_where_its_changes_are_not_notified(
    admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer answers a moment after the first look, and the next poll may be seconds away."""
    monkeypatch.setattr(discovery, "LOOK_SECONDS", 0.1)
    looks = iter(range(10))

    def look(source: str) -> None:
        if source == "neighbours" and next(looks):
            admission.guests.add(PEER)

    monkeypatch.setattr(admission.discovery, "request_looks", look)
    assert await admission.waited() < 0.2


@clock.in_loop
async def test_an_unknown_client_waits_once(admission: Admission) -> None:
    assert await admission.waited() == pytest.approx(ADMISSION_SECONDS, abs=0.03)
    assert await admission.waited() == 0.0
    assert admission.solicited == [PEER]
    await asyncio.sleep(STRANGER_SECONDS)
    assert await admission.waited() > 0
    assert admission.solicited == [PEER, PEER]


@clock.in_loop
async def test_the_number_of_waiting_clients_is_bounded(admission: Admission) -> None:
    clients = [asyncio.create_task(admission.waited(f"192.168.{n >> 8}.{n & 255}")) for n in range(MAX_LOOKUPS)]
    await asyncio.sleep(0)
    assert await admission.waited("192.168.3.1") == 0.0
    assert all(await asyncio.gather(*clients))
    assert len(admission.solicited) == MAX_LOOKUPS


def test_solicit_sends_an_empty_datagram_to_the_discard_port() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        try:
            peer.bind(("127.0.0.53", 9))
        except OSError:
            pytest.skip("port 9 cannot be bound here")
        peer.settimeout(5)
        solicit("127.0.0.53")
        assert peer.recv(100) == b""
    for nobody in ("fe80::1%nowhere0", "::1", "255.255.255.255"):
        solicit(nobody)
