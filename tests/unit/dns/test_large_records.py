"""Records that hold many values are passed on whole."""

from __future__ import annotations

import struct

import pytest

from vmdns.dns.forwarded_answer import Forwarded
from vmdns.dns.limits import Limits
from vmdns.dns.name import to_wire
from vmdns.dns.query import Query, encode_query, parse_query
from vmdns.dns.response_validation import validate_response

PARAMETERS = b"\0\1\0" + b"".join(struct.pack("!HH", 100 + n, 0) for n in range(16_000))
HINTS = b"\0\1\0" + struct.pack("!HH", 4, 64_000) + b"\x08\x08\x08\x08" * 16_000


def asked(kind: int) -> Query:
    return parse_query(encode_query(0x1234, to_wire("www.fz.test"), kind))


def reply(kind: int, *rdatas: bytes) -> bytes:
    records = [b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 9, len(rdata)) + rdata for rdata in rdatas]
    return struct.pack("!6H", 0x1234, 0x8180, 1, len(rdatas), 0, 0) + asked(kind).question + b"".join(records)


@pytest.mark.parametrize(
    ("kind", "rdatas"),
    [
        (16, [b"\0" * 65_000]),
        (16, [bytes(200 - n) for n in range(200)]),
        (99, [b"\0" * 2_000]),
        (65, [HINTS]),
        (64, [PARAMETERS]),
        (42, [b"\0\1\x20\0" * 16_000]),
        (16, [(b"\xff" + b"a" * 255) * 250]),
        (16, [b"\x05hello" * 900]),
        (65, [b"\0\1\0" + struct.pack("!HH", 4, 64) + b"\x08\x08\x08\x08" * 16]),
        (1, [struct.pack("!I", 0x08080000 + n) for n in range(290)]),
        (48, [b"\1\1\3\x08" + b"k" * 512] * 10),
    ],
    ids=[
        "strings", "strings of many", "spf", "hints of many", "parameters", "prefixes", "long text", "many strings",
        "hints", "addresses", "keys",
    ],
)  # fmt: skip
def test_large_records_are_accepted(kind: int, rdatas: list[bytes]) -> None:
    judged = validate_response(
        reply(kind, *rdatas), asked(kind), Limits(), trusted=True, own=lambda name: False, stream=True
    )
    assert isinstance(judged, Forwarded)
    assert len(judged.answer) == len(set(rdatas))
