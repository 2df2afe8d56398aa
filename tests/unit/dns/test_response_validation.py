"""What of an upstream's message is believed."""

from __future__ import annotations

import itertools
import struct

import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest

from tests.unit.server.fakeupstream import SOA, make_reply
from vmdns.dns import message as wire
from vmdns.dns.forwarded_answer import Forwarded
from vmdns.dns.limits import Limits
from vmdns.dns.name import join_labels, to_text, to_wire
from vmdns.dns.query import Query, encode_query, parse_query
from vmdns.dns.response_validation import MAX_ALIASES, Rejected, ResponseFault, validate_response
from vmdns.dns.upstreams import closest_domain

LIMITS = Limits()
OWN = {to_wire("local"), to_wire("vm.internal")}


def query(name: str = "www.fz.test", kind: str = "A", *, do: bool = False, edns: bool = True) -> Query:
    number = int(dns.rdatatype.from_text(kind))
    return parse_query(encode_query(0x1234, to_wire(name), number, dnssec_ok=do, edns=edns))


def mixed(name: str, kind: str = "A", do: bool = False) -> Query:
    """The same with the letters as they are written."""
    key = join_labels([label.encode() for label in name.split(".")])
    return parse_query(encode_query(0x1234, key, dns.rdatatype.from_text(kind), dnssec_ok=do))


def message(
    sent: Query,
    answer: list[str] | None = None,
    authority: list[str] | None = None,
    rcode: int = 0,
    flags: int = 0,
) -> dns.message.Message:
    """A reply to the query, as `make_reply` makes it."""
    asked = dns.message.from_wire(
        encode_query(sent.id, sent.name, sent.type, dnssec_ok=sent.dnssec_ok, edns=sent.edns is not None)
    )
    return make_reply(asked, answer or (), authority or (), rcode, flags)


def is_own(key: bytes) -> bool:
    return closest_domain(key, OWN) is not None


def judged(packet: bytes, sent: Query, *, trusted: bool = False, stream: bool = False) -> Forwarded | Rejected:
    return validate_response(packet, sent, LIMITS, trusted=trusted, own=is_own, stream=stream)


def fault(packet: bytes, sent: Query, **how: bool) -> ResponseFault:
    """Why it is rejected."""
    found = judged(packet, sent, **how)
    assert isinstance(found, Rejected)
    return found.verdict


def accepted(
    sent: Query, answer: list[str] | None = None, authority: list[str] | None = None, trusted: bool = False,
    **how: int,
) -> Forwarded:  # fmt: skip
    found = judged(message(sent, answer, authority, **how).to_wire(), sent, trusted=trusted)
    assert isinstance(found, Forwarded), found
    return found


def lines(records: tuple[wire.Record, ...]) -> list[str]:
    return [f"{to_text(one.owner)} {one.ttl} {dns.rdatatype.to_text(one.type)}" for one in records]


CHAIN = ["60 CNAME a.other.test.", "a.other.test.|30 CNAME b.other.test.", "b.other.test.|90 A 198.51.100.1"]


