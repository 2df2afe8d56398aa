"""Which VM answers to which name: collisions, reserved names, groups and extra names (threats T2 and T6)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.facts import uuid, vm
from vmdns.dns.name import to_wire
from vmdns.state.build import build
from vmdns.state.facts import HostName, Machine
from vmdns.state.findings import Problem
from vmdns.state.name_assignment import assign_names
from vmdns.state.name_rules import RESERVED, Owners, Relative, Reservation, find_vagrant_names, natural_label
from vmdns.state.policy import Policy

ZONES = ("local", "vm.internal")
WHY = dict.fromkeys(RESERVED, Reservation("a reserved name"))


def names(
    *machines: Machine, reserved: dict[str, Reservation] | None = None, owners: Owners | None = None
) -> dict[str, list[str]]:
    """The names of each VM as text, its UUID left out."""
    found = assign_names(machines, WHY if reserved is None else reserved, ZONES, owners)
    for key, named in found.by_uuid.items():
        assert named.names[-1] == (key,) or key in {name for (name, *_) in named.names}
    return {key[-2:]: [".".join(one) for one in named.names if one != (key,)] for key, named in found.by_uuid.items()}


def test_one_vm() -> None:
    assert names(vm(1, "Web Server")) == {"01": ["web-server"]}
    assert assign_names([vm(1, "Web Server")], WHY, ZONES).problems == ()


def test_of_two_vms_that_run_the_older_one_has_the_name_and_both_are_told() -> None:
    """Not the one with the lower UUID, which is random: VirtualBox lists VMs in the order of registration."""
    older, younger = vm(2, "Web", registration_index=3), vm(1, "web", registration_index=4)
    assert names(younger, older, vm(3, "WEB", registration_index=5)) == {
        "02": ["web"],
        "01": ["web-2"],
        "03": ["web-3"],
    }
    found = assign_names([younger, older], {}, ZONES)
    note = f"is web-2, because VM 'Web' ({uuid(2)}) has the name web"
    remedy = "rename one of the two VMs, or choose a name for this one"
    command = f"VBoxManage setextradata {uuid(1)} vmdns/names web-2"
    assert found.problems == (f"VM 'web' ({uuid(1)}) {note}; {remedy}: {command}",)
    assert found.by_uuid[uuid(1)].problems == (Problem(note, remedy, command),)
    assert found.by_uuid[uuid(1)].denied == (("web",),)
    assert found.by_uuid[uuid(2)].note == f"has the name web, which VM 'web' ({uuid(1)}) would have as well"
    assert found.by_uuid[uuid(2)].problems == ()


def test_without_an_order_of_registration_the_one_that_is_as_it_is_for_longer_has_the_name() -> None:
    assert names(vm(1, state_changed=200.0), vm(2, state_changed=100.0), vm(3)) == {
        "02": ["web"], "01": ["web-2"], "03": ["web-3"],
    }  # fmt: skip


def test_each_remedy_helps() -> None:
    first, second = vm(1, registration_index=1), vm(2, registration_index=2)
    assert len(assign_names([first, second], {}, ZONES).problems) == 1
    command = assign_names([first, second], {}, ZONES).by_uuid[uuid(2)].problems[0].command.split()
    assert command[:4] == ["VBoxManage", "setextradata", uuid(2), "vmdns/names"]
    chosen = assign_names([first, replace(second, names=(command[4],))], {}, ZONES)
    assert chosen.problems == ()
    assert chosen.by_uuid[uuid(1)].note == chosen.by_uuid[uuid(2)].note == ""
    owners = assign_names([first, second], {}, ZONES).owners
    renamed = assign_names([replace(first, name="other"), second], {}, ZONES, owners)
    assert renamed.problems == ()
    assert [renamed.by_uuid[uuid(one)].label for one in (1, 2)] == ["other", "web"]


def test_a_vm_that_is_off_never_takes_a_name_from_one_that_runs() -> None:
    off, running = vm(1, state="PoweredOff", registration_index=1), vm(2, registration_index=2)
    assert names(off, running) == {"02": ["web"], "01": ["web-2"]}


@pytest.mark.parametrize("state", ["PoweredOff", "Saved", "Aborted", "Paused"])
def test_who_has_a_name_keeps_it_whatever_starts_stops_or_comes(state: str) -> None:
    holder = vm(9, state=state, registration_index=9)
    owners = assign_names([vm(9, registration_index=9)], WHY, ZONES).owners
    assert names(vm(1), vm(2, state="PoweredOff"), holder, owners=owners) == {
        "09": ["web"], "01": ["web-2"], "02": ["web-3"],
    }  # fmt: skip


def test_a_number_is_kept_too() -> None:
    owners = assign_names([vm(1), vm(2), vm(3)], WHY, ZONES).owners
    assert names(vm(1), vm(3), owners=owners) == {"01": ["web"], "03": ["web-3"]}
    assert names(vm(1), vm(3), vm(4, "web-3", registration_index=-1), owners=owners) == {
        "01": ["web"], "03": ["web-3"], "04": ["web-3-2"],
    }  # fmt: skip
    assert names(vm(3), owners=owners) == {"03": ["web"]}, "once the name is free, it has what it would have"


def test_owners_are_forgotten_with_the_vm_and_not_before() -> None:
    owners = assign_names([vm(1), vm(2, "db")], WHY, ZONES).owners
    assert owners == {("web",): uuid(1), ("db",): uuid(2)}
    assert assign_names([], WHY, ZONES, owners).owners == owners, "VirtualBox was not read yet, or went away"
    hidden = vm(1, "", accessible=False, state="")
    assert assign_names([hidden, vm(2, "db")], WHY, ZONES, owners).owners == owners
    assert assign_names([vm(1, ignored=True), vm(2, "db")], WHY, ZONES, owners).owners == owners
    assert assign_names([vm(2, "db")], WHY, ZONES, owners).owners == {("db",): uuid(2)}
    assert assign_names([hidden, vm(2, "web")], WHY, ZONES, owners).owners == {("web",): uuid(2)}


def test_a_number_is_never_one_that_another_vm_has_by_itself() -> None:
    assert names(vm(1, "web"), vm(2, "web"), vm(3, "web-2"), vm(4, "web")) == {
        "01": ["web"], "02": ["web-3"], "03": ["web-2"], "04": ["web-4"],
    }  # fmt: skip
    reserved = {"web-2": Reservation("a reserved name")}
    assert names(vm(1, "web"), vm(2, "web"), reserved=reserved) == {"01": ["web"], "02": ["web-3"]}


def test_a_number_fits_into_a_label() -> None:
    long = "a" * 70
    assert names(vm(1, long), vm(2, long)) == {"01": ["a" * 63], "02": ["a" * 61 + "-2"]}
    assert names(vm(1, "a" * 60 + "-bb"), vm(2, "a" * 60 + "-bb"))["02"] == ["a" * 60 + "-2"]


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "wpad", "ISATAP", "localdomain", "broadcasthost", "vmdns"])
def test_reserved_names(name: str) -> None:
    assert names(vm(1, name)) == {"01": [f"{name.lower()}-2"]}
    (problem,) = assign_names([vm(1, name)], WHY, ZONES).problems
    text = f"is {name.lower()}-2, because {name.lower()} is a reserved name; rename the VM"
    assert problem == f"VM {name!r} ({uuid(1)}) {text}"


def test_the_user_may_allow_a_reserved_name() -> None:
    hosts = HostName("web", "192.168.1.9")
    facts = (vm(1, "wpad"), vm(2, "web"), hosts)
    asked = build(facts, Policy(), 0.0, 1)
    assert [guest.named.label for guest in asked.guests] == ["wpad-2", "web-2"]
    allowed = build(facts, Policy(reserved_allowed=frozenset({"wpad", "web"})), 0.0, 1)
    assert [guest.named.label for guest in allowed.guests] == ["wpad", "web"]


@pytest.mark.parametrize("host", ["web", "WEB.", "web.local", "web.vm.internal"])
def test_a_vm_never_takes_a_name_of_the_hosts_file(host: str) -> None:
    snapshot = build((vm(1), HostName(host, "192.168.1.9")), Policy(), 0.0, 1)
    assert snapshot.guests[0].named.label == "web-2"
    assert snapshot.problems == (
        f"VM 'web' ({uuid(1)}) is web-2, because web is in this computer's hosts file (192.168.1.9 {host}); "
        "remove that line from the hosts file, or rename the VM",
    )


@pytest.mark.parametrize("host", ["web.example.org", "web.example", "db"])
def test_other_names_of_the_hosts_file_are_no_hindrance(host: str) -> None:
    snapshot = build((vm(1), HostName(host, "192.168.1.9")), Policy(), 0.0, 1)
    assert snapshot.guests[0].named.label == "web"


@pytest.mark.parametrize("name", ["", "😀", "...", "\u0301", "*"])
def test_a_vm_whose_name_has_nothing_for_dns_is_named_by_its_uuid(name: str) -> None:
    assert natural_label(vm(1, name)) == "vm-00000000"
    assert names(vm(1, name), vm(2, name)) == {"01": ["vm-00000000"], "02": ["vm-00000000-2"]}


def test_the_uuid_is_always_a_name_and_no_other_vm_has_it() -> None:
    found = assign_names([vm(1, uuid(2)), vm(2, "web"), vm(3, uuid(3))], {}, ZONES)
    assert found.by_uuid[uuid(2)].names == (("web",), (uuid(2),))
    assert found.by_uuid[uuid(1)].names == ((f"{uuid(2)}-2",), (uuid(1),))
    assert found.by_uuid[uuid(3)].names == ((uuid(3),),)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (("/",), []),
        ((), []),
        (("/lab",), ["web.lab"]),
        (("/Lab Net",), ["web.lab-net"]),
        (("/a/b",), ["web.b.a"]),
        (("/", "/a", "/b"), ["web.a", "web.b"]),
        (("/😀",), []),
        (("/a/😀/b",), []),
        (("/" + "/".join("abcdefgh"),), ["web.h.g.f.e.d.c.b.a"]),
        (("/" + "/".join(["a" * 63] * 4),), []),  # longer than 255 bytes
        (("/리눅스",), ["web.xn--pd1b38l32h"]),
    ],
)
def test_groups_give_longer_names(groups: tuple[str, ...], expected: list[str]) -> None:
    assert names(vm(1, groups=groups)) == {"01": ["web", *expected]}


def test_in_its_own_group_a_vm_has_its_own_name() -> None:
    assert names(vm(1, groups=("/a",)), vm(2, groups=("/b",)), vm(3, groups=("/a",))) == {
        "01": ["web", "web.a"], "02": ["web-2", "web.b"], "03": ["web-3"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("www", ["www"]),
        (" WWW. ", ["www"]),
        ("www.local", ["www"]),
        ("www.vm.internal.", ["www"]),
        ("api.shop", ["api.shop"]),
        ("my site", ["my-site"]),
        ("리눅스", ["xn--pd1b38l32h"]),
        ("web", []),
    ],
)
def test_extra_names(extra: str, expected: list[str]) -> None:
    assert names(vm(1, names=(extra,))) == {"01": ["web", *expected]}


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ("", "DNS cannot carry it"),
        (".", "DNS cannot carry it"),
        ("a..b", "DNS cannot carry it"),
        ("*", "DNS cannot carry it"),
        ("*.shop", "DNS cannot carry it"),
        ("😀", "DNS cannot carry it"),
        (".".join(["a" * 63] * 4), "DNS cannot carry it"),
        ("wpad", "wpad is a reserved name"),
        ("WPAD.local", "wpad is a reserved name"),
        ("db", f"VM 'db' ({uuid(2)}) has the name db"),
        ("db.local", f"VM 'db' ({uuid(2)}) has the name db"),
        (uuid(2), f"VM 'db' ({uuid(2)}) has the name {uuid(2)}"),
        ("db.lab", f"VM 'db' ({uuid(2)}) has the name db.lab"),
    ],
)
def test_extra_names_that_are_not_given(extra: str, why: str) -> None:
    found = assign_names([vm(1, names=(extra,)), vm(2, "db", groups=("/lab",))], WHY, ZONES)
    assert found.by_uuid[uuid(1)].names == (("web",), (uuid(1),))
    remedy = f"choose another name than {extra!r}, or none: VBoxManage setextradata {uuid(1)} vmdns/names"
    assert found.problems == (f"VM 'web' ({uuid(1)}) does not get the name {extra!r}, because {why}; {remedy}",)
    assert found.by_uuid[uuid(1)].problems[0].command == f"VBoxManage setextradata {uuid(1)} vmdns/names"
    assert assign_names([vm(1), vm(2, "db", groups=("/lab",))], WHY, ZONES).problems == (), "the command takes it back"


def test_of_two_that_want_an_extra_name_the_older_one_has_it() -> None:
    assert names(vm(2, "b", names=("www",)), vm(1, "a", names=("www",), registration_index=-1)) == {
        "01": ["a", "www"],
        "02": ["b"],
    }


def test_vms_that_are_ignored_or_inaccessible_have_no_name_and_hold_none() -> None:
    hidden = vm(1, ignored=True), vm(2, accessible=False, state="")
    assert names(*hidden, vm(3)) == {"03": ["web"]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("db.local", ["db", "db-local"]),
        ("DB.Local", ["db", "db-local"]),
        ("web.lab.local", ["web.lab", "web-lab-local"]),
        ("app.vm.internal", ["app", "app-vm-internal"]),
        ("app.vm.internal.", ["app", "app-vm-internal"]),
        ("shop.test", ["shop-test"]),  # no zone here
        ("local", ["local"]),
        (".local", ["local"]),
        ("my_db.local", ["my-db", "my-db-local", "my_db"]),
        ("a..b.local", ["a-b-local"]),
    ],
)
def test_a_vm_named_with_a_zone_has_that_name(name: str, expected: list[str]) -> None:
    assert names(vm(1, name)) == {"01": expected}


def test_a_vm_named_with_a_configured_zone_has_that_name() -> None:
    found = assign_names([vm(1, "shop.test"), vm(2, "a.b.lab.test")], WHY, ("test", "lab.test"))
    assert found.by_uuid[uuid(1)].names[:2] == (("shop",), ("shop-test",))
    assert found.by_uuid[uuid(2)].names[:2] == (("a", "b"), ("a-b-lab-test",))


def test_a_name_with_a_zone_goes_by_the_rules_of_extra_names() -> None:
    assert names(vm(1, "db"), vm(2, "db.local")) == {"01": ["db"], "02": ["db-local"]}
    found = assign_names([vm(1, "db"), vm(2, "db.local"), vm(3, "wpad.local")], WHY, ZONES)
    assert found.problems == (
        f"VM 'db.local' ({uuid(2)}) does not get the name 'db.local', because VM 'db' ({uuid(1)}) has the name db; "
        "rename the VM",
        f"VM 'wpad.local' ({uuid(3)}) does not get the name 'wpad.local', because wpad is a reserved name; "
        "rename the VM",
    )
    owners = assign_names([vm(2, "db.local")], WHY, ZONES).owners
    assert names(vm(1, "db"), vm(2, "db.local"), owners=owners) == {"02": ["db", "db-local"], "01": ["db-2"]}


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (vm(1, "my_vm"), ["my-vm", "my_vm"]),
        (vm(1, "Win10_x64"), ["win10-x64", "win10_x64"]),
        (vm(1, "a__b"), ["a-b", "a__b"]),
        (vm(1, "a_"), ["a", "a_"]),
        (vm(1, "_tcp"), ["tcp"]),  # `_tcp.local` is a service's
        (vm(1, "my vm_2"), ["my-vm-2"]),  # nobody can type a space
        (vm(1, "web_1.test"), ["web-1-test"]),
        (vm(1, "_".join(["a" * 20] * 3)), ["-".join(["a" * 20] * 3), "_".join(["a" * 20] * 3)]),
        (vm(1, "a_" + "b" * 62), ["a-" + "b" * 61]),  # 64 bytes: no label
        (vm(1, groups=("/my_lab",)), ["web", "web.my-lab", "web.my_lab"]),
        (vm(1, "my_vm", groups=("/a/my_lab",)), ["my-vm", "my-vm.my-lab.a", "my_vm.my_lab.a", "my_vm"]),
        (vm(1, names=("my_api.v1",)), ["web", "my-api.v1", "my_api.v1"]),
    ],
)
def test_a_name_with_underscores_is_answered_as_it_is_written_too(machine: Machine, expected: list[str]) -> None:
    assert names(machine) == {"01": expected}


def test_a_written_name_goes_by_the_same_rules() -> None:
    assert names(vm(1, "my_vm"), vm(2, "My_VM"), vm(3, "my-vm")) == {
        "01": ["my-vm", "my_vm"], "02": ["my-vm-2"], "03": ["my-vm-3"],
    }  # fmt: skip
    owners = assign_names([vm(2, "My_VM")], WHY, ZONES).owners
    assert names(vm(1, "my_vm"), vm(2, "My_VM"), owners=owners) == {"02": ["my-vm", "my_vm"], "01": ["my-vm-2"]}


# -- Vagrant ---------------------------------------------------------------------------------------------------

OLD, NEW = "1590409844173_74829", "1590409999999_1"


def test_vagrants_default_names() -> None:
    assert names(vm(1, f"shop_default_{OLD}"), vm(2, f"my_lab_web-1_{OLD}")) == {
        "01": ["shop", f"shop-default-{OLD}".replace("_", "-"), f"shop_default_{OLD}", "default.shop", "default"],
        "02": ["web-1.my-lab", f"my-lab-web-1-{OLD}".replace("_", "-"), f"my_lab_web-1_{OLD}", "web-1"],
    }


@pytest.mark.parametrize(
    "name",
    ["shop_web", "shop_web_1590409844173", "shop_web_15904_74829", "_web_1590409844173_7", "shop_1590409844173_7"],
)
def test_other_names_are_not_taken_for_vagrants(name: str) -> None:
    assert all("." not in one for one in names(vm(1, name))["01"])


def vagrant(number: int, made: str, state: str = "Running", project: str = "shop", machine: str = "web") -> Machine:
    return vm(number, f"{project}_{machine}_{made}", state=state, registration_index=number)


@pytest.mark.parametrize(("state", "expected"), [("Running", "02"), ("Saved", "02"), ("PoweredOff", "02")])
def test_a_new_vm_of_vagrants_has_the_names_of_the_one_before(state: str, expected: str) -> None:
    owners = assign_names([vagrant(1, OLD)], WHY, ZONES).owners
    assert owners[("web", "shop")] == uuid(1)
    found = names(vagrant(1, OLD, state), vagrant(2, NEW), owners=owners)
    assert [one for one, given in found.items() if "web.shop" in given] == [expected]
    assert [one for one, given in found.items() if "web" in given] == [expected]
    assert names(vagrant(2, NEW), owners=owners)["02"][0] == "web.shop"


def test_an_old_vm_of_vagrants_that_runs_has_the_names_while_the_new_one_is_off() -> None:
    owners = assign_names([vagrant(1, OLD), vagrant(2, NEW)], WHY, ZONES).owners
    found = names(vagrant(1, OLD), vagrant(2, NEW, "Saved"), owners=owners)
    assert "web.shop" in found["01"]
    assert "web.shop" not in found["02"]


def test_the_name_of_a_machine_alone_goes_to_nobody_where_two_projects_want_it() -> None:
    shop, blog = vagrant(1, OLD), vagrant(2, NEW, project="blog")
    found = names(shop, blog)
    assert found["01"][0] == "web.shop"
    assert found["02"][0] == "web.blog"
    assert "web" not in found["01"] + found["02"]
    owners = assign_names([shop], WHY, ZONES).owners
    assert "web" in names(shop, blog, owners=owners)["01"], "who has it keeps it"
    stopped = replace(shop, state="Saved")
    assert "web" in names(stopped, blog)["02"]
    assert "web" in names(stopped, blog, owners=owners)["02"]


def test_a_vm_of_that_name_comes_before_vagrants() -> None:
    assert "web" not in names(vagrant(1, OLD), vm(2, "web", registration_index=2))["01"]
    assert "shop" not in names(vagrant(1, OLD, machine="default"), vm(2, "a", names=("shop",)))["01"]
    owners = assign_names([vagrant(1, OLD)], WHY, ZONES).owners
    assert names(vagrant(1, OLD, "Saved"), vm(2, "web"), owners=owners)["02"] == ["web"]
    assert names(vagrant(1, OLD), vm(2, "web"), owners=owners)["02"] == ["web-2"], "a VM that runs keeps its name"


# -- laws ------------------------------------------------------------------------------------------------------

MACHINES = st.lists(
    st.builds(
        vm,
        st.integers(1, 40),
        st.sampled_from(
            ["web", "Web", "web-2", "web_2", "db", "wpad", "localhost", "😀", "", uuid(3), "a" * 80, "db.local",
             "web.lab.local", f"shop_web_{OLD}", f"shop_web_{NEW}", f"web_default_{OLD}", f"db_web_{OLD}"]
        ),
        state=st.sampled_from(["Running", "PoweredOff"]),
        groups=st.lists(st.sampled_from(["/", "/lab", "/lab/a", "/LAB", "/my_lab"]), max_size=2).map(tuple),
        names=st.lists(st.sampled_from(["www", "web", "web-2", "web.lab", "wpad", uuid(5)]), max_size=2).map(tuple),
        ignored=st.booleans(),
        registration_index=st.integers(0, 5),
    ),
    max_size=10,
    unique_by=lambda one: one.uuid,
)  # fmt: skip


@given(MACHINES, MACHINES, st.randoms(use_true_random=False))
def test_any_order_gives_the_same_names_and_no_two_vms_share_one(
    before: list[Machine], machines: list[Machine], random: object
) -> None:
    owners = assign_names(before, WHY, ZONES).owners
    found = assign_names(machines, WHY, ZONES, owners)
    shuffled = list(machines)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert assign_names(shuffled, WHY, ZONES, owners) == found
    owner: dict[Relative, str] = {}
    for key, named in found.by_uuid.items():
        for name in named.names:
            assert owner.setdefault(name, key) == key
            for zone in ZONES:
                assert to_wire(".".join((*name, zone)))
            assert name[0] not in RESERVED or len(name) > 1
    assert set(found.by_uuid) == {one.uuid for one in machines if not one.ignored}


@given(MACHINES)
def test_names_stay_as_they_are_while_nothing_changes(machines: list[Machine]) -> None:
    first = assign_names(machines, WHY, ZONES)
    assert assign_names(machines, WHY, ZONES, first.owners) == first


def is_vagrants(machine: Machine) -> bool:
    return bool(find_vagrant_names([machine], {}))


@given(MACHINES, st.integers(0, 9), st.sampled_from(["Paused", "PoweredOff", "Running"]))
def test_a_vm_that_comes_starts_or_stops_takes_no_name_from_another(
    machines: list[Machine], which: int, state: str
) -> None:
    machines = [one for one in machines if not is_vagrants(one)]
    first = assign_names(machines, WHY, ZONES)
    come = vm(99, "web", names=("www", "db"), groups=("/lab",), registration_index=-1)
    changed = [come] + [replace(one, state=state) if at == which else one for at, one in enumerate(machines)]
    after = assign_names(changed, WHY, ZONES, first.owners)
    for key, named in first.by_uuid.items():
        assert after.by_uuid[key].names == named.names


def test_thousands_of_one_name_are_numbered() -> None:
    found = assign_names([vm(number, "clone") for number in range(1, 3001)], WHY, ZONES)
    assert found.by_uuid[uuid(3000)].label == "clone-3000"


def test_one_command_mends_all_problems_of_a_vm() -> None:
    """Each sets all names of the user's own: one that mended its own problem alone would bring back the others."""
    wanted = ("wpad", "shop", "isatap")
    for machines, kept in (
        ([vm(1, "web", names=wanted)], ("shop",)),
        ([vm(1, "web", names=("wpad",)), vm(2, "web", names=("wpad", "isatap"))], ("web-2",)),
    ):
        last = machines[-1]
        found = assign_names(machines, WHY, ZONES).by_uuid[last.uuid]
        assert len(found.problems) >= 2
        (command,) = {one.command for one in found.problems}
        assert command == f"VBoxManage setextradata {last.uuid} vmdns/names {','.join(kept)}"
        mended = assign_names([*machines[:-1], replace(last, names=kept)], WHY, ZONES).by_uuid[last.uuid]
        assert mended.problems == ()
