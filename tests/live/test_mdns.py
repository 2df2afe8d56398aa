"""Multicast DNS between a host and its guests: real sockets, and clients that others wrote."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.live.mdnslab import HOST, OTHER, VM, WEB, Network, links, network, no_avahi
from tests.needs import no_named_namespace

pytest.importorskip("zeroconf")
pytestmark = pytest.mark.slow


@pytest.fixture
def wire() -> Iterator[Network]:
    if why := no_named_namespace():
        pytest.skip(why)
    with network() as made:
        made.plug("vm", VM)
        made.plug("other", OTHER)
        yield made


def test_guests_find_each_other(wire: Network) -> None:
    wire.vmdns(WEB)
    found = wire.client("other", "resolve", "web.local", "db.local")
    assert found == {"web.local": [VM], "db.local": sorted(WEB["db.local"])}
    assert wire.client("other", "pointer", VM) == "web.local."


def test_a_vm_that_speaks_for_itself_has_its_name(wire: Network) -> None:
    itself = wire.announce("vm", "announce", "web.local", VM)
    assert itself.receive() == "web.local."
    host = wire.vmdns(WEB)
    assert wire.client("other", "resolve", "web.local", "db.local") == {
        "web.local": [VM],
        "db.local": sorted(WEB["db.local"]),
    }
    host.request(links(WEB))
    assert host.said == []


@pytest.mark.parametrize("first", ["vmdns", "other"])
def test_a_name_that_another_has_is_left_to_it(wire: Network, first: str) -> None:
    if first == "vmdns":
        host = wire.vmdns(WEB)
        assert wire.client("vm", "resolve", "web.local") == {"web.local": [VM]}
    other = wire.announce("other", "announce", "web.local", OTHER)
    assert other.receive() == "web.local."
    if first == "other":
        host = wire.vmdns(WEB)
    assert host.receive_said().startswith(f"web.local is left to {OTHER}")
    assert wire.client("vm", "resolve", "web.local", "db.local") == {
        "web.local": [OTHER],
        "db.local": sorted(WEB["db.local"]),
    }


def test_names_of_others_are_found(wire: Network) -> None:
    printer = wire.announce("other", "announce", "printer.local", OTHER)
    assert printer.receive() == "printer.local."
    host = wire.vmdns(WEB)
    # More than a second in all: zeroconf does not repeat within one what it has announced.
    for number in range(4):
        assert host.request({"find": [f"nobody{number}.local", 1]})["found"] == []
    assert host.request({"find": ["printer.local", 1]})["found"] == [OTHER]
    assert host.request({"find": ["printer.local", 28]})["found"] == []
    assert host.request({"find": ["web.local", 1]})["found"] == []
    assert host.request({"find": ["x.printer.local", 1]})["found"] == []


# -- packets ---------------------------------------------------------------------------------------------------

ANSWER = [["web.local.", "A"]]


@pytest.fixture
def announced(wire: Network) -> Network:
    """A network on which web.local was announced."""
    wire.vmdns(WEB)
    assert wire.client("vm", "resolve", "web.local") == {"web.local": [VM]}
    return wire


def test_strangers_get_nothing(announced: Network) -> None:
    """An address that is not of this link: the answer would leave it (RFC 6762 section 11)."""
    announced.add_address("other", "203.0.113.9/32")
    assert announced.raw("other", "web.local", 0, "203.0.113.9") == []
    assert announced.raw("other", "web.local", 5353, "203.0.113.9") == []
    assert announced.raw("other", "web.local", 0, OTHER) != []


def test_ipv6(announced: Network) -> None:
    (found,) = announced.raw("other", "web.local", 0, "eth0")
    assert found["answers"] == ANSWER
    assert found["hops"] == 255


def test_a_program_on_the_host_is_answered_too(announced: Network) -> None:
    (found,) = announced.raw("host", "web.local", 0, HOST)
    assert found["answers"] == ANSWER


# -- what fails -------------------------------------------------------------------------------------------------

HOLD = "import socket,sys; s=socket.socket(2,2); s.bind(('',5353)); print('{}',flush=True); sys.stdin.read()"


def test_a_port_that_another_program_uses_is_logged_once(wire: Network) -> None:
    holder = wire.start("host", sys.executable, "-c", HOLD)
    holder.receive()
    host = wire.vmdns(WEB)
    host.request(links(WEB))
    assert len(host.said) == 1
    assert host.said[0].startswith("no multicast DNS on vboxnet0: another program uses port 5353 exclusively")
    holder.stop()
    host.request(links(WEB))
    assert host.said[1:] == ["multicast DNS works on vboxnet0 now"]
    assert wire.client("other", "resolve", "web.local") == {"web.local": [VM]}


def test_links_come_and_go(wire: Network) -> None:
    host = wire.vmdns({})
    host.request({"links": {}})
    nowhere = {"prefixes": ["10.9.9.1/24"], "names": {"web.local": ["10.9.9.9"]}}
    host.request({"links": {"vboxnet9": nowhere, **links(WEB)["links"]}})
    assert [line.split(":")[0] for line in host.said] == ["no multicast DNS on vboxnet9"]
    assert wire.client("other", "resolve", "web.local") == {"web.local": [VM]}


# -- avahi ------------------------------------------------------------------------------------------------------


@pytest.fixture
def avahis(wire: Network) -> Network:
    if why := no_avahi():
        pytest.skip(why)
    return wire


def test_programs_behind_avahi_find_names_and_addresses(avahis: Network) -> None:
    host = avahis.vmdns(WEB)
    other = avahis.avahi("other", "other")
    assert other.name == "other.local"
    assert other.getent("web.local") == [VM, "web.local"]
    assert other.getent("WEB.local")[0] == VM
    assert other.getent(VM) == [VM, "web.local"]
    assert other.getent("nobody.local") == []
    assert host.request({"find": ["other.local", 1]})["found"] == [OTHER]


def test_avahi_on_the_host_goes_on_beside_us(avahis: Network) -> None:
    own = avahis.avahi("host", "laptop")
    assert own.name == "laptop.local"
    avahis.vmdns(WEB)
    other = avahis.avahi("other", "other")
    assert other.name == "other.local"
    assert own.getent("web.local") == [VM, "web.local"]
    assert own.getent("other.local") == [OTHER, "other.local"]
    assert other.getent("laptop.local") == [HOST, "laptop.local"]
    assert other.getent("web.local") == [VM, "web.local"]


@pytest.mark.parametrize("first", ["vmdns", "avahi"])
@pytest.mark.parametrize("name", ["web", "debian"])
def test_a_vm_with_avahi_keeps_the_name_it_gives_itself(avahis: Network, name: str, first: str) -> None:
    if first == "vmdns":
        host = avahis.vmdns(WEB)
        assert avahis.client("other", "resolve", "web.local") == {"web.local": [VM]}
    vm = avahis.avahi("vm", name)
    assert vm.name == f"{name}.local"
    if first == "avahi":
        host = avahis.vmdns(WEB)
    found = avahis.client("other", "resolve", "web.local", "db.local", f"{name}.local")
    assert (found["web.local"][0], found[f"{name}.local"][0]) == (VM, VM)  # avahi has link-local ones too
    assert host.request({"find": ["nobody.local", 1]})["found"] == []
    assert host.said == []
    assert not any("onflict" in line for line in vm.lines), vm.lines


@pytest.mark.parametrize("first", ["vmdns", "avahi"])
def test_the_first_of_two_hosts_keeps_the_name(avahis: Network, first: str) -> None:
    if first == "vmdns":
        avahis.vmdns(WEB)
        assert avahis.client("vm", "resolve", "web.local") == {"web.local": [VM]}
    other = avahis.avahi("other", "web")
    if first == "vmdns":
        assert other.name == "web-2.local"
        return
    assert other.name == "web.local"
    host = avahis.vmdns(WEB)
    assert host.receive_said().startswith(f"web.local is left to {OTHER}")
    assert avahis.client("vm", "resolve", "web.local")["web.local"][0] == OTHER
