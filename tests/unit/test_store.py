"""The store, on a loop whose clock is simulated: debounce, lease expiry, serials and the reported changes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from unittest.mock import patch

import pytest

from tests import clock
from tests.facts import EVERYWHERE, NETWORKS, NOW, addresses, lease, report, vm
from vmdns import store
from vmdns.dns.message import SOA
from vmdns.dns.name import to_wire
from vmdns.state.facts import Fact
from vmdns.state.guests import VmChange
from vmdns.state.snapshot import Policy
from vmdns.store import DEBOUNCE_SECONDS, TICK_SECONDS, Store


class Bench:
    """A store, its clock, and the changes that it reported, with their times."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.clock_offset = 0.0
        self.reported: list[tuple[float, list[VmChange]]] = []
        self.store = Store(Policy(), self.wall, clock.inline)
        self.store.subscribe(lambda changes: self.reported.append((round(self.loop.time(), 6), changes)))

    def wall(self) -> float:
        return NOW + self.loop.time() + self.clock_offset

    def put(self, source: str, *facts: Fact) -> None:
        self.store.put(source, {str(at): fact for at, fact in enumerate(facts)})

    async def put_and_build(self, *machines: Fact) -> None:
        self.put("virtualbox", *machines)
        await asyncio.sleep(1)

    def addresses(self, name: str = "web.local") -> list[str] | None:
        return addresses(self.store.snapshot, name)

    async def close(self) -> None:
        self.store.close()


on_a_clock = clock.scenarios(Bench)


@on_a_clock
async def test_changes_that_come_together_are_built_together_a_moment_later(bench: Bench) -> None:
    bench.put("virtualbox", *NETWORKS)
    bench.put("leases", lease(0, "10.0.2.4"))
    for count in range(1, 6):
        bench.put("virtualbox", *(vm(number, f"vm{number}") for number in range(count)))
        await asyncio.sleep(DEBOUNCE_SECONDS / 10)
    assert bench.addresses("vm0.local") is None
    await asyncio.sleep(1)
    assert bench.addresses("vm0.local") == ["10.0.2.4"]
    assert [(at, len(changes)) for at, changes in bench.reported] == [(pytest.approx(DEBOUNCE_SECONDS, abs=1e-5), 5)]


@on_a_clock
async def test_changes_are_gathered_by_a_coarse_clock_too(bench: Bench) -> None:
    """Where the loop's timers may be early by a tick, as on Windows."""
    bench.loop._clock_resolution = tick = 1 / 64  # type: ignore[attr-defined]
    with patch.object(store, "DEBOUNCE_SECONDS", DEBOUNCE_SECONDS - TICK_SECONDS + tick):
        bench.put("virtualbox", vm(1))
        for _ in range(5):
            await asyncio.sleep(0)
        bench.put("virtualbox", vm(1), vm(2, "db"))
        await asyncio.sleep(1)
    assert [len(changes) for _, changes in bench.reported] == [2]


@on_a_clock
async def test_endless_changes_do_not_delay_a_build(bench: Bench) -> None:
    for number in range(40):
        bench.put("virtualbox", vm(1, f"vm{number}"))
        await asyncio.sleep(DEBOUNCE_SECONDS / 2)
    assert bench.reported[0][0] == pytest.approx(DEBOUNCE_SECONDS, abs=1e-5)
    await asyncio.sleep(1)
    assert bench.addresses("vm39.local") == []


@on_a_clock
async def test_equal_reports_publish_nothing(bench: Bench) -> None:
    await bench.put_and_build(vm(1))
    snapshot = bench.store.snapshot
    bench.reported.clear()
    bench.store.patch("virtualbox", {"0": vm(1), "nothing": None})
    bench.store.patch("none", {"nothing": None})
    bench.put("empty")
    bench.store.configure(Policy())
    await bench.put_and_build(vm(1))
    assert bench.store.snapshot is snapshot
    assert bench.reported == []


@on_a_clock
async def test_single_facts_come_and_go(bench: Bench) -> None:
    bench.put("leases", lease(1, "10.0.2.4"))
    bench.store.patch("virtualbox", {"machine:1": vm(1)})
    await asyncio.sleep(1)
    assert bench.addresses() == ["10.0.2.4"]
    bench.store.patch("virtualbox", {"machine:1": vm(1, "db"), "machine:2": vm(2)})
    await asyncio.sleep(1)
    assert (bench.addresses(), bench.addresses("db.local")) == ([], ["10.0.2.4"])
    bench.store.patch("virtualbox", {"machine:1": None, "machine:9": None})
    await asyncio.sleep(1)
    assert bench.addresses("db.local") is None
    assert [bench.store.count(source) for source in ("virtualbox", "leases", "none")] == [1, 1, 0]


@on_a_clock
async def test_a_vm_keeps_its_name_while_virtualbox_is_away(bench: Bench) -> None:
    bench.put("leases", lease(1, "10.0.2.4"), lease(2, "10.0.2.5"))
    await bench.put_and_build(vm(2), *NETWORKS)
    await bench.put_and_build()
    assert bench.addresses() is None
    await bench.put_and_build(vm(1), vm(2), *NETWORKS)
    assert bench.addresses() == ["10.0.2.5"]
    await bench.put_and_build(vm(1), *NETWORKS)
    await bench.put_and_build(vm(1), vm(2, registration_index=-1), *NETWORKS)
    assert bench.addresses() == ["10.0.2.4"], "a VM that is not registered any more loses its name"


