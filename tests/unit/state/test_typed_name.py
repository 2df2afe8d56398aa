"""What a user means by a name: names of VMs first, a final dot for names outside."""

from __future__ import annotations

import contextlib

import pytest

from tests.facts import HOSTONLY, NOW, lease, vm
from vmdns.dns.name import to_text
from vmdns.dns.zonefile import parse_records
from vmdns.state.build import build
from vmdns.state.facts import HostName
from vmdns.state.policy import Policy
from vmdns.state.typed_name import find_similar_name, parse_typed_name

ZONES = ("local", "vm.internal")
SNAPSHOT = build(
    (
        vm(1, "My_Web Server"), lease(1, "10.0.2.4"), vm(2, "my-web-server", groups=("/lab",)),
        vm(3, "Ubuntu 22.04"), vm(4, "db-main", HOSTONLY, state="PoweredOff"), vm(5, "리눅스"), vm(6, "dev.corp"),
        vm(7, "...", HOSTONLY), HostName("nas", "192.168.1.9"), HostName("intra.corp.example", "192.168.1.9"),
    ),
    Policy(ZONES, records=parse_records("printer.hall A 192.168.1.7", ZONES, 5)), NOW, 7,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name", "note"),
    [
        ("my-web-server", "my-web-server.local", ""),
        ("MY-WEB-SERVER", "my-web-server.local", ""),
        ("my-web-server.local", "my-web-server.local", ""),
        ("my-web-server.VM.internal", "my-web-server.vm.internal", ""),
        ("my_web_server", "my-web-server.local", "'my_web_server' is asked for as my-web-server.local"),
        ("my_web_server.local", "my-web-server.local", "'my_web_server.local' is asked for as my-web-server.local"),
        ("Ubuntu 22.04", "ubuntu-22-04.local", "'Ubuntu 22.04' is asked for as ubuntu-22-04.local"),
        ("Debian 12.1", "debian-12-1.local", "'Debian 12.1' is asked for as debian-12-1.local"),
        ("dev.corp", "dev-corp.local", "'dev.corp' is asked for as dev-corp.local"),
        ("db-main", "db-main.local", ""),
        ("db_main", "db-main.local", "'db_main' is asked for as db-main.local"),
        ("db-mian", "db-mian.local", ""),
        ("리눅스", "xn--pd1b38l32h.local", "'리눅스' is asked for as xn--pd1b38l32h.local"),
        ("nas", "nas.local", ""),
        ("www.example.com", "www.example.com", ""),
        ("intra.corp.example", "intra.corp.example", ""),
        ("my-web-server.", "my-web-server", ""),
        ("shop.my-web-server.", "shop.my-web-server", ""),
        ("local", "local", ""),
        ("4.2.0.10.in-addr.arpa", "4.2.0.10.in-addr.arpa", ""),
    ],
)
def test_the_name_that_is_asked_for(text: str, name: str, note: str) -> None:
    found = parse_typed_name(text, SNAPSHOT)
    assert (to_text(found.key), found.kind, found.note) == (name, "A", note)


@pytest.mark.parametrize(
    ("text", "name", "kind"),
    [
        ("shop.my-web-server", "shop.my-web-server.local", "A"),
        ("shop.db-main", "shop.db-main.local", "A"),
        ("my-web-server.lab", "my-web-server.lab.local", "A"),
        ("printer.hall", "printer.hall.local", "A"),
        ("_ssh._tcp.my-web-server", "_ssh._tcp.my-web-server.local", "SRV"),
    ],
)
def test_names_with_dots_that_are_ours(text: str, name: str, kind: str) -> None:
    found = parse_typed_name(text, SNAPSHOT)
    assert (to_text(found.key), found.kind) == (name, kind)
    assert (
        found.note == f"{text} is taken for {name}, a name of the VMs; for the name outside, type {text}. with a "
        "final dot"
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("10.0.2.4", "4.2.0.10.in-addr.arpa"),
        ("fe80::1%eth0", "1." + "0." * 27 + "0.8.e.f.ip6.arpa"),
        ("::1", "1." + "0." * 31 + "ip6.arpa"),
    ],
)
def test_an_address_means_its_name(text: str, name: str) -> None:
    found = parse_typed_name(text, SNAPSHOT)
    assert (to_text(found.key), found.kind, found.note) == (name, "PTR", "")


@pytest.mark.parametrize(
    "text", ["", " ", "a..b", "x" * 64 + ".com", ".", "...", "_", "\x00", "." * 300, "_.a b.local"]
)
def test_odd_texts_are_a_name_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_typed_name(text, SNAPSHOT).key.endswith(b"\0")


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("db-mian", "db-main"),
        ("my-web-sevrer", "my-web-server"),
        ("shop.my-web-sevrer", "my-web-server"),
        ("something", ""),
    ],
)
def test_the_name_that_was_meant(name: str, similar: str) -> None:
    assert find_similar_name(name, SNAPSHOT) == similar
