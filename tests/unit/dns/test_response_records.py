"""Records of upstream responses, parsed by vmdns and by dnspython."""

from __future__ import annotations

import struct
from typing import NamedTuple

import dns.exception
import dns.message
import dns.rdata
from hypothesis import event, given, settings
from hypothesis import strategies as st

from vmdns.dns import message as wire
from vmdns.dns.limits import Limits
from vmdns.dns.name import to_wire
from vmdns.dns.query import Query, encode_query, parse_query
from vmdns.dns.response_validation import Rejected, validate_response
from vmdns.dns.upstreams import closest_domain

OWN = {to_wire("local")}
NAME = "wWw.fZ.test"
# 12 is the question's name, 16 and 19 the ends of it; what follows is where records may stand.
POINTERS = st.sampled_from([12] * 6 + [16, 16, 19, 19, 0, 41, 41, 47, 60, 0x3FFF])
NAMES = st.sampled_from(["", NAME, "www.fz.test", "a.test", "B.test", "fz.test", "test", "x.local", "sub.www.fz.test"])
LABELS = st.sampled_from([b""] * 4 + [b"\1a", b"\3www", b"\1a\1b"] * 2 + [b"\x40", b"\x80a", b"\x3f" + b"a" * 63])
OWNERS = st.one_of(
    st.just(b"\xc0\x0c"),
    NAMES.map(to_wire),
    st.tuples(LABELS, POINTERS).map(lambda made: made[0] + (0xC000 | made[1]).to_bytes(2, "big")),
)
TTLS = st.sampled_from([0, 1, 60, 300, 86_400, 86_401, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
FOURS = st.sampled_from([bytes((198, 51, 100, 1)), bytes((8, 8, 8, 8)), bytes((10, 0, 0, 1))])
SIXES = st.sampled_from([bytes.fromhex("20010db8" + "00" * 12), bytes.fromhex("fe80" + "00" * 14)])
SOAS = st.tuples(OWNERS, OWNERS, TTLS).map(lambda made: made[0] + made[1] + struct.pack("!5I", 1, 2, 3, 4, made[2]))


class Made(NamedTuple):
    """A record as it is written."""

    owner: bytes
    type: int
    cls: int
    ttl: int
    rdata: bytes

    def __bytes__(self) -> bytes:
        return self.owner + struct.pack("!HHIH", self.type, self.cls, self.ttl, len(self.rdata)) + self.rdata


def record(kind: int, rdata: st.SearchStrategy[bytes]) -> st.SearchStrategy[Made]:
    return st.builds(Made, OWNERS, st.just(kind), st.just(1), TTLS, rdata)


def mostly(often: st.SearchStrategy[Made], seldom: st.SearchStrategy[Made]) -> st.SearchStrategy[Made]:
    return st.integers(0, 19).flatmap(lambda drawn: often if drawn else seldom)


ODD = st.builds(
    Made,
    OWNERS,
    st.sampled_from([wire.A, wire.AAAA, wire.CNAME, wire.SOA, wire.NS, wire.OPT, wire.TXT, wire.MX, 46, 47, 65, 250]),
    st.sampled_from([1, 1, 3, 254]),
    TTLS,
    st.one_of(FOURS, SIXES, SOAS, OWNERS, st.binary(max_size=4)),
)
USUAL = st.one_of(
    record(wire.A, FOURS),
    record(wire.AAAA, SIXES),
    record(wire.CNAME, OWNERS),
)
OPTS = st.builds(
    Made,
    st.just(b"\0"),
    st.just(wire.OPT),
    st.just(1232),
    st.sampled_from([0, 0, 0, 0x8000, 0x10000, 0x01000000, 0xFF008000]),
    st.sampled_from([b"", b"", b"", b"", b"\0\3\0\0", b"\0"]),
)
ANSWERS = st.lists(mostly(USUAL, ODD), max_size=4)
AUTHORITY = st.lists(mostly(st.one_of(record(wire.SOA, SOAS), record(wire.NS, OWNERS)), ODD), max_size=2)
ADDITIONAL = st.lists(mostly(st.one_of(OPTS, USUAL), ODD), max_size=2)
FLAGS = st.sampled_from(
    [0x8180] * 12 + [0x8000, 0x81A0, 0x8583, 0x8183, 0x8183, 0x8182, 0x8380, 0x0180, 0x8980, 0x81F0]
)
KINDS = st.sampled_from([wire.A] * 8 + [wire.AAAA, wire.CNAME, wire.ANY, wire.TXT, 46, 65])


def message(sent: Query, flags: int, *sections: list[Made]) -> bytes:
    counts = [len(one) for one in sections]
    head = struct.pack("!6H", sent.id, flags, 1, *counts)
    return head + sent.question + b"".join(bytes(one) for section in sections for one in section)


def is_own(key: bytes) -> bool:
    return closest_domain(key, OWN) is not None


LIMITS = st.sampled_from([Limits(), Limits(), Limits(cache_ttl=0), Limits(cache_ttl=100, negative_ttl=7)])
SENT = st.builds(
    lambda kind, do, edns: parse_query(
        encode_query(0x1234, b"\3wWw\2fZ\4test\0", kind, dnssec_ok=do, edns=edns or do)
    ),
    KINDS, st.sampled_from([False] * 9 + [True]), st.booleans(),
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(SENT, FLAGS, ANSWERS, AUTHORITY, ADDITIONAL, LIMITS, st.booleans())
def test_records_of_all_sorts(
    sent: Query, flags: int, answers: list[Made], authority: list[Made], additional: list[Made], limits: Limits,
    trusted: bool,
) -> None:  # fmt: skip
    """Each record that is accepted is one that dnspython reads in the message, where it can read the message."""
    packet = message(sent, flags, answers, authority, additional)
    found = validate_response(packet, sent, limits, trusted=trusted, own=is_own)
    if isinstance(found, Rejected):
        event("rejected")
        return
    try:
        parsed = dns.message.from_wire(packet, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError):
        event("accepted, not read by dnspython")
        return
    for records, section in ((found.answer, parsed.answer), (found.authority, parsed.authority)):
        read = {
            (rrset.name.to_digestable(), rrset.rdtype, rdata.to_digestable()) for rrset in section for rdata in rrset
        }
        for record in records:
            rdata = dns.rdata.from_wire(wire.IN, record.type, record.rdata, 0, len(record.rdata))
            assert (record.owner.lower(), record.type, rdata.to_digestable()) in read
            assert 0 <= record.ttl <= limits.cache_ttl
    event("accepted")
