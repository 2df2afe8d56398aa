"""What is answered from a snapshot, besides the cases A01-A25 of the behaviour table and the scenarios."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rdatatype
import pytest

from tests.facts import EVERYWHERE, NOW
from tests.testzone import FACTS, SNAPSHOT, snapshot
from vmdns.dns.name import join_labels, to_label, to_wire
from vmdns.dns.query import Query, encode_query, encode_response, parse_query
from vmdns.dns.zonefile import parse_records
from vmdns.state.authoritative import MAX_CHAIN, Reply, answer_query
from vmdns.state.build import build
from vmdns.state.snapshot import Policy, Snapshot

NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3


def query(name: str, kind: str) -> Query:
    key = join_labels([part.encode() for part in name.split(".") if part])
    return parse_query(encode_query(1, key, dns.rdatatype.from_text(kind)))


def reply(name: str, kind: str = "A", at: Snapshot = SNAPSHOT) -> Reply | None:
    return answer_query(query(name, kind), at, EVERYWHERE)


def answer(name: str, kind: str = "A", at: Snapshot = SNAPSHOT) -> tuple[int, list[str], list[str], bool]:
    """rcode, answer without TTLs, apex of the SOA in the authority section, AA."""
    sent, found = query(name, kind), reply(name, kind, at)
    assert found is not None
    read = dns.message.from_wire(
        encode_response(
            sent,
            found.rcode,
            limit=65_535,
            authoritative=found.authoritative,
            answer=found.answer,
            authority=found.authority,
        )
    )
    lines = [f"{rrset.name} {dns.rdatatype.to_text(rrset.rdtype)} {one}" for rrset in read.answer for one in rrset]
    return int(read.rcode()), lines, [str(rrset.name) for rrset in read.authority], bool(read.flags & dns.flags.AA)


def rcode(name: str, kind: str = "A", at: Snapshot = SNAPSHOT) -> int:
    return answer(name, kind, at)[0]


WEB_01 = "web-01.local. A 192.168.56.101"
TO_WEB_01 = "www.local. CNAME web-01.local."


@pytest.mark.parametrize(
    ("name", "kind", "lines"),
    [
        ("www2.local", "A", ["www2.local. CNAME www.local.", TO_WEB_01, WEB_01]),
        ("local", "NS", ["local. NS vmdns.local."]),
        ("vm.internal", "SOA", ["vm.internal. SOA vmdns.local. hostmaster.local. 7 3600 1200 604800 5"]),
        ("vmdns.local", "A", ["vmdns.local. A 192.168.56.1"]),
        # Wildcards (RFC 4592): any depth below, but not where there is a name or one below a name.
        ("x.wild.local", "A", ["x.wild.local. A 192.168.56.77"]),
        ("x.y.wild.local", "A", ["x.y.wild.local. A 192.168.56.77"]),
        ("X.alias.local", "A", ["X.alias.local. CNAME web-01.local.", WEB_01]),
        # RFC 6761 section 6.3.
        ("localhost", "A", ["localhost. A 127.0.0.1"]),
        ("foo.localhost", "AAAA", ["foo.localhost. AAAA ::1"]),
        # The hosts file, in and out of our zones. Names of loopback addresses stay as they are.
        ("nas", "A", ["nas. A 192.168.1.9"]),
        ("nas.local", "A", ["nas.local. A 192.168.1.9"]),
        ("nas.example.org", "A", ["nas.example.org. A 192.168.1.9"]),
        ("9.1.168.192.in-addr.arpa", "PTR", ["9.1.168.192.in-addr.arpa. PTR nas."]),
        ("myhost", "A", ["myhost. A 127.0.1.1"]),
        # Circles of aliases end.
        ("circle.local", "A", ["circle.local. CNAME circle2.local.", "circle2.local. CNAME circle.local."]),
        ("self.local", "A", ["self.local. CNAME self.local."]),
        # Names below a VM.
        ("X.DB.vm.internal", "A", ["X.DB.vm.internal. A 192.168.56.102"]),
        ("x.00000000-0000-4000-8000-000000000001.local", "A",
         ["x.00000000-0000-4000-8000-000000000001.local. A 192.168.56.102"]),
    ],
)  # fmt: skip
def test_names_that_exist(name: str, kind: str, lines: list[str]) -> None:
    # A02: AA, and no authority where there is an answer.
    assert answer(name, kind) == (NOERROR, lines, [], True)


@pytest.mark.parametrize(
    ("name", "kind", "code", "apex"),
    [
        ("v6only.vm.internal", "A", NOERROR, "vm.internal."),
        ("local", "A", NOERROR, "local."),
        ("56.168.192.in-addr.arpa", "PTR", NOERROR, "168.192.in-addr.arpa."),
        ("waiting.local", "A", NOERROR, "local."),
        ("a.wild.local", "A", NOERROR, "local."),  # b.a.wild exists, so a.wild does, and the wildcard does not cover it
        ("nas.example.org", "HTTPS", NOERROR, "nas.example.org."),
        ("x.db.local", "TXT", NOERROR, "local."),
        ("c.a.wild.local", "A", NXDOMAIN, "local."),
        ("myhost.local", "A", NXDOMAIN, "local."),
        ("x.web-01.local", "A", NXDOMAIN, "local."),
        ("_ssh._tcp.db.local", "A", NXDOMAIN, "local."),
        ("_x.db.local", "A", NXDOMAIN, "local."),
        ("3.2.1.10.in-addr.arpa", "PTR", NXDOMAIN, "10.in-addr.arpa."),
        ("1." + "0." * 28 + "0.d.f.ip6.arpa", "PTR", NXDOMAIN, "d.f.ip6.arpa."),
        ("x.invalid", "A", NXDOMAIN, "invalid."),
        ("x.onion", "A", NXDOMAIN, "onion."),
        ("router.home.arpa", "A", NXDOMAIN, "home.arpa."),
        *(("nope.local", kind, NXDOMAIN, "local.") for kind in ("HTTPS", "MX", "ANY", "TYPE65280", "SOA", "DS")),
    ],
)
def test_negative_answers(name: str, kind: str, code: int, apex: str) -> None:
    assert answer(name, kind) == (code, [], [apex], True)


def test_an_alias_of_nothing() -> None:
    assert answer("www.local", "MX") == (NOERROR, [TO_WEB_01], ["local."], True)
    assert answer("dangling.local") == (NXDOMAIN, ["dangling.local. CNAME nope.local."], ["local."], True)


def test_a_chain_of_aliases_has_a_bound() -> None:
    text = "".join(f"c{n} CNAME c{n + 1}\n" for n in range(40))
    long = build((), Policy(records=parse_records(text, ("local",), 5)), 0.0, 1)
    assert len(answer("c0.local", at=long)[1]) == MAX_CHAIN


@pytest.mark.parametrize(("kind", "chase"), [("A", to_wire("www.example.org")), ("CNAME", None)])
def test_an_alias_that_leaves_our_zones_is_followed(kind: str, chase: bytes | None) -> None:
    found = reply("away.local", kind)
    assert found is not None
    assert found.chase == chase
    assert [record.rdata for record in found.answer] == [to_wire("www.example.org")]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("www.example.org", "A"), (".", "NS"), (".", "A"), ("com", "NS"), ("com", "SOA"), ("com", "DS"),
        ("nas.example.org", "MX"), ("nas", "MX"), ("internal", "NS"), ("x.internal", "A"), ("locals", "NS"),
        ("8.8.8.8.in-addr.arpa", "PTR"), ("1.16.172.in-addr.arpa.example.org", "PTR"), ("1.32.172.in-addr.arpa", "PTR"),
    ],
)  # fmt: skip
def test_names_outside_our_zones(name: str, kind: str) -> None:
    assert reply(name, kind) is None


@pytest.mark.parametrize("name", ["nope", "web-01", "arpa", "internal"])
@pytest.mark.parametrize("kind", ["A", "AAAA", "HTTPS", "ANY"])
def test_a_single_label_is_never_forwarded(name: str, kind: str) -> None:
    # Nor is it claimed: we are no authority for the root.
    assert answer(name, kind) == (NXDOMAIN, [], ["."], False)


@pytest.mark.parametrize("name", ["리눅스.local", f"{to_label('리눅스')}.LOCAL"])
def test_a_name_in_another_script_is_found_by_its_bytes_too(name: str) -> None:
    code, (line,), _, _ = answer(name)
    assert (code, line.rpartition(" ")[2]) == (NOERROR, "192.168.56.104")
    assert query(name, "A").name in encode_response(query(name, "A"), limit=512)


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("off.local", "A", (0, "VM 'off' is not running (PoweredOff)")),
        ("waiting.vm.internal", "AAAA", (14, "VM 'waiting' runs, but no address of it is known yet")),
        ("x.waiting.local", "A", (14, "VM 'waiting' runs, but no address of it is known yet")),
        *((name, kind, None) for name, kind in (("waiting.local", "MX"), ("db.local", "AAAA"), ("_tcp.local", "A"))),
        ("nope.local", "A", None),
    ],
)
def test_reasons_of_negative_answers(name: str, kind: str, reason: tuple[int, str] | None) -> None:
    found = reply(name, kind)
    assert found is not None
    assert found.extended_error == reason


def test_before_virtualbox_was_read_absence_is_not_known() -> None:
    early = snapshot(looked=False)
    found = reply("nope.local", at=early)
    assert found is not None
    assert (found.rcode, found.authoritative) == (SERVFAIL, False)
    assert found.extended_error == (14, "VirtualBox is being looked at")
    assert rcode("db.local", at=early) == NOERROR
    assert rcode("77.56.168.192.in-addr.arpa", "PTR", early) == rcode("x.invalid", at=early) == NXDOMAIN


def test_a_forwarded_domain_is_not_ours() -> None:
    split = snapshot(forwarded=("corp.local", "10.in-addr.arpa", "home.arpa", "vm.internal"))
    for name in ("x.corp.local", "corp.local", "1.2.3.10.in-addr.arpa", "router.home.arpa"):
        assert reply(name, at=split) is None
    for name in ("nope.local", "nope.vm.internal"):  # our own zones are never forwarded
        assert rcode(name, at=split) == NXDOMAIN


def test_names_below_vms_may_be_switched_off() -> None:
    off = build(FACTS, Policy(wildcards=False), NOW, 7)
    assert (rcode("x.db.local", at=off), rcode("db.local", at=off)) == (NXDOMAIN, NOERROR)
