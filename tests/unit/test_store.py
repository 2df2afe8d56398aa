"""The one cell of mutable state, on a loop whose time is told: debounce, expiry, serials and changes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests import clock
from tests.facts import EVERYWHERE, NETWORKS, NOW, lease, report, vm
from vmdns.dns.message import A
from vmdns.dns.name import to_wire
from vmdns.state.facts import Fact, Machine
from vmdns.state.guests import VmChange
from vmdns.state.policy import Policy
from vmdns.store import DEBOUNCE_SECONDS, Store


class Bench:
    """A table, its clock, and what it told at which time."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.ahead = 0.0
        self.told: list[tuple[float, list[VmChange]]] = []
        self.table = Store(Policy(), self.wall, clock.inline)
        self.table.subscribe(lambda changes: self.told.append((round(self.loop.time(), 6), changes)))

    def wall(self) -> float:
        return NOW + self.loop.time() + self.ahead

    def put(self, source: str, *facts: Fact) -> None:
        self.table.put(source, {str(at): fact for at, fact in enumerate(facts)})

    def addresses(self, name: str = "web.local") -> list[str] | None:
        node = self.table.snapshot.find(to_wire(name), EVERYWHERE)
        if node is None:
            return None
        return [str(ip_address(rdata)) for rdata in node[A].rdatas] if A in node else []

    def brief(self) -> list[tuple[str | None, str | None]]:
        """The changes told so far, as names before and after, and forgets them."""
        found = [
            (one.before and one.before.named.label, one.after and one.after.named.label)
            for _, changes in self.told
            for one in changes
        ]
        self.told.clear()
        return found

    async def close(self) -> None:
        self.table.close()


on_a_clock = clock.scenarios(Bench)


async def settled() -> None:
    await asyncio.sleep(1)


@on_a_clock
async def test_a_report_is_built_a_moment_later(bench: Bench) -> None:
    bench.put("virtualbox", vm(1), *NETWORKS)
    bench.put("leases", lease(1, "10.0.2.4"))
    assert bench.addresses() is None
    await settled()
    assert bench.addresses() == ["10.0.2.4"]
    assert [at for at, _ in bench.told] == [DEBOUNCE_SECONDS]


@on_a_clock
async def test_changes_that_come_together_are_built_together(bench: Bench) -> None:
    for n in range(5):
        bench.put("virtualbox", *(vm(one, f"vm{one}") for one in range(n + 1)))
        await asyncio.sleep(DEBOUNCE_SECONDS / 10)
    await settled()
    ((_, changes),) = bench.told
    assert len(changes) == 5


@on_a_clock
async def test_changes_without_end_are_built_in_time(bench: Bench) -> None:
    for n in range(40):
        bench.put("virtualbox", vm(1, f"vm{n}"))
        await asyncio.sleep(DEBOUNCE_SECONDS / 2)
    assert bench.told[0][0] == DEBOUNCE_SECONDS
    await settled()
    assert bench.addresses("vm39.local") == []


@on_a_clock
async def test_equal_reports_publish_nothing(bench: Bench) -> None:
    bench.put("virtualbox", vm(1))
    bench.put("leases", lease(1, "10.0.2.4"))
    await settled()
    snapshot = bench.table.snapshot
    bench.told.clear()
    bench.put("virtualbox", vm(1))
    bench.table.patch("virtualbox", {"0": vm(1), "nothing": None})
    bench.table.patch("none", {"nothing": None})
    bench.put("empty")
    bench.table.configure(Policy())
    await settled()
    assert bench.table.snapshot is snapshot
    assert bench.told == []


@on_a_clock
async def test_a_report_takes_back_what_it_does_not_repeat(bench: Bench) -> None:
    bench.put("virtualbox", vm(1), vm(2, "db"))
    bench.put("leases", lease(1, "10.0.2.4"), lease(2, "10.0.2.5"))
    await settled()
    bench.put("virtualbox", vm(2, "db"))
    await settled()
    assert bench.addresses("web.local") is None
    assert bench.addresses("db.local") == ["10.0.2.5"]
    assert bench.table.count("virtualbox") == 1
    assert bench.table.count("leases") == 2
    assert bench.table.count("none") == 0


@on_a_clock
async def test_single_facts_come_and_go(bench: Bench) -> None:
    bench.put("leases", lease(1, "10.0.2.4"))
    bench.table.patch("virtualbox", {"machine:1": vm(1)})
    await settled()
    assert bench.addresses() == ["10.0.2.4"]
    bench.table.patch("virtualbox", {"machine:1": vm(1, "db")})
    await settled()
    assert (bench.addresses(), bench.addresses("db.local")) == (None, ["10.0.2.4"])
    bench.table.patch("virtualbox", {"machine:1": None, "machine:9": None})
    await settled()
    assert bench.addresses("db.local") is None
    assert bench.table.count("virtualbox") == 0


