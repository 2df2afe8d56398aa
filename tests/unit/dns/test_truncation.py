"""Responses cut, and cookies taken off queries and put on responses."""

from __future__ import annotations

from dataclasses import replace

import dns.edns
import dns.flags
import dns.message
import dns.rcode
from hypothesis import given
from hypothesis import strategies as st

from vmdns.dns.cookie import COOKIE
from vmdns.dns.message import Record
from vmdns.dns.name import to_wire
from vmdns.dns.query import (
    Malformed,
    add_cookie,
    encode_header_response,
    encode_option,
    encode_query,
    encode_response,
    encode_truncated,
    encoded_response_limit,
    parse_query,
    remove_cookie,
    strip_records,
    udp_response_limit,
)

CLIENT, WHOLE = b"cccccccc", b"cccccccc" + b"s" * 16
NAME = to_wire("web.local")


def asked(cookie: bytes = b"", *, edns: bool = True, size: int = 1232) -> bytes:
    plain = encode_query(7, NAME, 1, edns=edns)
    if edns:
        plain = plain[:-8] + size.to_bytes(2, "big") + plain[-6:]
    if not cookie:
        return plain
    data = encode_option(COOKIE, cookie)
    return plain[:-2] + len(data).to_bytes(2, "big") + data


def answered(packet: bytes, told: bytes = b"", **how: object) -> bytes:
    query = replace(parse_query(packet), response_options=told)
    return encode_response(query, limit=1232, answer=[Record(NAME, 1, 5, b"\1\2\3\4")] * 10, **how)  # type: ignore[arg-type]


def test_a_stripped_response_has_tc_and_no_records() -> None:
    for edns in (False, True):
        packet = asked(edns=edns)
        read = dns.message.from_wire(strip_records(answered(packet, extended_error=(3, "old") if edns else None)))
        assert read.flags & dns.flags.TC
        assert (read.id, str(read.question[0].name), read.answer, read.options) == (7, "web.local.", [], ())
        assert read.edns == (0 if edns else -1)
        assert len(strip_records(answered(packet))) <= len(packet)


def test_a_stripped_response_with_a_cookie_is_badcookie() -> None:
    read = dns.message.from_wire(strip_records(answered(asked(CLIENT), encode_option(COOKIE, WHOLE))))
    assert read.rcode() == dns.rcode.BADCOOKIE
    assert not read.flags & dns.flags.TC
    (cookie,) = read.options
    assert isinstance(cookie, dns.edns.CookieOption)
    assert cookie.to_wire() == WHOLE


def test_what_has_no_question_is_left() -> None:
    assert strip_records(encode_header_response(asked(), 1)) == encode_header_response(asked(), 1)


def test_a_cookie_is_taken_off() -> None:
    for size in (512, 1232, 4096):
        for cookie in (CLIENT, WHOLE):
            plain, found = remove_cookie(asked(cookie, size=size))
            assert (plain, found) == (asked(size=size), cookie)
            assert encoded_response_limit(plain) == udp_response_limit(parse_query(plain))


def test_what_is_no_plain_cookie_is_left() -> None:
    two = asked(CLIENT)[:-14] + (24).to_bytes(2, "big") + encode_option(COOKIE, CLIENT) * 2
    for packet in (asked(), asked(edns=False), asked(b"ccc"), asked(CLIENT) + b"x", asked(CLIENT)[:-1], two):
        assert remove_cookie(packet) == (packet, b"")


@given(st.binary(max_size=80))
def test_anything_is_taken_off_or_left(data: bytes) -> None:
    for packet in (data, asked()[:12] + data, asked(CLIENT)[: len(data)] + data):
        plain, cookie = remove_cookie(packet)
        if cookie:
            assert len(plain) + 4 + len(cookie) == len(packet)
            try:
                query = parse_query(packet)
            except Malformed:
                continue
            assert query.edns is not None
            assert query.edns.cookie == cookie


def test_put_on_gives_what_the_general_path_gives() -> None:
    plain = answered(asked())
    assert add_cookie(plain[2:], WHOLE, 1232) == answered(asked(CLIENT), encode_option(COOKIE, WHOLE))[2:]
    assert add_cookie(plain[2:], WHOLE, len(plain) + 28) is not None
    assert add_cookie(plain[2:], WHOLE, len(plain) + 27) is None
    assert add_cookie(answered(asked(), extended_error=(3, "old"))[2:], WHOLE, 1232) is None
    assert add_cookie(answered(asked(edns=False))[2:], WHOLE, 1232) is None


@given(st.booleans(), st.booleans(), st.sampled_from([b"", CLIENT, WHOLE]))
def test_the_shortest_answer_is_no_longer_than_its_query(edns: bool, recursion: bool, cookie: bytes) -> None:
    packet = bytearray(asked(cookie if edns else b"", edns=edns))
    packet[2] = recursion
    made = encode_truncated(bytes(packet))
    assert made is not None
    assert len(made) <= len(packet)
    read, query = dns.message.from_wire(made), dns.message.from_wire(bytes(packet))
    assert query.is_response(read)
    assert read.flags & dns.flags.TC
    assert bool(read.flags & dns.flags.RD) is recursion
    assert (read.edns == 0) is edns
    assert [*read.answer, *read.authority, *read.additional] == []


@given(st.binary(max_size=60))
def test_the_shortest_answer_is_for_queries_alone(noise: bytes) -> None:
    made = encode_truncated(noise)
    assert made is None or len(made) <= len(noise)
    response = bytearray(asked())
    response[2] |= 0x80
    assert encode_truncated(bytes(response)) is None
    assert encode_truncated(asked()[:20]) is None
