"""Changes encoded messages: truncates responses, removes and adds COOKIE options.

Our OPT record is always the last record of a response, and has 1232 bytes of payload (dns/message.py).
"""

from __future__ import annotations

import struct

from vmdns.dns.cookie import BADCOOKIE, COOKIE, FULL, is_legal_length
from vmdns.dns.message import OPT, parse_name
from vmdns.dns.query import UDP_SIZE, encode_opt

_ONE_WITH_OPT = b"\0\1\0\0\0\0\0\1"
_OPT_START = b"\0" + struct.pack("!HH", OPT, UDP_SIZE)
_ASKED_OPT = b"\0" + struct.pack("!H", OPT)
_PLAIN_OPT = 11
_OPTION = struct.Struct("!HH")
_TC = 0x02
LEAST_SIZE = 512


def strip_records(response: bytes) -> bytes:
    """The response without its records: the question, and the OPT record where there was one, with TC set.

    A COOKIE option is kept, and the rcode is BADCOOKIE (RFC 7873 section 5.2.3): a client that knows cookies retries
    at once with this one.
    """
    if response[4:6] != b"\0\1":
        return response  # made of a header alone
    end = _question_end(response)
    head = bytearray(response[:end])
    head[6:12] = bytes(6)
    at = response.rfind(_OPT_START)
    if at < end or response[10:12] == b"\0\0":
        head[2] |= _TC
        return bytes(head)
    head[11] = 1
    opt = bytearray(response[at : at + 9])
    kept = response[at + _PLAIN_OPT : at + _PLAIN_OPT + 4 + FULL]
    if kept[:4] == _OPTION.pack(COOKIE, FULL):
        head[3] = head[3] & 0xF0 | BADCOOKIE & 0xF
        opt[5] = BADCOOKIE >> 4
    else:
        head[2] |= _TC
        kept = b""
    return bytes(head + opt) + len(kept).to_bytes(2, "big") + kept


def encode_truncated(query: bytes) -> bytes | None:
    """The shortest response to a query: its question, an OPT record where it has one, and TC. None for what is no query
    with one question. It is never longer than the query."""
    if len(query) < 12 or query[2] & 0xF8 or query[4:10] != b"\0\1\0\0\0\0":
        return None
    try:
        end = _question_end(query)
    except (IndexError, ValueError):
        return None
    if end > len(query):
        return None
    edns = query[10:12] != b"\0\0" and len(query) >= end + _PLAIN_OPT
    head = query[:2] + bytes((0x82 | query[2] & 1, 0, 0, 1, 0, 0, 0, 0, 0, edns))
    return head + query[12:end] + (encode_opt(0) if edns else b"")


def minimum_query_size(response: bytes) -> int:
    """How many bytes the query to a response must have had: header, question, and an OPT record where we sent one."""
    if response[4:6] != b"\0\1":
        return 12
    return _question_end(response) + (_PLAIN_OPT if response[10:12] != b"\0\0" else 0)


def _question_end(packet: bytes) -> int:
    return parse_name(packet, 12, {})[1] + 4


def remove_cookie(packet: bytes) -> tuple[bytes, bytes]:
    """A query without the COOKIE option that is the only one of it, and the option's data; else the packet itself.

    So `dig`, which always sends one, is answered from the answer cache.
    """
    length = len(packet)
    if packet[4:12] != _ONE_WITH_OPT:
        return packet, b""
    end = packet.find(0, 12) + 5
    at = end + _PLAIN_OPT
    if end < 5 or at + 4 > length or packet[end : end + 3] != _ASKED_OPT:
        return packet, b""
    code, size = _OPTION.unpack_from(packet, at)
    whole = int.from_bytes(packet[at - 2 : at], "big")
    if code != COOKIE or whole != 4 + size or at + whole != length or not is_legal_length(size):
        return packet, b""
    return packet[: at - 2] + b"\0\0", packet[at + 4 :]


def add_cookie(response: bytes, cookie: bytes, limit: int) -> bytes | None:
    """A response (without its id) with a COOKIE option; None if its OPT record has other options, or if it gets
    longer than `limit` with its id."""
    at = len(response) - _PLAIN_OPT
    if response[at : at + 5] != _OPT_START or response[-2:] != b"\0\0" or len(response) + 6 + len(cookie) > limit:
        return None
    return b"".join((response[:-2], (4 + len(cookie)).to_bytes(2, "big"), _OPTION.pack(COOKIE, len(cookie)), cookie))


def response_limit(plain: bytes) -> int:
    """How many bytes the response to such a query may have, as `udp_response_limit` has it."""
    size = int.from_bytes(plain[-8:-6], "big")
    return min(max(size, LEAST_SIZE), UDP_SIZE)
