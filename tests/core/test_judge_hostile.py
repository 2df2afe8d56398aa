"""An upstream's reply that points through itself is given up by dnspython, and not followed to its end."""

from __future__ import annotations

import struct

import dns.exception
import dns.message
import pytest

from vmdns.dns.limits import Limits
from vmdns.dns.message import make_query, parse_query
from vmdns.dns.name import to_wire
from vmdns.dns.response_validation import Rejected, Verdict, judge

SENT = parse_query(make_query(0x1234, to_wire("www.fz.test"), 1, dnssec_ok=True))


def test_a_chain_of_pointers_has_a_bound() -> None:
    """Before 2.9 dnspython went to the end of each: a reply of 20,000 bytes over TCP stopped everything for 16 s."""
    chain = bytearray(b"\1a\0")
    before = 12 + len(SENT.question) + 11
    here = before + 3
    for _ in range(8000):
        chain += struct.pack("!H", 0xC000 | before)
        before, here = here, here + 2
    first = b"\0" + struct.pack("!HHIH", 65280, 1, 9, len(chain)) + chain
    other = struct.pack("!HHHIH", 0xC000 | before, 65280, 1, 9, 0)
    message = struct.pack("!6H", 0x1234, 0x8180, 1, 2, 0, 0) + SENT.question + first + other
    with pytest.raises(dns.exception.DNSException):
        dns.message.from_wire(message)
    judged = judge(message, SENT, Limits(), trusted=False, own=lambda name: False, stream=True)
    assert isinstance(judged, Rejected)
    assert judged.verdict is Verdict.IGNORE