@on_a_clock
async def test_names_keep_the_owners_of_the_last_run(bench: Bench) -> None:
    await bench.put_and_build(vm(2), *NETWORKS)
    owners = bench.store.snapshot.name_owners
    store = Store(Policy(), bench.wall, clock.inline, owners)
    assert store.snapshot.name_owners == owners
    store.put("virtualbox", {"1": vm(1), "2": vm(2)})
    await asyncio.sleep(1)
    assert [guest.named.label for guest in store.snapshot.guests] == ["web-2", "web"]
    store.close()


@on_a_clock
async def test_the_serial_goes_up_only_when_the_zone_changes(bench: Bench) -> None:
    bench.put("leases", lease(1, "10.0.2.4"))
    await bench.put_and_build(vm(1, "Web"))
    before = bench.store.snapshot
    assert before.serial >= int(NOW)
    assert before.soa in (before.find(to_wire("local"), EVERYWHERE) or {})[SOA].rdatas
    # Another reason for the same address, and a name in other letters (X06), are other snapshots of the same zone.
    bench.put("leases", lease(1, "10.0.2.4", issued=NOW - 1))
    await bench.put_and_build(vm(1, "web"))
    assert bench.store.snapshot != before
    assert bench.store.snapshot.serial == before.serial
    bench.put("leases", lease(1, "10.0.2.5"))
    await asyncio.sleep(1)
    assert bench.store.snapshot.serial == before.serial + 1


@clock.in_loop
async def test_the_serial_wraps_around() -> None:
    """RFC 1982."""
    store = Store(Policy(), lambda: float(0xFFFFFFFF), clock.inline)
    assert store.snapshot.serial == 0xFFFFFFFF
    store.put("virtualbox", {"a": vm(1)})
    await asyncio.sleep(1)
    assert store.snapshot.serial == 0
    store.close()


@on_a_clock
async def test_a_lease_that_ends_behind_a_newer_report_is_watched_too(bench: Bench) -> None:
    """The other VM's report of the same address is refused only as long as the lease lasts."""
    bench.put("leases", lease(1, "10.0.2.4", issued=NOW - 60, seconds=100))
    await bench.put_and_build(
        vm(1, "web", reports=(report(1, "10.0.2.9"),)), vm(2, "db", reports=(report(2, "10.0.2.4"),))
    )
    assert (bench.addresses(), bench.addresses("db.local")) == (["10.0.2.9"], [])
    await asyncio.sleep(60)
    assert bench.addresses("db.local") == ["10.0.2.4"]


@on_a_clock
async def test_the_wall_clock_may_jump(bench: Bench) -> None:
    bench.put("leases", lease(1, "10.0.2.4", issued=NOW, seconds=86_400))
    await bench.put_and_build(vm(1))
    bench.clock_offset = 2 * 86_400
    await asyncio.sleep(3601)
    assert bench.addresses() == []
    bench.clock_offset = 0.0
    await bench.put_and_build(vm(1), vm(2, "db"))
    assert bench.addresses() == ["10.0.2.4"]


@on_a_clock
async def test_another_policy_is_built_with_the_facts_there_are(bench: Bench) -> None:
    bench.put("leases", lease(1, "10.0.2.4"))
    bench.store.configure(Policy(zones=("lab.example",), ttl=60))
    await bench.put_and_build(vm(1))
    assert bench.addresses("web.lab.example") == ["10.0.2.4"]
    assert len(bench.reported) == 1


@on_a_clock
async def test_a_closed_store_builds_no_more(bench: Bench) -> None:
    bench.put("virtualbox", vm(1))
    bench.store.close()
    await asyncio.sleep(1)
    assert bench.reported == []


def fail(_: object) -> None:
    raise BrokenPipeError("nobody reads")


@pytest.mark.parametrize("what", ["listener", "facts"])
def test_a_failure_does_not_stop_lease_expiry(what: str) -> None:
    async def main() -> None:
        errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
        bench = Bench()
        bench.put("leases", lease(1, "10.0.2.4", issued=NOW, seconds=600))
        await bench.put_and_build(vm(1))
        if what == "listener":
            bench.store.subscribe(fail)
        else:
            bench.put("odd", replace(lease(1, "10.0.2.7"), until="soon"))  # type: ignore[arg-type]
        await bench.put_and_build(vm(1), vm(2, "db"))
        assert len(errors) == 1
        assert bench.addresses() == ["10.0.2.4"]
        await asyncio.sleep(700)
        assert bench.addresses() == ([] if what == "listener" else ["10.0.2.4"])
        assert 1 < len(errors) < 110, "tried again, but not in a hurry"
        bench.put("odd")
        await asyncio.sleep(2)
        assert bench.addresses() == []
        bench.store.close()

    clock.run(main())