@on_a_clock
async def test_no_vm_is_without_an_address_while_its_lease_gives_way_twice(bench: Bench) -> None:
    """The second change comes before the first is in force: then the lease that came is gone as well."""
    numbers = range(1, 101)
    bench.put("virtualbox", *NETWORKS, *(vm(n, f"vm{n}") for n in numbers))
    bench.table.put("leases", {f"{n} first": lease(n, f"10.0.2.{n}") for n in numbers})
    await settled()
    seen: list[set[str]] = []
    bench.table.subscribe(lambda _: seen.append({str(bench.addresses(f"vm{n}.local")) for n in numbers}))
    bench.table.put("leases", {f"{n} second": lease(n, f"10.0.3.{n}", issued=NOW) for n in numbers})
    bench.table.put("leases", {f"{n} third": lease(n, f"10.0.2.{100 + n}", issued=NOW) for n in numbers})
    await settled()
    assert seen
    assert all("[]" not in one for one in seen)
    assert seen[-1] == {f"['10.0.2.{100 + n}']" for n in numbers}


@on_a_clock
async def test_a_vm_keeps_its_name_while_virtualbox_is_away(bench: Bench) -> None:
    bench.put("virtualbox", vm(2), *NETWORKS)
    bench.put("leases", lease(1, "10.0.2.4"), lease(2, "10.0.2.5"))
    await settled()
    assert bench.addresses() == ["10.0.2.5"]
    bench.put("virtualbox")
    await settled()
    assert bench.addresses() is None
    bench.put("virtualbox", vm(1), vm(2), *NETWORKS)
    await settled()
    assert bench.addresses() == ["10.0.2.5"]
    bench.put("virtualbox", vm(1), *NETWORKS)
    await settled()
    bench.put("virtualbox", vm(1), vm(2, registration_index=-1), *NETWORKS)
    await settled()
    assert bench.addresses() == ["10.0.2.4"], "it was not registered any more, and is forgotten"


@on_a_clock
async def test_a_table_begins_with_the_owners_of_the_last_run(bench: Bench) -> None:
    bench.put("virtualbox", vm(2), *NETWORKS)
    await settled()
    owners = bench.table.snapshot.name_owners
    table = Store(Policy(), bench.wall, clock.inline, owners)
    assert table.snapshot.name_owners == owners
    table.put("virtualbox", {"1": vm(1), "2": vm(2)})
    await settled()
    assert {one.named.label: one.machine.uuid for one in table.snapshot.guests} == {
        "web-2": vm(1).uuid,
        "web": vm(2).uuid,
    }
    table.close()


@on_a_clock
async def test_the_serial_goes_up_with_the_data_and_not_with_the_rest(bench: Bench) -> None:
    bench.put("leases", lease(1, "10.0.2.4"))
    bench.put("virtualbox", vm(1))
    await settled()
    before = bench.table.snapshot
    assert before.serial >= int(NOW)
    assert before.soa in (before.find(to_wire("local"), EVERYWHERE) or {})[6].rdatas
    # Another reason for the same address is another snapshot of the same zone.
    bench.put("leases", lease(1, "10.0.2.4", issued=NOW - 1))
    await settled()
    assert bench.table.snapshot != before
    assert bench.table.snapshot.serial == before.serial
    bench.put("leases", lease(1, "10.0.2.5"))
    await settled()
    assert bench.table.snapshot.serial == before.serial + 1


@on_a_clock
async def test_a_name_in_other_letters_is_no_change_of_the_zone(bench: Bench) -> None:
    # X06.
    bench.put("leases", lease(1, "10.0.2.4"))
    bench.put("virtualbox", vm(1, "Web-01"))
    await settled()
    serial = bench.table.snapshot.serial
    bench.brief()
    bench.put("virtualbox", vm(1, "web-01"))
    await settled()
    assert bench.addresses("web-01.local") == ["10.0.2.4"]
    assert bench.table.snapshot.serial == serial
    assert bench.brief() == []


def test_the_serial_wraps_as_rfc_1982_wants() -> None:
    async def main() -> None:
        table = Store(Policy(), lambda: float(0xFFFFFFFF), clock.inline)
        assert table.snapshot.serial == 0xFFFFFFFF
        table.put("virtualbox", {"a": vm(1)})
        await settled()
        assert table.snapshot.serial == 0
        table.close()

    clock.run(main())


@on_a_clock
async def test_an_address_ends_with_its_lease_though_nothing_is_reported(bench: Bench) -> None:
    bench.put("virtualbox", vm(1), vm(2, "db"))
    bench.put("leases", lease(1, "10.0.2.4", issued=NOW, seconds=600), lease(2, "10.0.2.5", issued=NOW, seconds=7200))
    await asyncio.sleep(599.9)
    assert bench.addresses() == ["10.0.2.4"]
    bench.told.clear()
    await asyncio.sleep(0.2)
    assert bench.addresses() == []
    assert bench.brief() == [("web", "web")]
    await asyncio.sleep(6599)
    assert bench.addresses("db.local") == ["10.0.2.5"]
    await asyncio.sleep(2)
    assert bench.addresses("db.local") == []