@pytest.mark.parametrize(
    ("kind", "answer", "kept", "ttl"),
    [
        ("A", ["60 A 198.51.100.1", "60 A 198.51.100.2"], ["www.fz.test 60 A", "www.fz.test 60 A"], 60),
        ("A", CHAIN, ["www.fz.test 60 CNAME", "a.other.test 30 CNAME", "b.other.test 90 A"], 30),
        ("A", CHAIN[::-1], ["www.fz.test 60 CNAME", "a.other.test 30 CNAME", "b.other.test 90 A"], 30),
        ("CNAME", CHAIN, ["www.fz.test 60 CNAME"], 60),
        ("A", ["60 A 198.51.100.1", "evil.test.|60 A 6.6.6.6", "60 TXT x"], ["www.fz.test 60 A"], 60),
        ("A", [*CHAIN[:1], *CHAIN[2:], "60 AAAA 2001:db8::1"], ["www.fz.test 60 CNAME"], 0),
        ("A", ["60 CNAME X.Other.test.", "x.oTher.test.|60 A 198.51.100.1"],
         ["www.fz.test 60 CNAME", "X.Other.test 60 A"], 60),
        ("ANY", ["60 A 198.51.100.1", "60 TXT x", "evil.test.|60 A 6.6.6.6"],
         ["www.fz.test 60 A", "www.fz.test 60 TXT"], 60),
        ("A", ["4294967295 A 198.51.100.1"], ["www.fz.test 0 A"], 0),  # F20
        ("A", ["2147483647 A 198.51.100.1"], ["www.fz.test 86400 A"], 86400),  # F21
        ("A", ["0 A 198.51.100.1"], ["www.fz.test 0 A"], 0),
        ("RRSIG", ["60 RRSIG A 13 3 60 20300101000000 20200101000000 1 fz.test. AAAA"], ["www.fz.test 60 RRSIG"], 60),
        ("A", ["60 RRSIG A 13 3 60 20300101000000 20200101000000 1 fz.test. AAAA", "60 A 198.51.100.1"],
         ["www.fz.test 60 A"], 60),
    ],
)  # fmt: skip
def test_only_the_cname_chain_of_the_query_is_kept(kind: str, answer: list[str], kept: list[str], ttl: int) -> None:
    sent = query(kind=kind)
    packet = message(sent, [one.replace("4294967295", "2147483647") for one in answer]).to_wire()
    if answer[0].startswith("4294967295"):
        packet = packet.replace(b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff")
    found = judged(packet, sent)
    assert isinstance(found, Forwarded)
    assert (lines(found.answer), found.rcode, found.ttl) == (kept, 0, ttl)


@pytest.mark.parametrize(
    ("answer", "authority", "rcode", "kept", "ttl"),
    [
        ([], [SOA], 3, ["fz.test 20 SOA"], 20),
        ([], [SOA], 0, ["fz.test 20 SOA"], 20),
        ([], [SOA.replace("300", "7")], 3, ["fz.test 7 SOA"], 7),
        ([], [SOA.replace(" 20", " 90000").replace("300", "90000")], 3, ["fz.test 3600 SOA"], 3600),
        ([], [], 3, [], 0),  # F08
        ([], [], 0, [], 0),
        ([], [SOA.replace("fz.test.|", ".|")], 3, [". 20 SOA"], 20),
        ([], [SOA.replace("fz.test.|", "other.test.|")], 3, [], 0),
        ([], [SOA.replace("fz.test.|", "sub.www.fz.test.|")], 3, [], 0),
        (["5 CNAME x.other.test."], [SOA.replace("fz.test.|", "other.test.|")], 3, ["other.test 20 SOA"], 5),
        (["60 CNAME x.other.test."], [SOA], 3, [], 0),
        ([], [SOA, "fz.test.|60 NS ns.fz.test."], 0, ["fz.test 20 SOA"], 20),
    ],
)
def test_negative_answers_carry_the_soa_of_their_zone_and_nothing_else(
    answer: list[str], authority: list[str], rcode: int, kept: list[str], ttl: int
) -> None:
    found = accepted(query(), answer, authority, rcode=rcode)
    assert (lines(found.authority), found.rcode, found.ttl, len(found.answer)) == (kept, rcode, ttl, len(answer))


def test_nxdomain_with_the_very_records_is_an_answer() -> None:
    found = accepted(query(), ["60 A 198.51.100.1"], rcode=3)
    assert (found.rcode, found.ttl) == (0, 60)


def test_a_referral_is_no_answer() -> None:
    sent = query()
    assert fault(message(sent, [], ["fz.test.|60 NS ns.fz.test."]).to_wire(), sent) is ResponseFault.FAILED


SIG = "{} RRSIG {} 13 3 60 20300101000000 20200101000000 1 fz.test. AAAA"


def test_queries_with_do_get_signatures_and_proofs() -> None:
    answer = ["d.fz.test.|60 DNAME e.test.", "d.fz.test.|" + SIG.format(60, "DNAME"), "x.d.fz.test.|60 CNAME x.e.test.",
              "x.e.test.|60 A 198.51.100.1", "x.e.test.|" + SIG.format(60, "A")]  # fmt: skip
    sent = query("x.d.fz.test", do=True)
    found = accepted(sent, answer, ["a.e.test.|40 NSEC b.e.test. A", "a.e.test.|" + SIG.format(40, "NSEC"), SOA])
    assert lines(found.answer) == [
        "d.fz.test 60 DNAME", "d.fz.test 60 RRSIG", "x.d.fz.test 60 CNAME", "x.e.test 60 A", "x.e.test 60 RRSIG",
    ]  # fmt: skip
    assert lines(found.authority) == ["a.e.test 40 NSEC", "a.e.test 40 RRSIG"]
    assert found.ttl == 40
    plain = accepted(query("x.d.fz.test"), answer, ["a.e.test.|40 NSEC b.e.test. A"])
    assert lines(plain.answer) == ["d.fz.test 60 DNAME", "x.d.fz.test 60 CNAME", "x.e.test 60 A"]
    assert plain.authority == ()


@pytest.mark.parametrize("flags", [0, 0x0020, 0x0400, 0x0420])
def test_ad_is_noted_and_aa_is_not(flags: int) -> None:
    assert accepted(query(), ["60 A 198.51.100.1"], flags=flags).authentic is bool(flags & 0x20)


@pytest.mark.parametrize(
    ("rcode", "edns", "verdict"),
    [
        (1, True, ResponseFault.NO_EDNS),
        (1, False, ResponseFault.FAILED),
        (2, True, ResponseFault.FAILED),
        (4, True, ResponseFault.NO_EDNS),
        (4, False, ResponseFault.FAILED),
        (5, True, ResponseFault.FAILED),
        (6, True, ResponseFault.FAILED),
        (9, True, ResponseFault.FAILED),
        (11, True, ResponseFault.FAILED),
        (16, True, ResponseFault.NO_EDNS),
        (23, True, ResponseFault.FAILED),
    ],
)
def test_t24_other_rcodes_are_no_answer(rcode: int, edns: bool, verdict: ResponseFault) -> None:
    sent = query(edns=edns)
    assert fault(message(sent, ["60 A 6.6.6.6"], rcode=rcode).to_wire(), sent) is verdict


def change(packet: bytes, at: int, to: bytes) -> bytes:
    return packet[:at] + to + packet[at + len(to) :]


SENT = query("www.Fz.test".swapcase())
GOOD = message(SENT, ["60 A 198.51.100.1"]).to_wire()


@pytest.mark.parametrize(
    ("packet", "stream", "verdict"),
    [
        (b"", False, ResponseFault.IGNORE),
        (GOOD[:11], False, ResponseFault.IGNORE),
        (GOOD[:20], False, ResponseFault.IGNORE),
        (GOOD[:-1], False, ResponseFault.IGNORE),
        (GOOD[:12], False, ResponseFault.IGNORE),
        (change(GOOD, 0, b"\x12\x35"), False, ResponseFault.IGNORE),
        (change(GOOD, 2, b"\x01"), False, ResponseFault.IGNORE),  # a query
        (change(GOOD, 2, b"\xa9"), False, ResponseFault.IGNORE),  # opcode 5
        (change(GOOD, 4, b"\0\0"), False, ResponseFault.IGNORE),  # no question
        (change(GOOD, 4, b"\0\2"), False, ResponseFault.IGNORE),
        (change(GOOD, 13, b"x"), False, ResponseFault.IGNORE),  # another name
        (change(GOOD, 25, b"\0\x1c"), False, ResponseFault.IGNORE),  # another type
        (change(GOOD, 27, b"\0\3"), False, ResponseFault.IGNORE),  # another class
        (change(GOOD, 12, b"\xc0\x0c"), False, ResponseFault.IGNORE),
        (change(GOOD, 13, b"W" if GOOD[13:14] == b"w" else b"w"), False, ResponseFault.OTHER_CASE),
        (change(GOOD, 2, b"\x83"), False, ResponseFault.TRUNCATED),
        (change(GOOD, 2, b"\x83"), True, ResponseFault.FAILED),
        (change(GOOD, 6, b"\xff\xff"), False, ResponseFault.FAILED),  # absurd counts are not even parsed
        (change(GOOD, 6, b"\0\2"), False, ResponseFault.IGNORE),
        (b"\x12\x34\x81\x81" + bytes(8), False, ResponseFault.NO_EDNS),
        (b"\x12\x34\x81\x82" + bytes(8), False, ResponseFault.IGNORE),
    ],
)
def test_messages_that_are_no_answer(packet: bytes, stream: bool, verdict: ResponseFault) -> None:
    assert SENT.question[-4:] == GOOD[25:29]
    assert fault(packet, SENT, stream=stream) is verdict


def test_what_follows_a_good_message_and_another_case_over_tcp_do_no_harm() -> None:
    assert isinstance(judged(GOOD + b"trailing", SENT), Forwarded)
    other = change(GOOD, 13, GOOD[13:14].swapcase())
    assert isinstance(judged(other, SENT, stream=True), Forwarded)


@pytest.mark.parametrize("length", [1, 16, 17, 40])
def test_chains_of_aliases_are_bounded(length: int) -> None:
    sent = query()
    names = ["www.fz.test.", *(f"{at}.fz.test." for at in range(length))]
    chain = [f"{a}|60 CNAME {b}" for a, b in itertools.pairwise(names)]
    found = judged(message(sent, [*chain, f"{names[-1]}|60 A 198.51.100.1"]).to_wire(), sent)
    if length <= MAX_ALIASES:
        assert isinstance(found, Forwarded)
        assert len(found.answer) == length + 1
    else:
        assert isinstance(found, Rejected)
        assert found.verdict is ResponseFault.FAILED


@pytest.mark.parametrize("target", ["www.fz.test.", "a.fz.test."])
def test_an_alias_in_a_circle_is_no_answer(target: str) -> None:
    sent = query()
    answer = [f"60 CNAME {target}", "a.fz.test.|60 CNAME www.fz.test."]
    assert fault(message(sent, answer).to_wire(), sent) is ResponseFault.FAILED


INNER = ["10.0.2.15", "127.0.0.1", "127.255.0.9", "0.0.0.0", "0.1.2.3", "169.254.169.254", "172.16.0.1", "172.31.9.9",
         "192.168.56.101", "100.64.0.1", "198.18.53.1"]  # fmt: skip
INNER6 = ["::", "::1", "fe80::1", "febf::1", "fc00::1", "fd00:56::101", "fec0::1", "::ffff:127.0.0.1",
          "::ffff:192.168.1.1", "::10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1",
          "2002:a00:1::", "2002:c0a8:3801::1"]  # fmt: skip
OUTER = ["198.51.100.1", "8.8.8.8", "172.32.0.1", "172.15.0.1", "100.128.0.1", "192.169.0.1", "11.0.0.1", "198.18.0.1"]
OUTER6 = ["2001:db8::1", "2606:4700::1111", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8", "2002:808:808::1", "ff02::1"]


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    ("address", "inner"), [(one, True) for one in INNER + INNER6] + [(one, False) for one in OUTER + OUTER6]
)
def test_t7_rebinding(address: str, inner: bool, trusted: bool) -> None:
    four = ":" not in address
    good = "2001:db8::9" if not four else "198.51.100.9"
    hint = f"ipv{4 if four else 6}hint={good},{address}"
    for kind, answer in (
        ("A" if four else "AAAA", [f"60 {'A' if four else 'AAAA'} {one}" for one in (good, address)]),
        ("HTTPS", [f"60 HTTPS 1 . alpn=h2 {hint}"]),
        ("SVCB", [f"60 SVCB 1 svc.example. {hint}"]),
        ("ANY", [f"60 {'A' if four else 'AAAA'} {address}", "60 TXT x"]),
    ):
        sent = query(kind=kind)
        found = accepted(sent, answer, trusted=trusted)
        blocked = inner and not trusted
        assert (found.error is not None) is blocked
        assert (found.rcode, bool(found.answer)) == (0, not blocked)
        if found.error is not None:
            assert (found.error[0], found.authority, found.ttl) == (15, (), 60)
            assert "rebinding" in found.error[1]


def test_rebinding_is_seen_at_the_end_of_an_alias_and_nowhere_else() -> None:
    found = accepted(query(), ["60 CNAME x.other.test.", "x.other.test.|60 A 127.0.0.1"])
    assert found.error is not None
    assert accepted(query(), ["60 A 198.51.100.1", "x.other.test.|60 A 127.0.0.1"]).error is None
    # A text, or the address in another type's data, is nothing that is connected to.
    assert accepted(query(kind="TXT"), ["60 TXT 127.0.0.1"]).error is None


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("A", ["60 CNAME web-01.LOCAL."]),
        ("A", ["60 CNAME web-01.local.", "web-01.local.|60 A 198.51.100.1"]),
        ("A", ["60 CNAME x.other.test.", "x.other.test.|60 CNAME vm.internal."]),
        ("CNAME", ["60 CNAME web-01.local."]),
        ("HTTPS", ["60 HTTPS 0 web-01.local."]),
        ("SVCB", ["60 SVCB 1 web-01.local. port=80"]),
    ],
)
def test_f44_nothing_from_outside_leads_into_our_zones(kind: str, answer: list[str], trusted: bool) -> None:
    found = accepted(query(kind=kind), answer, trusted=trusted)
    assert (found.rcode, found.answer, found.ttl) == (0, (), 60)
    assert found.error is not None
    assert found.error[0] == 15


