"""`vmdns run --wire`: one check for each change of networks; and a check with VirtualBox's files."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakebox import FakeBox
from tests.unit.commands.test_wire import INTERFACE, LAN, MACHINE, TEXT, UUID
from vmdns.commands.wire import FOLLOW
from vmdns.daemon import wire_watch
from vmdns.daemon.wire_watch import WireWatch
from vmdns.state.facts import DhcpServer, Fact, HostAddress, Machine, NatNetwork

NET = NatNetwork("lab", "10.0.2.0/24")
ZONES = ("local",)


class Checks:
    """Stands for `check_networks`: a check blocks while `go` is cleared, and then returns `result`."""

    def __init__(self) -> None:
        self.calls: list[tuple[str | None, tuple[str, ...]]] = []
        self.result: dict[str, Any] = {}
        self.go, self.began = threading.Event(), threading.Event()
        self.go.set()

    def __call__(self, home: str | None, zones: tuple[str, ...]) -> dict[str, Any]:
        self.calls.append((home, zones))
        self.began.set()
        assert self.go.wait(20)
        return {"steps": [], "troubles": [], **self.result}


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Checks:
    made = Checks()
    monkeypatch.setattr(wire_watch, "check_networks", made)
    return made


def watch(work: Callable[[WireWatch], Coroutine[Any, Any, None]]) -> list[str]:
    """Runs a test with a `WireWatch`; its log."""
    log: list[str] = []
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(asyncio.wait_for(work(WireWatch(log.append)), 30))
    return log


def test_a_change_of_networks_means_a_check(checks: Checks) -> None:
    dhcp = DhcpServer("lab", "10.0.2.2", "255.255.255.0", name_servers=("192.0.2.1",))
    other = ("lab.internal",)
    changes: list[tuple[list[Fact], str | None, tuple[str, ...], tuple[str, ...]]] = [
        ([NET], None, ZONES, ()),
        ([], None, ZONES, ()),
        ([NET, dhcp], None, ZONES, ()),
        ([NET, replace(dhcp, name_servers=("198.18.53.1",))], None, ZONES, ()),
        ([NET], None, other, ()),
        ([NET], "/box", other, ()),
        ([NET], "/box", other, ("127.0.0.1",)),
    ]

    async def work(one: WireWatch) -> None:
        for facts, *inputs in changes:
            await one.check(facts, *inputs)
            await one.check([*facts, Machine("u", "web", "Running")], *inputs)  # a machine is no network

    assert watch(work) == []
    assert checks.calls == [(home, zones) for _, home, zones, _ in changes]


def test_changes_during_a_check_mean_one_more(checks: Checks) -> None:
    async def work(one: WireWatch) -> None:
        checks.go.clear()
        first = asyncio.create_task(one.check([NET], None, ZONES))
        await asyncio.to_thread(checks.began.wait, 20)
        addresses = [HostAddress("eth0", f"192.0.2.{number}/24") for number in range(5)]
        later = [asyncio.create_task(one.check([NET, address], None, ZONES)) for address in addresses]
        await asyncio.sleep(0)
        assert len(checks.calls) == 1
        checks.go.set()
        await asyncio.gather(first, *later)
        assert len(checks.calls) == 2

    watch(work)


def test_steps_and_problems_are_logged_once_and_a_failed_check_is_repeated(checks: Checks) -> None:
    shared = {"troubles": ["NAT Network lab: shares 192.0.2.20"]}
    failed = {"error": "VBoxManage list hostonlyifs: no answer in 10 s"}
    results = [{**shared, "steps": ["hand out 192.0.2.20"]}, shared, failed, failed, shared, failed]

    async def work(one: WireWatch) -> None:
        for number, result in enumerate(results):
            checks.result = result
            await one.check([NatNetwork("lab", f"10.0.{number}.0/24")], None, ZONES)
        for _ in range(3):
            await one.check([NatNetwork("lab", "10.0.5.0/24")], None, ZONES)
            checks.result = {}
        assert len(checks.calls) == len(results) + 2

    assert watch(work) == [
        "wiring: hand out 192.0.2.20",
        "wiring: NAT Network lab: shares 192.0.2.20",
        f"wiring: {failed['error']}",
        "wiring: NAT Network lab: shares 192.0.2.20",
        f"wiring: {failed['error']}",  # after a check without it
    ]


def test_a_check_of_virtualbox_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without privileges: networks share the address of the LAN."""
    box = FakeBox(tmp_path, TEXT, monkeypatch)
    for name, value in box.environ.items():
        monkeypatch.setenv(name, value)
    box.says("list hostonlyifs", INTERFACE)
    box.says("list bridgedifs", LAN)
    box.says("list runningvms", f'"web" {{{UUID}}}\n')
    box.says(f"showvminfo {UUID}", MACHINE.format(name="web", uuid=UUID, network="lab"))
    monkeypatch.setattr(wire_watch, "is_elevated", lambda: False)
    log = watch(lambda one: one.check([NET], None, ("local", "vm.internal")))
    assert "wiring: have the DHCP of lab hand out 192.0.2.20, and search local and vm.internal" in log
    assert f"wiring: these guests run: web; {FOLLOW}" in log
    assert any("NAT Network lab: shares 192.0.2.20 with other networks" in line for line in log)
    assert '<Option name="6" value="192.168.56.1" />' in box.file.read_text()
    box.says("list vms", f'"web" {{{UUID}}}\n')  # which are not in the file
    [line] = watch(lambda one: one.check([NET], None, ZONES))
    assert line.startswith("wiring: VirtualBox: ")