@on_a_clock
async def test_a_lease_that_ends_behind_a_fresher_claim_is_watched_too(bench: Bench) -> None:
    # The other VM's claim of the same address is refused only as long as the lease lasts.
    bench.put(
        "virtualbox", vm(1, "web", reports=(report(1, "10.0.2.9"),)), vm(2, "db", reports=(report(2, "10.0.2.4"),))
    )
    bench.put("leases", lease(1, "10.0.2.4", issued=NOW - 60, seconds=100))
    await settled()
    assert (bench.addresses(), bench.addresses("db.local")) == (["10.0.2.9"], [])
    await asyncio.sleep(60)
    assert bench.addresses("db.local") == ["10.0.2.4"]


@on_a_clock
async def test_the_wall_clock_may_jump(bench: Bench) -> None:
    bench.put("virtualbox", vm(1))
    bench.put("leases", lease(1, "10.0.2.4", issued=NOW, seconds=86_400))
    await settled()
    bench.ahead = 2 * 86_400
    await asyncio.sleep(3601)
    assert bench.addresses() == []
    bench.ahead = 0.0
    bench.put("virtualbox", vm(1), vm(2, "db"))
    await settled()
    assert bench.addresses() == ["10.0.2.4"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((), (vm(1),), [(None, "web")]),
        ((vm(1),), (), [("web", None)]),
        ((vm(1),), (vm(1, "db"),), [("web", "db")]),
        ((vm(1),), (vm(1, state="Saved"),), [("web", None)]),
        ((vm(1, state="Saved"),), (vm(1),), [(None, "web")]),
        ((vm(1, state="Saved"),), (vm(1, "db", state="Saved"),), []),
        ((vm(1),), (vm(1, state="Paused"),), []),
        ((vm(1),), (vm(1, names=("www",)),), [("web", "web")]),
        ((vm(1),), (vm(1), vm(2)), [(None, "web-2")]),
        ((vm(1), vm(2)), (vm(2),), [("web", None), ("web-2", "web")]),
        ((vm(1),), (vm(1, reports=(report(1, "10.0.2.4"),)),), [("web", "web")]),
        ((vm(1),), (vm(1, reports=(report(1, "8.8.8.8"),)),), []),
    ],
)
def test_what_is_told(
    before: tuple[Machine, ...], after: tuple[Machine, ...], expected: list[tuple[str | None, str | None]]
) -> None:
    @on_a_clock
    async def told(bench: Bench) -> None:
        bench.put("networks", *NETWORKS)
        bench.put("virtualbox", *before)
        await settled()
        bench.told.clear()
        bench.put("virtualbox", *after)
        await settled()
        assert bench.brief() == expected

    told()


@on_a_clock
async def test_another_policy_is_built(bench: Bench) -> None:
    bench.put("leases", lease(1, "10.0.2.4"))
    bench.put("virtualbox", vm(1))
    bench.table.configure(Policy(zones=("lab.example",), ttl=60))
    await settled()
    assert bench.addresses("web.lab.example") == ["10.0.2.4"]
    assert bench.table.snapshot.policy.ttl == 60
    await settled()
    assert len(bench.told) == 1


@on_a_clock
async def test_a_closed_table_builds_no_more(bench: Bench) -> None:
    bench.put("virtualbox", vm(1))
    bench.table.close()
    await settled()
    assert bench.told == []


def fail(_: object) -> None:
    raise BrokenPipeError("nobody reads")


@pytest.mark.parametrize("what", ["listener", "facts"])
def test_what_fails_leaves_the_clock_of_the_leases_running(what: str) -> None:
    async def main() -> None:
        errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
        bench = Bench()
        bench.put("virtualbox", vm(1))
        bench.put("leases", lease(1, "10.0.2.4", issued=NOW, seconds=600))
        await settled()
        if what == "listener":
            bench.table.subscribe(fail)
        else:
            bench.put("odd", replace(lease(1, "10.0.2.7"), until="soon"))  # type: ignore[arg-type]
        bench.put("more", vm(2, "db"))
        await settled()
        assert len(errors) == 1
        assert bench.addresses() == ["10.0.2.4"]
        await asyncio.sleep(700)
        assert bench.addresses() == ([] if what == "listener" else ["10.0.2.4"])
        # It was tried again, and not in a hurry.
        assert 1 < len(errors) < 110
        bench.put("odd")
        await asyncio.sleep(2)
        assert bench.addresses() == []
        bench.table.close()

    clock.run(main())
