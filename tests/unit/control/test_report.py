"""What commands show of a running server: names, changes and reasons, as JSON values and as lines."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.facts import EVERYWHERE, HOSTONLY, LAB, NAT, NETWORKS, NOW, OTHER, lease, mac, report, uuid, vm
from vmdns.control import requests
from vmdns.dns.name import to_wire
from vmdns.state.build import build
from vmdns.state.facts import Fact, HostName, PortForward
from vmdns.state.guests import VmChange
from vmdns.state.policy import Policy
from vmdns.state.snapshot import Snapshot
from vmdns.state.views import View

ZONES = ("local", "vm.internal")


def made(*facts: Fact) -> Snapshot:
    return build((*NETWORKS, *facts), Policy(), NOW, 7)


def test_names() -> None:
    facts = (
        vm(2, "web", names=("www",)), vm(1, "db", state="Paused"), vm(3, "off", state="Saved"),
        lease(2, "10.0.2.4"), HostName("nas", "192.168.1.9"),
    )  # fmt: skip
    value = requests.names(made(*facts), NOW)
    assert json.loads(json.dumps(value)) == value
    assert (value["zones"], value["serial"], value["problems"]) == (["local", "vm.internal"], 7, [])
    db, web = value["names"]
    assert (db["name"], db["state"], db["addresses"]) == ("db.local", "Paused", [])
    assert db["note"] == "it runs, but no address of it is known yet"
    assert web == {
        "name": "web.local",
        "shown": "web.local",
        "also": ["web.vm.internal", "www.local", "www.vm.internal", f"{uuid(2)}.local", f"{uuid(2)}.vm.internal"],
        "vm": "web",
        "uuid": uuid(2),
        "state": "Running",
        "here": [],
        "note": "",
        "addresses": [
            {
                "address": "10.0.2.4",
                "network": {"kind": "natnetwork", "name": "lab"},
                "mac": mac(2),
                "source": "lease",
                "why": "DHCP lease of lab, 540 s left",
                "since": NOW - 60,
            }
        ],
        "forwards": [],
    }


def test_why_a_vm_has_an_address() -> None:
    (guest,) = made(vm(1), lease(1, "10.0.2.4")).guests
    for later, left in ((0, 540), (0.4, 540), (539.9, 0), (10_000, 0)):
        assert requests.why(guest.addresses[0], NOW + later) == f"DHCP lease of lab, {left} s left"
    (guest,) = made(vm(1, reports=(report(1, "10.0.2.4"),))).guests
    assert requests.why(guest.addresses[0], NOW) == "reported by Guest Additions"


WEB = (vm(1), lease(1, "10.0.2.4"))
RULES = PortForward("Rule 1", "tcp", "", 2222, "", 22), PortForward("x", "udp", "127.0.0.1", 5353, "", 53)
NATTED = replace(vm(1, "web", NAT), adapters=(replace(vm(1, "web", NAT).adapters[0], forwards=RULES),))
NATTED_OTHER = replace(vm(3, "behind", NAT), adapters=(replace(vm(3, "behind", NAT).adapters[0], forwards=RULES),))
WHERE = "10.0.2.4 (NAT Network lab, lease)"


@pytest.mark.parametrize(
    ("before", "after", "kind", "line"),
    [
        (None, WEB, "appeared", f"+ web.local  {WHERE}"),
        (None, (vm(1),), "appeared", "+ web.local  no address known yet"),
        (WEB, None, "gone", "- web.local"),
        ((vm(1),), WEB, "changed", f"~ web.local  {WHERE}"),
        (WEB, (vm(1),), "changed", "~ web.local  no address known yet (was 10.0.2.4)"),
        (
            WEB,
            (vm(1), lease(1, "10.0.2.5")),
            "changed",
            "~ web.local  10.0.2.5 (NAT Network lab, lease) (was 10.0.2.4)",
        ),
        (WEB, (vm(1, "db"), WEB[1]), "changed", f"~ db.local (was web.local)  {WHERE}"),
        (WEB, (vm(1, names=("www",)), WEB[1]), "changed", f"~ web.local  {WHERE}"),
        (
            WEB,
            (vm(1, "db", NAT, reports=(report(1, "10.0.2.15"),)),),
            "changed",
            "~ db.local (was web.local)  10.0.2.15 (NAT, guest additions) (was 10.0.2.4)",
        ),
        (
            None,
            (vm(1, "web", HOSTONLY, NAT), lease(1, "192.168.56.101", HOSTONLY), lease(1, "10.0.2.4")),
            "appeared",
            "+ web.local  192.168.56.101 (host-only vboxnet0, lease)",
        ),
        (None, (NATTED,), "appeared", "+ web.local  host:2222 -> 22 ssh, 127.0.0.1:5353/udp -> 53 domain"),
    ],
)
def test_a_change(before: tuple[Fact, ...] | None, after: tuple[Fact, ...] | None, kind: str, line: str) -> None:
    was = made(*before).guests[0] if before else None
    now = made(*after).guests[0] if after else None
    value = requests.describe_change(VmChange(was, now), ZONES, NOW)
    assert json.loads(json.dumps(value)) == value
    assert value["change"] == kind
    assert value["at"] == NOW
    assert requests.format_change(value) == line
    if after is WEB:
        assert value["why"] == "DHCP lease of lab, 540 s left"


@pytest.mark.parametrize("name", ["web.local", "web.vm.internal", "www.local", f"{uuid(1)}.local"])
def test_explained(name: str) -> None:
    snapshot = made(vm(1, "Web", names=("www",)), lease(1, "10.0.2.4"))
    assert requests.explain(snapshot, to_wire(name), NOW, EVERYWHERE) == [
        f"{name} is VM 'Web' ({uuid(1)}), which is Running",
        "10.0.2.4 is chosen: it is on NAT Network lab, which guests on NAT Network lab can reach "
        "(DHCP lease of lab, 540 s left)",
    ]


def test_explained_why_one_address_of_several() -> None:
    snapshot = made(
        vm(1, "web", LAB, HOSTONLY), lease(1, "10.0.2.4"), lease(257, "192.168.56.101", HOSTONLY),
        vm(2, "db", LAB), lease(2, "10.0.2.5"), NATTED_OTHER,
    )  # fmt: skip
    view = View((HOSTONLY,), "192.168.56.1")
    assert requests.explain(snapshot, to_wire("shop.web.local"), NOW, view) == [
        f"shop.web.local is VM 'web' ({uuid(1)}), which is Running",
        "192.168.56.101 is chosen: it is on the host-only network vboxnet0, the client's own network "
        "(DHCP lease of vboxnet0, 540 s left)",
        "10.0.2.4 is left out: it is on NAT Network lab, which guests on the host-only network vboxnet0 cannot reach "
        "(DHCP lease of lab, 540 s left)",
    ]
    assert requests.explain(snapshot, to_wire("behind.local"), NOW, View()) == [
        f"behind.local is VM 'behind' ({uuid(3)}), which is Running",
        "127.0.0.1 is chosen: it is this computer's, and port-forward rules lead to the VM (2222 to its 22, 5353 to "
        "its 53)",
    ]


REMEDY = (
    f"rename one of the two VMs, or choose a name for this one: VBoxManage setextradata {uuid(2)} vmdns/names x-y-2"
)


def test_explained_where_something_is_the_matter() -> None:
    snapshot = made(vm(1, "x\ny", NAT, state="Paused"), vm(2, "x-y", NAT, reports=(report(2, "10.0.2.15"),)))
    assert requests.explain(snapshot, to_wire("x-y.local"), NOW, EVERYWHERE) == [
        f"VM 'x-y' ({uuid(2)}) is x-y-2, because VM 'x\\ny' ({uuid(1)}) has the name x-y; {REMEDY}",
        f"x-y.local is VM 'x\\ny' ({uuid(1)}), which is Paused",
        f"it has the name x-y, which VM 'x-y' ({uuid(2)}) would have as well; it is on NAT alone, where nobody can "
        "reach it: add a port-forward rule or another adapter",
    ]
    assert requests.explain(snapshot, to_wire("x-y-2.local"), NOW, EVERYWHERE) == [
        f"x-y-2.local is VM 'x-y' ({uuid(2)}), which is Running",
        "10.0.2.15 is left out: it is inside of the VM's own NAT, which nobody else reaches "
        "(reported by Guest Additions)",
        f"it is x-y-2, because VM 'x\\ny' ({uuid(1)}) has the name x-y",
        REMEDY,
        "VM 'x-y' is on NAT alone, where nobody can reach it: add a port-forward rule or another adapter",
    ]


def test_an_address_is_explained_with_each_vm_that_has_it() -> None:
    snapshot = made(vm(1, "web"), lease(1, "10.0.2.4"), vm(2, "db", OTHER), lease(2, "10.0.2.4", OTHER))
    assert requests.explain(snapshot, to_wire("4.2.0.10.in-addr.arpa"), NOW, View()) == [
        f"10.0.2.4 is VM 'web' ({uuid(1)}) on NAT Network lab",
        f"10.0.2.4 is VM 'db' ({uuid(2)}) on NAT Network other",
    ]


def test_a_name_that_the_hosts_file_answers_is_explained() -> None:
    hosts = HostName("web", "192.168.1.9"), HostName("nas.example.org", "192.168.1.8"), HostName("off", "192.168.1.7")
    snapshot = made(vm(1), lease(1, "10.0.2.4"), vm(2, "off", state="PoweredOff"), *hosts)
    answered = "is answered from this computer's hosts file"
    assert requests.explain(snapshot, to_wire("web.local"), NOW, EVERYWHERE) == [
        f"web.local {answered}",
        f"VM 'web' ({uuid(1)}) is web-2, because web is in this computer's hosts file (192.168.1.9 web); "
        "remove that line from the hosts file, or rename the VM",
    ]
    assert requests.explain(snapshot, to_wire("nas.example.org"), NOW, EVERYWHERE) == [f"nas.example.org {answered}"]
    assert requests.explain(snapshot, to_wire("web-2.local"), NOW, EVERYWHERE)[0].startswith("web-2.local is VM 'web'")


@pytest.mark.parametrize("name", ["nope.local", "local", "web", "web.example.org", ".", "5.2.0.10.in-addr.arpa"])
def test_nothing_to_explain(name: str) -> None:
    assert requests.explain(made(*WEB), to_wire(name), NOW, EVERYWHERE) == []


def test_a_name_in_another_script_is_shown_in_it_too() -> None:
    (one,) = requests.names(made(vm(1, "리눅스")), NOW)["names"]
    assert one["name"] == "xn--pd1b38l32h.local"
    assert one["shown"] == "xn--pd1b38l32h.local (리눅스.local)"
