"""Queries of clients and the responses to them: parsing, EDNS, encoding (RFC 1035 section 4, RFC 6891, RFC 9619).

Our OPT record is the last record of a response, so encoded responses can be truncated and get a cookie.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from vmdns.dns import message as wire
from vmdns.dns.cookie import BADCOOKIE, COOKIE, FULL, is_legal_length
from vmdns.dns.escape import escape_text

# Types that no query may ask for: OPT, and the Meta-TYPEs of 128 to 255 that are no QTYPE, NXNAME (128), TKEY and TSIG
# among them (RFC 6895 section 3.1, RFC 9824 section 3.5).
NOT_QUERY_TYPES = frozenset({wire.OPT, *range(128, wire.IXFR)})
# QTYPEs that this server offers nobody and forwards nowhere: zone transfers, and mail types of old.
NOT_OFFERED_TYPES = frozenset({wire.IXFR, wire.AXFR, wire.MAILB, wire.MAILA})

# RFC 9715 section 3.1: what fits one Ethernet frame, whatever the client offers.
UDP_SIZE = 1232
EDNS_KEEPALIVE = 11
EDNS_EDE = 15
# Of an OPT record: padding takes 468 (RFC 8467), all else less. 16,000 empty ones take 15 ms to walk.
MAX_OPTION_BYTES = 4096

_OPTION = struct.Struct("!HH")
_EMPTY_OPT = 11  # bytes of an OPT record without options
_OPT_START = b"\0" + struct.pack("!HH", wire.OPT, UDP_SIZE)
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


class Malformed(ValueError):
    """The packet is no query that can be answered; `reply` is what to send back, None for silence."""

    def __init__(self, reply: bytes | None, why: str) -> None:
        super().__init__(why)
        self.reply = reply


def encode_header_response(packet: bytes, rcode: int, question: bytes = b"") -> bytes:
    """A response made of the query's header, with its question section if that was read.

    Id and opcode are kept, RD too for opcode QUERY: in other opcodes the bit may mean anything (RFC 6895 section 2.1).
    """
    ident, flags = struct.unpack_from("!HH", packet)
    flags = wire.RESPONSE | (flags & (0x7800 if flags & 0x7800 else 0x0100)) | rcode
    return wire.HEADER.pack(ident, flags, 1 if question else 0, 0, 0, 0) + question


def parse_query(packet: bytes) -> Query:
    """Raises `Malformed` with the reply that such a packet gets.

    Silence: fewer than 12 bytes, or a response (RFC 1035 section 4.1.1). NOTIMP: another opcode.
    FORMERR: not exactly one question (RFC 9619 section 4) or anything that does not parse; with the question section
    if the fault lies behind it.
    """
    if len(packet) < 12:
        raise Malformed(None, "short")
    ident, flags, questions, answers, authorities, additionals = wire.HEADER.unpack_from(packet)
    if flags & wire.RESPONSE:
        raise Malformed(None, "a response")
    if flags & 0x7800:
        raise Malformed(encode_header_response(packet, wire.NOTIMP), "opcode")
    question = b""
    names: wire.Names = {}
    try:
        if questions != 1:
            raise ValueError("counts")
        (name, kind, cls), end = wire.parse_question(packet, 12, names)
        question = packet[12:end]
        if answers or authorities or additionals > 4:
            raise ValueError("counts")
        records, _ = wire.parse_records(packet, end, additionals, names)
        edns = _parse_edns(records, cls) if records else None
    except (IndexError, struct.error, ValueError) as error:
        raise Malformed(encode_header_response(packet, wire.FORMERR, question), str(error)) from None
    return Query(ident, flags, name, name.lower(), kind, cls, question, edns)


def _parse_edns(additionals: Iterable[wire.ParsedRecord], cls: int) -> Edns | None:
    for record in additionals:
        # All have the class of the question, as in every message (RFC 1035 section 3.2.4).
        classes = (cls, wire.ANY) if record.type in _TRANSACTION_TYPES else (cls,)
        if record.type != wire.OPT and record.cls not in classes:
            raise ValueError("class of a record")
    opt = wire.find_opt(additionals)
    if opt is None:
        return None
    data = opt.rdata
    if len(data) > MAX_OPTION_BYTES:
        raise ValueError("too many options")
    codes = set()
    cookie = b""
    at = 0
    while at < len(data):
        code, length = _OPTION.unpack_from(data, at)
        at += 4 + length
        if at > len(data):
            raise ValueError("option runs past OPT")
        if code == COOKIE and code not in codes:
            if not is_legal_length(length):
                raise ValueError("length of a cookie")
            cookie = data[at - length : at]
        codes.add(code)
    return Edns(opt.cls, (opt.ttl >> 16) & 0xFF, bool(opt.ttl & 0x8000), frozenset(codes), cookie)


def udp_response_limit(query: Query) -> int:
    """How many bytes a UDP response to this query may have (RFC 6891 section 6.2.3-5)."""
    return 512 if query.edns is None else min(max(query.edns.size, 512), UDP_SIZE)


def encoded_response_limit(packet: bytes) -> int:
    """The same for an encoded query that ends with an OPT record without options."""
    return min(max(int.from_bytes(packet[-8:-6], "big"), 512), UDP_SIZE)


def encode_response(
    query: Query,
    rcode: int = wire.NOERROR,
    *,
    limit: int,
    authoritative: bool = False,
    recursion_available: bool = True,
    authentic: bool = False,
    answer: Sequence[wire.Record] = (),
    authority: Sequence[wire.Record] = (),
    extended_error: tuple[int, str] | None = None,
) -> bytes:
    """Encodes the response to `query` in at most `limit` bytes.

    Records that do not fit are left out, and TC is set (RFC 2181 section 9). The question is echoed as asked.
    extended_error is an EDE code and text (RFC 8914), sent where the query had EDNS.
    """
    flags = wire.RESPONSE | (query.flags & 0x0110) | (rcode & 0xF) | (wire.AUTHORITATIVE if authoritative else 0)
    flags |= (0x0080 if recursion_available else 0) | (0x0020 if authentic else 0)
    opt = _encode_response_opt(query, rcode, extended_error)
    if 12 + len(query.question) + len(opt) > limit:
        opt = b""
    question = wire.QuestionEntry(query.name, query.type, query.cls)
    message, left = wire.encode_message(query.id, flags, (question,), answer, authority, opt=opt, limit=limit)
    return message if not left else message[:2] + (flags | wire.TRUNCATED).to_bytes(2, "big") + message[4:]


def _encode_response_opt(query: Query, rcode: int, extended_error: tuple[int, str] | None) -> bytes:
    if query.edns is None:
        return b""
    options = query.response_options
    if extended_error is not None:
        # Cut between characters: half of one would make the whole option unreadable (RFC 8914 section 2).
        text = escape_text(extended_error[1]).encode("utf-8", "replace")[:200].decode("utf-8", "ignore").encode("utf-8")
        options += encode_option(EDNS_EDE, extended_error[0].to_bytes(2, "big") + text)
    return encode_opt(((rcode >> 4) << 24) | (0x8000 if query.edns.dnssec_ok else 0), options)


def add_keepalive(query: Query, seconds: float) -> Query:
    """The query with a keepalive option for its response, if it asks for one (RFC 7828). seconds: the idle timeout."""
    if query.edns is None or EDNS_KEEPALIVE not in query.edns.options:
        return query
    option = encode_option(EDNS_KEEPALIVE, min(int(seconds * 10), 0xFFFF).to_bytes(2, "big"))
    return replace(query, response_options=query.response_options + option)


def encode_option(code: int, data: bytes) -> bytes:
    """One option of an OPT record."""
    return _OPTION.pack(code, len(data)) + data


def encode_opt(ttl: int, options: bytes = b"") -> bytes:
    """The OPT record of queries and responses, with its TTL field: extended rcode, version and flags (RFC 6891 section
    6.1.3)."""
    return _OPT_START + struct.pack("!IH", ttl, len(options)) + options


def encode_query(
    ident: int, key: bytes, kind: int, *, flags: int = 0x0100, dnssec_ok: bool = False, edns: bool = True
) -> bytes:
    """A query for one name of class IN, with an OPT record of 1232 bytes unless edns is False."""
    opt = encode_opt(0x8000 if dnssec_ok else 0) if edns else b""
    return wire.encode_message(ident, flags, (wire.QuestionEntry(key, kind),), opt=opt)[0]


def strip_records(response: bytes) -> bytes:
    """The response without its records: the question, and the OPT record where there was one, with TC set.

    A COOKIE option is kept, and the rcode is BADCOOKIE (RFC 7873 section 5.2.3): a client that knows cookies retries
    at once with this one.
    """
    if response[4:6] != b"\0\1":
        return response  # made of a header alone
    _, end = wire.parse_question(response, 12, {})
    head = bytearray(response[:end])
    head[6:12] = bytes(6)
    at = response.rfind(_OPT_START)
    if at < end or response[10:12] == b"\0\0":
        head[2] |= wire.TRUNCATED >> 8
        return bytes(head)
    head[11] = 1
    ttl = int.from_bytes(response[at + 5 : at + 9], "big") & 0x00FFFFFF
    cookie = response[at + _EMPTY_OPT : at + _EMPTY_OPT + 4 + FULL]
    if not cookie.startswith(_OPTION.pack(COOKIE, FULL)):
        head[2] |= wire.TRUNCATED >> 8
        return bytes(head) + encode_opt(ttl)
    head[3] = head[3] & 0xF0 | BADCOOKIE & 0xF
    return bytes(head) + encode_opt(ttl | BADCOOKIE >> 4 << 24, cookie)


_TRUNCATED_OPT = encode_opt(0)


def encode_truncated(packet: bytes) -> bytes | None:
    """The shortest response to a query: its question, an OPT record where it has one, and TC. None for what is no query
    with one question. It is never longer than the query, and made of the query's bytes: floods are answered by it."""
    if len(packet) < 12 or packet[2] & 0xF8 or packet[4:10] != b"\0\1\0\0\0\0":
        return None
    end, size = 12, len(packet)
    while end < size and 0 < packet[end] < 64:
        end += 1 + packet[end]
    end += 5
    if end > size or packet[end - 5] or end > 12 + 255 + 4:
        return None
    edns = packet[10:12] != b"\0\0" and size >= end + _EMPTY_OPT
    header = packet[:2] + bytes((0x82 | packet[2] & 1, 0, 0, 1, 0, 0, 0, 0, 0, edns))
    return header + packet[12:end] + (_TRUNCATED_OPT if edns else b"")


