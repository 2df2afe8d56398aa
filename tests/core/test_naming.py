"""Which VM answers to which name: collisions, reserved names, groups and extra names (threats T2 and T6)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.facts import uuid, vm
from vmdns.core.build import build
from vmdns.core.model import HostName, Machine
from vmdns.core.name import to_wire
from vmdns.core.naming import RESERVED, Relative, assign, natural_label
from vmdns.core.policy import Policy

ZONES = ("local", "vm.internal")
WHY = dict.fromkeys(RESERVED, "a reserved name")


def names(*machines: Machine, reserved: dict[str, str] | None = None) -> dict[str, list[str]]:
    """The names of each VM as text, its UUID left out."""
    found = assign(machines, WHY if reserved is None else reserved, ZONES)
    for key, named in found.by_uuid.items():
        assert named.names[-1] == (key,) or key in {name for (name, *_) in named.names}
    return {key[-2:]: [".".join(one) for one in named.names if one != (key,)] for key, named in found.by_uuid.items()}


def test_one_vm() -> None:
    assert names(vm(1, "Web Server")) == {"01": ["web-server"]}
    assert assign([vm(1, "Web Server")], WHY, ZONES).problems == ()


def test_the_lower_uuid_keeps_a_name_and_both_are_told() -> None:
    assert names(vm(2, "web"), vm(1, "Web"), vm(3, "WEB")) == {"01": ["web"], "02": ["web-2"], "03": ["web-3"]}
    found = assign([vm(2, "web"), vm(1, "Web")], {}, ZONES)
    told = f"VM 'web' ({uuid(2)}) wanted the name web, which VM 'Web' ({uuid(1)}) has: it is web-2"
    assert found.problems == (told,)
    assert found.by_uuid[uuid(2)].note == told
    assert found.by_uuid[uuid(1)].note == ""


def test_a_vm_that_is_off_keeps_its_name() -> None:
    assert names(vm(1, "web", state="PoweredOff"), vm(2, "web")) == {"01": ["web"], "02": ["web-2"]}


def test_a_number_is_never_one_that_another_vm_has_by_itself() -> None:
    assert names(vm(1, "web"), vm(2, "web"), vm(3, "web-2"), vm(4, "web")) == {
        "01": ["web"], "02": ["web-3"], "03": ["web-2"], "04": ["web-4"],
    }  # fmt: skip
    reserved = {"web-2": "in the host's hosts file"}
    assert names(vm(1, "web"), vm(2, "web"), reserved=reserved) == {"01": ["web"], "02": ["web-3"]}


def test_a_number_fits_into_a_label() -> None:
    long = "a" * 70
    assert names(vm(1, long), vm(2, long)) == {"01": ["a" * 63], "02": ["a" * 61 + "-2"]}
    assert names(vm(1, "a" * 60 + "-bb"), vm(2, "a" * 60 + "-bb"))["02"] == ["a" * 60 + "-2"]


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "wpad", "ISATAP", "localdomain", "broadcasthost", "vmdns"])
def test_reserved_names(name: str) -> None:
    assert names(vm(1, name)) == {"01": [f"{name.lower()}-2"]}
    (problem,) = assign([vm(1, name)], WHY, ZONES).problems
    assert f"wanted the name {name.lower()}, which is a reserved name: it is {name.lower()}-2" in problem


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
        f"VM 'web' ({uuid(1)}) wanted the name web, which is in the host's hosts file: it is web-2",
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
    found = assign([vm(1, uuid(2)), vm(2, "web"), vm(3, uuid(3))], {}, ZONES)
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
        ("", "which is no name that DNS can carry"),
        (".", "which is no name that DNS can carry"),
        ("a..b", "which is no name that DNS can carry"),
        ("*", "which is no name that DNS can carry"),
        ("*.shop", "which is no name that DNS can carry"),
        ("😀", "which is no name that DNS can carry"),
        (".".join(["a" * 63] * 4), "which is no name that DNS can carry"),
        ("wpad", "which is a reserved name"),
        ("WPAD.local", "which is a reserved name"),
        ("db", f"which VM {uuid(2)} has"),
        ("db.local", f"which VM {uuid(2)} has"),
        (uuid(2), f"which VM {uuid(2)} has"),
        ("db.lab", f"which VM {uuid(2)} has"),
    ],
)
def test_extra_names_that_are_not_given(extra: str, why: str) -> None:
    found = assign([vm(1, names=(extra,)), vm(2, "db", groups=("/lab",))], WHY, ZONES)
    assert found.by_uuid[uuid(1)].names == (("web",), (uuid(1),))
    assert found.problems == (f"VM 'web' ({uuid(1)}) wanted the name {extra!r}, {why}",)


def test_of_two_that_want_an_extra_name_the_lower_uuid_has_it() -> None:
    assert names(vm(2, "b", names=("www",)), vm(1, "a", names=("www",))) == {"01": ["a", "www"], "02": ["b"]}


def test_vms_that_are_ignored_or_inaccessible_have_no_name_and_hold_none() -> None:
    hidden = vm(1, ignored=True), vm(2, accessible=False, state="")
    assert names(*hidden, vm(3)) == {"03": ["web"]}


MACHINES = st.lists(
    st.builds(
        vm,
        st.integers(1, 40),
        st.sampled_from(["web", "Web", "web-2", "web_2", "db", "wpad", "localhost", "😀", "", uuid(3), "a" * 80]),
        state=st.sampled_from(["Running", "PoweredOff"]),
        groups=st.lists(st.sampled_from(["/", "/lab", "/lab/a", "/LAB"]), max_size=2).map(tuple),
        names=st.lists(st.sampled_from(["www", "web", "web-2", "web.lab", "wpad", uuid(5)]), max_size=2).map(tuple),
        ignored=st.booleans(),
    ),
    max_size=10,
    unique_by=lambda one: one.uuid,
)


@given(MACHINES, st.randoms(use_true_random=False))
def test_any_order_gives_the_same_names_and_no_two_vms_share_one(machines: list[Machine], random: object) -> None:
    found = assign(machines, WHY, ZONES)
    shuffled = list(machines)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert assign(shuffled, WHY, ZONES) == found
    owner: dict[Relative, str] = {}
    for key, named in found.by_uuid.items():
        for name in named.names:
            assert owner.setdefault(name, key) == key
            for zone in ZONES:
                assert to_wire(".".join((*name, zone)))
            assert name[0] not in RESERVED or len(name) > 1
    assert set(found.by_uuid) == {one.uuid for one in machines if not one.ignored}


@given(MACHINES, st.integers(0, 9))
def test_a_vm_that_starts_or_stops_changes_no_name(machines: list[Machine], which: int) -> None:
    before = assign(machines, WHY, ZONES).by_uuid
    changed = [vm(99, "other")] + [
        Machine(one.uuid, one.name, "Paused" if at == which else one.state, one.groups, (), (), one.names, one.ignored)
        for at, one in enumerate(machines)
    ]
    after = assign(changed, WHY, ZONES).by_uuid
    assert {key: after[key] for key in before} == before
