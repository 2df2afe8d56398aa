"""The reader through VirtualBox's API, with objects that stand for VirtualBox's; the real ones are for tests/live."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.sources import zoo
from vmdns.sources import virtualbox_reader
from vmdns.sources.installation import Installation
from vmdns.sources.reader import VirtualBoxLost
from vmdns.sources.virtualbox_reader import ApiReader
from vmdns.state.facts import Fact, HostInterface, Machine, NatNetwork

EVENTS = {"OnMachineStateChanged": 1, "OnMachineRegistered": 2, "OnGuestPropertyChanged": 3}
INFO = "/VirtualBox/GuestInfo/"


class Ended(Exception):
    """VBoxSVC has ended."""


class World:
    """VMs by their UUIDs with their states, and the events that have not been read."""

    def __init__(self, home: Path) -> None:
        self.states = {"a": "Running", "b": "PoweredOff", "c": "Running"}
        self.reads: list[str] = []
        self.pending: list[Any] = []
        self.ended = False
        self.manager = SimpleNamespace(queryInterface=lambda event, name: event, deinit=lambda: None)
        source = SimpleNamespace(
            createListener=object,
            registerListener=lambda *_: None,
            unregisterListener=lambda *_: None,
            eventProcessed=lambda *_: None,
            getEvent=self._next_event,
        )
        self.vbox = SimpleNamespace(version="7.2", homeFolder=str(home), eventSource=source)
        self.events = EVENTS

    def _next_event(self, listener: object, milliseconds: int) -> Any:
        if self.ended:
            raise Ended
        return self.pending.pop(0) if self.pending else None

    def happens(self, event: str, uuid: str, **more: str) -> None:
        self.pending.append(SimpleNamespace(type=EVENTS[event], machineId=uuid, **more))

    # what the reader uses of its connection

    def array(self, raw: Any, attribute: str) -> Any:
        return [SimpleNamespace(id=uuid) for uuid in self.states]

    def code(self, error: Exception) -> int:
        return 0

    def check(self, error: Exception) -> None:
        if isinstance(error, Ended):
            raise VirtualBoxLost("VBoxSVC ended")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    (tmp_path / "VirtualBox.xml").write_bytes((zoo.FOLDER / "VirtualBox.xml").read_bytes())
    made = World(tmp_path)

    def read_machine(api: World, raw: Any, uuid: str, before: Machine | None) -> Machine:
        made.reads.append(uuid)
        return Machine(uuid, uuid, made.states[uuid])

    monkeypatch.setattr(virtualbox_reader, "_SHARE", 1e9)
    monkeypatch.setattr(virtualbox_reader, "Api", lambda installation: made)
    monkeypatch.setattr(virtualbox_reader, "read_machine", read_machine)
    monkeypatch.setattr(virtualbox_reader, "read_interfaces", lambda api: [HostInterface("v", "192.168.56.1/24")])
    monkeypatch.setattr(virtualbox_reader, "read_adapter_mac", lambda api, vm, slot: "")
    return made


def machines(facts: Mapping[str, Fact]) -> list[tuple[str, str, int]]:
    found = [fact for fact in facts.values() if isinstance(fact, Machine)]
    return sorted((one.uuid, one.state, one.registration_index) for one in found)


@pytest.fixture
def reader(world: World, tmp_path: Path) -> ApiReader:
    made = ApiReader(Installation(tmp_path, tmp_path / "VBoxManage"), 3600.0, lambda: None)
    made.read(1.0)
    return made


def test_the_first_read_has_everything(world: World, reader: ApiReader) -> None:
    facts = reader.read(0.0)
    assert machines(facts) == [("a", "Running", 0), ("b", "PoweredOff", 1), ("c", "Running", 2)]
    networks = {key for key, fact in zoo.FACTS.items() if isinstance(fact, NatNetwork)}
    assert networks | {"interface:v 192.168.56.1/24"} <= facts.keys()
    assert reader.read(0.0) is facts, "nothing happened"


def test_an_event_has_its_vm_read_alone(world: World, reader: ApiReader) -> None:
    before = reader.read(0.0)
    world.reads.clear()
    world.states["b"] = "Running"
    world.happens("OnMachineStateChanged", "b")
    after = reader.read(0.0)
    assert [key for key in after if after[key] is not before[key]] == ["machine:b"]
    assert (world.reads, machines(after)[1]) == (["b"], ("b", "Running", 1))


def test_vms_come_and_go(world: World, reader: ApiReader) -> None:
    del world.states["a"]
    world.states["d"] = "PoweredOff"
    world.happens("OnMachineRegistered", "d")
    reader.read(0.0)
    assert machines(reader.read(0.0)) == [("b", "PoweredOff", 0), ("c", "Running", 1), ("d", "PoweredOff", 2)]


def test_a_requested_look_reads_one_vm_after_the_other_and_events_between(world: World, reader: ApiReader) -> None:
    world.reads.clear()
    reader.request_look()
    reader.read(0.0)
    world.happens("OnMachineStateChanged", "c")
    for _ in range(3):
        reader.read(0.0)
    assert world.reads == ["a", "c", "b"]


def test_events_that_do_not_end_delay_no_report(
    world: World, reader: ApiReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load each event may take a third of a second, and four VMs that start fire a hundred."""
    moments = itertools.count(1000.0, 1 / 3)
    monkeypatch.setattr(virtualbox_reader, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    for number in range(100):
        world.happens("OnMachineStateChanged", "ac"[number % 2])
    world.reads.clear()
    reader.read(1.0)
    assert set(world.reads) == {"a", "c"}
    assert len(world.pending) > 90


def test_events_during_the_first_read_wait(world: World, tmp_path: Path) -> None:
    world.happens("OnMachineStateChanged", "c")
    ApiReader(Installation(tmp_path, tmp_path / "VBoxManage"), 3600.0, lambda: None).read(1.0)
    assert (world.reads, len(world.pending)) == (["a", "b", "c"], 1)


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [("Net/0/V4/IP", "10.0.2.4", ["a"]), ("Net/Count", "1", ["a"]), ("Net/Count", "0", []), ("OS/Release", "6", [])],
)
def test_guest_properties_that_matter(world: World, reader: ApiReader, name: str, value: str, read: list[str]) -> None:
    world.happens("OnGuestPropertyChanged", "a", name=INFO + "Net/Count", value="0")
    reader.read(0.0)
    world.reads.clear()
    world.happens("OnGuestPropertyChanged", "a", name=INFO + name, value=value)
    reader.read(0.0)
    assert world.reads == read


