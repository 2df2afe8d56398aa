"""The user's own records: zone-file text of any type, in each of our zones."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmdns.dns.message import AAAA, CNAME, MX, SRV, TXT, A
from vmdns.dns.name import to_text, to_wire
from vmdns.dns.zonefile import parse_records

ZONES = ("local", "vm.internal")


def brief(text: str, zones: tuple[str, ...] = ("local",)) -> list[tuple[str, int, int, bytes]]:
    return [(to_text(one.owner), one.type, one.ttl, one.rdata) for one in parse_records(text, zones, 5)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("; only a comment\n\n", []),
        ("nas A 192.168.1.9", [("nas.local", A, 5, b"\xc0\xa8\x01\x09")]),
        ("NAS 300 IN A 192.168.1.9 ; there", [("nas.local", A, 300, b"\xc0\xa8\x01\x09")]),
        ("nas AAAA fd00::9", [("nas.local", AAAA, 5, bytes.fromhex("fd" + "00" * 14 + "09"))]),
        ("a.b A 1.2.3.4", [("a.b.local", A, 5, b"\1\2\3\4")]),
        ("* A 1.2.3.4", [("*.local", A, 5, b"\1\2\3\4")]),
        ("@ MX 10 mail", [("local", MX, 5, b"\0\x0a" + to_wire("mail.local"))]),
        ("_ssh._tcp SRV 0 0 2222 host", [("_ssh._tcp.local", SRV, 5, b"\0\0\0\0\x08\xae" + to_wire("host.local"))]),
        ('t TXT "one" "two"', [("t.local", TXT, 5, b"\3one\3two")]),
        ("www CNAME nas", [("www.local", CNAME, 5, to_wire("nas.local"))]),
        ("www CNAME www.example.org.", [("www.local", CNAME, 5, to_wire("www.example.org"))]),
        ("nas.local. A 1.2.3.4", [("nas.local", A, 5, b"\1\2\3\4")]),
        ("x TYPE65280 \\# 2 abcd", [("x.local", 65280, 5, b"\xab\xcd")]),
        ("리눅스 A 1.2.3.4", [("xn--pd1b38l32h.local", A, 5, b"\1\2\3\4")]),
        ("m A 1.2.3.4\nm A 1.2.3.5\nm A 1.2.3.4", [("m.local", A, 5, b"\1\2\3\4"), ("m.local", A, 5, b"\1\2\3\5")]),
    ],
)
def test_records(text: str, expected: list[tuple[str, int, int, bytes]]) -> None:
    assert brief(text) == expected


def test_names_are_relative_to_each_zone() -> None:
    assert brief("www CNAME nas\nnas.local. A 1.2.3.4", ZONES) == [
        ("www.local", CNAME, 5, to_wire("nas.local")),
        ("nas.local", A, 5, b"\1\2\3\4"),
        ("www.vm.internal", CNAME, 5, to_wire("nas.vm.internal")),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nas A 999.1.1.1", "line 1: 'nas A 999.1.1.1': that is not an IPv4 address; write it like: web A 192.0.2.1"),
        ("nas AAAA 1.2.3.4", "line 1: 'nas AAAA 1.2.3.4': that is not an IPv6 address; write it like: web AAAA 2001:"),
        ("nas MX mail", "line 1: 'nas MX mail': a number is missing; write it like: @ MX 10 mail"),
        ("nas SRV 0 0 web", "line 1: .*a number is missing; write it like: _http._tcp SRV 0 0 8080 web"),
        ("nas = 192.0.2.1", "line 1: 'nas = 192.0.2.1': '=' is no record type; write it like: web A 192.0.2.1"),
        ("192.0.2.1 nas", "line 1: '192.0.2.1 nas': 'nas' is no record type; write it like: web A 192.0.2.1"),
        ("nas A 1.2.3.4\nnas A\n", "line 2: "),
        ("nas A 1.2.3.4\n\nnas NOSUCH x", "line 3: "),
        ("nas 5 5 A 1.2.3.4", "line 1: "),
        ("a..b A 1.2.3.4", "line 1: "),
        ("a" * 64 + " A 1.2.3.4", "line 1: "),
        ('t TXT "open', "line 1: "),
        ("nas CH A 1.2.3.4", "line 1: "),
        # Nothing outside of the text is read, and nothing is made by the million.
        ("$INCLUDE /etc/passwd", "line 1: "),
        ("$GENERATE 1-1000000000 h$ A 10.0.0.1", "line 1: "),
        ("$ORIGIN example.org.\nwww A 1.2.3.4", "line 1: "),
        ("nas A 1.2.3.4 (\n", "line 1: "),
        ("nas A 1.2.3.4\nx TXT (\na\nb\n", "line 2: "),
        ("nas A 1.2.3.4\nx TXT (\na\n b )\n\n; c\n A 1.2.3\n", "line 7: "),
        ("\n\nwww.example.org. A 1.2.3.4", "line 3: www.example.org. is outside of local and vm.internal: write names"),
        ("@ SOA a b 1 2 3 4 5", "line 1: .*SOA records are made by vmdns itself"),
        ("a A 1.2.3.4\nx DNAME y", "line 2: .*DNAME records are made by vmdns itself"),
        # X05.
        ("www CNAME a\nwww A 1.2.3.4", "line 2: a CNAME record must be the only one of its name"),
        ("www TXT x\nx A 1.2.3.4\nWWW CNAME a", "line 3: a CNAME record must"),
        ("www CNAME a\n CNAME b", "line 2: a CNAME record must"),
        ("@ CNAME a", "line 1: a CNAME record must"),
        ("www CNAME a\nwww CNAME a", "line 2: a CNAME record must"),
        ("x A 1.2.3.4\nt TXT" + " a" * 33_000, "line 2: the record is longer than 65535 bytes"),
        ('a A 1.2.3.4\n"www" A 1.2.3.4', "line 2: .*something is missing"),
        ("www TYPE255 \\# 0", "line 1: .*ANY is a type for queries alone"),
        ("www TYPE41 \\# 0", "line 1: .*OPT is a type for queries alone"),
        ("$TTL 300\nwww A 1.2.3.4", r"line 1: .*\$TTL is not possible here"),
        ("www CH A 1.2.3.4", "line 1: .*there is no class but IN here, and 'CH' is another"),
        ("www A 1.2.3.4\nx HINFOO y", "line 2: .*'HINFOO' is no record type"),
    ],
)
def test_wrong_records_are_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_records(text, ZONES, 5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m 300 A 1.2.3.4\nm 60 A 1.2.3.5", [60, 60]),
        ("m IN 60 A 1.2.3.4\nm 1h IN A 1.2.3.5\nm AAAA ::1", [60, 60, 5]),
        ("m CLASS1 A 1.2.3.4", [5]),
    ],
)
def test_records_of_one_name_and_type_have_one_ttl(text: str, expected: list[int]) -> None:
    assert [one.ttl for one in parse_records(text, ("local",), 5)] == expected


def test_a_name_that_is_too_long_in_a_zone_is_refused() -> None:
    long = ".".join(["a" * 63] * 3 + ["b" * 55])  # 248 bytes, with room for ".local" but not for ".vm.internal"
    for text in (f"{long} A 1.2.3.4", f"x MX 1 {long}", f"x CNAME {long}"):
        assert parse_records(text, ("local",), 5)
        with pytest.raises(ValueError, match=r"line 1: a name is longer than 255 bytes in vm\.internal"):
            parse_records(text, ZONES, 5)


WORDS = st.sampled_from(
    ["@", "*", "www", "a.b.", "IN", "CH", "A", "CNAME", "TXT", "SRV", "SVCB", "HTTPS", "LOC", "TYPE1", "TYPE65536",
     "5", "1.2.3.4", '"', '"x"', "(", ")", ";", "\\", "\\300", "\n", "\\#", "4", "abcd", "$TTL", "リ", "\x00", ".",
     "99999999999", "alpn=h2"]
)  # fmt: skip


@given(st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=14).map(" ".join)))
def test_any_text_gives_records_or_a_value_error(text: str) -> None:
    try:
        records, why = parse_records(text, ZONES, 5), ""
    except ValueError as error:
        records, why = (), str(error)
    assert all(to_text(one.owner).endswith(ZONES) for one in records)
    if why:
        found = re.match(r"line (\d+): .", why)
        assert found, why
        assert 1 <= int(found[1]) <= text.count("\n") + 1
