"""The reader through VBoxManage, played by a script: the recorded zoo first, then what may happen to it."""

from __future__ import annotations

import os
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.sources import zoo
from tests.unit.sources.fakevboxmanage import FakeVBoxManage
from vmdns.sources import vboxmanage_machines
from vmdns.sources import vboxmanage_output as output
from vmdns.sources import vboxmanage_reader as vboxmanage
from vmdns.sources.installation import Installation
from vmdns.sources.reader import ReaderUnavailable, VirtualBoxInfo, VirtualBoxLost, WrongHome
from vmdns.sources.vboxmanage_reader import VBoxManageReader
from vmdns.sources.virtualbox_values import GUEST_PROPERTIES
from vmdns.state.facts import Fact, GuestReport, Machine, Network, PortForward

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the fake is a script")

MULTI = zoo.named("multi").uuid
RUN2 = zoo.named("run2").uuid
BARE = zoo.named("bare").uuid
GONE = "VBoxManage: error: Could not find\nVBoxManage: error: Details: code VBOX_E_OBJECT_NOT_FOUND (0x80bb0001)\n"
BUSY = "VBoxManage: error: The object is not ready\nVBoxManage: error: Details: code E_ACCESSDENIED (0x80070005)\n"


LONG = (zoo.FOLDER / "long.txt").read_text("utf-8")


INDEXES = {uuid: at for at, uuid in enumerate(output.parse_vms(zoo.out("list", "vms")))}
YOUNGEST = len(INDEXES)  # the place of the first VM that is registered later
SAVED_AT = 1795385583.0  # lastStateChange in the settings file of RUN2
LISTED_AT = 1795385582.0  # the time that `World.long` prints


