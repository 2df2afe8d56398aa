"""Many VMs and storms of changes, with a clock that passes only where nothing is left to do.

What takes long is counted in steps, never in time: between two steps the event loop has its turn.
"""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import clock
from tests.facts import EVERYWHERE, HOSTONLY, NETWORKS, NOW, lease, report, vm
from vmdns import slices
from vmdns.announcing import Announcing, _into
from vmdns.core.builder import Builder, build
from vmdns.core.mdns import STARTS, Responder
from vmdns.core.mdns_links import Link, Links, Told, links
from vmdns.core.mdns_message import parse
from vmdns.core.model import Fact, HostAddress, HostName, Machine
from vmdns.core.name import to_wire
from vmdns.core.policy import Policy
from vmdns.core.snapshot import Guest
from vmdns.core.wire import A
from vmdns.making import PORTION, Maker
from vmdns.table import LONGEST_DEBOUNCE, News, Table

POLICY = Policy()
HERE = HostAddress("vboxnet0", "192.168.56.1/24")


def address(number: int) -> str:
    return f"10.0.{2 + number // 200}.{4 + number % 200}"


class Bench:
    """A table, and what it told at which time."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.told: list[tuple[float, News, int]] = []
        self.table = Table(POLICY, lambda: NOW + self.loop.time())
        self.table.subscribe(lambda news: self.told.append((self.loop.time(), news, self.table.snapshot.serial)))

    def patch(self, *machines: Machine) -> None:
        self.table.patch("virtualbox", {one.uuid: one for one in machines})

    def addresses(self, name: str) -> list[str] | None:
        node = self.table.snapshot.find(to_wire(name), EVERYWHERE)
        return None if node is None else [str(ip_address(one)) for one in node[A].rdatas] if A in node else []

    async def close(self) -> None:
        self.table.close()


on_a_clock = clock.scenarios(Bench)


@pytest.fixture
def step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is a slice of its own, however fast the machine is."""
    monkeypatch.setattr(slices, "SLICE_SECONDS", -1.0)


class Turns:
    """Counts how often the loop comes round."""

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_soon(self._come)

    def _come(self) -> None:
        self.count += 1
        self._handle = self._loop.call_soon(self._come)

    def stop(self) -> int:
        self._handle.cancel()
        return self.count


async def until(true: Callable[[], object]) -> None:
    """Lets the loop come round until that is so."""
    for _ in range(20_000):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never is")


# -- fault 18: thousands of VMs ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize("what", ["first", "renewed", "anew"])
def test_the_loop_has_its_turn_between_two_vms(what: str) -> None:
    @on_a_clock
    async def scenario(bench: Bench) -> None:
        number = 600
        machines = [vm(n, f"vm{n}") for n in range(number)]
        if what != "first":
            bench.table.put("networks", {str(n): one for n, one in enumerate(NETWORKS)})
            bench.patch(*machines)
            await bench.table.settled()
        if what == "first":
            bench.patch(*machines)
        elif what == "renewed":
            bench.table.put("leases", {str(n): lease(n, address(n)) for n in range(number)})
        else:
            bench.table.patch("addresses", {"new": HostAddress("eth9", "172.30.0.1/24")})
        bench.table._begin()  # its moment is over: the clock stands still while there is something to do
        turns = Turns()
        await until(lambda: bench.table._task is None)
        assert turns.stop() >= 2 * number
        assert len(bench.table.snapshot.by_uuid) == number

    scenario()


