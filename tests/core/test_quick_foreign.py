"""The quick way to a question for others reads and says what the general one does, or nothing."""

from __future__ import annotations

import struct
from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.testzone import snapshot
from vmdns.dns.forwarded_answer import Forwarded, Question, refusal, render
from vmdns.dns.message import Malformed, Record, parse_query, udp_limit
from vmdns.dns.name import from_labels, to_wire
from vmdns.state.authoritative import answer
from vmdns.state.common_forward import foreign, respond_to
from vmdns.state.views import View

SNAPSHOT = snapshot(forwarded=("corp.local",))
NAMES = [
    "www.example.org", "WWW.Example.ORG", "a.b.c.example.org", "nas.example.org", "web-01.local", "x.local", "local",
    "x.corp.local", "corp.local", "nas", "example", "_http._tcp.example.org", "x.vm.internal", "web-01.local.example",
    "1.56.168.192.in-addr.arpa", "101.56.168.192.in-addr.arpa", "4.3.2.1.in-addr.arpa", "",
]  # fmt: skip
ODD = [
    b"\3a\0b\3org\0",
    b"\x05\xc3\xa9abc\3org\0",
    b"\x41" + b"a" * 65 + b"\0",
    b"\xc0\x0c",
    b"\3a\0",
    b"\1a" * 126 + b"\3abc\0",
]
SIZES, BITS = (0, 512, 600, 1232, 4096), (0, 0x8000)


def _opt(size: int, bits: int) -> bytes:
    return b"\0" + struct.pack("!HHIH", 41, size, bits, 0)


def to_wire_as_written(name: str) -> bytes:
    return from_labels([part.encode() for part in name.split(".")])


WIRE = st.one_of(
    st.sampled_from([to_wire(name) for name in NAMES]),
    st.sampled_from(ODD),
    st.lists(st.binary(min_size=1, max_size=9), max_size=5).map(from_labels),
)
TYPES = st.sampled_from([1, 28, 5, 6, 12, 15, 16, 33, 41, 65, 99, 249, 250, 251, 252, 253, 254, 255, 65280])
OPTS = st.one_of(
    st.just(b""),
    st.tuples(st.sampled_from([0, 511, 512, 600, 1232, 4096]), st.sampled_from([0, 0, 0x8000, 0x10000, 0x1000000])).map(
        lambda made: b"\0" + struct.pack("!HHIH", 41, *made, 0)
    ),
    st.just(b"\0" + struct.pack("!HHIH", 41, 1232, 0, 4) + b"\0\x0a\0\0"),
    st.just(b"\1a\0" + struct.pack("!HHIH", 41, 1232, 0, 0)),
)
FLAGS = st.sampled_from([0x0100, 0x0100, 0x0120, 0x0110, 0x0130, 0, 0x8100, 0x0900, 0x0300, 0x0180, 0xFFFF])
RECORDS = st.builds(
    Record,
    st.sampled_from([b"", b"\3WwW\x07example\3org\0", to_wire("alias.example.org"), to_wire("other.test"), b"\0"]),
    st.sampled_from([1, 28, 5, 6]),
    st.integers(0, 86_400),
    st.binary(max_size=40),
)


@st.composite
def packets(draw: st.DrawFn, most_odd: int = 2) -> bytes:
    """A common question for others, of which up to so many parts may be anything."""
    odd = draw(st.sets(st.sampled_from(["flags", "name", "type", "opt", "counts", "class", "tail"]), max_size=most_odd))
    flags = draw(FLAGS if "flags" in odd else st.sampled_from([0x0100, 0x0120, 0x0110, 0x0130]))
    name = draw(WIRE if "name" in odd else st.sampled_from(NAMES[:3]).map(to_wire_as_written))
    kind = draw(TYPES if "type" in odd else st.sampled_from([1, 28, 15, 65]))
    opt = draw(OPTS if "opt" in odd else st.sampled_from([b"", *(_opt(size, bits) for size in SIZES for bits in BITS)]))
    counts = draw(st.sampled_from([(0, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)])) if "counts" in odd else (1, 0, 0)
    cls = draw(st.sampled_from([3, 254, 255])) if "class" in odd else 1
    tail = draw(st.sampled_from([b"\0", b"more"])) if "tail" in odd else b""
    return struct.pack("!6H", 4711, flags, *counts, opt != b"") + name + struct.pack("!HH", kind, cls) + opt + tail


@settings(max_examples=1500, deadline=None)
@given(packets())
def test_what_is_read_quickly_is_what_is_read_otherwise(packet: bytes) -> None:
    asked = foreign(packet, SNAPSHOT)
    event("quick" if asked is not None else "not quick")
    if asked is None:
        return
    query = parse_query(packet)
    assert asked.question == Question.of(query)
    assert (asked.limit, asked.end) == (udp_limit(query), 12 + len(query.name))
    assert refusal(query) is None
    assert answer(query, SNAPSHOT, View()) is None


def test_common_questions_are_read_quickly() -> None:
    for opt in (b"", b"\0" + struct.pack("!HHIH", 41, 1232, 0x8000, 0)):
        for name in ("www.example.org", "WWW.x.corp.local"):
            packet = struct.pack("!6H", 1, 0x0100, 1, 0, 0, opt != b"") + to_wire(name).replace(b"www", b"WwW")
            assert foreign(packet + b"\0\1\0\1" + opt, SNAPSHOT) is not None


@settings(max_examples=1000, deadline=None)
@given(
    packets(0),
    st.builds(
        Forwarded,
        st.sampled_from([0, 3]),
        st.lists(RECORDS, max_size=6).map(tuple),
        st.lists(RECORDS, max_size=2).map(tuple),
        st.just(60),
        st.booleans(),
        st.sampled_from([None, None, None, (15, "blocked")]),
    ),
)
def test_what_is_said_quickly_is_what_is_said_otherwise(packet: bytes, found: Forwarded) -> None:
    asked = foreign(packet, SNAPSHOT)
    if asked is None:
        return
    query = parse_query(packet)
    owned = [
        [one if one.owner else one._replace(owner=query.name) for one in records]
        for records in (found.answer, found.authority)
    ]
    found = replace(found, answer=tuple(owned[0]), authority=tuple(owned[1]))
    made = respond_to(asked, found)
    event("said" if made is not None else "not said")
    whole = render(query, found, asked.limit)
    assert made == whole or (made is None and (found.error is not None or whole[2] & 0x02))


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80))
def test_no_bytes_raise(packet: bytes) -> None:
    try:
        parse_query(packet)
    except Malformed:
        assert foreign(packet, SNAPSHOT) is None
    else:
        foreign(packet, SNAPSHOT)
