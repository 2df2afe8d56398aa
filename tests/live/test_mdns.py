"""Multicast DNS between a host and its guests: real sockets, and clients that others wrote."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.mdnslab import OTHER, VM, WEB, Network, links, network, unavailable

pytest.importorskip("zeroconf")


@pytest.fixture
def wire() -> Iterator[Network]:
    if why := unavailable():
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


def test_a_name_that_is_gone_is_not_found(wire: Network) -> None:
    host = wire.vmdns(WEB)
    assert wire.client("other", "resolve", "web.local") == {"web.local": [VM]}
    host.tell(links({}))
    assert wire.client("other", "resolve", "web.local") == {"web.local": []}


def test_a_vm_that_speaks_for_itself_has_its_name(wire: Network) -> None:
    itself = wire.announce("vm", "announce", "web.local", VM)
    assert itself.hear() == "web.local."
    host = wire.vmdns(WEB)
    assert wire.client("other", "resolve", "web.local", "db.local") == {
        "web.local": [VM],
        "db.local": sorted(WEB["db.local"]),
    }
    host.tell(links(WEB))
    assert host.said == []


@pytest.mark.parametrize("first", ["vmdns", "other"])
def test_a_name_that_another_has_is_left_to_it(wire: Network, first: str) -> None:
    if first == "vmdns":
        host = wire.vmdns(WEB)
        assert wire.client("vm", "resolve", "web.local") == {"web.local": [VM]}
    other = wire.announce("other", "announce", "web.local", OTHER)
    assert other.hear() == "web.local."
    if first == "other":
        host = wire.vmdns(WEB)
    assert host.hear_said().startswith(f"web.local is left to {OTHER}")
    assert wire.client("vm", "resolve", "web.local", "db.local") == {
        "web.local": [OTHER],
        "db.local": sorted(WEB["db.local"]),
    }


def test_what_others_have_is_found(wire: Network) -> None:
    printer = wire.announce("other", "announce", "printer.local", OTHER)
    assert printer.hear() == "printer.local."
    host = wire.vmdns(WEB)
    assert host.tell({"find": ["nobody.local", 1]})["found"] == []  # a second, in which the printer is to say nothing
    assert host.tell({"find": ["printer.local", 1]})["found"] == [OTHER]
    assert host.tell({"find": ["printer.local", 28]})["found"] == []
    assert host.tell({"find": ["web.local", 1]})["found"] == []
    assert host.tell({"find": ["x.printer.local", 1]})["found"] == []