@pytest.fixture
def only_new_objects() -> Iterator[None]:
    """gc.get_objects() leaves out what was there before; after thousands of tests that is most of the time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("only_new_objects")
def test_what_was_before_goes_bit_by_bit() -> None:
    """To let go of ten thousand VMs at once takes as long as to make them in ten slices."""
    maker = Maker(POLICY, lambda: NOW)
    for number in range(100):
        maker.put(number, None, vm(number, f"vm{number}"))
    deque(maker.turns(), maxlen=0)
    gc.collect()
    maker.put("new", None, HostAddress("eth9", "172.30.0.1/24"))
    turns = maker.turns()
    assert any(built is not None for built in turns)
    alive = [_guests()]
    for _ in turns:
        alive.append(_guests())
    assert alive[0] >= 200
    assert alive[-1] <= alive[0] - 100
    assert max(before - after for before, after in pairwise(alive)) <= 1


def _guests() -> int:
    return sum(isinstance(one, Guest) for one in gc.get_objects())


@pytest.mark.usefixtures("step_by_step")
def test_a_change_is_in_force_while_all_is_made_anew() -> None:
    @on_a_clock
    async def scenario(bench: Bench) -> None:
        bench.patch(*(vm(n, f"vm{n}", reports=(report(n, address(n % 200)),)) for n in range(700)))
        bench.table.put("networks", {str(n): one for n, one in enumerate(NETWORKS)})
        await bench.table.settled()
        bench.told.clear()
        bench.table.patch("addresses", {"new": HostAddress("eth9", "172.30.0.1/24")})
        bench.table._begin()
        for _ in range(20):
            await asyncio.sleep(0)
        before = bench.table.snapshot.ways
        bench.patch(vm(3, "other", reports=(report(3, "10.0.2.77"),)))
        bench.table._begin()
        await until(lambda: bench.addresses("other.local") is not None)
        assert bench.table.snapshot.ways is before  # the new network is not in force yet, the VM is
        assert bench.table._task is not None
        await bench.table.settled()
        assert bench.addresses("other.local") == ["10.0.2.77"]
        assert any(place.interface == "eth9" for place in bench.table.snapshot.ways.places)
        assert bench.table.snapshot.by_uuid == build(bench.table.facts, POLICY, NOW, 0).by_uuid

    scenario()


@pytest.mark.usefixtures("step_by_step")
def test_a_vm_does_not_wait_for_thousands_of_leases() -> None:
    @on_a_clock
    async def scenario(bench: Bench) -> None:
        bench.table.put("networks", {str(n): one for n, one in enumerate(NETWORKS)})
        bench.patch(*(vm(n, f"vm{n}") for n in range(1, 1000)))
        await bench.table.settled()
        bench.table.put("leases", {str(n): lease(n, address(n % 200)) for n in range(1, 1000)})
        bench.table._begin()
        await until(lambda: any(guest.addresses for guest in bench.table.snapshot.by_uuid.values()))
        bench.patch(vm(1, "changed"))
        bench.table._begin()
        bench.told.clear()
        await until(lambda: bench.addresses("changed.local") is not None)
        assert sum(len(news.moved) for _, news, _ in bench.told) <= 2 * PORTION + 1
        assert sum(not guest.addresses for guest in bench.table.snapshot.by_uuid.values()) > 500
        await bench.table.settled()
        assert all(guest.addresses for guest in bench.table.snapshot.by_uuid.values())

    scenario()


@on_a_clock
async def test_a_report_in_parts_counts_when_it_is_whole(bench: Bench) -> None:
    first, second = vm(1, "web"), vm(2, "web")
    bench.table.put("virtualbox", {"b": second, "gone": vm(9, "gone")})
    await bench.table.settled()
    assert bench.addresses("web.local") == []
    bench.table.put("virtualbox", {"b": replace(second, name="db")}, ends=False)
    await asyncio.sleep(1)
    assert bench.addresses("web.local") == []  # a name is not given away in between
    bench.table.put("leases", {"x": lease(2, "10.0.2.5")})
    await asyncio.sleep(1)
    assert bench.addresses("web.local") == ["10.0.2.5"]  # others go on
    bench.table.put("virtualbox", {"a": first}, begins=False)
    await bench.table.settled()
    assert bench.addresses("db.local") == ["10.0.2.5"]
    assert bench.addresses("web.local") == []
    assert bench.addresses("gone.local") is None


@on_a_clock
async def test_vms_do_not_wait_for_the_rest_of_the_leases(bench: Bench) -> None:
    bench.table.put("leases", {"x": lease(1, "10.0.2.5")}, ends=False)
    bench.patch(vm(1, "web"))
    bench.table.put("networks", {str(n): one for n, one in enumerate(NETWORKS)})
    await asyncio.sleep(1)
    assert bench.addresses("web.local") == ["10.0.2.5"]


@on_a_clock
async def test_half_a_report_of_a_reader_that_went_away_holds_up_nothing(bench: Bench) -> None:
    bench.table.put("virtualbox", {"a": vm(1, "web")}, ends=False)
    await asyncio.sleep(1)
    assert bench.addresses("web.local") is None
    bench.table.abandon("virtualbox")
    await bench.table.settled()
    assert bench.addresses("web.local") == []


# -- fault 19: storms --------------------------------------------------------------------------------------------------


@on_a_clock
async def test_ten_thousand_events_in_five_seconds_are_few_snapshots_and_fewer_serials(bench: Bench) -> None:
    bench.patch(*(vm(n, f"vm{n}") for n in range(50)))
    await bench.table.settled()
    bench.told.clear()
    serial = bench.table.snapshot.serial
    for event in range(10_000):
        state = "Running" if (event // 50) % 2 else "Saved"
        bench.patch(vm(event % 50, f"vm{event % 50}", state=state))
        if event % 20 == 19:
            await asyncio.sleep(0.01)
    await asyncio.sleep(3)
    assert len(bench.told) <= 1.1 * 5 / LONGEST_DEBOUNCE  # fifty a second, and the serials
    assert 4 <= bench.table.snapshot.serial - serial <= 7
    assert [guest.machine.state for guest in bench.table.snapshot.guests] == ["Running"] * 50
    # The last serial belongs to the last change.
    last = max(at for at, news, _ in bench.told if news.moved)
    assert bench.table.snapshot.serial > min(number for at, _, number in bench.told if at < last)


@on_a_clock
async def test_the_serial_stands_for_no_more_than_a_second_of_changes(bench: Bench) -> None:
    serials = []
    for n in range(40):
        bench.patch(vm(1, f"vm{n}"))
        await asyncio.sleep(0.1)
        serials.append(bench.table.snapshot.serial)
    await asyncio.sleep(2)
    assert len(set(serials)) in (4, 5)
    assert bench.table.snapshot.serial - serials[-1] == 1
    assert bench.table.snapshot.serial - serials[0] <= 5


@on_a_clock
async def test_what_waits_is_bounded_by_what_there_is(bench: Bench) -> None:
    for event in range(5000):
        bench.patch(vm(event % 7, f"vm{event}"))
    assert sum(len(waiting) for waiting in bench.table._maker._waiting) == 7
    await bench.table.settled()
    assert len(bench.told) == 1


class Link_:
    """Stands for `serve.multicast`: what it is told on one link goes to a responder, whose packets are counted."""

    def __init__(self) -> None:
        self.responder = Responder(lambda least, most: (least + most) / 2)
        self.opened: set[str] = set()
        self.packets: list[tuple[float, bytes]] = []
        self.changes = 0
        self._timer: asyncio.TimerHandle | None = None

    def open(self, wanted: dict[str, Link]) -> set[str]:
        fresh, self.opened = set(wanted) - self.opened, set(wanted)
        return fresh

    def change(self, interface: str, told: Told) -> None:
        assert interface == "vboxnet0"
        self.changes += len(told.names)
        self.responder.change(told.names, told.pointers, asyncio.get_running_loop().time())
        self._go_on()

    def _go_on(self) -> None:
        loop = asyncio.get_running_loop()
        self.packets += [(loop.time(), out.packet) for out in self.responder.send()]
        if self._timer is not None:
            self._timer.cancel()
        due = self.responder.timeout()
        self._timer = None if due is None else loop.call_at(due, self._wake)

    def _wake(self) -> None:
        self.responder.wake(asyncio.get_running_loop().time())
        self._go_on()


@on_a_clock
async def test_a_thousand_vms_that_start_and_stop_are_no_storm_on_the_link(bench: Bench) -> None:
    link = Link_()
    announcing = Announcing(link, lambda: bench.table.snapshot)  # type: ignore[arg-type]
    announcing.configure(names=True, relay=False)
    bench.table.subscribe(lambda news: announcing.changed(news.moved if news.names is not None else None))
    bench.table.put("networks", {str(n): one for n, one in enumerate((*NETWORKS, HERE))})
    bench.table.put("leases", {str(n): lease(n, f"192.168.56.{2 + n % 90}", HOSTONLY) for n in range(1000)})
    running = [vm(n, f"vm{n}", HOSTONLY) for n in range(1000)]
    stopped = [replace(one, state="Saved") for one in running]
    for _ in range(10):
        bench.patch(*running)
        await asyncio.sleep(0.1)
        bench.patch(*stopped)
        await asyncio.sleep(0.1)
    bench.patch(*running)
    await asyncio.sleep(60)
    announcing.close()
    names = [name for _, packet in link.packets for name in set(_asked(packet))]
    # Three probes for each of a VM's two names, and those for what was begun when it stopped again.
    assert 3 * 2000 <= len(names) < 3 * 2000 + 20 * 3 * STARTS
    for second in range(60):
        begun = [packet for at, packet in link.packets if second <= at < second + 1]
        assert len(begun) < 200, second
    assert all(link.responder.holds(to_wire(f"vm{n}.local")) for n in range(1000))
    assert link.responder.timeout() is None


@on_a_clock
async def test_vms_are_told_at_once_and_what_changes_on_and_on_once_a_second(bench: Bench) -> None:
    link = Link_()
    kept: list[int] = []
    announcing = Announcing(link, lambda: bench.table.snapshot, kept.append)  # type: ignore[arg-type]
    announcing.configure(names=True, relay=False)
    bench.table.subscribe(lambda news: announcing.changed(news.moved if news.names is not None else None))
    bench.table.put("networks", {str(n): one for n, one in enumerate((*NETWORKS, HERE))})
    bench.table.put("leases", {str(n): lease(n, f"192.168.56.{2 + n}", HOSTONLY) for n in range(50)})
    running = [vm(n, f"vm{n}", HOSTONLY) for n in range(50)]
    await asyncio.sleep(5)
    assert link.changes == 0
    bench.patch(running[0])
    await asyncio.sleep(0.15)
    assert link.responder.holds(to_wire("vm0.local")), "the first change is told at once"
    told = link.changes
    for turn in range(100):
        bench.patch(*[replace(one, state="Running" if turn % 2 == 0 else "Saved") for one in running])
        await asyncio.sleep(0.11)
    bench.patch(*running)
    await asyncio.sleep(1.1)
    assert 0 < link.changes - told <= 12 * 2 * 50, "a VM has two names"
    assert all(link.responder.holds(to_wire(f"vm{n}.local")) for n in range(50)), "the last change is told"
    assert sum(kept) > 0, "the collector of garbage has to know"
    announcing.close()


def _asked(packet: bytes) -> Iterator[bytes]:
    message = parse(packet)
    if message is not None and not message.response:
        yield from (question.key for question in message.questions if question.key.endswith(b"\x05local\0"))


# -- laws --------------------------------------------------------------------------------------------------------------

NUMBERS = st.integers(1, 4)
FACTS: st.SearchStrategy[tuple[str, Fact | None]] = st.one_of(
    st.tuples(
        NUMBERS.map(lambda n: f"vm{n}"),
        st.one_of(
            st.none(),
            st.builds(
                lambda name, kind, state: (name, kind, state),
                st.sampled_from(["web", "db"]),
                st.booleans(),
                st.sampled_from(["Running", "Saved"]),
            ),
        ),
    ).map(lambda pair: (pair[0], pair[1] and vm(int(pair[0][2:]), pair[1][0], state=pair[1][2]))),
    st.tuples(
        NUMBERS.map(lambda n: f"lease{n}"),
        st.one_of(st.none(), st.builds(lease, NUMBERS, st.sampled_from(["10.0.2.4", "10.0.2.5"]))),
    ),
    st.tuples(
        st.sampled_from(["net1", "net2"]),
        st.one_of(
            st.none(),
            st.sampled_from([HostAddress("eth9", "172.30.0.1/24"), HostName("web", "192.168.1.9"), *NETWORKS[:3]]),
        ),
    ),
)


@settings(max_examples=150)
@given(st.lists(st.tuples(FACTS, st.integers(0, 12)), max_size=25), st.booleans())
def test_however_work_and_changes_are_mixed_the_end_is_what_all_at_once_gives(
    steps: list[tuple[tuple[str, Fact | None], int]], side_by_side: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vmdns.making.PORTION", 2)
        patch.setattr("vmdns.making._FEW", 0 if side_by_side else 500)
        maker = Maker(POLICY, lambda: NOW)
        held: dict[str, Fact] = {f"base{n}": one for n, one in enumerate(NETWORKS)}
        for key, one in held.items():
            maker.put(key, None, one)
        turns = maker.turns()
        for (key, fact), number in steps:
            before = held.get(key)
            if before != fact:
                maker.put(key, before, fact)
                if fact is None:
                    del held[key]
                else:
                    held[key] = fact
            for _ in range(number):
                if next(turns, maker) is maker:
                    turns = maker.turns()
        for _ in turns:
            pass
        for _ in maker.turns():
            pass
        assert maker.snapshot == build(held.values(), POLICY, NOW, 0)


@settings(max_examples=100)
@given(
    st.lists(
        st.dictionaries(
            NUMBERS,
            st.tuples(st.sampled_from(["web", "db", "www"]), st.sampled_from(["Running", "Saved"]), st.integers(3, 5)),
            max_size=3,
        ),
        max_size=8,
    )
)
def test_what_is_told_of_links_change_by_change_is_what_they_are(
    steps: list[dict[int, tuple[str, str, int]]],
) -> None:
    builder = Builder(POLICY)
    for key, fact in enumerate((*NETWORKS, HERE)):
        builder.put(key, fact)
    kept, names, pointers = Links(False), dict[bytes, tuple[str, ...]](), dict[str, bytes | None]()
    for step in steps:
        for number, (name, state, last) in step.items():
            there = report(number, f"192.168.56.{last}")
            builder.put(f"vm{number}", vm(number, name, HOSTONLY, state=state, reports=(there,)))
        built = builder.build(NOW, 0)
        told = dict[str, Told]()
        for _ in _into(told, kept.steps(built.snapshot, None if built.names is None else built.moved)):
            pass
        names.update(told["vboxnet0"].names)
        pointers.update(told["vboxnet0"].pointers)
        right = links(built.snapshot, False)["vboxnet0"]
        assert {name: where for name, where in names.items() if where} == right.names == kept.found["vboxnet0"].names
        assert {where: name for where, name in pointers.items() if name is not None} == right.pointers
        assert kept.found["vboxnet0"].pointers == right.pointers
