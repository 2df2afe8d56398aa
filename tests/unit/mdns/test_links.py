"""Which names are answered for on which link."""

from __future__ import annotations

import errno

import pytest

from tests import facts as f
from vmdns.dns.name import to_wire
from vmdns.mdns import transport
from vmdns.mdns.links import find_links
from vmdns.state.facts import DhcpServer, HostAddress, HostInterface
from vmdns.state.guests import Guest
from vmdns.state.name_assignment import AssignedNames
from vmdns.state.name_rules import is_lookup_allowed
from vmdns.state.networks import Address
from vmdns.state.snapshot import Policy, Snapshot
from vmdns.state.views import index_host_networks

FACTS = (
    HostInterface("vboxnet0", "192.168.56.1/24"),
    HostAddress("vboxnet0", "192.168.56.1/24"),
    HostAddress("vboxnet0", "fd00:56::1/64"),
    HostAddress("eth0", "192.168.1.5/24"),
    HostAddress("eth0", "fe80::1/64"),
    HostAddress("wlan0", "192.168.7.5/24"),
    HostAddress("lo", "127.0.0.1/8"),
    HostAddress("lo", "198.18.53.1/32"),
    HostAddress("docker0", "172.17.0.1/16"),
    HostAddress("tun0", "10.8.0.2/32"),
    DhcpServer("lab", "10.0.2.3", "255.255.255.0"),
)


def guest(number: int, names: tuple[tuple[str, ...], ...], *addresses: tuple[str, object]) -> Guest:
    networks = tuple(dict.fromkeys(network for _, network in addresses))
    machine = f.vm(number, names[0][0], *networks)  # type: ignore[arg-type]
    found = tuple(Address(address, network, f.mac(number), "", "", 0.0) for address, network in addresses)  # type: ignore[arg-type]
    return Guest(machine, AssignedNames(names), found, ())


def snapshot(*guests: Guest, lan: str = "guests", zone: str = "local") -> Snapshot:
    owned = {to_wire(".".join((*name, zone))): one.machine.uuid for one in guests for name in one.named.names}
    by_uuid = {one.machine.uuid: one for one in guests}
    host_networks = index_host_networks([*FACTS, *(one.machine for one in guests)])
    return Snapshot(by_uuid=by_uuid, owned=owned, host_networks=host_networks, policy=Policy(zones=(zone,), lan=lan))


WEB = guest(1, (("web",),), ("192.168.56.11", f.HOSTONLY), ("192.168.1.11", f.BRIDGED), ("10.0.2.4", f.LAB))
DB = guest(2, (("db",), ("sql", "db"), ("mysql",)), ("192.168.56.12", f.HOSTONLY), ("fd00:56::12", f.HOSTONLY))


def named(which: Snapshot, relay: bool = True) -> dict[str, dict[str, tuple[str, ...]]]:
    return {
        interface: {name.decode(): addresses for name, addresses in link.names.items()}
        for interface, link in find_links(which, relay).items()
    }


def test_each_link_has_its_own_addresses_of_names_of_two_labels() -> None:
    both = {
        "\x03web\x05local\0": ("192.168.56.11",),
        "\x02db\x05local\0": ("192.168.56.12", "fd00:56::12"),
        "\x05mysql\x05local\0": ("192.168.56.12", "fd00:56::12"),
    }
    assert named(snapshot(WEB, DB)) == {
        "vboxnet0": both, "eth0": {"\x03web\x05local\0": ("192.168.1.11",)}, "wlan0": {}
    }  # fmt: skip


def test_only_guests_are_on_a_network_of_virtualbox() -> None:
    found = find_links(snapshot(WEB, DB), relay=True)
    assert {interface: link.guests_only for interface, link in found.items()} == {
        "vboxnet0": True, "eth0": False, "wlan0": False
    }  # fmt: skip


def test_without_relay_only_links_with_vms() -> None:
    assert set(named(snapshot(WEB), relay=False)) == {"vboxnet0", "eth0"}
    assert set(named(snapshot(DB), relay=False)) == {"vboxnet0"}


def test_no_link_is_opened_where_names_are_neither_answered_nor_queried() -> None:
    assert find_links(snapshot(WEB, DB), relay=False, publish_names=False) == {}
    assert (
        find_links(snapshot(WEB, DB), relay=True, publish_names=False).keys()
        == find_links(snapshot(WEB, DB), relay=True).keys()
    )


def test_a_lan_without_answers_is_still_queried() -> None:
    assert named(snapshot(WEB, lan="off"))["eth0"] == {}
    assert "eth0" not in named(snapshot(WEB, lan="off"), relay=False)
    assert named(snapshot(WEB, lan="off"))["vboxnet0"] != {}


def test_only_local_is_for_multicast() -> None:
    assert named(snapshot(WEB, DB, zone="vm.internal")) == {"vboxnet0": {}, "eth0": {}, "wlan0": {}}


def test_a_name_of_another_vm_is_not_published() -> None:
    stopped = guest(3, (("web",),), ("192.168.56.13", f.HOSTONLY))
    assert named(snapshot(stopped, WEB))["vboxnet0"] == {"\x03web\x05local\0": ("192.168.56.11",)}


def test_an_address_of_another_prefix_is_not_on_the_link() -> None:
    away = guest(3, (("web",),), ("10.9.9.9", f.HOSTONLY))
    assert named(snapshot(away))["vboxnet0"] == {}


def test_other_scripts_are_published_as_utf8_too() -> None:
    one = guest(1, (("xn--bcher-kva",),), ("192.168.56.11", f.HOSTONLY))
    assert set(named(snapshot(one))["vboxnet0"]) == {"\x0dxn--bcher-kva\x05local\0", "\x07bücher\x05local\0"}


@pytest.mark.parametrize(
    ("name", "may"),
    [
        ("printer.local", True),
        ("x.printer.local", False),
        ("local", False),
        ("_tcp.local", False),
        ("printer.lan", False),
        ("9.1.168.192.in-addr.arpa", False),
        (".", False),
    ],
)
def test_names_that_are_looked_up(name: str, may: bool) -> None:
    assert is_lookup_allowed(to_wire(name)) is may


@pytest.mark.parametrize(
    ("address", "on"),
    [
        ("192.168.56.9", True),
        ("192.168.57.9", False),
        ("fe80::1%vboxnet0", True),
        ("fd00:56::9", True),
        ("fd00::9", False),
    ],
)
def test_addresses_on_a_link(address: str, on: bool) -> None:
    assert find_links(snapshot(DB), False)["vboxnet0"].contains(address) is on


@pytest.mark.parametrize(("platform", "refused"), [("darwin", True), ("linux", False)])
def test_packets_that_macos_keeps_from_the_local_network(
    monkeypatch: pytest.MonkeyPatch, platform: str, refused: bool
) -> None:
    class Refusing:
        def sendto(self, *_: object) -> None:
            raise OSError(errno.EHOSTUNREACH, "No route to host")

    multicast = transport.Multicast(print, dict)
    assert multicast.refusal == ("", 0.0)
    link = multicast._open["bridge100"] = object.__new__(transport._OpenLink)
    link.refusal, link._sockets = ("", 0.0), {4: Refusing()}  # type: ignore[dict-item]
    monkeypatch.setattr(transport.sys, "platform", platform)
    assert not link._send(b"", transport.GROUP4, transport.PORT)
    assert ("Local Network" in multicast.refusal[0]) == refused
