"""How much dnspython would make of a message: records are few, but one of them may hold 16,000 things.

dnspython takes some 50 us for each, and meanwhile nobody else is served. One TXT record of 65,000 empty strings, from
anybody's domain, is three seconds.
"""

from __future__ import annotations

import struct

from vmdns.dns.message import HTTPS, OPT, SVCB, TXT

# Things in a message: a TXT of 64 KiB in strings of 255 bytes has 257, service parameters are a dozen.
MOST_THINGS = 1000

_FIXED = struct.Struct("!HHIH")
_NINFO, _SPF, _APL = 56, 99, 42
_STRINGS = frozenset({TXT, _NINFO, _SPF})
# The least bytes that make one thing: an option, an address prefix, an address in a service parameter.
_LEAST = {OPT: 4, _APL: 4, SVCB: 4, HTTPS: 4}
_OTHERS = 32  # a window of a bitmap of types, and what is as dear


def is_heavy(message: bytes) -> bool:
    """Whether the records of a message with one question hold more than 1,000 things. Never raises.

    One that breaks off is judged by what stands before.
    """
    counts = sum(int.from_bytes(message[at : at + 2], "big") for at in (6, 8, 10))
    things = 0
    try:
        at = _behind_name(message, 12) + 4
        for _ in range(counts):
            at = _behind_name(message, at)
            kind, _, _, length = _FIXED.unpack_from(message, at)
            at += 10
            things += 1 + _things(message, at, min(at + length, len(message)), kind, MOST_THINGS - things)
            if things > MOST_THINGS:
                return True
            at += length
    except (IndexError, struct.error):
        return False
    return False


def _behind_name(message: bytes, at: int) -> int:
    while (length := message[at]) and length < 0xC0:
        at += 1 + length
    return at + (2 if length else 1)


def _things(message: bytes, at: int, end: int, kind: int, most: int) -> int:
    """At most one more than `most`."""
    if kind not in _STRINGS:
        return min((end - at) // _LEAST.get(kind, _OTHERS), most + 1)
    count = 0
    while at < end and count <= most:
        at += 1 + message[at]
        count += 1
    return count
