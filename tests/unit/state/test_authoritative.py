"""What is answered from a snapshot, besides the cases A01-A25 of the behaviour table."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest

from tests.facts import EVERYWHERE, NOW
from tests.testzone import FACTS, SNAPSHOT, snapshot
from vmdns.dns.name import join_labels, to_label, to_wire
from vmdns.dns.query import Query, encode_query, encode_response, parse_query
from vmdns.dns.zonefile import parse_records
from vmdns.state.authoritative import MAX_CHAIN, Reply, answer_query
from vmdns.state.build import build
from vmdns.state.policy import Policy

NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5
SOA = "{} 5 IN SOA vmdns.local. hostmaster.local. 7 3600 1200 604800 5"


def query(name: str | bytes, kind: str = "A", cls: str = "IN") -> Query:
    key = name if isinstance(name, bytes) else join_labels([part.encode() for part in name.split(".") if part])
    packet = bytearray(encode_query(1, key, dns.rdatatype.from_text(kind)))
    at = 12 + len(key) + 2
    packet[at : at + 2] = int(dns.rdataclass.from_text(cls)).to_bytes(2, "big")
    return parse_query(bytes(packet))


def reply(name: str | bytes, kind: str = "A", cls: str = "IN", at: object = SNAPSHOT) -> Reply | None:
    return answer_query(query(name, kind, cls), at, EVERYWHERE)  # type: ignore[arg-type]


def said(name: str | bytes, kind: str = "A", at: object = SNAPSHOT) -> tuple[int, list[str], list[str], bool]:
    """rcode, answer and authority as text, AA."""
    asked = query(name, kind)
    found = answer_query(asked, at, EVERYWHERE)  # type: ignore[arg-type]
    assert found is not None
    out = encode_response(
        asked,
        found.rcode,
        limit=65_535,
        authoritative=found.authoritative,
        answer=found.answer,
        authority=found.authority,
    )
    read = dns.message.from_wire(out)
    sections = [
        [line for rrset in section for line in rrset.to_text().split("\n")] for section in (read.answer, read.authority)
    ]
    return int(read.rcode()), sections[0], sections[1], bool(read.flags & dns.flags.AA)


@pytest.mark.parametrize(
    ("name", "kind", "lines"),
    [
        ("www2.local", "A",
         ["www2.local. 5 IN CNAME www.local.", "www.local. 5 IN CNAME web-01.local.",
          "web-01.local. 5 IN A 192.168.56.101"]),
        ("vm.internal", "SOA", [SOA.format("vm.internal.")]),
        ("local", "NS", ["local. 5 IN NS vmdns.local."]),
        ("vmdns.local", "A", ["vmdns.local. 5 IN A 192.168.56.1"]),
        ("db.vm.internal", "A", ["db.vm.internal. 5 IN A 192.168.56.102"]),
        # Wildcards (RFC 4592): any depth below, but not where there is a name or one below a name.
        ("x.wild.local", "A", ["x.wild.local. 5 IN A 192.168.56.77"]),
        ("x.y.wild.local", "A", ["x.y.wild.local. 5 IN A 192.168.56.77"]),
        ("X.alias.local", "A", ["X.alias.local. 5 IN CNAME web-01.local.", "web-01.local. 5 IN A 192.168.56.101"]),
        # RFC 6761 section 6.3.
        ("localhost", "A", ["localhost. 5 IN A 127.0.0.1"]),
        ("foo.localhost", "AAAA", ["foo.localhost. 5 IN AAAA ::1"]),
        # The hosts file, in and out of our zones.
        ("nas", "A", ["nas. 5 IN A 192.168.1.9"]),
        ("nas.local", "A", ["nas.local. 5 IN A 192.168.1.9"]),
        ("nas.example.org", "A", ["nas.example.org. 5 IN A 192.168.1.9"]),
        ("9.1.168.192.in-addr.arpa", "PTR", ["9.1.168.192.in-addr.arpa. 5 IN PTR nas."]),
    ],
)  # fmt: skip
def test_there(name: str, kind: str, lines: list[str]) -> None:
    # A02: AA, and no authority where there is an answer.
    assert said(name, kind) == (NOERROR, lines, [], True)


@pytest.mark.parametrize(
    ("name", "kind", "apex"),
    [
        ("_tcp.local", "ANY", "local."),
        ("v6only.vm.internal", "A", "vm.internal."),
        ("local", "A", "local."),
        ("168.192.in-addr.arpa", "PTR", "168.192.in-addr.arpa."),
        ("56.168.192.in-addr.arpa", "PTR", "168.192.in-addr.arpa."),
        ("waiting.local", "A", "local."),
        ("a.wild.local", "A", "local."),  # b.a.wild is there, so a.wild is, and the wildcard does not reach it
        ("_dns.resolver.arpa", "SVCB", "resolver.arpa."),
        ("resolver.arpa", "SVCB", "resolver.arpa."),
        ("nas", "AAAA", "nas."),
        ("nas.example.org", "HTTPS", "nas.example.org."),
    ],
)
def test_there_but_not_of_this_type(name: str, kind: str, apex: str) -> None:
    assert said(name, kind) == (NOERROR, [], [SOA.format(apex)], True)


@pytest.mark.parametrize(
    ("name", "kind", "apex"),
    [
        ("3.2.1.10.in-addr.arpa", "PTR", "10.in-addr.arpa."),
        ("x.invalid", "A", "invalid."),
        ("off.local", "A", "local."),
        ("x.web-01.local", "A", "local."),
        ("c.a.wild.local", "A", "local."),
        ("x.onion", "A", "onion."),
        ("router.home.arpa", "A", "home.arpa."),
        ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", "PTR", "d.f.ip6.arpa."),
    ],
)
def test_not_there(name: str, kind: str, apex: str) -> None:
    assert said(name, kind) == (NXDOMAIN, [], [SOA.format(apex)], True)


def test_absence_is_told_for_each_type_alike() -> None:
    for kind in ("A", "AAAA", "HTTPS", "MX", "ANY", "TYPE65280", "CNAME", "SOA", "DS"):
        assert said("nope.local", kind)[0] == NXDOMAIN


def test_a_chain_that_ends_at_nothing() -> None:
    assert said("www.local", "MX") == (
        NOERROR, ["www.local. 5 IN CNAME web-01.local."], [SOA.format("local.")], True,
    )  # fmt: skip
    assert said("dangling.local") == (
        NXDOMAIN, ["dangling.local. 5 IN CNAME nope.local."], [SOA.format("local.")], True,
    )  # fmt: skip


def test_a_circle_is_told_once_and_ends() -> None:
    lines = ["circle.local. 5 IN CNAME circle2.local.", "circle2.local. 5 IN CNAME circle.local."]
    assert said("circle.local") == (NOERROR, lines, [], True)
    assert said("self.local") == (NOERROR, ["self.local. 5 IN CNAME self.local."], [], True)


def test_a_chain_has_a_most() -> None:
    text = "".join(f"c{n} CNAME c{n + 1}\n" for n in range(40))
    long = build((), Policy(records=parse_records(text, ("local",), 5)), 0.0, 1)
    assert len(said("c0.local", at=long)[1]) == MAX_CHAIN


def test_a_chain_that_leaves_our_zones_is_to_be_followed() -> None:
    found = reply("away.local")
    assert found is not None
    assert found.chase == to_wire("www.example.org")
    assert [record.rdata for record in found.answer] == [to_wire("www.example.org")]
    found = reply("away.local", "CNAME")
    assert found is not None
    assert found.chase is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("www.example.org", "A"), ("example.org", "A"), (".", "NS"), (".", "A"), ("com", "NS"), ("com", "SOA"),
        ("com", "DS"), ("nas.example.org", "MX"), ("nas", "MX"), ("internal", "NS"), ("x.internal", "A"),
        ("8.8.8.8.in-addr.arpa", "PTR"), ("1.16.172.in-addr.arpa.example.org", "PTR"), ("locals", "NS"),
        ("1.32.172.in-addr.arpa", "PTR"),
    ],
)  # fmt: skip
def test_not_ours(name: str, kind: str) -> None:
    assert reply(name, kind) is None


@pytest.mark.parametrize("name", ["nope", "web-01", "db", "arpa", "internal"])
@pytest.mark.parametrize("kind", ["A", "AAAA", "HTTPS", "ANY"])
def test_a_single_label_is_never_forwarded(name: str, kind: str) -> None:
    # Nor is it claimed: we are no authority for the root.
    assert said(name, kind) == (NXDOMAIN, [], [SOA.format(".")], False)


def test_hosts_names_of_loopback_addresses_stay_as_they_are() -> None:
    assert said("myhost")[1] == ["myhost. 5 IN A 127.0.1.1"]
    assert said("myhost.local")[0] == NXDOMAIN


@pytest.mark.parametrize("name", ["리눅스.local", "리눅스.vm.internal", f"{to_label('리눅스')}.LOCAL"])
def test_a_name_in_another_script_is_found_by_its_bytes_too(name: str) -> None:
    code, lines, _, _ = said(name)
    assert code == NOERROR
    assert lines[0].endswith(" 5 IN A 192.168.56.104")
    assert query(name).name in encode_response(query(name), limit=512)


# -- why -----------------------------------------------------------------------------------------------------------


def why(name: str, kind: str = "A", at: object = SNAPSHOT) -> tuple[int, str] | None:
    found = reply(name, kind, at=at)
    assert found is not None
    return found.extended_error


def test_why_there_is_no_answer_is_said() -> None:
    assert why("off.local") == (0, "VM 'off' is not running (PoweredOff)")
    assert why("waiting.local") == (14, "VM 'waiting' runs, but no address of it is known yet")
    assert why("waiting.vm.internal", "AAAA") == (14, "VM 'waiting' runs, but no address of it is known yet")
    assert why("waiting.local", "MX") is None
    assert why("db.local", "AAAA") is None
    assert why("_tcp.local") is None
    assert why("nope.local") is None


def test_before_the_first_look_absence_is_not_known() -> None:
    early = snapshot(looked=False)
    found = reply("nope.local", at=early)
    assert found is not None
    assert (found.rcode, found.authoritative) == (SERVFAIL, False)
    assert found.extended_error == (14, "VirtualBox is being looked at")
    assert said("db.local", at=early)[0] == NOERROR
    assert said("77.56.168.192.in-addr.arpa", "PTR", at=early)[0] == NXDOMAIN
    assert said("x.invalid", at=early)[0] == NXDOMAIN


# -- domains that go to servers of their own -------------------------------------------------------------------------


def test_a_forwarded_domain_is_not_ours() -> None:
    split = snapshot(forwarded=("corp.local", "10.in-addr.arpa", "home.arpa", "vm.internal"))
    assert reply("x.corp.local", at=split) is None
    assert reply("corp.local", at=split) is None
    assert reply("1.2.3.10.in-addr.arpa", "PTR", at=split) is None
    assert reply("router.home.arpa", at=split) is None
    assert said("nope.local", at=split)[0] == NXDOMAIN
    assert said("nope.vm.internal", at=split)[0] == NXDOMAIN  # our own zones are never forwarded


# -- names below a VM ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["x.db.local", "a.b.db.local", "X.DB.vm.internal", "x.00000000-0000-4000-8000-000000000001.local"]
)
def test_a_name_below_a_vm_is_answered_as_the_vms(name: str) -> None:
    assert said(name)[:2] == (NOERROR, [f"{name}. 5 IN A 192.168.56.102"])
    assert said(name, "AAAA")[:2] == (NOERROR, [])
    assert said(name, "TXT")[:2] == (NOERROR, [])


@pytest.mark.parametrize("name", ["_ssh._tcp.db.local", "_tcp.db.local", "_x.db.local", "x.off.local", "x.nope.local"])
def test_what_no_vm_answers_for(name: str) -> None:
    assert said(name)[0] == NXDOMAIN


def test_names_below_vms_may_be_switched_off() -> None:
    off = build(FACTS, Policy(wildcards=False), NOW, 7)
    assert said("x.db.local", at=off)[0] == NXDOMAIN
    assert said("db.local", at=off)[0] == NOERROR


def test_names_below_a_vm_without_an_address_say_why() -> None:
    assert why("x.waiting.local") == (14, "VM 'waiting' runs, but no address of it is known yet")
