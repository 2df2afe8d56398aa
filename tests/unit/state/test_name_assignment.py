"""Which VM has which names: collisions, reserved names, groups and extra names (threats T2 and T6)."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.facts import LAB, NETWORKS, NOW, lease, report, uuid, vm
from vmdns.dns.name import to_text, to_wire
from vmdns.state.build import build
from vmdns.state.facts import HostName, Machine
from vmdns.state.findings import Problem
from vmdns.state.name_assignment import assign_names
from vmdns.state.name_rules import RESERVED, Relative, Reservation, find_vagrant_names
from vmdns.state.snapshot import Policy

ZONES = ("local", "vm.internal")
WHY = dict.fromkeys(RESERVED, Reservation("a reserved name"))
OLD, NEW = "1590409844173_74829", "1590409999999_1"
SHOP = f"web.shop shop-web-{OLD.replace('_', '-')} shop_web_{OLD}"
BLOG = f"web.blog blog-web-{NEW.replace('_', '-')} blog_web_{NEW}"
LONG = "a" * 60


def names(*machines: Machine, before: tuple[Machine, ...] = ()) -> list[str]:
    """The names of each VM without its UUID, in the order of the arguments; before: the VMs of the build before."""
    found = assign_names(machines, WHY, ZONES, assign_names(before, WHY, ZONES).owners).by_uuid
    return [
        " ".join(".".join(name) for name in found[one.uuid].names if name != (one.uuid,)) if one.uuid in found else "-"
        for one in machines
    ]


def vagrant(number: int, made: str, state: str = "Running", project: str = "shop", machine: str = "web") -> Machine:
    return vm(number, f"{project}_{machine}_{made}", state=state, registration_index=number)


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (vm(1, "Web Server"), "web-server"),
        (vm(1, "\u0301"), "vm-00000000"),
        # Groups.
        (vm(1, groups=("/Lab Net",)), "web web.lab-net"),
        (vm(1, groups=("/", "/a", "/b")), "web web.a web.b"),
        (vm(1, groups=("/😀",)), "web"),
        (vm(1, groups=("/a/😀/b",)), "web"),
        (vm(1, groups=("/" + "/".join("abcdefgh"),)), "web web.h.g.f.e.d.c.b.a"),
        (vm(1, groups=("/" + "/".join(["a" * 63] * 4),)), "web"),  # longer than 255 bytes
        (vm(1, groups=("/리눅스",)), "web web.xn--pd1b38l32h"),
        # Extra names.
        (vm(1, names=(" WWW. ",)), "web www"),
        (vm(1, names=("www.local",)), "web www"),
        (vm(1, names=("www.vm.internal.", "api.shop")), "web www api.shop"),
        (vm(1, names=("my site", "리눅스", "web")), "web my-site xn--pd1b38l32h"),
        # A zone in the name.
        (vm(1, "DB.Local"), "db db-local"),
        (vm(1, "app.vm.internal."), "app app-vm-internal"),
        (vm(1, "shop.test"), "shop-test"),  # no zone here
        (vm(1, "local"), "local"),
        (vm(1, ".local"), "local"),
        (vm(1, "my_db.local"), "my-db my-db-local my_db"),
        (vm(1, "a..b.local"), "a-b-local"),
        # Underscores are answered as they are written too.
        (vm(1, "Win10_x64"), "win10-x64 win10_x64"),
        (vm(1, "a__b"), "a-b a__b"),
        (vm(1, "a_"), "a a_"),
        (vm(1, "_tcp"), "tcp"),  # `_tcp.local` is a service's
        (vm(1, "my vm_2"), "my-vm-2"),  # nobody can type a space
        (vm(1, "web_1.test"), "web-1-test"),
        (vm(1, "a_" + "b" * 62), "a-" + "b" * 61),  # 64 bytes: no label
        (vm(1, groups=("/my_lab",)), "web web.my-lab web.my_lab"),
        (vm(1, "my_vm", groups=("/a/my_lab",)), "my-vm my-vm.my-lab.a my_vm.my_lab.a my_vm"),
        (vm(1, names=("my_api.v1",)), "web my-api.v1 my_api.v1"),
        # Not Vagrant's.
        (vm(1, "shop_web_15904_74829"), "shop-web-15904-74829 shop_web_15904_74829"),
        (vm(1, "_web_1590409844173_7"), "web-1590409844173-7"),
        (vm(1, "shop_1590409844173_7"), "shop-1590409844173-7 shop_1590409844173_7"),
    ],
)
def test_names_of_one_vm(machine: Machine, expected: str) -> None:
    assert names(machine) == [expected]


@pytest.mark.parametrize(
    ("machines", "expected"),
    [
        # The VM that was registered first has the name, not the one with the lower UUID, which is random.
        ([vm(1, registration_index=4), vm(2, "Web", registration_index=3)], ["web-2", "web"]),
        # Without an order of registration, the one that has been in its state for longer.
        ([vm(1, state_changed=200.0), vm(2, state_changed=100.0), vm(3)], ["web-2", "web", "web-3"]),
        ([vm(1, state="PoweredOff", registration_index=1), vm(2, registration_index=2)], ["web-2", "web"]),
        ([vm(1, ignored=True), vm(2, accessible=False, state=""), vm(3)], ["-", "-", "web"]),
        # No number that another VM has by itself, and none that is too long for a label.
        ([vm(1), vm(2), vm(3, "web-2"), vm(4)], ["web", "web-3", "web-2", "web-4"]),
        ([vm(1, LONG + "aaaa"), vm(2, LONG + "aaaa")], [LONG + "aaa", LONG + "a-2"]),
        ([vm(1, LONG + "-bb"), vm(2, LONG + "-bb")], [LONG + "-bb", LONG + "-2"]),
        ([vm(1, "😀"), vm(2, "...")], ["vm-00000000", "vm-00000000-2"]),
        # No VM has the UUID of another as its name.
        ([vm(1, uuid(2)), vm(2, "web"), vm(3, uuid(3))], [f"{uuid(2)}-2", "web", ""]),
        ([vm(1, groups=("/a",)), vm(2, groups=("/b",)), vm(3, groups=("/a",))], ["web web.a", "web-2 web.b", "web-3"]),
        ([vm(2, "b", names=("www",)), vm(1, "a", names=("www",), registration_index=-1)], ["b", "a www"]),
        ([vm(1, "my_vm"), vm(2, "My_VM"), vm(3, "my-vm")], ["my-vm my_vm", "my-vm-2", "my-vm-3"]),
        ([vm(1, "db"), vm(2, "db.local")], ["db", "db-local"]),
        # The name of Vagrant's machine alone goes to neither where two projects want it.
        ([vagrant(1, OLD), vm(2, "web", registration_index=2)], [SHOP, "web"]),
        ([vagrant(1, OLD), vagrant(2, NEW, project="blog")], [SHOP, BLOG]),
        ([vagrant(1, OLD, "Saved"), vagrant(2, NEW, project="blog")], [SHOP, BLOG + " web"]),
        ([vagrant(1, OLD, machine="default"), vm(2, "a", names=("shop",))],
         [f"default.shop shop-default-{OLD.replace('_', '-')} shop_default_{OLD} default", "a shop"]),
    ],
)  # fmt: skip
def test_names_of_several_vms(machines: list[Machine], expected: list[str]) -> None:
    assert names(*machines) == expected


@pytest.mark.parametrize(
    ("before", "machines", "expected"),
    [
        *(
            ((vm(9),), [vm(1), vm(2, state="PoweredOff"), vm(9, state=state)], ["web-2", "web-3", "web"])
            for state in ("PoweredOff", "Saved", "Aborted", "Paused")
        ),
        # A number is kept too, until the name is free.
        ((vm(1), vm(2), vm(3)), [vm(1), vm(3), vm(4, "web-3", registration_index=-1)], ["web", "web-3", "web-3-2"]),
        ((vm(1), vm(2), vm(3)), [vm(3)], ["web"]),
        ((vm(2, "db.local"),), [vm(1, "db"), vm(2, "db.local")], ["db-2", "db db-local"]),
        ((vm(2, "My_VM"),), [vm(1, "my_vm"), vm(2, "My_VM")], ["my-vm-2", "my-vm my_vm"]),
        ((vagrant(1, OLD),), [vagrant(1, OLD, "Saved"), vm(2, "web")], [SHOP, "web"]),
        ((vagrant(1, OLD),), [vm(2, "web")], ["web"]),
    ],
)  # fmt: skip
def test_a_vm_keeps_its_names(before: tuple[Machine, ...], machines: list[Machine], expected: list[str]) -> None:
    assert names(*machines, before=before) == expected


@pytest.mark.parametrize(
    ("before", "machines", "owner"),
    [
        *(((vagrant(1, OLD),), [vagrant(1, OLD, state), vagrant(2, NEW)], 2) for state in ("Running", "PoweredOff")),
        ((vagrant(1, OLD), vagrant(2, NEW)), [vagrant(1, OLD), vagrant(2, NEW, "Saved")], 1),
        ((vagrant(1, OLD),), [vagrant(1, OLD), vm(2, "web")], 1),
        # Another project's machine takes the name alone only from a VM that does not run.
        ((vagrant(1, OLD),), [vagrant(1, OLD), vagrant(2, NEW, project="blog")], 1),
        ((vagrant(1, OLD),), [vagrant(1, OLD, "Saved"), vagrant(2, NEW, project="blog")], 2),
    ],
)  # fmt: skip
def test_which_vm_of_vagrant_has_the_name_of_its_machine(
    before: tuple[Machine, ...], machines: list[Machine], owner: int
) -> None:
    given = names(*machines, before=before)
    assert [one.uuid for one, its in zip(machines, given, strict=True) if "web" in its.split()] == [uuid(owner)]
    projects = {"web.shop", "web.blog"}
    assert projects & set(given[owner - 1].split())


def test_each_remedy_helps() -> None:
    first, second = vm(1, "Web", registration_index=1), vm(2, registration_index=2)
    found = assign_names([second, first], {}, ZONES)
    note = f"is web-2, because VM 'Web' ({uuid(1)}) has the name web"
    remedy = "rename one of the two VMs, or choose a name for this one"
    command = f"VBoxManage setextradata {uuid(2)} vmdns/names web-2"
    assert found.problems == (f"VM 'web' ({uuid(2)}) {note}; {remedy}: {command}",)
    assert found.by_uuid[uuid(2)].problems == (Problem(note, remedy, command),)
    assert found.by_uuid[uuid(2)].denied == (("web",),)
    assert found.by_uuid[uuid(1)].note == f"has the name web, which VM 'web' ({uuid(2)}) would have as well"
    assert found.by_uuid[uuid(1)].problems == ()
    chosen = assign_names([first, replace(second, names=("web-2",))], {}, ZONES)
    assert chosen.problems == ()
    assert chosen.by_uuid[uuid(1)].note == chosen.by_uuid[uuid(2)].note == ""
    renamed = assign_names([replace(first, name="other"), second], {}, ZONES, found.owners)
    assert renamed.problems == ()
    assert [renamed.by_uuid[uuid(one)].label for one in (1, 2)] == ["other", "web"]


def test_a_name_is_free_once_its_vm_is_gone_and_not_before() -> None:
    owners = assign_names([vm(1), vm(2, "db")], WHY, ZONES).owners
    assert owners == {("web",): uuid(1), ("db",): uuid(2)}
    inaccessible = vm(1, "", accessible=False, state="")
    for machines in ([], [inaccessible, vm(2, "db")], [vm(1, ignored=True), vm(2, "db")]):
        assert assign_names(machines, WHY, ZONES, owners).owners == owners
    assert assign_names([vm(2, "db")], WHY, ZONES, owners).owners == {("db",): uuid(2)}
    assert assign_names([inaccessible, vm(2, "web")], WHY, ZONES, owners).owners == {("web",): uuid(2)}


def test_a_reserved_name_gets_a_number_unless_the_user_allows_it() -> None:
    (problem,) = assign_names([vm(1, "WPAD")], WHY, ZONES).problems
    assert problem == f"VM 'WPAD' ({uuid(1)}) is wpad-2, because wpad is a reserved name; rename the VM"
    reserved = {"web-2": Reservation("a reserved name")}
    assert assign_names([vm(1), vm(2)], reserved, ZONES).by_uuid[uuid(2)].label == "web-3"
    facts = (vm(1, "wpad"), vm(2, "web"), HostName("web", "192.168.1.9"))
    for allowed, labels in ((frozenset(), ["wpad-2", "web-2"]), (frozenset({"wpad", "web"}), ["wpad", "web"])):
        snapshot = build(facts, Policy(reserved_allowed=allowed), 0.0, 1)
        assert [guest.named.label for guest in snapshot.guests] == labels


@pytest.mark.parametrize(
    ("host", "label"),
    [("WEB.", "web-2"), ("web.local", "web-2"), ("web.vm.internal", "web-2"), ("web.example", "web"), ("db", "web")],
)
def test_a_vm_never_takes_a_name_of_the_hosts_file(host: str, label: str) -> None:
    snapshot = build((vm(1), HostName(host, "192.168.1.9")), Policy(), 0.0, 1)
    assert snapshot.guests[0].named.label == label


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
def test_refused_extra_names(extra: str, why: str) -> None:
    found = assign_names([vm(1, names=(extra,)), vm(2, "db", groups=("/lab",))], WHY, ZONES)
    assert found.by_uuid[uuid(1)].names == (("web",), (uuid(1),))
    remedy = f"choose another name than {extra!r}, or none: VBoxManage setextradata {uuid(1)} vmdns/names"
    assert found.problems == (f"VM 'web' ({uuid(1)}) does not get the name {extra!r}, because {why}; {remedy}",)
    assert found.by_uuid[uuid(1)].problems[0].command == f"VBoxManage setextradata {uuid(1)} vmdns/names"
    assert assign_names([vm(1), vm(2, "db", groups=("/lab",))], WHY, ZONES).problems == (), "the command takes it back"


def test_configured_zones_in_a_name() -> None:
    found = assign_names([vm(1, "shop.test"), vm(2, "a.b.lab.test")], WHY, ("test", "lab.test"))
    assert found.by_uuid[uuid(1)].names[:2] == (("shop",), ("shop-test",))
    assert found.by_uuid[uuid(2)].names[:2] == (("a", "b"), ("a-b-lab-test",))


def test_a_name_with_a_zone_that_is_taken_is_reported() -> None:
    found = assign_names([vm(1, "db"), vm(2, "db.local"), vm(3, "wpad.local")], WHY, ZONES)
    assert found.problems == (
        f"VM 'db.local' ({uuid(2)}) does not get the name 'db.local', because VM 'db' ({uuid(1)}) has the name db; "
        "rename the VM",
        f"VM 'wpad.local' ({uuid(3)}) does not get the name 'wpad.local', because wpad is a reserved name; "
        "rename the VM",
    )


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


@given(MACHINES, st.integers(0, 9), st.sampled_from(["Paused", "PoweredOff", "Running"]))
def test_a_vm_that_comes_starts_or_stops_takes_no_name_from_another(
    machines: list[Machine], which: int, state: str
) -> None:
    machines = [one for one in machines if not find_vagrant_names([one], {})]
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


# -- hostile names (threats T2, T6 and T17): people import appliances and clone what strangers made -----------------

UNNAMED = "vm-00000000"
HOSTILE = {
    # Names of others: only one label below our own zones comes of them.
    "www.google.com": "www-google-com", "web.local": "web-local", "web.vm.internal": "web-vm-internal",
    "a.b.c.d.e": "a-b-c-d-e", "local": "local", "arpa": "arpa", "*.local": "local", "web\\.local": "web-local",
    "_acme-challenge": "acme-challenge", "_gateway": "gateway", "gateway": "gateway",
    # Names by which machines find services without configuration, in any spelling.
    "localhost": "localhost-2", "LOCALHOST": "localhost-2", "localhost.": "localhost-2", "wpad": "wpad-2",
    "WPAD.": "wpad-2", "isatap": "isatap-2", "localdomain": "localdomain-2", "broadcasthost": "broadcasthost-2",
    "vmdns": "vmdns-2", "localhost\u00ad": "localhost-2", "l\u200bocalhost": "localhost-2",
    "\uff4cocalhost": "localhost-2", "localho\u017ft": "localhost-2", "\u202etsohlacol": "tsohlacol",
    # Nothing that DNS can carry.
    "*": UNNAMED, "": UNNAMED, "   ": UNNAMED, ".": UNNAMED, "..": UNNAMED, "...": UNNAMED, '"': UNNAMED, "@": UNNAMED,
    "\x00": UNNAMED, "\u200b": UNNAMED, "🦀": UNNAMED, "-": UNNAMED,
    # What a shell, a path, a line of a file or a terminal would take for something else.
    "../x": "x", "../../etc/hosts": "etc-hosts", "'; rm -rf / #": "rm-rf", "$(reboot)": "reboot", "%2e%2e": "2e-2e",
    "x\n127.0.0.1 bank.com": "x-127-0-0-1-bank-com", "x\r\n": "x", "a\tb": "a-b", "#comment": "comment",
    "\x1b[31mred": "31mred", "web\u202ebew": "webbew", "web\u2028x": "web-x", "\ufeffweb": "web", "\ud800bad": "bad",
    "<img src=x onerror=alert(1)>": "img-src-x-onerror-alert-1",
    # Lengths, hyphens, numbers, other scripts.
    "a" * 64: "a" * 63, "a" * 5000: "a" * 63, "-x": "x", "x-": "x", "-n": "n", "1": "1", "10.0.2.4": "10-0-2-4",
    "::1": "1", "fe80::1%eth0": "fe80-1-eth0", "xn--": "xn", "xn--a": "xn-a", "аррӏе": "xn--80ak6aa92e",
    "xn--80ak6aa92e": "xn--80ak6aa92e", "Ｗｅｂ": "web", "🦀crab🦀": "crab",
}  # fmt: skip


# Names that end in a zone: the VM has that name as well.
ZONE_NAMES = {"web.local": ("web",), "web.vm.internal": ("web",), "web\\.local": ("web",)}


@pytest.mark.parametrize(("name", "label"), HOSTILE.items(), ids=[ascii(name)[:20] for name in HOSTILE])
def test_a_name_and_what_comes_of_it(name: str, label: str) -> None:
    machine = replace(vm(1), name=name)
    snapshot = build((*NETWORKS, machine, lease(1, "10.0.2.4")), Policy(), NOW, 1)
    owners = {to_text(owner) for owner in snapshot.owned}
    given = (label, uuid(1), *ZONE_NAMES.get(name, ()))
    assert owners == {f"{one}.{zone}" for one in given for zone in ("local", "vm.internal")}
    for owner in owners:
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.(local|vm\.internal)", owner, re.ASCII)


def test_no_name_comes_from_a_guest() -> None:
    """Whatever a guest reports or asks of a DHCP server, no fact that it can shape has a name in it."""
    machine = vm(1, "web", LAB, reports=(report(1, "10.0.2.4"), report(9, "10.0.2.9")))
    snapshot = build((*NETWORKS, machine, lease(1, "10.0.2.4")), Policy(), NOW, 1)
    assert {to_text(owner).partition(".")[0] for owner in snapshot.owned} == {"web", uuid(1)}
