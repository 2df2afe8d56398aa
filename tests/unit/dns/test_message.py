"""The wire, held against dnspython: what it writes we read, what we write it reads."""

from __future__ import annotations

import struct

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vmdns.dns import message as wire
from vmdns.dns.escape import escape_text
from vmdns.dns.message import Record
from vmdns.dns.name import to_wire
from vmdns.dns.query import (
    MAX_OPTION_BYTES,
    Malformed,
    Query,
    add_keepalive,
    encode_query,
    encode_response,
    parse_query,
)

WEB = to_wire("web.local")


def query(key: bytes = WEB, kind: int = wire.A, **how: bool) -> Query:
    return parse_query(encode_query(4711, key, kind, **how))


# -- a query in -----------------------------------------------------------------------------------------------


HEADER = struct.Struct("!6H")
QUESTION = WEB + b"\0\1\0\1"


def packet(*counts: int, flags: int = 0x0100, body: bytes = QUESTION) -> bytes:
    return HEADER.pack(9, flags, *counts) + body


def opt(owner: bytes = b"\0", rdata: bytes = b"", length: int | None = None) -> bytes:
    return owner + struct.pack("!HHIH", 41, 1232, 0, len(rdata) if length is None else length) + rdata


# The header and most faults behind it are H01 to H20 and E06 to E08 of tests/contract/behaviour.
@pytest.mark.parametrize(
    "asked",
    [
        packet(1, 1, 0, 0),
        packet(1, 0, 1, 0),
        packet(1, 0, 0, 5),
        packet(1, 0, 0, 0, body=b"\1a" * 127 + b"\1b\0\0\1\0\1"),
        packet(1, 0, 0, 1, body=QUESTION + opt(owner=b"\xc0\x0c")),
        packet(1, 0, 0, 1, body=QUESTION + opt(length=9)),
        *[packet(1, 0, 0, 1, body=QUESTION + opt()[:end]) for end in range(len(opt()))],
        # A record of another class (BIND's formerr suite: keyclass), and two SOA records for an answer (dupans).
        packet(1, 0, 0, 1, body=QUESTION + b"\0" + struct.pack("!HHIH", 25, 2, 1, 5) + b"\0\0\0\xf8\0"),
        packet(1, 0, 0, 2, body=QUESTION + opt() + b"\0" + struct.pack("!HHIH", 1, 255, 0, 0)),
        packet(1, 2, 0, 0, body=QUESTION + (b"\0" + struct.pack("!HHIH", 6, 1, 1, 22) + bytes(22)) * 2),
    ],
)
def test_malformed(asked: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        parse_query(asked)
    # A question section that was read comes back: the fault lies behind it.
    question = QUESTION if asked[12:].startswith(QUESTION) else b""
    assert caught.value.reply == asked[:2] + struct.pack("!5H", 0x8101, len(question) > 0, 0, 0, 0) + question


@pytest.mark.parametrize(
    "asked",
    [
        packet(1, 0, 0, 0, body=b"\1a" * 127 + b"\0\0\1\0\1"),
        packet(1, 0, 0, 2, body=QUESTION + opt() + b"\3tsg\0" + struct.pack("!HHIH", 250, 255, 0, 2) + b"xx"),
        packet(1, 0, 0, 2, body=QUESTION + b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + b"abcd" + opt()),
    ],
)
def test_odd_but_well_formed(asked: bytes) -> None:
    assert parse_query(asked).id == 9


GOOD_QUERY = encode_query(1, WEB, 1)
CHANGES = st.dictionaries(st.integers(0, len(GOOD_QUERY) - 1), st.integers(0, 255), min_size=1, max_size=4)


@given(
    st.one_of(
        st.binary(max_size=64),
        st.builds(
            lambda body, counts: packet(*counts, body=body),
            st.binary(max_size=48),
            st.sampled_from([(1, 0, 0, 0), (1, 0, 0, 1), (1, 0, 0, 4)]),
        ),
        st.builds(
            lambda changes, end: bytes(changes.get(at, byte) for at, byte in enumerate(GOOD_QUERY))[:end],
            CHANGES,
            st.integers(0, len(GOOD_QUERY)),
        ),
    )
)
@example(packet(1, 0, 0, 4, body=b"\0\0\1\0\1" + b"\xc0" * 40))
def test_any_bytes_parse_or_are_malformed(data: bytes) -> None:
    try:
        read = parse_query(data)
    except Malformed as malformed:
        reply = malformed.reply
    else:
        reply = encode_response(read, limit=512)
        assert read.question == data[12 : 12 + len(read.name) + 4]
        assert dns.name.from_wire(read.name, 0)[0].to_wire() == read.name
    if reply is not None:
        assert dns.message.from_wire(reply).id == int.from_bytes(data[:2], "big")


# -- a response out -------------------------------------------------------------------------------------------


OWNERS = st.sampled_from(
    [
        WEB,
        b"\3WEB\5Local\0",
        to_wire("a.web.local"),
        to_wire("b.a.web.local"),
        to_wire("local"),
        b"\0",
        to_wire("x.test"),
    ]
)
RECORDS = st.lists(
    st.one_of(
        st.builds(Record, OWNERS, st.just(wire.A), st.integers(0, 0x7FFFFFFF), st.binary(min_size=4, max_size=4)),
        st.builds(Record, OWNERS, st.just(wire.AAAA), st.integers(0, 600), st.binary(min_size=16, max_size=16)),
        st.builds(
            Record, OWNERS, st.just(wire.TXT), st.integers(0, 600),
            st.binary(max_size=255).map(lambda text: bytes([len(text)]) + text),
        ),
        st.builds(Record, OWNERS, st.just(wire.PTR), st.integers(0, 600), OWNERS),
    ),
    max_size=40,
    unique_by=lambda one: (one.owner.lower(), one.type, one.rdata.lower()),
)  # fmt: skip


def records_of(section: list[dns.rrset.RRset]) -> set[tuple[bytes, int, bytes]]:
    return {
        ((rrset.name.to_wire() or b"").lower(), int(rrset.rdtype), (rdata.to_wire() or b""))
        for rrset in section
        for rdata in rrset
    }


def keys_of(records: list[Record]) -> set[tuple[bytes, int, bytes]]:
    return {(one.owner.lower(), one.type, one.rdata) for one in records}


@given(RECORDS, RECORDS, st.integers(512, 8000), st.booleans(), st.integers(0, 5))
def test_what_is_rendered_is_read_and_never_too_long(
    answer: list[Record], authority: list[Record], limit: int, edns: bool, rcode: int
) -> None:
    asked = query(edns=edns)
    out = encode_response(asked, rcode, limit=limit, authoritative=True, answer=answer, authority=authority)
    read = dns.message.from_wire(out)
    assert len(out) <= limit
    assert read.id == asked.id
    assert read.rcode() == rcode
    assert read.question[0].name.to_wire() == asked.name
    assert (read.edns == 0) == edns
    got, more = records_of(read.answer), records_of(read.authority)
    assert got <= keys_of(answer)
    assert more <= keys_of(authority)
    missing = len(got) < len(answer) or len(more) < len(authority)
    assert bool(read.flags & dns.flags.TC) == missing
    if missing:
        # In order, and as many whole records as fit: the next one would not have.
        whole = encode_response(asked, rcode, limit=65_535, authoritative=True, answer=answer, authority=authority)
        assert len(whole) > limit
        assert not more or len(got) == len(answer)
        assert got == keys_of(answer[: len(got)])
        assert more == keys_of(authority[: len(more)])


def test_names_beyond_the_reach_of_pointers_are_still_read() -> None:
    # A pointer has 14 bits (RFC 1035 section 4.1.4): owners first seen behind byte 16,383 cannot be pointed to.
    records = [Record(to_wire(f"n{n}.other.test"), wire.A, 5, bytes([1, 1, n >> 8, n & 255])) for n in range(900)] * 2
    out = encode_response(query(), limit=65_535, answer=records)
    assert len(out) > 0x4000
    assert records_of(dns.message.from_wire(out).answer) == keys_of(records)


@pytest.mark.parametrize(
    "text",
    ["", "VM 'db' is not running", "é" * 300, "x" + "리눅스" * 100, "bad \ud800 text", "a\n\x1b[31mb"],
)
def test_an_extended_error_is_always_readable(text: str) -> None:
    read = dns.message.from_wire(encode_response(query(), wire.NXDOMAIN, limit=512, extended_error=(14, text)))
    (option,) = read.options
    assert isinstance(option, dns.edns.EDEOption)
    assert option.code == 14
    assert escape_text(text).startswith(option.text or "")
    assert len(option.text or "") >= min(len(text), 66)


def test_keepalive_is_sent_only_where_it_is_requested() -> None:
    # RFC 7828 section 3.1: in units of 100 ms.
    asked = parse_query(packet(1, 0, 0, 1, body=QUESTION + opt(rdata=b"\0\x0b\0\0")))
    assert encode_response(add_keepalive(asked, 10.0), limit=512).endswith(b"\0\x0b\0\2\0\x64")
    assert encode_response(add_keepalive(asked, 1e6), limit=512).endswith(b"\0\x0b\0\2\xff\xff")
    assert encode_response(asked, limit=512).endswith(opt())
    for plain in (query(), parse_query(packet(1, 0, 0, 0, body=QUESTION))):
        assert add_keepalive(plain, 10.0) is plain


def test_the_options_give_way_where_the_question_leaves_them_no_room() -> None:
    longest = b"\x3f" + b"a" * 63 + (b"\x3f" + b"a" * 63) * 2 + b"\x3d" + b"a" * 61 + b"\0"
    out = encode_response(query(longest), limit=300, extended_error=(0, "x" * 200))
    read = dns.message.from_wire(out)
    assert len(out) <= 300
    assert read.edns == -1


def test_options_without_end_are_not_walked() -> None:
    """T12: 16,000 empty options in a question over TCP."""
    asked = encode_query(1, b"\1a\0", 1, edns=False)
    head = asked[:10] + b"\0\1" + asked[12:] + b"\0\0\x29\x04\xd0\0\0\0\0"
    for count, good in ((MAX_OPTION_BYTES // 4, True), (MAX_OPTION_BYTES // 4 + 1, False)):
        packet = head + (4 * count).to_bytes(2, "big") + b"\xff\xfe\0\0" * count
        if good:
            assert parse_query(packet).edns is not None
        else:
            with pytest.raises(Malformed):
                parse_query(packet)


# -- messages of anybody -------------------------------------------------------------------------------------


def chained(pointers: int, records: int) -> bytes:
    """Records whose owner is the end of a chain of that many pointers, which is in the rdata of the first one."""
    chain = bytearray(b"\1a\0")
    before, here = 12 + 11, 12 + 11 + 3
    for _ in range(pointers):
        chain += struct.pack("!H", 0xC000 | before)
        before, here = here, here + 2
    first = b"\0" + struct.pack("!HHIH", 65280, 1, 9, len(chain)) + chain
    others = (struct.pack("!HHHIH", 0xC000 | before, 65280, 1, 9, 0)) * records
    return HEADER.pack(0, 0x8400, 0, 1 + records, 0, 0) + first + others


def test_a_chain_of_pointers_has_a_bound() -> None:
    """T12: an owner is itself a pointer."""
    short = wire.parse_message(chained(wire.MAX_POINTERS - 1, 3))
    assert [one.key for one in short.answers] == [b"\0", *[b"\1a\0"] * 3]
    for pointers, records in ((wire.MAX_POINTERS, 3), (2200, 370), (8000, 1)):
        with pytest.raises(ValueError):
            wire.parse_message(chained(pointers, records))
