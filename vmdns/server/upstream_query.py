"""Encodes a query to an upstream."""

from __future__ import annotations

from collections.abc import Callable

from vmdns.dns import query
from vmdns.dns.forwarded_answer import Question
from vmdns.dns.message import IN
from vmdns.dns.query import UDP_SIZE, Edns, Query

_RD, _AD, _CD = 0x0100, 0x0020, 0x0010
_PLAIN, _SIGNED = (Edns(UDP_SIZE, 0, signed, frozenset()) for signed in (False, True))
_LETTERS = bytes(0x20 if 0x61 <= byte <= 0x7A else 0 for byte in range(256))  # the bit of its case


def encode_query(
    question: Question, draw: Callable[[int], bytes], *, edns: bool, mix_case: bool
) -> tuple[bytes, Query]:
    """Returns the bytes of a query with a random id, and the query. draw gives that many random bytes.

    AD asks for the AD bit of the answer without DNSSEC records (RFC 6840 section 5.7).
    """
    key, kind, signed, unchecked = question
    flags = _RD | _AD | (_CD if unchecked else 0)
    random = draw(2 + len(key))
    ident = int.from_bytes(random[:2], "big")
    name = _mixed(key, random[2:]) if mix_case else key
    packet = query.encode_query(ident, name, kind, flags=flags, dnssec_ok=signed, edns=edns)
    opt = (_SIGNED if signed else _PLAIN) if edns else None
    return packet, Query(ident, flags, name, key, kind, IN, packet[12 : 16 + len(name)], opt)


def _mixed(name: bytes, random: bytes) -> bytes:
    """Returns the name with each letter in a random case, which the response has to repeat
    (draft-vixie-dnsext-dns0x20)."""
    bits = int.from_bytes(random, "big") & int.from_bytes(name.translate(_LETTERS), "big")
    return (int.from_bytes(name, "big") ^ bits).to_bytes(len(name), "big")
