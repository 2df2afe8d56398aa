"""What a user means by a name: names of VMs first, a final dot for names outside."""

from __future__ import annotations

import contextlib

import pytest

from tests.facts import HOSTONLY, NOW, lease, vm
from vmdns.dns.name import to_text
from vmdns.dns.zonefile import parse_records
from vmdns.state.build import build
from vmdns.state.facts import HostName
from vmdns.state.snapshot import Policy
from vmdns.state.typed_name import parse_typed_name

ZONES = ("local", "vm.internal")
SNAPSHOT = build(
    (
        vm(1, "My_Web Server"), lease(1, "10.0.2.4"), vm(2, "my-web-server", groups=("/lab",)),
        vm(3, "Ubuntu 22.04"), vm(4, "db-main", HOSTONLY, state="PoweredOff"), vm(5, "리눅스"), vm(6, "dev.corp"),
        vm(7, "...", HOSTONLY), HostName("nas", "192.168.1.9"), HostName("intra.corp.example", "192.168.1.9"),
    ),
    Policy(ZONES, records=parse_records("printer.hall A 192.168.1.7", ZONES, 5)), NOW, 7,
)  # fmt: skip


AS_TYPED = ""
ANOTHER = "{text!r} is asked for as {name}"
BELOW = "{text} is taken for {name}, a name of the VMs; for the name outside, type {text}. with a final dot"


@pytest.mark.parametrize(
    ("text", "name", "kind", "note"),
    [
        ("MY-WEB-SERVER", "my-web-server.local", "A", AS_TYPED),
        ("my-web-server.VM.internal", "my-web-server.vm.internal", "A", AS_TYPED),
        ("my_web_server", "my-web-server.local", "A", ANOTHER),
        ("my_web_server.local", "my-web-server.local", "A", ANOTHER),
        ("Ubuntu 22.04", "ubuntu-22-04.local", "A", ANOTHER),
        ("Debian 12.1", "debian-12-1.local", "A", ANOTHER),
        ("dev.corp", "dev-corp.local", "A", ANOTHER),
        ("db-main", "db-main.local", "A", AS_TYPED),
        ("db_main", "db-main.local", "A", ANOTHER),
        ("db-mian", "db-mian.local", "A", AS_TYPED),
        ("리눅스", "xn--pd1b38l32h.local", "A", ANOTHER),
        ("nas", "nas.local", "A", AS_TYPED),
        ("www.example.com", "www.example.com", "A", AS_TYPED),
        ("intra.corp.example", "intra.corp.example", "A", AS_TYPED),
        ("shop.my-web-server.", "shop.my-web-server", "A", AS_TYPED),
        ("local", "local", "A", AS_TYPED),
        ("4.2.0.10.in-addr.arpa", "4.2.0.10.in-addr.arpa", "A", AS_TYPED),
        ("shop.my-web-server", "shop.my-web-server.local", "A", BELOW),
        ("shop.db-main", "shop.db-main.local", "A", BELOW),
        ("my-web-server.lab", "my-web-server.lab.local", "A", BELOW),
        ("printer.hall", "printer.hall.local", "A", BELOW),
        ("_ssh._tcp.my-web-server", "_ssh._tcp.my-web-server.local", "SRV", BELOW),
        ("10.0.2.4", "4.2.0.10.in-addr.arpa", "PTR", AS_TYPED),
        ("fe80::1%eth0", "1." + "0." * 27 + "0.8.e.f.ip6.arpa", "PTR", AS_TYPED),
    ],
)
def test_the_name_and_type_that_a_text_means(text: str, name: str, kind: str, note: str) -> None:
    found = parse_typed_name(text, SNAPSHOT)
    assert (to_text(found.key), found.kind, found.note) == (name, kind, note.format(text=text, name=name))


@pytest.mark.parametrize(
    "text", ["", " ", "a..b", "x" * 64 + ".com", ".", "...", "_", "\x00", "." * 300, "_.a b.local"]
)
def test_any_text_is_a_name_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_typed_name(text, SNAPSHOT).key.endswith(b"\0")
