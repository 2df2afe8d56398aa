"""The reader through VBoxManage, played in this process: the recorded zoo first, then what may happen to it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from tests.fakeprogram import SUFFIX
from tests.unit.sources import zoo
from tests.unit.sources.fakevboxmanage import FakeVBoxManage
from vmdns.sources import vboxmanage as output
from vmdns.sources import vboxmanage_reader as vboxmanage
from vmdns.sources.installation import Installation
from vmdns.sources.reader import ReaderUnavailable, VirtualBoxInfo, VirtualBoxLost
from vmdns.sources.vboxmanage_reader import VBoxManageReader
from vmdns.sources.virtualbox_values import GUEST_PROPERTIES
from vmdns.state.facts import Fact, GuestReport, Machine, Network

MULTI = zoo.named("multi").uuid
RUN2 = zoo.named("run2").uuid
BARE = zoo.named("bare").uuid
GONE = "VBoxManage: error: Could not find\nVBoxManage: error: Details: code VBOX_E_OBJECT_NOT_FOUND (0x80bb0001)\n"
BUSY = "VBoxManage: error: The object is not ready\nVBoxManage: error: Details: code E_ACCESSDENIED (0x80070005)\n"


INDEXES = {uuid: at for at, uuid in enumerate(u for u in output.parse_vms(zoo.out("list", "vms")) if u != zoo.NOBODY)}
SAVED_AT = 1795385583.0  # lastStateChange in the settings file of RUN2
LISTED_AT = 1795385582.0  # the time that `World.long` prints


class Reading:
    """A reader, and what it reported last."""

    def __init__(self, reader: VBoxManageReader) -> None:
        self.reader = reader
        self.found = reader.found
        self._before: Mapping[str, Fact] = {}

    def look(self) -> Mapping[str, Fact]:
        self._before = self.reader.read(0)
        return self._before

    def wait(self, seconds: float) -> dict[str, Fact | None]:
        """What changed until the next report; None for what is gone."""
        before, self._before = self._before, self.reader.read(seconds)
        names = [*before, *(one for one in self._before if one not in before)]
        return {name: self._before.get(name) for name in names if before.get(name) != self._before.get(name)}


class World:
    """The recorded zoo, and its changes. A look or a wait sees it as it is at that moment."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = folder / "home"
        shutil.copytree(zoo.FOLDER / "machines", self.home / "machines")
        shutil.copy(zoo.FOLDER / "VirtualBox.xml", self.home)
        self.fake = FakeVBoxManage(folder / "program", monkeypatch)
        for words, call in zoo.CALLS.items():
            self.fake.plays(words, call["out"], err=call["err"], status=call["status"])
        self.environ = {**os.environ, "VBOX_USER_HOME": str(self.home)}

    def reader(self) -> Reading:
        return Reading(VBoxManageReader(Installation(self.fake.folder, self.fake.path), self.environ, lambda: None))

    def out(self, words: str, old: str, new: str) -> None:
        """From now on the recorded output of these arguments has new in place of old."""
        recorded = zoo.CALLS[words]["out"]
        assert old in recorded
        self.fake.plays(words, recorded.replace(old, new))

    def running(self, *uuids: str) -> None:
        self.fake.plays("list runningvms", "".join(f'"{zoo.MACHINES[one].name}" {{{one}}}\n' for one in uuids))

    def settings(self, uuid: str, pattern: str, new: str) -> None:
        """Replaces the settings file as VirtualBox does."""
        path = self.home / "machines" / f"{uuid}.vbox"
        text = re.sub(pattern, new, path.read_text("utf-8"), count=1)
        assert text != path.read_text("utf-8")
        (self.home / "tmp").write_text(text, "utf-8")
        os.replace(self.home / "tmp", path)

    def touch(self, uuid: str) -> None:
        """Its settings were saved."""
        self.settings(uuid, 'lastStateChange="[^"]*', r"\g<0>0")

    def index(self, pattern: str = "</Global>", new: str = "</Global><!-- -->") -> None:
        """Replaces VirtualBox.xml."""
        path = self.home / "VirtualBox.xml"
        (self.home / "tmp").write_text(re.sub(pattern, new, path.read_text("utf-8"), count=1), "utf-8")
        os.replace(self.home / "tmp", path)

    def long(self, uuid: str, state: str) -> None:
        self.fake.plays("list vms --long", f"UUID:      {uuid}\nState:     {state} (since 2026-11-22T22:13:02)\n")


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    return World(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def at_once(monkeypatch) -> None:
    """Rounds follow each other without a pause and look at every VM: wait(0) is one round."""
    monkeypatch.setattr(vboxmanage, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(vboxmanage, "MAX_ROUND_SECONDS", 0.0)
    monkeypatch.setattr(vboxmanage, "SHARE", 1e9)
    monkeypatch.setattr(vboxmanage, "CREDIT_SECONDS", 60.0)


@pytest.fixture
def reader(world) -> Reading:
    reader = world.reader()
    reader.look()
    return reader


def reported(machine: Machine) -> Machine:
    """What a reader tells of this VM: adapters and reports of an online one alone, and its place in `list vms`."""
    machine = replace(machine, registration_index=machine.registration_index or INDEXES[machine.uuid])
    return machine if machine.online else replace(machine, adapters=(), reports=())


def vm(uuid: str, **changes: object) -> dict[str, Fact]:
    return {f"machine:{uuid}": reported(replace(zoo.MACHINES[uuid], **changes))}  # type: ignore[arg-type]


FACTS = {name: reported(fact) if isinstance(fact, Machine) else fact for name, fact in zoo.FACTS.items()}


# -- what there is ---------------------------------------------------------------------------------------------


def test_found(world) -> None:
    reader = world.reader()
    assert reader.found == VirtualBoxInfo("7.2.22_Debian", "vboxmanage", str(world.home))
    assert {one.home for one in world.fake.log} == {str(world.home)}


def test_look_sees_what_the_api_saw(world) -> None:
    reader = world.reader()
    assert reader.look() == FACTS
    assert reader.wait(0) == {}
    assert reader.look() == FACTS
    reader.reader.close()


def test_only_running_vms_are_shown(world, reader) -> None:
    reader.wait(0)
    shown = {words.split()[1] for words in world.fake.calls() if words.startswith("showvminfo")}
    online = {uuid for uuid, machine in zoo.MACHINES.items() if machine.online}
    assert shown == online


def test_versions(world) -> None:
    for printed, version in {
        "6.1.50r161033\n": "6.1.50",
        "7.1.6_Ubuntur167084\n": "7.1.6_Ubuntu",
        "7.2.4\n": "7.2.4",
        "WARNING: The character device /dev/vboxdrv does not exist.\n\t See 1.2 3.\n7.0.26r168464\n": "7.0.26",
    }.items():
        world.fake.plays("--version", printed)
        assert world.reader().found.version == version


def test_6_1_knows_no_format(world) -> None:
    words = f"guestproperty enumerate {RUN2} --patterns {GUEST_PROPERTIES}"
    world.fake.plays("--version", "6.1.50r161033\n")
    world.fake.plays(
        words,
        "Name: /VirtualBox/GuestInfo/Net/0/MAC, value: 080027112233, timestamp: 1000000000, flags: \n"
        "Name: /VirtualBox/HostInfo/VBoxVer, value: 6.1.50, timestamp: 900000000, flags: TRANSIENT, RDONLYGUEST\n"
        "Name: /VirtualBox/GuestInfo/Net/0/V4/IP, value: 10.0.2.9, timestamp: 2000000000, flags: TRANSIENT\n",
    )
    found = world.reader().look()
    expected = vm(RUN2, reports=(GuestReport("080027112233", "10.0.2.9", 2.0),))
    assert found[f"machine:{RUN2}"] == expected[f"machine:{RUN2}"]


@pytest.mark.parametrize("printed", ["", "no version", "VirtualBox"])
def test_no_virtualbox(world, printed) -> None:
    world.fake.plays("--version", printed)
    with pytest.raises(ReaderUnavailable, match="is not VirtualBox's"):
        world.reader()


def test_no_vboxmanage(world) -> None:
    world.fake.path.unlink()
    with pytest.raises(ReaderUnavailable, match="cannot be run"):
        world.reader()


# -- what happens ----------------------------------------------------------------------------------------------


def test_power_off_and_on(world, reader) -> None:
    others = [uuid for uuid, machine in zoo.MACHINES.items() if machine.online and uuid != RUN2]
    world.running(*others)
    world.long(RUN2, "powered off")
    assert reader.wait(0) == vm(RUN2, state="PoweredOff", state_changed=SAVED_AT)
    assert reader.wait(0) == {}
    world.running(*others, RUN2)
    assert reader.wait(0) == vm(RUN2)


def test_saved_and_killed(world, reader) -> None:
    world.running()
    world.fake.plays("list vms --long", status=1)
    world.settings(RUN2, "<Machine ", '<Machine stateFile="Snapshots/a.sav" ')
    world.settings(MULTI, "<Machine ", '<Machine aborted="true" ')
    changes = reader.wait(0)
    assert {key: fact.state for key, fact in changes.items() if isinstance(fact, Machine)} == {
        f"machine:{RUN2}": "Saved",
        f"machine:{MULTI}": "Aborted",
        f"machine:{zoo.named('ich9').uuid}": "PoweredOff",
        f"machine:{zoo.named('🦀 리눅스').uuid}": "PoweredOff",
    }


def test_a_snapshot_that_is_deleted_does_not_end_the_vm(world, reader) -> None:
    world.running(*[uuid for uuid, machine in zoo.MACHINES.items() if machine.online and uuid != RUN2])
    world.long(RUN2, "deleting snapshot live")
    assert reader.wait(0) == vm(RUN2, state="DeletingSnapshotOnline", state_changed=LISTED_AT)
    assert reader.wait(0) == {}
    world.long(RUN2, "powered off")
    assert reader.wait(0) == vm(RUN2, state="PoweredOff", state_changed=SAVED_AT)


def test_new_address(world, reader) -> None:
    words = f"guestproperty enumerate {RUN2} --old-format --patterns {GUEST_PROPERTIES}"
    world.out(words, "value: 10.0.2.4", "value: 10.0.2.5")
    (report,) = zoo.MACHINES[RUN2].reports
    assert reader.wait(0) == vm(RUN2, reports=(replace(report, address="10.0.2.5"),))


@pytest.mark.parametrize(
    "answer", [{"status": 1, "err": BUSY}, {"status": 139}, {"out": "\udcff\x00 garbage"}, {"out": ""}]
)
def test_a_vm_that_refuses_stays_as_it_was(world, reader, answer) -> None:
    words = f"showvminfo {MULTI} --machinereadable"
    world.fake.plays(words, **answer)
    world.touch(MULTI)
    assert reader.wait(0) == {}
    world.fake.plays(
        words, zoo.out(*words.split()).replace('hostonlyadapter3="vboxnet0"', 'hostonlyadapter3="vboxnet1"')
    )
    (changed,) = reader.wait(0).values()
    assert isinstance(changed, Machine)
    assert changed.adapters[2].network == Network("hostonly", "vboxnet1")


def test_a_vm_that_refuses_from_the_first_is_known_by_its_settings(world) -> None:
    world.fake.plays(f"showvminfo {RUN2} --machinereadable", status=1, err=BUSY)
    expected = vm(RUN2, state="Running", reports=(), state_changed=0.0)
    assert world.reader().look()[f"machine:{RUN2}"] == expected[f"machine:{RUN2}"]


def test_renamed_regrouped_and_given_names(world, reader) -> None:
    world.settings(BARE, 'name="bare"', 'name="new &quot;name&quot;"')
    assert reader.wait(0) == vm(BARE, name='new "name"')
    world.settings(BARE, "</Machine>", '<Groups><Group name="/lab"/></Groups></Machine>')
    assert reader.wait(0) == vm(BARE, name='new "name"', groups=("/lab",))
    world.settings(RUN2, "<ExtraData>", '<ExtraData><ExtraDataItem name="vmdns/names" value="a,b"/>')
    assert reader.wait(0) == vm(RUN2, names=("a", "b"))
    world.settings(RUN2, "<ExtraData>", '<ExtraData><ExtraDataItem name="vmdns/address" value="10.0.2.9"/>')
    assert reader.wait(0) == vm(RUN2, names=("a", "b"), set_addresses=("10.0.2.9",))


def test_letters_that_windows_code_page_lacks(world, reader) -> None:
    """VBoxManage prints a question mark for each; the settings file has them."""
    words = f"showvminfo {MULTI} --machinereadable"
    world.settings(MULTI, 'name="multi"', 'name="가상 😀"')
    world.settings(MULTI, 'Group name="/lab"', 'Group name="/실험"')
    replies = zoo.out(*words.split()).replace('name="multi"', 'name="?? ??"').replace("/lab,", "/??,")
    world.fake.plays(words, replies.replace("리눅스 lab", "??? lab"))
    (changed,) = reader.wait(0).values()
    assert changed == replace(
        zoo.MACHINES[MULTI], name="가상 😀", groups=("/실험", "/b/c"), registration_index=INDEXES[MULTI]
    )


def test_unregistered_and_registered(world, reader) -> None:
    line = f'"bare" {{{BARE}}}\n'
    world.out("list vms", line, "")
    world.index()
    others = {key: fact for key, fact in FACTS.items() if key != f"machine:{BARE}"}
    assert places(reader.look()) == places(others)
    world.fake.plays("list vms", zoo.out("list", "vms").replace(line, "") + line)
    world.index()
    assert places(reader.look()) == [*places(others), f"machine:{BARE}"], "registered again, it is the youngest"


def places(facts: Mapping[str, Fact]) -> list[str]:
    """The keys of the VMs in the order of their registration."""
    machines = {key: fact for key, fact in facts.items() if isinstance(fact, Machine)}
    return sorted(machines, key=lambda key: machines[key].registration_index)


def test_a_vm_that_is_started_as_soon_as_it_is_registered(world, reader) -> None:
    line = f'"run2" {{{RUN2}}}\n'
    world.out("list vms", line, "")
    world.out("list runningvms", line, "")
    world.index()
    assert f"machine:{RUN2}" not in reader.look()
    world.out("list vms", line, line)
    world.out("list runningvms", line, line)  # and VirtualBox.xml is as it was
    assert reader.look()[f"machine:{RUN2}"] == FACTS[f"machine:{RUN2}"]


def test_settings_that_vanish_and_come_back(world, reader) -> None:
    path = world.home / "machines" / f"{BARE}.vbox"
    kept = path.read_bytes()
    path.unlink()
    world.out("list vms", '"bare"', '"<inaccessible>"')
    reader.reader.request_look()
    assert reader.wait(0) == {f"machine:{BARE}": reported(Machine(BARE, "", accessible=False))}
    path.write_bytes(kept)
    world.out("list vms", '"bare"', '"bare"')
    reader.reader.request_look()
    assert reader.wait(0) == vm(BARE)


def test_networks(world, reader) -> None:
    world.fake.plays("list hostonlyifs", "")
    assert reader.wait(0) == {}, "VirtualBox.xml is as it was"
    world.index('network="10.9.0.0/16"', 'network="10.8.0.0/16"')
    changes = reader.wait(0)
    interfaces = [key for key in zoo.FACTS if key.startswith("interface:")]
    assert [key for key, fact in changes.items() if fact is None] == interfaces
    assert {key for key, fact in changes.items() if fact is not None} == {'natnetwork:리눅스 lab: "x"'}


def test_networks_stay_while_virtualbox_xml_cannot_be_read(world, reader) -> None:
    (world.home / "VirtualBox.xml").write_text("<VirtualBox>")
    reader.reader.request_look()
    assert {key for key in reader.look() if key.startswith("natnetwork:")} == {
        key for key in zoo.FACTS if key.startswith("natnetwork:")
    }


def test_pause_and_resume(world, reader, monkeypatch) -> None:
    monkeypatch.setattr(vboxmanage, "SHOW_SECONDS", 0.0)
    words = f"showvminfo {MULTI} --machinereadable"
    world.out(words, 'VMState="running"', 'VMState="paused"')
    assert reader.wait(0) == vm(MULTI, state="Paused")
    assert reader.wait(0) == {}
    world.out(words, "", "")
    assert reader.wait(0) == vm(MULTI)


def test_a_vm_that_starts_is_shown_again_until_it_runs(world) -> None:
    words = f"showvminfo {RUN2} --machinereadable"
    world.out(words, 'VMState="paused"', 'VMState="starting"')
    reader = world.reader()
    starting = vm(RUN2, state="Starting", reports=())[f"machine:{RUN2}"]
    assert reader.look()[f"machine:{RUN2}"] == starting, "its properties are of the run before"
    world.out(words, "", "")
    assert reader.wait(0) == vm(RUN2)


def test_a_round_reads_some_vms_and_the_next_the_others(world, reader, monkeypatch) -> None:
    monkeypatch.setattr(vboxmanage, "CREDIT_SECONDS", 1e-9)
    monkeypatch.setattr(output, "_cpu_seconds", count().__next__)
    before = len(world.fake.calls())
    for _ in range(4):
        assert reader.wait(0) == {}
    looked = [words.split()[2] for words in world.fake.calls()[before:] if words.startswith("guestproperty")]
    assert len(looked) == 4
    assert set(looked) == {uuid for uuid, machine in zoo.MACHINES.items() if machine.online}


def test_without_credit_no_vm_is_looked_at(world, reader, monkeypatch) -> None:
    monkeypatch.setattr(vboxmanage, "CREDIT_SECONDS", 0.0)
    online = [uuid for uuid, machine in zoo.MACHINES.items() if machine.online]
    world.running(*[uuid for uuid in online if uuid != RUN2])
    world.long(RUN2, "powered off")
    assert reader.wait(0) == vm(RUN2, state="PoweredOff", state_changed=SAVED_AT)
    world.running(*online)
    before = len(world.fake.calls())
    assert reader.wait(0) == vm(RUN2, state="Running", reports=(), state_changed=0.0), "as its settings have it"
    assert world.fake.calls()[before:] == ["list runningvms"]


def test_a_vm_that_just_started_comes_first(world, reader, monkeypatch) -> None:
    online = [uuid for uuid, machine in zoo.MACHINES.items() if machine.online]
    world.running(*[uuid for uuid in online if uuid != RUN2])
    reader.wait(0)
    world.running(*online)
    monkeypatch.setattr(vboxmanage, "CREDIT_SECONDS", 1e-9)
    monkeypatch.setattr(output, "_cpu_seconds", count().__next__)
    before = len(world.fake.calls())
    assert reader.wait(0) == vm(RUN2)
    looked = [words.split()[1] for words in world.fake.calls()[before:] if words.startswith("showvminfo")]
    assert looked == [RUN2]
    assert sum(words.startswith("guestproperty") for words in world.fake.calls()[before:]) == 1


# -- without settings files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("uuid", [RUN2, BARE])
def test_extra_data_of_a_vm_without_a_readable_settings_file(world, uuid) -> None:
    """An encrypted VM, or one of another user, running or powered off."""
    call = f"getextradata {uuid} enumerate"
    (world.home / "machines" / f"{uuid}.vbox").write_bytes(b"no xml")
    world.fake.plays(
        call, "Key: vmdns/address, Value: 10.0.2.9\nKey: x, y: z, Value: a\nb\nKey: vmdns/names, Value: a\n"
    )
    reader = world.reader()
    extra = {"names": ("a",), "set_addresses": ("10.0.2.9",)}
    assert reader.look()[f"machine:{uuid}"] == vm(uuid, **since(uuid), **extra)[f"machine:{uuid}"]
    world.fake.plays(call, "Key: vmdns/ignore, Value: 1\n")
    assert reader.wait(0) == {}
    assert [words for words in world.fake.calls() if words.startswith("getextradata")] == [call]
    (world.home / "machines" / f"{uuid}.vbox").write_bytes(b"still no xml")
    assert reader.wait(0) == vm(uuid, **since(uuid), names=(), ignored=True)
    world.fake.plays(call, status=1, err=BUSY)
    reader.reader.request_look()
    assert reader.wait(0) == {}, "what is known is kept"
    world.fake.plays(call, "")
    reader.reader.request_look()
    assert reader.wait(0) == vm(uuid, **since(uuid), names=())


def since(uuid: str) -> dict[str, float]:
    """When a VM without a readable settings file was powered off is not known."""
    return {} if zoo.MACHINES[uuid].online else {"state_changed": 0.0}


def test_a_gone_vm_is_gone(world, reader) -> None:
    world.touch(RUN2)
    world.fake.plays(f"showvminfo {RUN2} --machinereadable", status=1, err=GONE)
    assert reader.wait(0) == {f"machine:{RUN2}": None}


def test_settings_of_another_vm_are_not_believed(world, reader) -> None:
    shutil.copy(world.home / "machines" / f"{MULTI}.vbox", world.home / "machines" / f"{BARE}.vbox")
    world.fake.plays(f"showvminfo {BARE} --machinereadable", status=1, err=BUSY)
    assert reader.wait(0) == vm(BARE, state_changed=0.0), "its name is in the list, and it never had an adapter"


# -- the end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["list runningvms", "list vms", "list hostonlyifs"])
def test_lost_after_a_second_try(world, reader, words) -> None:
    world.index()
    world.fake.fails_once(words)
    assert reader.wait(0) == {}
    world.index()
    world.fake.plays(words, status=1, err="VBoxManage: error: Failed to create the VirtualBox object!\n")
    with pytest.raises(VirtualBoxLost, match="Failed to create the VirtualBox object"):
        reader.wait(0)


OTHER = '"other" {99999999-8888-4777-8666-555555555555}\n'


@pytest.mark.parametrize("listed", [OTHER, ""])
def test_the_vms_of_another_home_are_not_taken_for_those_of_the_named_one(world, reader, listed) -> None:
    """VBoxManage talks to the VBoxSVC that runs, whatever VBOX_USER_HOME says."""
    world.fake.plays("list vms", listed)
    world.fake.plays("list runningvms", listed)
    world.index()
    with pytest.raises(VirtualBoxLost, match=rf"not in {re.escape(str(world.home))}; quit VirtualBox and all its VMs"):
        reader.wait(0)
    with pytest.raises(VirtualBoxLost, match="not in"):
        world.reader().look()
    (world.home / "VirtualBox.xml").unlink()
    if listed:
        with pytest.raises(VirtualBoxLost, match="not in"):
            world.reader().look()


def test_upgraded(world, reader) -> None:
    (world.fake.folder / f"VBoxSVC{SUFFIX}").write_text("another")
    with pytest.raises(VirtualBoxLost, match="upgraded"):
        reader.wait(0)


def test_garbage(world) -> None:
    garbage = '\x00\x1b[0m\udcff\udcfe"{}\n' * 1000
    for words in zoo.CALLS:
        if words != "--version":
            world.fake.plays(words, garbage)
    del world.environ["VBOX_USER_HOME"]
    world.environ |= dict.fromkeys(("HOME", "USERPROFILE"), str(world.fake.folder))
    reader = world.reader()
    assert reader.look() == {}
    assert reader.wait(0) == {}


# -- waiting -----------------------------------------------------------------------------------------------------
