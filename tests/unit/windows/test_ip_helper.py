"""The IP Helper API: structures recorded under Wine, whose layout is Windows' own, and the calls on Windows."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from vmdns.windows.ip_helper import (
    PREFERRED,
    UP,
    Adapter,
    AdapterAddress,
    NeighbourRow,
    decode_adapters,
    decode_neighbours,
    read_adapters,
    read_neighbour_table,
)

SAMPLES = Path(__file__).parent / "samples"
windows = pytest.mark.skipif(sys.platform != "win32", reason="calls of Windows")
GUID = "{0000000%d-0000-0000-0000-4E6574446576}"
SERVERS = "192.168.56.254", "fd12::53"


def recorded() -> tuple[bytearray, int]:
    """A buffer of GetAdaptersAddresses, and the address that it had."""
    data = (SAMPLES / "adapters.bin").read_bytes()
    return bytearray(data[8:]), struct.unpack("<Q", data[:8])[0]


def test_adapters() -> None:
    assert [*decode_adapters(bytes(recorded()[0]), recorded()[1])] == [
        Adapter(
            1, 0, GUID % 1, "lo", "lo", "", 24, UP, 0,
            (AdapterAddress("::1", 128, PREFERRED), AdapterAddress("127.0.0.1", 8, PREFERRED)),
            (), SERVERS, "lab.example",
        ),
        Adapter(
            2, 0, GUID % 2, "hob", "hob", "c65b03f19e5c", 6, UP, 0,
            (AdapterAddress("fe80::c45b:3ff:fef1:9e5c%2", 64, PREFERRED),), (), SERVERS, "lab.example",
        ),
        Adapter(
            3, 0, GUID % 3, "hoa", "hoa", "8eb25211a180", 6, UP, 0,
            (
                AdapterAddress("fd12::1", 64, PREFERRED),
                AdapterAddress("fe80::8cb2:52ff:fe11:a180%3", 64, PREFERRED),
                AdapterAddress("192.168.56.1", 24, PREFERRED),
            ),
            ("192.168.56.254",), SERVERS, "lab.example",
        ),
    ]  # fmt: skip


def test_the_users_name_and_the_drivers_description() -> None:
    """Wine has one name for both; the offsets of FriendlyName and Description are those of iptypes.h."""
    data, base = recorded()
    for offset, text in ((72, "이더넷 2"), (64, "VirtualBox Host-Only Ethernet Adapter #2")):
        struct.pack_into("<Q", data, offset, base + len(data))
        data += text.encode("utf-16-le") + b"\0\0"
    struct.pack_into("<I", data, 188, 0)  # no IPv6 interface
    struct.pack_into("<I", data, 104, 2)  # IfOperStatusDown
    found = next(decode_adapters(bytes(data), base))
    assert (found.name, found.description) == ("이더넷 2", "VirtualBox Host-Only Ethernet Adapter #2")
    assert found.status != UP


def test_neighbours() -> None:
    rows = [*decode_neighbours((SAMPLES / "neighbours.bin").read_bytes())]
    assert rows[:3] == [
        NeighbourRow(3, "192.168.56.101", "080027abcdef", 5),
        NeighbourRow(3, "192.168.56.102", "080027abcdf0", 5),
        NeighbourRow(1, "224.0.0.22", "", 6),
    ]
    assert len(rows) == 8


def test_a_neighbour_by_ipv6() -> None:
    address = bytes.fromhex("fd120000000000000a0027fffeabcdef")
    sockaddr = struct.pack("<HHI16sI", 23, 0, 0, address, 0)
    row = struct.pack("<28sIQ32sIiB3xI", sockaddr, 7, 0, bytes.fromhex("080027abcdef"), 6, 4, 0, 0)
    table = struct.pack("<II", 1, 0) + row
    assert [*decode_neighbours(table)] == [NeighbourRow(7, "fd12::a00:27ff:feab:cdef", "080027abcdef", 4)]


@windows
def test_the_adapters_of_this_computer() -> None:
    found = {one.address for adapter in read_adapters() for one in adapter.addresses}
    assert {"127.0.0.1"} <= found


@windows
def test_the_neighbours_of_this_computer() -> None:
    indexes = {adapter.interface_index for adapter in read_adapters()}
    assert {row.interface_index for row in read_neighbour_table()} <= indexes
