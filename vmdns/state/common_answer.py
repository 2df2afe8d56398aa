"""The common question answered without the general path: a VM's name or address, asked plainly.

Gives the same bytes as `answer` and `respond`, or nothing, and then those are asked. Ten times as many names can be
answered for the first time in a moment.
"""

from __future__ import annotations

import struct

from vmdns.dns.message import AAAA, IN, PTR, SOA, UDP_SIZE, A, opt_record
from vmdns.state.snapshot import Snapshot
from vmdns.state.views import View

_RECORD = struct.Struct("!HHHIH")  # an owner that is the question's name, and the fixed part of a record
_COUNTS = struct.Struct("!5H")
_HEADS = frozenset({b"\0\1\0\0\0\0\0\0", b"\0\1\0\0\0\0\0\1"})
_NAME_AT = 0xC00C
_LEAST_OPT = b"\0\0\x29"
_RD_CD = 0x0110


def quick(packet: bytes, snapshot: Snapshot, view: View, recursion: bool) -> tuple[bytes, bytes] | None:
    """The response to a datagram as it is to the name in lower case, without its id, and the name in lower case. None
    where it takes the general path.

    recursion: whether the asker may have questions forwarded.
    """
    if packet[4:12] not in _HEADS or packet[2] & 0xF8:
        return None
    end = packet.find(0, 12) + 1
    kind = int.from_bytes(packet[end : end + 2], "big")
    if kind not in (A, AAAA, PTR) or packet[end + 2 : end + 4] != b"\0\1":
        return None
    key = packet[12:end].lower()
    if key not in (snapshot.pointers if kind == PTR else snapshot.owned):
        return None
    flags = 0x8400 | (int.from_bytes(packet[2:4], "big") & _RD_CD) | (0x0080 if recursion else 0)
    opt, limit = b"", 512
    tail = packet[end + 4 :]
    if packet[11]:
        if len(tail) != 11 or tail[:3] != _LEAST_OPT or tail[6] or tail[9:] != b"\0\0":
            return None
        limit = min(max(int.from_bytes(tail[3:5], "big"), 512), UDP_SIZE)
        opt = opt_record(0x8000 if tail[7] & 0x80 else 0)
    elif tail:
        return None
    if key in snapshot.nodes or not _is_name(packet, end):
        return None
    node = snapshot.find(key, view)
    if not node:
        return None
    rrset = node.get(kind)
    if rrset is None:
        return _negative(key, packet[end : end + 4], flags, opt, limit, snapshot)
    records = b"".join(_RECORD.pack(_NAME_AT, kind, IN, rrset.ttl, len(rdata)) + rdata for rdata in rrset.rdatas)
    out = _COUNTS.pack(flags, 1, len(rrset.rdatas), 0, len(opt) > 0) + key + packet[end : end + 4] + records + opt
    return (out, key) if len(out) + 2 <= limit else None


def _negative(
    key: bytes, asked: bytes, flags: int, opt: bytes, limit: int, snapshot: Snapshot
) -> tuple[bytes, bytes] | None:
    """NODATA, with the SOA of the zone whose name ends this one."""
    apex = key
    while apex not in snapshot.zones:
        apex = apex[1 + apex[0] :]
    owner = 0xC000 | (12 + len(key) - len(apex))
    authority = _RECORD.pack(owner, SOA, IN, snapshot.ttl, len(snapshot.soa)) + snapshot.soa
    out = _COUNTS.pack(flags, 1, 0, 1, len(opt) > 0) + key + asked + authority + opt
    return (out, key) if len(out) + 2 <= limit else None


def _is_name(packet: bytes, end: int) -> bool:
    """Whether the labels from 12 on end exactly there: a zero byte may be inside of one."""
    at = 12
    while at < end:
        length = packet[at]
        if length == 0:
            return at + 1 == end and end - 12 <= 255
        if length > 63:
            return False
        at += 1 + length
    return False