def test_networks_stay_while_virtualbox_xml_is_replaced(world: World, reader: ApiReader, tmp_path: Path) -> None:
    before = reader.read(0.0)
    (tmp_path / "VirtualBox.xml").rename(tmp_path / "VirtualBox.xml-prev")
    reader.request_look()
    for _ in range(4):
        after = reader.read(0.0)
    assert after == before


def test_host_only_networks_of_macos_come_and_go(world: World, reader: ApiReader, tmp_path: Path) -> None:
    """VirtualBox has no event for them; the worker requests a look when VirtualBox.xml changes."""
    file = tmp_path / "VirtualBox.xml"
    before, text = reader.read(0.0), file.read_text("utf-8")
    one = '<HostOnlyNetwork name="Lab" mask="255.255.255.0" ipLower="192.168.77.1" enabled="true"/>'
    found = {"interface:Lab 192.168.77.1/24": HostInterface("Lab", "192.168.77.1/24", vmnet=True)}
    with_one = text.replace("</NATNetworks>", f"</NATNetworks><HostOnlyNetworks>{one}</HostOnlyNetworks>")
    for content, more in ((with_one, found), (text, {})):
        file.write_text(content, "utf-8")
        reader.request_look()
        for _ in range(4):
            after = reader.read(0.0)
        assert after == {**before, **more}


def test_lost(world: World, reader: ApiReader, tmp_path: Path) -> None:
    world.ended = True
    with pytest.raises(VirtualBoxLost, match="VBoxSVC ended"):
        reader.read(0.0)
    (tmp_path / "VBoxManage").write_text("upgraded")
    reader.request_look()
    with pytest.raises(VirtualBoxLost, match="upgraded") as caught:
        reader.read(0.0)
    assert caught.value.pause > 5.0, "the old VBoxSVC ends five seconds after its last client"
    reader.close()
