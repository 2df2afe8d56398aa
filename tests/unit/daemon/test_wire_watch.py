"""`vmdns run --wire`: one check for each change of networks, with a simulated `Wire`; and with VirtualBox's files."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fakebox import FakeBox
from tests.unit.commands.test_wire import INTERFACE, LAN, TEXT
from vmdns.commands import CommandError, wire
from vmdns.daemon import wire_watch
from vmdns.daemon.wire_watch import WireWatch
from vmdns.state.facts import DhcpServer, HostAddress, Machine, NatNetwork

NET = NatNetwork("lab", "10.0.2.0/24")
ZONES = ("local",)


class SimulatedWire:
    """Stands for `Wire`: a check blocks while `go` is cleared, and then takes these steps."""

    def __init__(self) -> None:
        self.made: list[tuple[str | None, tuple[str, ...], bool]] = []
        self.checks = 0
        self.steps: list[str] = []
        self.notes: list[str] = []
        self.error: Exception | None = None
        self.go = threading.Event()
        self.go.set()
        self.began = threading.Event()

    def __call__(self, home: str | None, zones: tuple[str, ...], *, may: bool) -> SimulatedWire:
        self.made.append((home, zones, may))
        return self

    def plan(self) -> list[Any]:
        self.checks += 1
        self.began.set()
        assert self.go.wait(20)
        if self.error is not None:
            raise self.error
        return []

    def apply(self, networks: list[Any], log: Callable[[str], None]) -> list[Any]:
        for step in self.steps:
            log(step)
        return [SimpleNamespace(title="NAT Network lab", notes=self.notes, network="lab", steps=self.steps)]

    def guests(self, networks: list[str]) -> list[str]:
        return ["web"] if networks else []


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> SimulatedWire:
    made = SimulatedWire()
    monkeypatch.setattr(wire, "Wire", made)
    monkeypatch.setattr(wire_watch, "is_elevated", lambda: False)
    return made


def watch(work: Callable[[WireWatch], Coroutine[Any, Any, None]]) -> list[str]:
    """Runs a test with a `WireWatch`; its log."""
    log: list[str] = []
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(asyncio.wait_for(work(WireWatch(log.append)), 30))
    return log


async def check(one: WireWatch, *change: Any) -> None:
    """Reports a change, and waits for the check that may follow."""
    one.changed(*change)
    if one._task is not None:
        await one._task


def test_a_change_of_networks_means_a_check(simulated: SimulatedWire) -> None:
    dhcp = DhcpServer("lab", "10.0.2.2", "255.255.255.0", name_servers=("192.0.2.1",))
    calls: list[tuple[list[Any], str | None, tuple[str, ...], tuple[str, ...]]] = [
        ([NET], None, ZONES, ()),
        ([NET, Machine("u", "web", "Running")], None, ZONES, ()),  # a machine is no network
        ([], None, ZONES, ()),
        ([NET, dhcp], None, ZONES, ()),
        ([NET, replace(dhcp, name_servers=("198.18.53.1",))], None, ZONES, ()),
        ([NET], None, ("lab.internal",), ()),
        ([NET], "/box", ("lab.internal",), ()),
        ([NET], "/box", ("lab.internal",), ("127.0.0.1",)),
    ]

    async def work(one: WireWatch) -> None:
        for number, call in enumerate(calls):
            for _ in range(2):
                await check(one, *call)
            assert simulated.checks == (number + 1 if number == 0 else number)

    assert watch(work) == []
    assert list(dict.fromkeys(simulated.made)) == [
        (None, ZONES, False), (None, ("lab.internal",), False), ("/box", ("lab.internal",), False),
    ]  # fmt: skip


def test_changes_during_a_check_mean_one_more_and_the_end_waits(simulated: SimulatedWire) -> None:
    async def work(one: WireWatch) -> None:
        simulated.go.clear()
        one.changed([NET], None, ZONES)
        await asyncio.to_thread(simulated.began.wait, 20)
        for number in range(5):
            one.changed([NET, HostAddress("eth0", f"192.0.2.{number}/24")], None, ZONES)
        simulated.go.set()
        assert one._task is not None
        await one._task
        assert simulated.checks == 2
        simulated.go.clear()
        simulated.began.clear()
        one.changed([NET], None, ZONES)
        await asyncio.to_thread(simulated.began.wait, 20)
        one.changed([], None, ZONES)
        stopping = asyncio.create_task(one.stop())
        await asyncio.sleep(0)
        assert not stopping.done()
        simulated.go.set()
        await stopping
        assert (simulated.checks, one._task) == (3, None)

    watch(work)


def test_steps_and_problems_are_logged(simulated: SimulatedWire) -> None:
    async def work(one: WireWatch) -> None:
        simulated.steps, simulated.notes = ["have it hand out 192.0.2.20"], ["shares 192.0.2.20"]
        error = OSError("VBoxManage list hostonlyifs: no answer in 10 s")
        for number, failure in enumerate((None, None, error, error, None, error)):
            simulated.error = failure
            await check(one, [NatNetwork("lab", f"10.0.{number}.0/24")], None, ZONES)
            simulated.steps = []

    trouble = "wiring: VBoxManage list hostonlyifs: no answer in 10 s"
    assert watch(work) == [
        "wiring: have it hand out 192.0.2.20",
        f"wiring: these guests run: web; {wire.FOLLOW}",
        "wiring: NAT Network lab: shares 192.0.2.20",
        trouble,
        "wiring: NAT Network lab: shares 192.0.2.20",
        trouble,  # after a check without it
    ]


@pytest.mark.parametrize("error", [OSError("no"), CommandError("VirtualBox: it runs with another home")])
def test_after_a_failure_every_call_checks(simulated: SimulatedWire, error: Exception) -> None:
    async def work(one: WireWatch) -> None:
        for number in range(5):
            simulated.error = error if number < 2 else None
            await check(one, [NET], None, ZONES)
        assert simulated.checks == 3

    assert watch(work) == [f"wiring: {error}"]


@pytest.mark.skipif(sys.platform == "win32", reason="the simulated VBoxManage is a script as POSIX runs it")
def test_a_check_of_virtualbox_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real `Wire`, without privileges: networks share the address of the LAN."""
    box = FakeBox(tmp_path, TEXT)
    for name, value in box.environ.items():
        monkeypatch.setenv(name, value)
    box.says("list hostonlyifs", INTERFACE)
    box.says("list bridgedifs", LAN)
    monkeypatch.setattr(wire_watch, "is_elevated", lambda: False)
    log = watch(lambda one: check(one, [NET], None, ("local", "vm.internal")))
    assert "wiring: have the DHCP of lab hand out 192.0.2.20, and search local and vm.internal" in log
    assert any("NAT Network lab: shares 192.0.2.20 with other networks" in line for line in log)
    assert '<Option name="6" value="192.168.56.1" />' in box.file.read_text()
