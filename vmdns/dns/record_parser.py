"""Parses names and records of whole messages: responses of upstreams, and multicast DNS.

Rdata comes out uncompressed: of the types that hold names (RFC 3597 section 4, and those of later RFCs); that of all
others is copied as it is. Each name is parsed once for the place where it begins, in a bounded number of steps.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from vmdns.dns.message import AAAA, CNAME, HINFO, HTTPS, IN, MX, NS, OPT, PTR, SOA, SRV, SVCB, TXT, A

DNAME, NSEC, RRSIG, NSEC3 = 39, 47, 46, 50
# More than the labels of the longest name in use (ip6.arpa has 34).
MAX_POINTERS = 64

_FIXED = struct.Struct("!HHIH")
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


class ParsedRecord(NamedTuple):
    """A record of a received message: owner in wire form, key the same in lower case, TTL in seconds (RFC 2181
    section 8), rdata without compression."""

    owner: bytes
    key: bytes
    type: int
    cls: int
    ttl: int
    rdata: bytes


def parse_name(message: bytes, at: int, names: Names) -> tuple[bytes, int]:
    """The name that begins at a place, uncompressed, and the place behind it. Raises ValueError and IndexError.

    Pointers must lead back, each farther than the one before it.
    """
    known = names.get(at)
    if known is not None:
        return known
    start = earliest = at
    out, end = b"", 0
    for _ in range(MAX_POINTERS + 1):
        first = at
        while 0 < (length := message[at]) < 64:
            at += 1 + length
            if at - first >= _MAX_NAME:
                raise ValueError("name over 255 bytes")
        if length == 0:
            out += message[first : at + 1]
            end = end or at + 1
            break
        if length < 0xC0:
            raise ValueError("label type")
        out += message[first:at]
        end = end or at + 2
        at = (length & 0x3F) << 8 | message[at + 1]
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


def parse_record(message: bytes, at: int, names: Names, class_mask: int = 0xFFFF) -> tuple[ParsedRecord, int]:
    """The record that begins at a place, and the place behind it. Raises ValueError, IndexError and struct.error.

    class_mask: the bits of the class field that are the class; multicast DNS uses the highest for something else.
    """
    owner, at = parse_name(message, at, names)
    kind, cls, ttl, length = _FIXED.unpack_from(message, at)
    at += 10
    end = at + length
    if end > len(message):
        raise ValueError("rdata runs past the message")
    rdata = message[at:end]
    if cls & class_mask == IN:
        if kind in _NAMES:
            rdata = _expand(message, at, end, names, *_NAMES[kind])
        elif length != _LENGTHS.get(kind, length):
            raise ValueError("length of an address")
        elif kind in _STRINGS and _skip_strings(rdata, 0, length) != length:
            raise ValueError("a string runs past its rdata")
        elif kind == _NAPTR:
            rdata = _expand(message, at, end, names, _skip_strings(rdata, 4, 3), 1, 0)
    if ttl > 0x7FFFFFFF and kind != OPT:
        ttl = 0
    return ParsedRecord(owner, owner.lower(), kind, cls, ttl, rdata), end


def _expand(message: bytes, at: int, end: int, names: Names, before: int, count: int, after: int) -> bytes:
    """Rdata with its names uncompressed. before, after: how many bytes of it come before and after the names."""
    out = message[at : at + before]
    at += before
    for _ in range(count):
        name, at = parse_name(message, at, names)
        out += name
    if at > end or (after >= 0 and end - at != after):
        raise ValueError("length of rdata")
    return out + message[at:end]


def _skip_strings(rdata: bytes, at: int, most: int) -> int:
    """The place behind at most that many character strings, or behind the last one."""
    while most and at < len(rdata):
        at += 1 + rdata[at]
        most -= 1
    return at
