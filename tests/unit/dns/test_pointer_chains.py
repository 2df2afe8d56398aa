"""An upstream's response whose names are long chains of pointers is rejected, not followed to the end."""

from __future__ import annotations

import struct

from vmdns.dns.limits import Limits
from vmdns.dns.name import to_wire
from vmdns.dns.query import encode_query, parse_query
from vmdns.dns.response_validation import Rejected, ResponseFault, validate_response

SENT = parse_query(encode_query(0x1234, to_wire("www.fz.test"), 1, dnssec_ok=True))


def test_a_chain_of_pointers_has_a_bound() -> None:
    chain = bytearray(b"\1a\0")
    before = 12 + len(SENT.question) + 11
    here = before + 3
    for _ in range(8000):
        chain += struct.pack("!H", 0xC000 | before)
        before, here = here, here + 2
    first = b"\0" + struct.pack("!HHIH", 65280, 1, 9, len(chain)) + chain
    other = struct.pack("!HHHIH", 0xC000 | before, 65280, 1, 9, 0)
    message = struct.pack("!6H", 0x1234, 0x8180, 1, 2, 0, 0) + SENT.question + first + other
    judged = validate_response(message, SENT, Limits(), trusted=False, own=lambda name: False, stream=True)
    assert isinstance(judged, Rejected)
    assert judged.verdict is ResponseFault.IGNORE
