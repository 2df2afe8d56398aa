"""`vmdns run --wire`: a look per change of networks and no more, on a played `Wire`; and the whole server, played."""

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
from vmdns.daemon import wire_watch as wired
from vmdns.daemon.wire_watch import WireWatch
from vmdns.state.facts import DhcpServer, HostAddress, Machine, NatNetwork

NET = NatNetwork("lab", "10.0.2.0/24")
ZONES = ("local",)


class PlayedWire:
    """What `wiring.Wire` would do: `acts` says it, in a thread, when it is let."""

    made: list[tuple[str | None, tuple[str, ...], bool]]

    def __init__(self) -> None:
        self.made = []
        self.looks = 0
        self.steps: list[str] = []
        self.notes: list[str] = []
        self.error: Exception | None = None
        self.go = threading.Event()
        self.go.set()
        self.began = threading.Event()

    def __call__(self, home: str | None, zones: tuple[str, ...], *, may: bool) -> PlayedWire:
        self.made.append((home, zones, may))
        return self

    def plan(self) -> list[Any]:
        self.looks += 1
        self.began.set()
        assert self.go.wait(20)
        if self.error is not None:
            raise self.error
        return []

    def apply(self, networks: list[Any], say: Callable[[str], None]) -> list[Any]:
        for step in self.steps:
            say(step)
        row = SimpleNamespace(title="NAT Network lab", notes=self.notes, network="lab")
        return [SimpleNamespace(row=row, steps=self.steps)]

    def guests(self, networks: list[str]) -> list[str]:
        return ["web"] if networks else []


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> PlayedWire:
    made = PlayedWire()
    monkeypatch.setattr(wire, "Wire", made)
    monkeypatch.setattr(wired, "is_elevated", lambda: False)
    return made


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(asyncio.wait_for(work, 30))


async def settled(one: WireWatch) -> None:
    """Until it has nothing left to do."""
    if one._task is not None:
        await one._task


def test_a_change_of_networks_means_a_check(played: PlayedWire) -> None:
    said: list[str] = []
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

    async def work() -> None:
        one = WireWatch(said.append)
        for number, call in enumerate(calls):
            for _ in range(2):
                one.changed(*call)
                await settled(one)
            assert played.looks == (number + 1 if number == 0 else number)

    run(work())
    assert list(dict.fromkeys(played.made)) == [
        (None, ZONES, False), (None, ("lab.internal",), False), ("/box", ("lab.internal",), False),
    ]  # fmt: skip
    assert said == []


def test_changes_during_a_check_mean_one_more_and_the_end_waits(played: PlayedWire) -> None:
    async def work() -> None:
        one = WireWatch(lambda line: None)
        played.go.clear()
        one.changed([NET], None, ZONES)
        await asyncio.to_thread(played.began.wait, 20)
        for number in range(5):
            one.changed([NET, HostAddress("eth0", f"192.0.2.{number}/24")], None, ZONES)
        played.go.set()
        await settled(one)
        assert played.looks == 2
        played.go.clear()
        played.began.clear()
        one.changed([NET], None, ZONES)
        await asyncio.to_thread(played.began.wait, 20)
        one.changed([], None, ZONES)
        stopping = asyncio.create_task(one.stop())
        await asyncio.sleep(0)
        assert not stopping.done()
        played.go.set()
        await stopping
        assert (played.looks, one._task) == (3, None)

    run(work())


def test_what_it_says(played: PlayedWire) -> None:
    said: list[str] = []

    async def work() -> None:
        one = WireWatch(said.append)
        played.steps, played.notes = ["have it hand out 192.0.2.20"], ["shares 192.0.2.20"]
        error = OSError("VBoxManage list hostonlyifs: no answer in 10 s")
        for number, failure in enumerate((None, None, error, error, None, error)):
            played.error = failure
            one.changed([NatNetwork("lab", f"10.0.{number}.0/24")], None, ZONES)
            await settled(one)
            played.steps = []

    run(work())
    trouble = "wiring: VBoxManage list hostonlyifs: no answer in 10 s"
    assert said == [
        "wiring: have it hand out 192.0.2.20",
        f"wiring: these guests run: web; {wire.FOLLOW}",
        "wiring: NAT Network lab: shares 192.0.2.20",
        trouble,
        "wiring: NAT Network lab: shares 192.0.2.20",
        trouble,  # it had gone in between
    ]


@pytest.mark.parametrize("error", [OSError("no"), CommandError("VirtualBox: it runs with another home")])
def test_after_a_failure_anything_means_a_look(played: PlayedWire, error: Exception) -> None:
    said: list[str] = []

    async def work() -> None:
        one = WireWatch(said.append)
        played.error = error
        for _ in range(2):
            one.changed([NET], None, ZONES)
            await settled(one)
        played.error = None
        for _ in range(3):
            one.changed([NET], None, ZONES)
            await settled(one)
        assert played.looks == 3

    run(work())
    assert said == [f"wiring: {error}"]


@pytest.mark.skipif(sys.platform == "win32", reason="the played VBoxManage is a script as POSIX runs it")
def test_a_look_on_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real `Wire`, without rights: networks share the address of the LAN."""
    box = FakeBox(tmp_path, TEXT)
    for name, value in box.environ.items():
        monkeypatch.setenv(name, value)
    box.says("list hostonlyifs", INTERFACE)
    box.says("list bridgedifs", LAN)
    monkeypatch.setattr(wired, "is_elevated", lambda: False)
    said: list[str] = []

    async def work() -> None:
        one = WireWatch(said.append)
        one.changed([NET], None, ("local", "vm.internal"))
        await settled(one)

    run(work())
    assert "wiring: have the DHCP of lab hand out 192.0.2.20, and search local and vm.internal" in said
    assert any("NAT Network lab: shares 192.0.2.20 with other networks" in line for line in said)
    assert '<Option name="6" value="192.168.56.1" />' in box.file.read_text()
