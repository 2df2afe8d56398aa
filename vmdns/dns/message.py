"""DNS messages: names, questions and records to wire form and back (RFC 1035 section 4, RFC 6762 section 18).

A received message is parsed as a whole or not at all. Rdata comes out uncompressed where its type holds names (RFC 3597
section 4, and later RFCs), and as it is otherwise. Each name is parsed once for the place where it begins, in a bounded
number of steps.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
BADVERS = 16

# Extended DNS Errors (RFC 8914 section 4, RFC 9824 section 9).
EDE_OTHER, EDE_STALE, EDE_NOT_READY, EDE_BLOCKED, EDE_PROHIBITED, EDE_STALE_NXDOMAIN = 0, 3, 14, 15, 18, 19
EDE_NOT_AUTHORITATIVE, EDE_NO_REACHABLE_AUTHORITY, EDE_NETWORK_ERROR, EDE_INVALID_QUERY_TYPE = 20, 22, 23, 30

A, NS, CNAME, SOA, PTR, HINFO, MX, TXT, AAAA, SRV, DNAME, OPT = 1, 2, 5, 6, 12, 13, 15, 16, 28, 33, 39, 41
RRSIG, NSEC, NSEC3, SVCB, HTTPS, IXFR, AXFR, MAILB, MAILA, ANY = 46, 47, 50, 64, 65, 251, 252, 253, 254, 255
IN = 1
CLASS_MASK = 0x7FFF  # the highest bit of the class means something else in multicast DNS, and no class has it

RESPONSE, AUTHORITATIVE, TRUNCATED = 0x8000, 0x0400, 0x0200  # flags QR, AA, TC

MAX_MESSAGE = 65_535
# More than the labels of the longest name in use (ip6.arpa has 34).
MAX_POINTERS = 64

HEADER = struct.Struct("!6H")
_FIXED = struct.Struct("!HHIH")
_QTAIL = struct.Struct("!HH")
_MAX_NAME = 255
_LENGTHS = {A: 4, AAAA: 16}
# Rdata that is made of character strings: also SPF.
_STRINGS = frozenset({TXT, HINFO, 99})
_NAPTR = 35
_ANY_LENGTH = -1
# Where rdata holds names: the bytes before them, how many names, the bytes after them.
_NAMES = {
    **dict.fromkeys((NS, CNAME, PTR, DNAME, 3, 4, 7, 8, 9), (0, 1, 0)),  # and MD, MF, MB, MG, MR
    **dict.fromkeys((MX, 18, 21, 36), (2, 1, 0)),  # and AFSDB, RT, KX
    **dict.fromkeys((14, 17), (0, 2, 0)),  # MINFO, RP
    **dict.fromkeys((NSEC, 30), (0, 1, _ANY_LENGTH)),  # and NXT
    **dict.fromkeys((RRSIG, 24), (18, 1, _ANY_LENGTH)),  # and SIG
    **dict.fromkeys((SVCB, HTTPS), (2, 1, _ANY_LENGTH)),
    SOA: (0, 2, 20),
    SRV: (6, 1, 0),
    26: (2, 2, 0),  # PX
}

# The names of a message by where they begin: each with the place behind it.
Names = dict[int, tuple[bytes, int]]


class QuestionEntry(NamedTuple):
    """An entry of the question section: the name in wire form, type, class."""

    name: bytes
    type: int
    cls: int = IN


class Record(NamedTuple):
    """One resource record of class IN: owner in wire form, TTL in seconds, rdata uncompressed."""

    owner: bytes
    type: int
    ttl: int
    rdata: bytes


class RRset(NamedTuple):
    """Records of one type at one name: their TTL in seconds and rdata in wire form (RFC 9499 section 5)."""

    ttl: int
    rdatas: tuple[bytes, ...]


# What is at a name, by type.
Node = Mapping[int, RRset]


class ParsedRecord(NamedTuple):
    """A record of a received message: key is the owner in lower case, TTL in seconds (RFC 2181 section 8)."""

    owner: bytes
    key: bytes
    type: int
    cls: int
    ttl: int
    rdata: bytes


class Message(NamedTuple):
    """A parsed message."""

    id: int
    flags: int
    questions: list[QuestionEntry]
    answers: list[ParsedRecord]
    authorities: list[ParsedRecord]
    additionals: list[ParsedRecord]


def parse_message(packet: bytes) -> Message:
    """Raises ValueError."""
    names: Names = {}
    try:
        ident, flags, count, *counts = HEADER.unpack_from(packet)
        questions = []
        at = 12
        for _ in range(count):
            question, at = parse_question(packet, at, names)
            questions.append(question)
        sections = []
        for count in counts:
            records, at = parse_records(packet, at, count, names)
            sections.append(records)
    except (IndexError, struct.error) as error:
        raise ValueError(str(error)) from None
    return Message(ident, flags, questions, *sections)


def parse_question(packet: bytes, at: int, names: Names) -> tuple[QuestionEntry, int]:
    """The question at a place, and the place behind it. Raises ValueError, IndexError and struct.error."""
    name, at = parse_name(packet, at, names)
    return QuestionEntry(name, *_QTAIL.unpack_from(packet, at)), at + 4


def parse_name(packet: bytes, at: int, names: Names) -> tuple[bytes, int]:
    """The name at a place, uncompressed, and the place behind it. Raises ValueError and IndexError.

    Pointers must lead back, each farther than the one before it.
    """
    if not packet[at]:  # the root, which each OPT record belongs to
        return b"\0", at + 1
    known = names.get(at)
    if known is not None:
        return known
    start = earliest = at
    out, end = b"", 0
    for _ in range(MAX_POINTERS + 1):
        first = at
        while 0 < (length := packet[at]) < 64:
            at += 1 + length
            if at - first >= _MAX_NAME:
                raise ValueError("name over 255 bytes")
        if length == 0:
            out += packet[first : at + 1]
            end = end or at + 1
            break
        if length < 0xC0:
            raise ValueError("label type")
        out += packet[first:at]
        end = end or at + 2
        at = (length & 0x3F) << 8 | packet[at + 1]
        if not 12 <= at < earliest:
            raise ValueError("a pointer that does not lead back")
        earliest = at
        if at in names:
            out += names[at][0]
            break
    else:
        raise ValueError("too many pointers in a name")
    if len(out) > _MAX_NAME:
        raise ValueError("name over 255 bytes")
    found = names[start] = out, end
    return found


def parse_records(packet: bytes, at: int, count: int, names: Names) -> tuple[list[ParsedRecord], int]:
    """The records of a section, and the place behind it. Raises ValueError, IndexError and struct.error."""
    records = []
    for _ in range(count):
        owner, at = parse_name(packet, at, names)
        kind, cls, ttl, length = _FIXED.unpack_from(packet, at)
        at += 10
        end = at + length
        if end > len(packet):
            raise ValueError("rdata runs past the message")
        rdata = packet[at:end]
        if cls & CLASS_MASK == IN:
            if kind in _NAMES:
                rdata = _expand(packet, at, end, names, *_NAMES[kind])
            elif length != _LENGTHS.get(kind, length):
                raise ValueError("length of an address")
            elif kind in _STRINGS and _skip_strings(rdata, 0, length) != length:
                raise ValueError("a string runs past its rdata")
            elif kind == _NAPTR:
                rdata = _expand(packet, at, end, names, _skip_strings(rdata, 4, 3), 1, 0)
        if ttl > 0x7FFFFFFF and kind != OPT:
            ttl = 0
        records.append(ParsedRecord(owner, owner.lower(), kind, cls, ttl, rdata))
        at = end
    return records, at


def _expand(packet: bytes, at: int, end: int, names: Names, before: int, count: int, after: int) -> bytes:
    """Rdata with its names uncompressed. before, after: how many bytes of it come before and after the names."""
    out = packet[at : at + before]
    at += before
    for _ in range(count):
        name, at = parse_name(packet, at, names)
        out += name
    if at > end or (after >= 0 and end - at != after):
        raise ValueError("length of rdata")
    return out + packet[at:end]


def _skip_strings(rdata: bytes, at: int, most: int) -> int:
    """The place behind at most that many character strings, or behind the last one."""
    while most and at < len(rdata):
        at += 1 + rdata[at]
        most -= 1
    return at


def find_opt(records: Iterable[ParsedRecord]) -> ParsedRecord | None:
    """The OPT record of an additional section (RFC 6891 section 6.1.1). Raises ValueError."""
    found = [record for record in records if record.type == OPT]
    if len(found) > 1 or (found and found[0].owner != b"\0"):
        raise ValueError("OPT owner or a second OPT")
    return found[0] if found else None


def encode_message(
    ident: int,
    flags: int,
    questions: Sequence[QuestionEntry],
    *sections: Sequence[Record],
    opt: bytes = b"",
    limit: int = MAX_MESSAGE,
    cls: int = IN,
) -> tuple[bytes, int]:
    """Encodes a message in at most `limit` bytes, with compressed owners (RFC 1035 section 4.1.4).

    sections: answer, authority and additional records; opt, an OPT record, follows them. Returns how many records at
    the end did not fit, too.
    """
    out = bytearray(12)
    offsets: dict[bytes, int] = {}
    for name, kind, question_class in questions:
        _append_name(out, name, offsets)
        out += _QTAIL.pack(kind, question_class)
    limit -= len(opt)
    counts = [0, 0, 0]
    left = sum(map(len, sections))
    for section, records in enumerate(sections):
        for owner, kind, ttl, rdata in records:
            mark = len(out)
            _append_name(out, owner, offsets)
            out += _FIXED.pack(kind, cls, ttl, len(rdata))
            out += rdata
            if len(out) > limit:
                del out[mark:]
                break
            counts[section] += 1
            left -= 1
        if counts[section] < len(records):
            break
    counts[2] += 1 if opt else 0
    HEADER.pack_into(out, 0, ident, flags, len(questions), *counts)
    out += opt
    return bytes(out), left


def _append_name(out: bytearray, name: bytes, offsets: dict[bytes, int]) -> None:
    """offsets maps each suffix of a name (lower case) to its first place."""
    key, start, at = name.lower(), len(out), 0
    while key[at]:
        place = start + at
        pointer = offsets.setdefault(key[at:], place)
        if pointer < place and pointer < 0x4000:
            out += name[:at]
            out += (0xC000 | pointer).to_bytes(2, "big")
            return
        at += 1 + key[at]
    out += name


@lru_cache(maxsize=4096)
def address_record(text: str) -> tuple[int, bytes]:
    """The type (A or AAAA) and rdata of an address; a zone id is left out. Raises ValueError."""
    packed = ip_address(text.partition("%")[0]).packed
    return (A if len(packed) == 4 else AAAA), packed


def soa_rdata(
    primary: bytes, mailbox: bytes, serial: int, refresh: int, retry: int, expire: int, minimum: int
) -> bytes:
    """The rdata of a SOA record (RFC 1035 section 3.3.13), times in seconds."""
    return primary + mailbox + struct.pack("!5I", serial & 0xFFFFFFFF, refresh, retry, expire, minimum)


def srv_rdata(port: int, target: bytes) -> bytes:
    """The rdata of an SRV record of priority and weight 0 (RFC 2782)."""
    return struct.pack("!3H", 0, 0, port) + target
