"""Whatever an upstream sends, what is accepted of it is sound.

The first byte of the data says what was asked, the second whether a right header and question are put before the rest.
"""

from __future__ import annotations

import dns.exception
import dns.message
import dns.rdata

from vmdns.dns import rebinding
from vmdns.dns.forwarded_answer import Forwarded
from vmdns.dns.limits import Limits
from vmdns.dns.message import AAAA, ANY, CNAME, HTTPS, IN, MX, NOERROR, NXDOMAIN, PTR, SOA, SRV, TXT, A, Record
from vmdns.dns.name import to_wire
from vmdns.dns.query import encode_query, encode_response, parse_query
from vmdns.dns.response_validation import Rejected, validate_response
from vmdns.dns.upstreams import closest_domain

KINDS = (A, AAAA, CNAME, TXT, ANY, MX, HTTPS, SRV, PTR, SOA)
OWN = {to_wire("local"), to_wire("vm.internal")}
LIMITS = Limits()


def own(name: bytes) -> bool:
    return closest_domain(name, OWN) is not None


QUERIES = [
    parse_query(encode_query(0x1234, to_wire("wWw.fZ.test").replace(b"fz", b"fZ"), kind, dnssec_ok=signed, edns=edns))
    for kind in KINDS
    for signed, edns in ((False, True), (True, True), (False, False))
]


def check(data: bytes) -> None:
    if len(data) < 2:
        return
    sent = QUERIES[data[0] % len(QUERIES)]
    message = data[2:]
    if data[1] & 1:
        message = b"\x12\x34" + message[:2] + b"\0\1" + message[2:8] + sent.question + message[8:]
    trusted, stream = bool(data[1] & 2), bool(data[1] & 4)
    made = validate_response(message, sent, LIMITS, trusted=trusted, own=own, stream=stream)
    if isinstance(made, Rejected):
        return
    assert isinstance(made, Forwarded)
    assert made.rcode in (NOERROR, NXDOMAIN)
    assert 0 <= made.ttl <= LIMITS.cache_ttl
    for record in (*made.answer, *made.authority):
        assert 0 <= record.ttl <= LIMITS.cache_ttl
        if record.type in (A, AAAA):
            assert trusted or not rebinding.is_private(record.rdata), "an inner address from outside"
        if record.type == CNAME:
            assert not own(record.rdata.lower()), "an alias from outside into our own zone"
    compare(message, made.answer, made.authority)
    # The rdata of other types is passed on as it is (RFC 3597 section 5), which dnspython may not read; so are the
    # parameters of HTTPS but for its hints.
    answer, authority = (
        [one for one in records if one.type in KINDS and one.type != HTTPS] for records in (made.answer, made.authority)
    )
    response = encode_response(sent, made.rcode, limit=65_535, answer=answer, authority=authority)
    dns.message.from_wire(response)


def compare(message: bytes, *sections: tuple[Record, ...]) -> None:
    """Each record that is accepted is one that dnspython reads in the message, where it can read the message."""
    try:
        parsed = dns.message.from_wire(message, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError):
        return
    for records, section in zip(sections, (parsed.answer, parsed.authority), strict=True):
        read = {
            (rrset.name.to_digestable(), rrset.rdtype, rdata.to_digestable()) for rrset in section for rdata in rrset
        }
        for record in records:
            rdata = dns.rdata.from_wire(IN, record.type, record.rdata, 0, len(record.rdata))
            assert (record.owner.lower(), record.type, rdata.to_digestable()) in read
