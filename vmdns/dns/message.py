"""Parses queries and encodes responses (RFC 1035 section 4, RFC 6891, RFC 9619).

Of a query only the header, one question and the OPT record are parsed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from vmdns.dns.cookie import COOKIE, is_legal_length
from vmdns.dns.escape import escape_text

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
BADVERS = 16

A, NS, CNAME, SOA, PTR, HINFO, MX, TXT, AAAA, SRV, OPT = 1, 2, 5, 6, 12, 13, 15, 16, 28, 33, 41
SVCB, HTTPS, IXFR, AXFR, ANY = 64, 65, 251, 252, 255
MAILB, MAILA = 253, 254
IN = 1
# Types that no query may ask for: OPT, and the Meta-TYPEs of 128 to 255 that are no QTYPE, NXNAME (128), TKEY and TSIG
# among them (RFC 6895 section 3.1, RFC 9824 section 3.5).
NOT_QUERY_TYPES = frozenset({OPT, *range(128, IXFR)})
# QTYPEs that this server offers nobody and forwards nowhere: zone transfers, and mail types of old.
NOT_OFFERED_TYPES = frozenset({IXFR, AXFR, MAILB, MAILA})

# RFC 9715 section 3.1: what fits one Ethernet frame, whatever the client offers.
UDP_SIZE = 1232
EDNS_KEEPALIVE = 11
EDNS_EDE = 15
EDE_INVALID_QUERY_TYPE = 30  # RFC 9824 section 9
# Of an OPT record: padding takes 468 (RFC 8467), all else less. 16,000 empty ones take 15 ms to walk.
MOST_OPTION_BYTES = 4096

HEADER = struct.Struct("!6H")
_FIXED = struct.Struct("!HHIH")
_QTAIL = struct.Struct("!HH")
_ANY_CLASS = 255
# SIG(0), TKEY and TSIG records have class ANY (RFC 2931 section 3, RFC 2930 section 2, RFC 8945 section 4.2).
_TRANSACTION_TYPES = frozenset({24, 249, 250})


class Edns(NamedTuple):
    """The OPT record of a query: payload size in bytes, the DO bit, the codes of its options, the data of the first
    COOKIE option."""

    size: int
    version: int
    dnssec_ok: bool
    options: frozenset[int]
    cookie: bytes = b""


@dataclass(slots=True)  # not frozen: creation would take three times as long
class Query:
    """A well-formed query with one question.

    name is the wire name as asked, key the same in lower case; question the bytes of the question section.
    response_options are the options in the OPT record of every response to it, in wire form. verified: its sender has
    the address that it came from, as it came by TCP or with a cookie of ours.
    """

    id: int
    flags: int
    name: bytes
    key: bytes
    type: int
    cls: int
    question: bytes
    edns: Edns | None
    response_options: bytes = b""
    verified: bool = False

    @property
    def recursion_desired(self) -> bool:
        return bool(self.flags & 0x0100)

    @property
    def checking_disabled(self) -> bool:
        return bool(self.flags & 0x0010)

    @property
    def dnssec_ok(self) -> bool:
        return self.edns is not None and self.edns.dnssec_ok


class Record(NamedTuple):
    """One resource record of class IN: owner in wire form, TTL in seconds, rdata uncompressed."""

    owner: bytes
    type: int
    ttl: int
    rdata: bytes


class Malformed(ValueError):
    """The packet is no query that can be answered; `reply` is what to send back, None for silence."""

    def __init__(self, reply: bytes | None, why: str) -> None:
        super().__init__(why)
        self.reply = reply


def encode_header_response(packet: bytes, rcode: int, question: bytes = b"") -> bytes:
    """A response made of the query's header, with its question section if that was read.

    Id and opcode are kept, RD too for opcode QUERY: in other opcodes the bit may mean anything (RFC 6895 section 2.1).
    """
    flags = (packet[2] << 8) | packet[3]
    flags = 0x8000 | (flags & (0x7800 if flags & 0x7800 else 0x0100)) | rcode
    return packet[:2] + struct.pack("!5H", flags, 1 if question else 0, 0, 0, 0) + question


def parse_query(packet: bytes) -> Query:
    """Reads a query. Raises `Malformed` with the reply that such a packet gets.

    Silence: fewer than 12 bytes, or a response (RFC 1035 section 4.1.1). NOTIMP: another opcode.
    FORMERR: not exactly one question (RFC 9619 section 4) or anything that does not parse; with the question section
    if the fault lies behind it.
    """
    if len(packet) < 12:
        raise Malformed(None, "short")
    ident, flags, questions, answers, authorities, additionals = HEADER.unpack_from(packet)
    if flags & 0x8000:
        raise Malformed(None, "a response")
    if flags & 0x7800:
        raise Malformed(encode_header_response(packet, NOTIMP), "opcode")
    if questions != 1:
        raise Malformed(encode_header_response(packet, FORMERR), "counts")
    question = b""
    try:
        end = skip_name(packet, 12)
        kind, cls = _QTAIL.unpack_from(packet, end)
        question = packet[12 : end + 4]
        if answers or authorities or additionals > 4:
            raise ValueError("counts")
        edns = _read_edns(packet, end + 4, additionals, cls) if additionals else None
    except (IndexError, struct.error, ValueError) as error:
        raise Malformed(encode_header_response(packet, FORMERR, question), str(error)) from None
    name = packet[12:end]
    return Query(ident, flags, name, name.lower(), kind, cls, question, edns)


def skip_name(packet: bytes, at: int, *, pointers: bool = False) -> int:
    """The place behind the name that begins at a place. Raises ValueError and IndexError."""
    start = at
    while True:
        length = packet[at]
        if length == 0:
            if at + 1 - start > 255:
                raise ValueError("name over 255 bytes")
            return at + 1
        if length > 63:
            if pointers and length >= 0xC0:
                packet[at + 1]
                return at + 2
            raise ValueError("label type")
        at += 1 + length


def _read_edns(packet: bytes, at: int, count: int, cls: int) -> Edns | None:
    edns = None
    for _ in range(count):
        owner = packet[at]
        end = skip_name(packet, at, pointers=True)
        kind, size, ttl, length = _FIXED.unpack_from(packet, end)
        at = end + 10 + length
        if at > len(packet):
            raise ValueError("rdata runs past the packet")
        if kind != OPT:
            # Here `size` is the record's class: that of the question, as in every message (RFC 1035 section 3.2.4).
            if size != cls and not (size == _ANY_CLASS and kind in _TRANSACTION_TYPES):
                raise ValueError("class of a record")
            continue
        if owner or edns is not None:
            raise ValueError("OPT owner or a second OPT")
        edns = Edns(size, (ttl >> 16) & 0xFF, bool(ttl & 0x8000), *_read_options(packet, end + 10, at))
    return edns


def _read_options(packet: bytes, at: int, end: int) -> tuple[frozenset[int], bytes]:
    if end - at > MOST_OPTION_BYTES:
        raise ValueError("too many options")
    codes = set()
    cookie = b""
    while at < end:
        code, length = _QTAIL.unpack_from(packet, at)
        at += 4 + length
        if at > end:
            raise ValueError("option runs past OPT")
        if code == COOKIE and code not in codes:
            if not is_legal_length(length):
                raise ValueError("length of a cookie")
            cookie = packet[at - length : at]
        codes.add(code)
    return frozenset(codes), cookie


def udp_response_limit(query: Query) -> int:
    """How many bytes a UDP response to this query may have (RFC 6891 section 6.2.3-5)."""
    if query.edns is None:
        return 512
    return min(max(query.edns.size, 512), UDP_SIZE)


def encode_response(
    query: Query,
    rcode: int = NOERROR,
    *,
    limit: int,
    authoritative: bool = False,
    recursion_available: bool = True,
    authentic: bool = False,
    answer: Sequence[Record] = (),
    authority: Sequence[Record] = (),
    extended_error: tuple[int, str] | None = None,
) -> bytes:
    """Encodes the response to `query` in at most `limit` bytes.

    Records that do not fit are left out, and TC is set (RFC 2181 section 9). The question
    is echoed as asked. extended_error is an EDE code and text (RFC 8914), sent where the query had
    EDNS.
    """
    flags = 0x8000 | (query.flags & 0x0110) | (rcode & 0xF)
    flags |= (0x0400 if authoritative else 0) | (0x0080 if recursion_available else 0) | (0x0020 if authentic else 0)
    opt = _encode_response_opt(query, rcode, extended_error)
    room = limit - len(opt)
    if room < 12 + len(query.question):
        opt = b""
        room = limit
    out = bytearray(12)
    out += query.question
    offsets: dict[bytes, int] = {}
    index_suffixes(offsets, query.key, 12)
    counts = [0, 0]
    truncated = False
    for section, records in enumerate((answer, authority)):
        for record in records:
            mark = len(out)
            append_record(out, record, offsets)
            if len(out) > room:
                del out[mark:]
                truncated = True
                break
            counts[section] += 1
        if truncated:
            break
    if truncated:
        flags |= 0x0200
    HEADER.pack_into(out, 0, query.id, flags, 1, counts[0], counts[1], 1 if opt else 0)
    out += opt
    return bytes(out)


def index_suffixes(offsets: dict[bytes, int], key: bytes, at: int) -> None:
    """Adds the place of each suffix of the name, for compression pointers (RFC 1035 section 4.1.4)."""
    while key[0]:
        if at < 0x4000 and key not in offsets:
            offsets[key] = at
        at += 1 + key[0]
        key = key[1 + key[0] :]


def append_record(out: bytearray, record: Record, offsets: dict[bytes, int], cls: int = IN) -> None:
    """Adds the record to a message, its owner compressed; offsets maps each suffix of a name to its place."""
    key = record.owner.lower()
    rest = record.owner
    start = len(out)
    while key[0]:
        at = offsets.get(key)
        if at is not None:
            out += (0xC000 | at).to_bytes(2, "big")
            break
        step = 1 + key[0]
        out += rest[:step]
        rest, key = rest[step:], key[step:]
    else:
        out.append(0)
    index_suffixes(offsets, record.owner.lower(), start)
    out += _FIXED.pack(record.type, cls, record.ttl, len(record.rdata))
    out += record.rdata


def _encode_response_opt(query: Query, rcode: int, extended_error: tuple[int, str] | None) -> bytes:
    if query.edns is None:
        return b""
    options = query.response_options
    if extended_error is not None:
        # Cut between characters: half of one would make the whole option unreadable (RFC 8914 section 2).
        text = escape_text(extended_error[1]).encode("utf-8", "replace")[:200].decode("utf-8", "ignore").encode("utf-8")
        options += struct.pack("!HHH", EDNS_EDE, 2 + len(text), extended_error[0]) + text
    return encode_opt(((rcode >> 4) << 24) | (0x8000 if query.edns.dnssec_ok else 0), options)


def add_keepalive(query: Query, seconds: float) -> Query:
    """The query with a keepalive option for its response, if it asks for one (RFC 7828). seconds: the idle timeout."""
    if query.edns is None or EDNS_KEEPALIVE not in query.edns.options:
        return query
    option = struct.pack("!HHH", EDNS_KEEPALIVE, 2, min(int(seconds * 10), 0xFFFF))
    return replace(query, response_options=query.response_options + option)


def encode_option(code: int, data: bytes) -> bytes:
    """One option of an OPT record."""
    return _QTAIL.pack(code, len(data)) + data


def encode_opt(ttl: int, options: bytes = b"") -> bytes:
    """The OPT record of responses, with its TTL field: extended rcode, version and flags (RFC 6891 section 6.1.3)."""
    return b"\0" + _FIXED.pack(OPT, UDP_SIZE, ttl, len(options)) + options


def soa_rdata(
    primary: bytes, mailbox: bytes, serial: int, refresh: int, retry: int, expire: int, minimum: int
) -> bytes:
    """The rdata of a SOA record (RFC 1035 section 3.3.13), times in seconds."""
    return primary + mailbox + struct.pack("!5I", serial & 0xFFFFFFFF, refresh, retry, expire, minimum)


def srv_rdata(port: int, target: bytes) -> bytes:
    """The rdata of an SRV record of priority and weight 0 (RFC 2782)."""
    return struct.pack("!3H", 0, 0, port) + target


def encode_query(
    ident: int, key: bytes, kind: int, *, flags: int = 0x0100, dnssec_ok: bool = False, edns: bool = True
) -> bytes:
    """A query for one name of class IN, with an OPT record of 1232 bytes unless edns is False."""
    out = HEADER.pack(ident, flags, 1, 0, 0, 1 if edns else 0) + key + _QTAIL.pack(kind, IN)
    if edns:
        out += b"\0" + _FIXED.pack(OPT, UDP_SIZE, 0x8000 if dnssec_ok else 0, 0)
    return out