def remove_cookie(packet: bytes) -> tuple[bytes, bytes]:
    """A query without the COOKIE option that is the only one of it, and the option's data; else the packet itself.

    So `dig`, which always sends one, is answered from the answer cache.
    """
    at = packet.find(0, 12) + 5 + _EMPTY_OPT
    opt = packet[at - _EMPTY_OPT : at + 4]
    if packet[4:12] != b"\0\1\0\0\0\0\0\1" or len(opt) < _EMPTY_OPT + 4 or opt[:3] != _OPT_START[:3]:
        return packet, b""
    whole, code, size = struct.unpack_from("!3H", opt, _EMPTY_OPT - 2)
    if code != COOKIE or whole != 4 + size or at + whole != len(packet) or not is_legal_length(size):
        return packet, b""
    return packet[: at - 2] + b"\0\0", packet[at + 4 :]


def add_cookie(response: bytes, cookie: bytes, limit: int) -> bytes | None:
    """A response (without its id) with a COOKIE option; None if its OPT record has other options, or if it gets
    longer than `limit` with its id."""
    at = len(response) - _EMPTY_OPT
    if response[at : at + 5] != _OPT_START or response[-2:] != b"\0\0":
        return None
    option = encode_option(COOKIE, cookie)
    return (
        None
        if len(response) + 2 + len(option) > limit
        else b"".join((response[:-2], len(option).to_bytes(2, "big"), option))
    )
