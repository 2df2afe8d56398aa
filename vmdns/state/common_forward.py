"""The common question for others without the general path: read from the datagram, and its answer rendered.

Gives the same as `parse_query`, `answer` and `render`, or nothing, and then those are asked.
"""

from __future__ import annotations

import struct

from vmdns.dns.forwarded_answer import Forwarded, Question, is_data
from vmdns.dns.message import IN, UDP_SIZE, append, opt_record, remember
from vmdns.state.snapshot import Snapshot

_HEADS = frozenset({b"\0\1\0\0\0\0\0\0", b"\0\1\0\0\0\0\0\1"})
_COUNTS = struct.Struct("!5H")
_RECORD = struct.Struct("!HHHIH")  # an owner that is the question's name, and the fixed part of a record
_NAME_AT = 0xC00C
_LEAST_OPT = b"\0\0\x29"
_RD, _CD, _RD_CD, _AD, _RESPONSE = 0x01, 0x10, 0x0110, 0x20, 0x8080
_OPTS = (opt_record(0), opt_record(0x8000))


class Foreign:
    """A datagram that asks for what is not ours, and nothing but that.

    end is where its name ends, opt our OPT record in the response, limit how many bytes that may have.
    """

    __slots__ = ("end", "limit", "opt", "packet", "question")

    def __init__(self, packet: bytes, end: int, question: Question, opt: bytes, limit: int) -> None:
        self.packet = packet
        self.end = end
        self.question = question
        self.opt = opt
        self.limit = limit


def foreign(packet: bytes, snapshot: Snapshot) -> Foreign | None:
    """What a datagram asks for; None where it may be ours, or nobody's, or takes a closer look."""
    if packet[4:12] not in _HEADS or packet[2] & 0xF9 != _RD:
        return None
    end = packet.find(0, 12) + 1
    at = 12
    count = 0
    while at < end - 1:  # a zero byte may be inside of a label
        length = packet[at]
        if length > 63:
            return None
        at += 1 + length
        count += 1
    kind = int.from_bytes(packet[end : end + 2], "big")
    if at != end - 1 or count < 2 or end > 267 or packet[end + 2 : end + 4] != b"\0\1" or not is_data(kind):
        return None
    opt, limit, signed = b"", 512, False
    size = len(packet) - end
    if packet[11]:
        if size != 15 or packet[end + 4 : end + 7] != _LEAST_OPT or packet[end + 10] or packet[end + 13 :] != b"\0\0":
            return None
        limit = min(max(int.from_bytes(packet[end + 7 : end + 9], "big"), 512), UDP_SIZE)
        signed = packet[end + 11] & 0x80 != 0
        opt = _OPTS[signed]
    elif size != 4:
        return None
    key = packet[12:end].lower()
    if not snapshot.is_foreign(key):
        return None
    return Foreign(packet, end, Question(key, kind, signed, packet[3] & _CD != 0), opt, limit)


def respond_to(asked: Foreign, found: Forwarded) -> bytes | None:
    """The response; None where it does not fit, or has an error to tell."""
    if found.error is not None:
        return None
    packet, end, key = asked.packet, asked.end, asked.question.name
    flags = _RESPONSE | (packet[2] << 8 | packet[3]) & _RD_CD | found.rcode
    if found.authentic and (packet[3] & _AD or asked.question.dnssec_ok):
        flags |= _AD
    out = (
        packet[:2]
        + _COUNTS.pack(flags, 1, len(found.answer), len(found.authority), len(asked.opt) > 0)
        + packet[12 : end + 4]
        + _records(found, key)
        + asked.opt
    )
    return out if len(out) <= asked.limit else None


def _records(found: Forwarded, key: bytes) -> bytes:
    if not found.authority:
        if len(found.answer) == 1:
            owner, kind, ttl, rdata = found.answer[0]
            if owner.lower() == key:
                return _RECORD.pack(_NAME_AT, kind, IN, ttl, len(rdata)) + rdata
        elif all(owner.lower() == key for owner, _, _, _ in found.answer):
            return b"".join(
                _RECORD.pack(_NAME_AT, kind, IN, ttl, len(rdata)) + rdata for _, kind, ttl, rdata in found.answer
            )
    out = bytearray(12) + key + b"\0\0\0\0"
    start = len(out)
    offsets: dict[bytes, int] = {}
    remember(offsets, key, 12)
    for record in found.answer + found.authority:
        append(out, record, offsets)
    return bytes(out[start:])
