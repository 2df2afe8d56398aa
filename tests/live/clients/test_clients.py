"""Real stub resolvers in guests: what they find, by which names, on which network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.clients.net import Guest, unavailable
from tests.live.clients.scene import Scene, scene
from tests.live.clients.stubs import AVAHI, DIG, GLIBC, STUBS, Stub
from tests.live.lab import ip, until

TIMES = 20
NETWORKS = ("host-only", "bridged")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    if why := unavailable():
        pytest.skip(why)
    with scene(tmp_path_factory.mktemp("clients") / "lab") as made:
        yield made


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.name)
def test_names(stage: Scene, network: str, stub: Stub) -> None:
    """Forward and reverse, each many times: an answer by luck is none."""
    link = stage.links[network]
    with stage.router(link), stage.guest(link, stub) as desk:
        for question, answer in stage.expected(link).items():
            found = [stub.query(desk, question)[0] for _ in range(TIMES)]
            assert set(found) == {(answer,)}, _describe(stage, desk, question, found)


def _describe(stage: Scene, guest: Guest, *what: object) -> str:
    """The state of the guest, the host and vmdns, for the message of a failure."""
    kept = guest.run("busybox", "cat", "/etc/resolv.conf"), guest.run("busybox", "ip", "addr")
    host = ip("neigh")
    return "\n".join(map(str, (*what, *kept, host, *stage.server.lines[-40:])))


def test_a_guest_that_announces_itself(stage: Scene) -> None:
    """Its Avahi and vmdns say the same of it, and neither gives way."""
    link = stage.links["bridged"]
    before = len(stage.server.lines)
    with stage.router(link), stage.guest(link, AVAHI) as desk:
        until(lambda: "Server startup complete" in desk.log("avahi-daemon"), "Avahi's announcement")
        with stage.guest(link, AVAHI, name="other", mac="020000000077") as other:
            assert AVAHI.query(other, "desk.local")[0] == (link.desk,)
        assert "Host name is desk.local" in desk.log("avahi-daemon")
        assert "conflict" not in desk.log("avahi-daemon")
    assert not [line for line in stage.server.lines[before:] if "left to" in line]


def test_a_router_that_knows_nothing(stage: Scene) -> None:
    """A LAN as most are, where guests ask the router: names of two labels are found by multicast DNS."""
    link = stage.links["bridged"]
    with stage.router(link, silent=True), stage.guest(link, AVAHI) as desk:
        assert link.host not in desk.run("busybox", "cat", "/etc/resolv.conf")
        assert [AVAHI.query(desk, "web.local")[0] for _ in range(TIMES)] == [(link.web,)] * TIMES
        assert AVAHI.query(desk, "nobody.local")[0] == ("(Name or service not known)",)


def _status(guest: Guest, *what: str) -> str:
    return guest.run("dig", *what, check=False).partition("status: ")[2].partition(",")[0]


def test_strangers_on_the_lan_are_refused(stage: Scene) -> None:
    link = stage.links["bridged"]
    with stage.router(link), stage.guest(link, DIG, name="stranger", mac="020000000088") as stranger:
        assert _status(stranger, "web.local") == "REFUSED"
        assert _status(stranger, "web.vm.internal") == "REFUSED"
        assert _status(stranger, "-x", link.web) == "REFUSED"


def test_a_vm_is_known_by_its_first_packet(stage: Scene) -> None:
    """A bridged VM without Guest Additions, and without a lease of VirtualBox's."""
    link = stage.links["bridged"]
    mac = stage.start_late()
    with stage.router(link), stage.guest(link, GLIBC, name="late", mac=mac) as guest:
        assert stage.server.addresses("late.local") == []
        guest.run("busybox", "ping", "-c", "1", link.host)
        stage.server.is_at("late.local", guest.address)
        # Another address, known by nothing but a query: which is answered, as is the one for its own name.
        guest.run("busybox", "ip", "addr", "flush", "dev", "eth0")
        guest.static(f"{link.near(77)}/24")
        assert GLIBC.query(guest, "web.local")[0] == (link.web,)
        assert GLIBC.query(guest, "late.local")[0] == (link.near(77),)
        assert stage.server.addresses("late.local") == [link.near(77)]
    stage.lab.power_off("late")


def test_a_vm_that_is_not_in_the_neighbour_table(stage: Scene) -> None:
    """It knows the host's MAC, so it sends its query without ARP; as after a pause."""
    link = stage.links["bridged"]
    with stage.router(link), stage.guest(link, GLIBC) as desk:
        for _ in range(TIMES):
            assert GLIBC.query(desk, "web.local")[0] == (link.web,)
            ip("neigh", "del", link.desk, "dev", link.interface)
            until(lambda: link.desk not in stage.server.addresses("desk.local"), "the host has lost it")
            assert GLIBC.query(desk, "web.local")[0] == (link.web,)


def test_a_vm_with_ipv6(stage: Scene) -> None:
    """Both of its addresses are found, once the host has seen them."""
    link = stage.links["bridged"]
    ip("addr", "add", "fd00:77::20/64", "dev", link.interface, "nodad")
    try:
        with stage.router(link), stage.guest(link, GLIBC) as desk:
            desk.run("busybox", "ip", "addr", "add", "fd00:77::21/64", "dev", "eth0")
            until(lambda: "tentative" not in desk.run("busybox", "ip", "addr", "show", "dev", "eth0"), "its address")
            desk.run("busybox", "ping", "-c", "1", "fd00:77::20")
            until(lambda: stage.server.addresses("desk.local", "AAAA") == ["fd00:77::21"], "its address in vmdns")
            assert GLIBC.query(desk, "desk.local")[0] == (link.desk, "fd00:77::21")
            assert GLIBC.query(desk, "desk")[0] == (link.desk, "fd00:77::21")
    finally:
        ip("addr", "del", "fd00:77::20/64", "dev", link.interface)
