"""dnspython's encoding of a decision, which ours is compared with.

Names within rdata are written uncompressed, which RFC 1035 section 4.1.4 allows, so each rdata is read by dnspython and
written by it alone. Record sets keep their order, which dnspython would shuffle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.renderer
import dns.rrset

from vmdns.dns.message import Record
from vmdns.state.authoritative import Reply

PAYLOAD = 1232
_SECTIONS = (dns.renderer.ANSWER, dns.renderer.AUTHORITY)


def rendered(packet: bytes, reply: Reply, recursion: bool) -> bytes:
    """The response to the packet over UDP that says what the reply does; recursion: whether it is offered."""
    query = dns.message.from_wire(packet)
    limit = 512 if query.edns < 0 else min(max(query.payload, 512), PAYLOAD)
    records = [(section, one) for section in (0, 1) for one in (reply.answer, reply.authority)[section]]
    whole = _rendered(query, reply, recursion, records)
    count = len(records)
    while len(whole) > limit:  # what does not fit goes, from the end
        count -= 1
        whole = _rendered(query, reply, recursion, records[:count], dns.flags.TC)
    return whole


def _rendered(
    query: dns.message.Message, reply: Reply, recursion: bool, records: Sequence[tuple[int, Record]], cut: int = 0
) -> bytes:
    flags = dns.flags.QR | cut | (query.flags & (dns.flags.RD | dns.flags.CD)) | (reply.rcode & 15)
    flags |= dns.flags.AA if reply.authoritative else 0
    flags |= dns.flags.RA if recursion else 0
    output = dns.renderer.Renderer(query.id, flags, max_size=65_535)
    question = query.question[0]
    output.add_question(question.name, question.rdtype, question.rdclass)
    for section in (0, 1):
        for rrset in _sets(one for where, one in records if where == section):
            output.add_rrset(_SECTIONS[section], rrset, want_shuffle=False)
    if query.edns >= 0:
        error = reply.extended_error
        options = [dns.edns.EDEOption(*error)] if error is not None else []
        ednsflags = (query.ednsflags & dns.flags.DO) | ((reply.rcode >> 4) << 24)
        output.add_edns(0, ednsflags, PAYLOAD, options)
    output.write_header()
    return bytes(output.get_wire())


def _sets(records: Iterable[Record]) -> list[dns.rrset.RRset]:
    found: list[dns.rrset.RRset] = []
    for record in records:
        owner, _ = dns.name.from_wire(record.owner, 0)
        kind = dns.rdatatype.RdataType.make(record.type)
        read = dns.rdata.from_wire(dns.rdataclass.IN, kind, record.rdata, 0, len(record.rdata))
        plain = dns.rdata.GenericRdata(dns.rdataclass.IN, kind, read.to_wire())
        if not found or (found[-1].name, found[-1].rdtype) != (owner, kind):
            found.append(dns.rrset.RRset(owner, dns.rdataclass.IN, kind))
        found[-1].add(plain, record.ttl)
    return found
