"""Messages of multicast DNS (RFC 6762 section 18): bytes to questions and records, and back.

Anybody on the link may send anything: a message is parsed as a whole or not at all, and parsing never raises.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from vmdns.dns.message import AAAA, ANY, CNAME, HEADER, IN, NS, PTR, A, Record, append_record, index_suffixes, skip_name
from vmdns.dns.record_parser import NSEC, Names, ParsedRecord, parse_name, parse_record

MAX_PACKET = 9000  # RFC 6762 section 17
SIZE = 1440  # what fits an Ethernet frame below IPv6 and UDP, with some room for tunnels
FLUSH = UNICAST = 0x8000  # the top bit of the class, in records and in questions (sections 10.2 and 5.4)
RESPONSE, TRUNCATED = 0x8400, 0x0200  # QR with AA; TC

_QTAIL = struct.Struct("!HH")
_CLASS_MASK = 0x7FFF
_NAME_FIRST = {NS, CNAME, PTR, NSEC}  # their rdata begins with a name


class MdnsQuestion(NamedTuple):
    """One question of class IN or ANY: the name as asked and in lower case; unicast: a unicast answer will do (QU)."""

    name: bytes
    key: bytes
    type: int
    unicast: bool


class ReceivedRecord(NamedTuple):
    """One received record of class IN: owner and names in rdata in lower case, TTL in seconds."""

    key: bytes
    type: int
    ttl: int
    rdata: bytes


class MdnsMessage(NamedTuple):
    """A parsed message."""

    id: int
    flags: int
    questions: tuple[MdnsQuestion, ...]
    answers: tuple[ReceivedRecord, ...]
    authorities: tuple[ReceivedRecord, ...]
    additionals: tuple[ReceivedRecord, ...]

    @property
    def response(self) -> bool:
        return bool(self.flags & 0x8000)

    @property
    def truncated(self) -> bool:
        return bool(self.flags & TRUNCATED)


def parse_message(packet: bytes) -> MdnsMessage | None:
    """The parsed message; None if it is malformed, or its opcode or rcode is not 0 (sections 18.3 and 18.11)."""
    if not 12 <= len(packet) <= MAX_PACKET:
        return None
    ident, flags, *counts = HEADER.unpack_from(packet)
    if flags & 0x780F:
        return None
    names: Names = {}
    try:
        at = 12
        questions: list[MdnsQuestion] = []
        for _ in range(counts[0]):
            name, at = parse_name(packet, at, names)
            kind, cls = _QTAIL.unpack_from(packet, at)
            at += 4
            if cls & _CLASS_MASK in (IN, ANY):
                questions.append(MdnsQuestion(name, name.lower(), kind, bool(cls & UNICAST)))
        sections: list[tuple[ReceivedRecord, ...]] = []
        for count in counts[1:]:
            heard: list[ReceivedRecord] = []
            for _ in range(count):
                record, at = parse_record(packet, at, names, _CLASS_MASK)
                if record.cls & _CLASS_MASK == IN:
                    heard.append(ReceivedRecord(record.key, record.type, record.ttl, _lower_names(record)))
            sections.append(tuple(heard))
    except (IndexError, ValueError, struct.error):
        return None
    return MdnsMessage(ident, flags, tuple(questions), *sections)


def _lower_names(record: ParsedRecord) -> bytes:
    """The rdata of a record with the name that it begins with, if any, in lower case."""
    if record.type not in _NAME_FIRST:
        return record.rdata
    end = skip_name(record.rdata, 0)
    return record.rdata[:end].lower() + record.rdata[end:]


def nsec_rdata(owner: bytes, types: Iterable[int]) -> bytes:
    """The rdata of an NSEC record that lists all types at a name (section 6.1); all of them below 256."""
    bitmap = bytearray(32)
    for kind in types:
        bitmap[kind >> 3] |= 0x80 >> (kind & 7)
    kept = bytes(bitmap).rstrip(b"\0")
    return owner + bytes((0, len(kept))) + kept


def encode_query(questions: Sequence[tuple[bytes, int]], authority: Iterable[Record] = ()) -> bytes:
    """A query for names and types; authority: the proposed records of a probe (section 8.2)."""
    out, offsets = bytearray(12), dict[bytes, int]()
    for name, kind in questions:
        _append_question(out, name, kind, offsets)
    count = 0
    for record in authority:
        append_record(out, record, offsets)
        count += 1
    HEADER.pack_into(out, 0, 0, 0, len(questions), 0, count, 0)
    return bytes(out)


def _append_question(out: bytearray, name: bytes, kind: int, offsets: dict[bytes, int]) -> None:
    at = offsets.get(name.lower())
    if at is None:
        index_suffixes(offsets, name.lower(), len(out))
        out += name
    else:
        out += (0xC000 | at).to_bytes(2, "big")
    out += _QTAIL.pack(kind, IN)


def encode_probes(owners: Sequence[tuple[bytes, Sequence[Record]]]) -> Iterator[bytes]:
    """Probes for these names with their proposed records, in as few packets as possible.

    They ask for multicast answers, other than section 8.1 has it: port 5353 is shared with other programs of this
    host, and a unicast answer would go to any one of them. Addresses are asked for by type too: some responders
    (python-zeroconf is one) do not answer for ANY type of a host.
    """
    questions: list[tuple[bytes, int]] = []
    proposed: list[Record] = []
    size = 12
    for name, records in owners:
        kinds = (ANY, *sorted({record.type for record in records} & {A, AAAA}))
        more = len(kinds) * (len(name) + 4) + sum(12 + len(record.rdata) for record in records)
        if questions and size + more > SIZE:
            yield encode_query(questions, proposed)
            questions, proposed, size = [], [], 12
        questions += [(name, kind) for kind in kinds]
        proposed += records
        size += more
    if questions:
        yield encode_query(questions, proposed)


def encode_responses(answers: Sequence[Record], additionals: Sequence[Record] = ()) -> Iterator[bytes]:
    """Responses with all answers, and additional records in the last one if they fit (section 18).

    All records here are of one responder alone, so all have the cache-flush bit.
    """
    out, offsets, counts = bytearray(12), dict[bytes, int](), [0, 0]
    for section, records in enumerate((answers, additionals)):
        for record in records:
            mark = len(out)
            append_record(out, record, offsets, IN | FLUSH)
            if len(out) > SIZE:
                del out[mark:]
                if section:
                    break
                yield _finish_response(out, counts)
                out, offsets, counts = bytearray(12), {}, [0, 0]
                append_record(out, record, offsets, IN | FLUSH)
            counts[section] += 1
    yield _finish_response(out, counts)


def _finish_response(out: bytearray, counts: Sequence[int]) -> bytes:
    HEADER.pack_into(out, 0, 0, RESPONSE, 0, counts[0], 0, counts[1])
    return bytes(out)


def encode_legacy_response(ident: int, questions: Sequence[MdnsQuestion], answers: Iterable[Record]) -> bytes:
    """A response for a legacy unicast client (section 6.7): its id, its questions, no cache-flush bits."""
    out, offsets = bytearray(12), dict[bytes, int]()
    for question in questions:
        _append_question(out, question.name, question.type, offsets)
    count = 0
    for record in answers:
        mark = len(out)
        append_record(out, record, offsets)
        if len(out) > 512:  # such a client need not take more (RFC 1035 section 2.3.4)
            del out[mark:]
            break
        count += 1
    HEADER.pack_into(out, 0, ident, RESPONSE, len(questions), count, 0, 0)
    return bytes(out)