def test_names_like_ours_are_not_ours() -> None:
    assert len(accepted(query(), ["60 CNAME notlocal.", "notlocal.|60 A 198.51.100.1"]).answer) == 2


def test_a_response_in_another_case_is_rejected_with_its_answer() -> None:
    flat = query("www.fz.test")
    flat_reply = message(flat, ["60 A 198.51.100.1"]).to_wire()
    sent = mixed("wWw.fZ.TeSt")
    found = judged(flat_reply, sent)
    assert isinstance(found, Rejected)
    assert (found.verdict, found.answer) == (ResponseFault.OTHER_CASE, accepted(sent, ["60 A 198.51.100.1"]))
    for rcode, verdict in ((1, ResponseFault.NO_EDNS), (2, ResponseFault.OTHER_CASE)):
        found = judged(message(flat, [], rcode=rcode).to_wire(), sent)
        assert isinstance(found, Rejected)
        assert (found.verdict, found.answer) == (verdict, None)
    blocked = judged(message(flat, ["60 A 192.168.56.101"]).to_wire(), sent)
    assert isinstance(blocked, Rejected)
    assert blocked.answer is not None
    assert blocked.answer.error is not None
    assert blocked.answer.answer == ()


@pytest.mark.parametrize("do", [False, True])
@pytest.mark.parametrize("kind", ["A", "CNAME"])
def test_a_cname_made_of_a_dname_has_the_case_of_the_owner_and_not_of_our_query(kind: str, do: bool) -> None:
    """RFC 6672: the DNAME stands before it, whether or not DNSSEC records are asked for."""
    sent = mixed("aB.wWw.D.fZ.TeSt", kind, do=do)
    answer = [
        "d.fz.test.|60 DNAME Elsewhere.Test.",
        "60 CNAME aB.wWw.Elsewhere.Test.",
        "aB.wWw.Elsewhere.Test.|60 CNAME Web.Other.Example.",
        "Web.Other.Example.|60 A 198.51.100.1",
    ]
    found = accepted(sent, answer)
    kinds = [dns.rdatatype.to_text(one.type) for one in found.answer]
    assert kinds == ["DNAME", "CNAME", "CNAME", "A"][: 2 if kind == "CNAME" else 4]
    assert found.answer[0].rdata == join_labels([b"Elsewhere", b"Test"])
    assert found.answer[1].rdata == join_labels([b"ab", b"www", b"Elsewhere", b"Test"])
    if kind == "A":
        assert found.answer[2].owner == found.answer[1].rdata
        assert found.answer[2].rdata == join_labels([b"Web", b"Other", b"Example"])


