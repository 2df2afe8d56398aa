"""Hostile messages of multicast DNS are read in a bounded number of steps, or not at all."""

from __future__ import annotations

import struct

from vmdns.dns.message import MAX_POINTERS
from vmdns.mdns.packets import MAX_PACKET, parse_packet


def chained(pointers: int, records: int) -> bytes:
    """Records whose owner is the end of a chain of that many pointers, which stands in the rdata of the first one."""
    chain = bytearray(b"\1a\0")
    at = 12 + 11
    before, here = at, at + 3
    for _ in range(pointers):
        chain += struct.pack("!H", 0xC000 | before)
        before, here = here, here + 2
    first = b"\0" + struct.pack("!HHIH", 65280, 1, 9, len(chain)) + chain
    others = (struct.pack("!HHHIH", 0xC000 | before, 65280, 1, 9, 0)) * records
    return struct.pack("!6H", 0, 0x8400, 0, 1 + records, 0, 0) + first + others


def test_a_chain_of_pointers_has_a_bound() -> None:
    short = parse_packet(chained(MAX_POINTERS - 1, 3))
    assert short is not None
    assert [one.key for one in short.answers] == [b"\0", *[b"\1a\0"] * 3]
    assert parse_packet(chained(MAX_POINTERS, 3)) is None, "the owner itself is a pointer too"


def test_a_packet_that_points_through_itself_is_given_up() -> None:
    packet = chained(2200, 370)
    assert len(packet) <= MAX_PACKET
    assert parse_packet(packet) is None
