"""The script of the demo: a function of the time, so each second of it can be looked at without waiting."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from tests.facts import NOW
from vmdns.demo.scene import (
    BOOT,
    EVENTS,
    LEASED,
    LOOPBACK,
    MOVE,
    RENAME,
    RENEWAL_SECONDS,
    ROUND_SECONDS,
    STOP,
    next_change,
    scene_facts,
)
from vmdns.state.build import build
from vmdns.state.diagnosis import DoctorInput, find_findings
from vmdns.state.facts import Fact, Machine
from vmdns.state.findings import Finding
from vmdns.state.snapshot import Policy, Snapshot

DOCS = Path(__file__).resolve().parents[3] / "docs" / "networks.md"
STEADY = ("web", "db", "서버", "build", "files")


def facts(seconds: float) -> list[Fact]:
    now = scene_facts(seconds, NOW)
    return [*now.virtualbox, *now.leases, *now.addresses, *now.neighbours]


def snapshot(seconds: float) -> Snapshot:
    return build(facts(seconds), Policy(), NOW + seconds, 1)


def seen(seconds: float) -> dict[str, tuple[str, ...]]:
    """The addresses of the VMs that run, by their labels."""
    guests = snapshot(seconds).guests
    return {one.named.label: tuple(at.address for at in one.addresses) for one in guests if one.machine.online}


def changes(until: float) -> list[float]:
    """All times at which something changes, up to that one."""
    found = [0.0]
    while found[-1] < until:
        found.append(next_change(found[-1]))
    return found


def test_there_are_eight_vms_and_all_kinds_of_networks() -> None:
    machines = [one for one in facts(0.0) if isinstance(one, Machine)]
    assert len({one.name for one in machines} & {*STEADY, "test", "staging", "media"}) == 8
    kinds = {adapter.network.kind for one in machines for adapter in one.adapters}
    assert kinds == {"nat", "natnetwork", "hostonly", "bridged"}
    assert any(one.groups != ("/",) for one in machines)


def test_nothing_changes_but_at_the_times_of_the_script() -> None:
    times = changes(3 * ROUND_SECONDS)
    for first, last in pairwise(times):
        assert facts(first) == facts((first + last) / 2) == facts(last - 0.001) != facts(last), (first, last)


def test_vms_start_stop_are_renamed_and_move() -> None:
    for begun in (0.0, ROUND_SECONDS, 7 * ROUND_SECONDS):
        assert "test" not in seen(begun)
        assert seen(begun + BOOT)["test"] == ()
        assert len(seen(begun + LEASED)["test"]) == 1
        assert "test" not in seen(begun + STOP)
        assert seen(begun + RENAME)["preview"] == seen(begun)["staging"]
        assert seen(begun + MOVE)["media"] != seen(begun)["media"]
        assert seen(begun + max(EVENTS)).keys() == seen(begun).keys()


def test_leases_are_always_valid_and_no_vm_has_a_problem() -> None:
    for seconds in changes(2 * RENEWAL_SECONDS):
        now = scene_facts(seconds, NOW)
        assert all(lease.issued <= NOW + seconds < lease.until for lease in now.leases)
        found = snapshot(seconds)
        assert found.problems == ()
        assert [one.refused for one in found.guests if one.refused] == []


def test_each_loopback_address_is_a_network_of_its_own() -> None:
    found = snapshot(0.0)
    views = [found.view(address, "127.0.0.1") for address in LOOPBACK]
    assert [view.members for view in views] == [(network,) for network in LOOPBACK.values()]
    web = [found.vm_view(found.guests[0], view).addresses for view in (found.view("127.0.0.1", "127.0.0.1"), *views)]
    assert len(set(web)) == len(web)
    assert found.right("127.0.1.4", "127.0.0.1").name == "ALL"


def test_the_table_in_the_docs_is_true() -> None:
    rows = re.findall(r"^\| (127\.\S+) \| [^|]+ \| (\S+?),? [^|]*\| (\S+?),? [^|]*\|$", DOCS.read_text("utf-8"), re.M)
    assert [row[0] for row in rows] == ["127.0.0.1", *LOOPBACK]
    found = snapshot(0.0)
    guests = {one.named.label: one for one in found.guests}
    for address, *shown in rows:
        view = found.view(address, "127.0.0.1")
        answers = [found.vm_view(guests[name], view).addresses for name in ("db", "web")]
        assert [" ".join(one) or "none" for one in answers] == shown, address


def test_doctor_advises_no_change_of_simulated_vms() -> None:
    found: list[Finding] = []
    for seconds in changes(ROUND_SECONDS):
        now = snapshot(seconds)
        found += find_findings(DoctorInput({"version": "x"}, tuple(facts(seconds)), now, NOW + seconds))
    assert any("no address of it is known" in one.text for one in found)
    assert not any(one.command.startswith("VBoxManage") for one in found)