@pytest.mark.parametrize(
    ("kind", "rdatas"),
    [
        ("TXT", [bytes(200 - n) for n in range(200)]),
        ("SPF", [bytes(2_000)]),
        ("TXT", [(b"\xff" + b"a" * 255) * 250]),
        ("HTTPS", [b"\0\1\0" + struct.pack("!HH", 4, 64_000) + b"\x08\x08\x08\x08" * 16_000]),
        ("SVCB", [b"\0\1\0" + b"".join(struct.pack("!HH", 100 + n, 0) for n in range(16_000))]),
        ("A", [struct.pack("!I", 0x08080000 + n) for n in range(290)]),
    ],
)
def test_large_records_are_accepted(kind: str, rdatas: list[bytes]) -> None:
    sent = query(kind=kind)
    records = [wire.Record(sent.key, sent.type, 9, rdata) for rdata in rdatas]
    packet, _ = wire.encode_message(sent.id, 0x8180, [wire.QuestionEntry(sent.key, sent.type)], records, limit=1 << 20)
    found = judged(packet, sent, trusted=True, stream=True)
    assert isinstance(found, Forwarded)
    assert len(found.answer) == len(set(rdatas))


@pytest.mark.parametrize("trusted", [False, True])
def test_malformed_service_parameters_are_no_answer(trusted: bool) -> None:
    sent = query(kind="HTTPS")
    record = wire.Record(sent.key, wire.HTTPS, 9, b"\0\1\0" + struct.pack("!HH", 4, 3) + b"abc")
    packet, _ = wire.encode_message(sent.id, 0x8180, [wire.QuestionEntry(sent.key, wire.HTTPS)], [record])
    assert fault(packet, sent, trusted=trusted) is ResponseFault.IGNORE