class World:
    """The recorded zoo, and its changes. A look or a wait sees it as it is at that moment."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        shutil.copytree(zoo.FOLDER / "machines", self.home / "machines")
        shutil.copy(zoo.FOLDER / "VirtualBox.xml", self.home)
        self.fake = FakeVBoxManage(folder / "program")
        for words, call in zoo.CALLS.items():
            self.fake.plays(words, call["out"], err=call["err"], status=call["status"])
        self.fake.plays("list runningvms --long", LONG)
        self.environ = {**os.environ, "VBOX_USER_HOME": str(self.home)}

    def reader(self) -> VBoxManageReader:
        return VBoxManageReader(Installation(self.fake.folder, self.fake.path), self.environ)

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
def world(tmp_path) -> World:
    return World(tmp_path)


@pytest.fixture(autouse=True)
def at_once(monkeypatch) -> None:
    """Rounds follow each other without a pause and look at every VM: wait(0) is one round."""
    monkeypatch.setattr(vboxmanage, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(vboxmanage, "MOST_SECONDS", 0.0)
    monkeypatch.setattr(vboxmanage, "SHARE", 1e9)
    monkeypatch.setattr(vboxmanage, "CREDIT_SECONDS", 60.0)
    monkeypatch.setattr(vboxmanage_machines, "STATE_SECONDS", 0.0)
    monkeypatch.setattr(vboxmanage_machines, "STATES_SECONDS", 0.0)


@pytest.fixture
def reader(world) -> VBoxManageReader:
    reader = world.reader()
    reader.look()
    return reader


def told(machine: Machine) -> Machine:
    """What a reader tells of this VM: adapters and reports of an online one alone, and its place in `list vms`."""
    machine = replace(machine, registration_index=machine.registration_index or INDEXES[machine.uuid])
    return machine if machine.online else replace(machine, adapters=(), reports=())


def vm(uuid: str, **changes: object) -> dict[str, Fact]:
    return {f"machine:{uuid}": told(replace(zoo.MACHINES[uuid], **changes))}  # type: ignore[arg-type]


FACTS = {name: told(fact) if isinstance(fact, Machine) else fact for name, fact in zoo.FACTS.items()}


# -- what there is ---------------------------------------------------------------------------------------------


def test_found(world) -> None:
    reader = world.reader()
    assert reader.found == VirtualBoxInfo("7.2.22_Debian", "vboxmanage", str(world.home))
    world.environ["VBOX_USER_HOME"] = "/elsewhere"
    named = VBoxManageReader(Installation(world.fake.folder, world.fake.path), world.environ, str(world.home))
    assert named.found.home == str(world.home)
    assert {one.home for one in world.fake.log()} == {str(world.home)}


def test_look_sees_what_the_api_saw(world) -> None:
    reader = world.reader()
    assert reader.look() == FACTS
    assert reader.wait(0) == {}
    assert reader.look() == FACTS
    reader.close()


def test_only_running_vms_are_asked_for(world, reader) -> None:
    reader.wait(0)
    shown = {words.split()[1] for words in world.fake.asked() if words.startswith("showvminfo")}
    online = {uuid for uuid, machine in zoo.MACHINES.items() if machine.online}
    assert shown == online | {zoo.NOBODY}, "and one that only a name looks like"


def test_a_quiet_round_is_cheap(world, reader) -> None:
    world.running()
    reader.wait(0)
    before = len(world.fake.asked())
    assert reader.wait(0) == {}
    assert world.fake.asked()[before:] == ["list runningvms"]


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


def test_pause_and_resume(world, reader) -> None:
    assert LONG.index(MULTI) < LONG.index(" running (since")
    world.fake.plays("list runningvms --long", LONG.replace(" running (since", " paused (since", 1))
    assert reader.wait(0) == vm(MULTI, state="Paused")
    assert reader.wait(0) == {}
    world.fake.plays("list runningvms --long", "Имя: multi\n")
    assert reader.wait(0) == {}, "a language that is not known"
    world.fake.plays("list runningvms --long", LONG)
    assert reader.wait(0) == vm(MULTI)


@pytest.mark.parametrize(
    ("least", "each", "asked"), [(3600.0, 0.0, False), (0.0, 900.0, False), (0.0, 0.0, True)]
)  # fmt: skip
def test_states_are_looked_at_now_and_then(world, reader, monkeypatch, least, each, asked) -> None:
    monkeypatch.setattr(vboxmanage_machines, "STATES_SECONDS", least)
    monkeypatch.setattr(vboxmanage_machines, "STATE_SECONDS", each)
    before = len(world.fake.asked())
    assert reader.wait(0) == {}
    assert ("list runningvms --long" in world.fake.asked()[before:]) is asked


def test_a_snapshot_that_is_deleted_does_not_end_the_vm(world, reader) -> None:
    world.running(*[uuid for uuid, machine in zoo.MACHINES.items() if machine.online and uuid != RUN2])
    world.long(RUN2, "deleting snapshot live")
    assert reader.wait(0) == vm(RUN2, state="DeletingSnapshotOnline", state_changed=LISTED_AT)
    assert reader.wait(0) == {}
    world.long(RUN2, "powered off")
    assert reader.wait(0) == vm(RUN2, state="PoweredOff", state_changed=SAVED_AT)


def test_many_vms_are_not_listed_at_length(world, reader, monkeypatch) -> None:
    monkeypatch.setattr(vboxmanage_machines, "MAX_LONG", 5)
    world.running()
    assert reader.wait(0)[f"machine:{RUN2}"] == vm(RUN2, state="PoweredOff", state_changed=SAVED_AT)[f"machine:{RUN2}"]
    assert "list vms --long" not in world.fake.asked()


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


def test_properties_that_are_refused_stay_as_they_were(world, reader) -> None:
    words = f"guestproperty enumerate {RUN2} --old-format --patterns {GUEST_PROPERTIES}"
    world.fake.plays(words, status=1, err=BUSY)
    world.settings(RUN2, "<ExtraData>", '<ExtraData><ExtraDataItem name="vmdns/names" value="a,b"/>')
    assert reader.wait(0) == vm(RUN2, names=("a", "b"))


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


def test_a_new_rule_of_a_running_vm(world, reader) -> None:
    words = f"showvminfo {zoo.named('🦀 리눅스').uuid} --machinereadable"
    world.touch(zoo.named("🦀 리눅스").uuid)
    world.out(words, 'enableTFTP="0"\n', 'enableTFTP="0"\nForwarding(0)="w,tcp,,8080,,80"\n')
    (changed,) = reader.wait(0).values()
    assert isinstance(changed, Machine)
    assert changed.adapters[0].forwards == (PortForward("w", "tcp", "", 8080, "", 80),)


def test_unregistered_and_registered(world, reader) -> None:
    line = f'"bare" {{{BARE}}}\n'
    world.out("list vms", line, "")
    world.index()
    assert reader.wait(0) == {f"machine:{BARE}": None}
    world.out("list vms", line, line)
    world.index()
    assert reader.wait(0) == vm(BARE, registration_index=YOUNGEST)


def test_a_vm_keeps_its_place_in_the_order_of_registration(world, reader) -> None:
    before = {key: fact.registration_index for key, fact in FACTS.items() if isinstance(fact, Machine)}
    line = f'"bare" {{{BARE}}}\n'
    world.out("list vms", line, "")
    world.index()
    assert reader.wait(0) == {f"machine:{BARE}": None}, "the places of the others did not change"
    world.fake.plays("list vms", zoo.out("list", "vms").replace(line, "") + line)
    world.index()
    (again,) = reader.wait(0).values()
    assert isinstance(again, Machine)
    assert again.registration_index > max(before.values()), "registered again, it is the youngest"


def test_a_vm_that_is_started_as_soon_as_it_is_registered(world, reader) -> None:
    line = f'"run2" {{{RUN2}}}\n'
    world.out("list vms", line, "")
    world.out("list runningvms", line, "")
    world.index()
    assert reader.wait(0) == {f"machine:{RUN2}": None}
    world.out("list vms", line, line)
    world.out("list runningvms", line, line)  # and VirtualBox.xml is as it was
    assert reader.wait(0) == vm(RUN2, registration_index=YOUNGEST)


def test_settings_that_vanish_and_come_back(world, reader) -> None:
    path = world.home / "machines" / f"{BARE}.vbox"
    kept = path.read_bytes()
    path.unlink()
    world.out("list vms", '"bare"', '"<inaccessible>"')
    seen = {**reader.wait(0), **reader.wait(0)}  # the list is read again once the file is missed
    assert seen == {f"machine:{BARE}": told(Machine(BARE, "", accessible=False))}
    path.write_bytes(kept)
    world.out("list vms", '"bare"', '"bare"')
    assert {**reader.wait(0), **reader.wait(0)} == vm(BARE)


def test_networks(world, reader) -> None:
    world.out(
        "natnetwork list", "Enabled:      No\nNetwork:      10.9.0.0/16", "Enabled:      Yes\nNetwork:      10.8.0.0/16"
    )
    world.out("list dhcpservers", "10.0.2.88", "10.0.2.99")
    world.fake.plays("list hostonlyifs", "")
    assert reader.wait(0) == {}, "VirtualBox.xml is as it was"
    world.index()
    changes = reader.wait(0)
    interfaces = [key for key in zoo.FACTS if key.startswith("interface:")]
    assert [key for key, fact in changes.items() if fact is None] == interfaces
    assert {key for key, fact in changes.items() if fact is not None} == {
        "dhcp:NatNetwork",
        'natnetwork:리눅스 lab: "x"',
    }


def test_slow_look_finds_what_no_file_tells(world, reader, monkeypatch) -> None:
    world.fake.plays("list hostonlyifs", "")
    assert reader.wait(0) == {}
    monkeypatch.setattr(vboxmanage, "SLOW_SECONDS", 0.0)
    assert set(reader.wait(0)) == {key for key in zoo.FACTS if key.startswith("interface:")}


def test_a_round_asks_for_some_and_the_next_for_the_others(world, reader, monkeypatch) -> None:
    monkeypatch.setattr(vboxmanage, "CREDIT_SECONDS", 1e-9)
    monkeypatch.setattr(vboxmanage_machines, "STATES_SECONDS", 3600.0)
    before = len(world.fake.asked())
    for _ in range(4):
        assert reader.wait(0) == {}
    looked = [words.split()[2] for words in world.fake.asked()[before:] if words.startswith("guestproperty")]
    assert len(looked) == 4
    assert set(looked) == {uuid for uuid, machine in zoo.MACHINES.items() if machine.online}


def test_without_credit_no_vm_is_looked_at(world, reader, monkeypatch) -> None:
    monkeypatch.setattr(vboxmanage, "CREDIT_SECONDS", 0.0)
    online = [uuid for uuid, machine in zoo.MACHINES.items() if machine.online]
    world.running(*[uuid for uuid in online if uuid != RUN2])
    world.long(RUN2, "powered off")
    assert reader.wait(0) == vm(RUN2, state="PoweredOff", state_changed=SAVED_AT)
    world.running(*online)
    before = len(world.fake.asked())
    assert reader.wait(0) == vm(RUN2, state="Running", reports=(), state_changed=0.0), "as its settings have it"
    assert world.fake.asked()[before:] == ["list runningvms"]


def test_a_running_vm_is_shown_again_when_its_settings_change(world, reader) -> None:
    before = len(world.fake.asked())
    assert reader.wait(0) == {}
    world.touch(RUN2)
    assert reader.wait(0) == {}
    assert reader.wait(0) == {}
    asked = world.fake.asked()[before:]
    assert sum(words.startswith("guestproperty") for words in asked) == 12
    assert [words for words in asked if words.startswith("showvminfo")] == [f"showvminfo {RUN2} --machinereadable"]


def test_a_vm_that_just_started_comes_first(world, reader, monkeypatch) -> None:
    online = [uuid for uuid, machine in zoo.MACHINES.items() if machine.online]
    world.running(*[uuid for uuid in online if uuid != RUN2])
    reader.wait(0)
    world.running(*online)
    monkeypatch.setattr(vboxmanage, "CREDIT_SECONDS", 1e-9)
    monkeypatch.setattr(vboxmanage_machines, "STATES_SECONDS", 3600.0)
    before = len(world.fake.asked())
    assert reader.wait(0) == vm(RUN2)
    looked = [words.split()[1] for words in world.fake.asked()[before:] if words.startswith("showvminfo")]
    assert looked == [RUN2]
    assert sum(words.startswith("guestproperty") for words in world.fake.asked()[before:]) == 1


# -- without settings files --------------------------------------------------------------------------------------


def test_without_virtualbox_xml_resting_vms_are_asked_for_once(world) -> None:
    (world.home / "VirtualBox.xml").unlink()
    del world.environ["VBOX_USER_HOME"]  # where a folder is named, others' VMs are not taken for its own
    world.environ["HOME"] = world.environ["USERPROFILE"] = str(world.home.parent)
    world.home.rename(world.home.with_name(".VirtualBox"))
    ignored = zoo.named("ignored").uuid
    world.fake.plays("list vms", f'"ignored" {{{ignored}}}\n"" {{{zoo.NOBODY}}}\n"odd" {{{BARE}}}\n"run2" {{{RUN2}}}\n')
    world.fake.plays("list runningvms", f'"run2" {{{RUN2}}}\n')
    world.fake.plays(f"showvminfo {BARE} --machinereadable", status=139)
    world.fake.plays(
        f"getextradata {RUN2} enumerate", "Key: vmdns/address, Value: 10.0.2.9\nKey: vmdns/names, Value: a\n"
    )
    reader = world.reader()
    machines = [fact for key, fact in reader.look().items() if key.startswith("machine:")]
    assert machines == [
        replace(told(zoo.MACHINES[ignored]), registration_index=0),
        Machine(BARE, "odd", "PoweredOff", registration_index=2),
        replace(zoo.MACHINES[RUN2], names=("a",), set_addresses=("10.0.2.9",), registration_index=3),
    ]
    assert reader.wait(0) == {}
    asked = world.fake.asked()
    for uuid in (ignored, BARE, zoo.NOBODY):
        assert asked.count(f"showvminfo {uuid} --machinereadable") == 1
    world.fake.plays(
        f"showvminfo {RUN2} --machinereadable",
        zoo.out("showvminfo", RUN2, "--machinereadable").replace("paused", "poweroff"),
    )
    world.fake.plays("list runningvms", "")
    world.long(RUN2, "powered off")
    changes = {"state": "PoweredOff", "names": ("a",), "set_addresses": ("10.0.2.9",), "registration_index": 3}
    assert reader.wait(0) == vm(RUN2, **changes)


def test_a_gone_vm_is_gone(world, reader) -> None:
    world.touch(RUN2)
    world.fake.plays(f"showvminfo {RUN2} --machinereadable", status=1, err=GONE)
    assert reader.wait(0) == {f"machine:{RUN2}": None}


def test_settings_of_another_vm_are_not_believed(world, reader) -> None:
    shutil.copy(world.home / "machines" / f"{MULTI}.vbox", world.home / "machines" / f"{BARE}.vbox")
    world.fake.plays(f"showvminfo {BARE} --machinereadable", status=1, err=BUSY)
    assert reader.wait(0) == vm(BARE, state_changed=0.0), "its name is in the list, and it never had an adapter"


# -- the end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", ["list runningvms", "list vms", "natnetwork list", "list dhcpservers", "list hostonlyifs"]
)
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
    with pytest.raises(WrongHome, match=rf"not in {re.escape(str(world.home))}; quit VirtualBox and all its VMs"):
        reader.wait(0)
    with pytest.raises(WrongHome):
        world.reader().look()
    (world.home / "VirtualBox.xml").unlink()
    if listed:
        with pytest.raises(WrongHome):
            world.reader().look()


def test_upgraded(world, reader) -> None:
    (world.fake.folder / "VBoxSVC").write_text("another")
    with pytest.raises(VirtualBoxLost, match="upgraded"):
        reader.wait(0)


def test_garbage(world) -> None:
    garbage = '\x00\x1b[0m\udcff\udcfe"{}\n' * 1000
    for words in zoo.CALLS:
        if words != "--version":
            world.fake.plays(words, garbage)
    reader = world.reader()
    assert reader.look() == {}
    assert reader.wait(0) == {}


# -- waiting -----------------------------------------------------------------------------------------------------


def test_nudge_ends_the_pause_when_virtualbox_xml_was_replaced(world, monkeypatch) -> None:
    monkeypatch.setattr(vboxmanage, "ROUND_SECONDS", 3600.0)
    monkeypatch.setattr(vboxmanage, "MOST_SECONDS", 3600.0)
    reader = world.reader()
    reader.look()
    before = len(world.fake.asked())
    reader.request_network_look()
    assert reader.wait(0) == {}
    world.out("natnetwork list", "10.9.0.0/16", "10.8.0.0/16")
    reader.request_network_look()
    assert reader.wait(0) == {}
    assert world.fake.asked()[before:] == [], "nothing was replaced"
    found = []
    waiting = threading.Thread(target=lambda: found.append(reader.wait(60)))
    waiting.start()
    world.index()
    reader.request_network_look()
    waiting.join(60)
    assert [set(changes) for changes in found] == [{'natnetwork:리눅스 lab: "x"'}]


def test_wait_ends_in_time_without_a_change(world, monkeypatch) -> None:
    monkeypatch.setattr(vboxmanage, "ROUND_SECONDS", 3600.0)
    monkeypatch.setattr(vboxmanage, "MOST_SECONDS", 3600.0)
    reader = world.reader()
    reader.look()
    before, asked = reader.moved, len(world.fake.asked())
    assert reader.wait(0.01) == {}
    assert reader.moved > before
    assert len(world.fake.asked()) == asked


def test_facts_are_whole_for_every_adapter(reader) -> None:
    networks = [adapter.network for adapter in zoo.named("multi").adapters]
    assert Network("intnet", 'my int"net\nnic6="bridged"') in networks
    assert reader.look()[f"machine:{MULTI}"] == zoo.MACHINES[MULTI]
