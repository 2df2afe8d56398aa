"""Which entries of a neighbour table are facts, and what the commands of macOS print of it.

The samples are in the form that published outputs have; none was recorded for this test.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from vmdns.sources import neighbours as commands
from vmdns.sources.neighbours import MAX_ENTRIES, NeighbourEntry, NeighbourHistory, is_unicast_neighbour
from vmdns.state.facts import Neighbour
from vmdns.windows.ip_helper import NeighbourRow

MAC = "080027000001"
EUI64 = "2001:db8::a00:27ff:fe00:1"  # made of it
RANDOM = ("2001:db8::1c2d:3e4f:5a6b:7c8d", "2001:db8::2c2d:3e4f:5a6b:7c8d")
SAMPLES = Path(__file__).parent / "samples" / "neighbours"


def sample(name: str) -> str:
    return (SAMPLES / f"{name}.txt").read_text("utf-8")


def addresses(found: dict[str, Neighbour]) -> list[str]:
    return [one.address for one in found.values()]


@pytest.mark.parametrize(
    ("mac", "address", "expected"),
    [
        (MAC, "192.168.1.7", True),
        (MAC, EUI64, True),
        (MAC, "fd00::7", True),
        (MAC, "169.254.1.7", False),
        (MAC, "fe80::a00:27ff:fe00:1", False),
        (MAC, "224.0.0.251", False),
        (MAC, "ff02::fb", False),
        (MAC, "127.0.0.1", False),
        (MAC, "::1", False),
        (MAC, "0.0.0.0", False),
        (MAC, "192.168.1", False),
        (MAC, "None", False),
        ("01005e0000fb", "192.168.1.7", False),
        ("ffffffffffff", "192.168.1.255", False),
        ("000000000000", "192.168.1.7", False),
        ("", "192.168.1.7", False),
        ("08002700000", "192.168.1.7", False),
        ("08002700000100112233", "192.168.1.7", False),  # InfiniBand
    ],
)
def test_what_a_machine_can_have(mac: str, address: str, expected: bool) -> None:
    assert is_unicast_neighbour(NeighbourEntry("eth0", mac, address)) is expected


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ([EUI64, *RANDOM], [EUI64]),
        (["2001:db8::77", *RANDOM], ["2001:db8::77"]),
        ([EUI64, "2001:db8::77", *RANDOM], [EUI64, "2001:db8::77"]),
        ([RANDOM[1]], [RANDOM[1]]),
        (list(RANDOM), [RANDOM[0]]),
        ([EUI64, "fd00::1c2d:3e4f:5a6b:7c8d"], [EUI64, "fd00::1c2d:3e4f:5a6b:7c8d"]),
        ([*RANDOM, "192.168.1.7", "192.168.1.8"], ["192.168.1.7", "192.168.1.8", RANDOM[0]]),
    ],
)
def test_temporary_addresses_do_not_count(there: list[str], expected: list[str]) -> None:
    entries = [NeighbourEntry("eth0", MAC, address) for address in there]
    assert sorted(addresses(NeighbourHistory().facts(entries, 5.0))) == sorted(expected)
    others = [
        NeighbourEntry("eth1", MAC, RANDOM[0]),
        NeighbourEntry("eth0", "080027000002", "2001:db8::3c2d:3e4f:5a6b:7c8d"),
    ]
    assert (
        len(NeighbourHistory().facts(entries + others, 5.0)) == len(expected) + 2
    )  # of other links and other machines


def test_of_addresses_that_may_all_be_temporary_the_first_that_was_seen_counts() -> None:
    seen = NeighbourHistory()
    first, second = (NeighbourEntry("eth0", MAC, one) for one in reversed(RANDOM))
    assert addresses(seen.facts([first], 1.0)) == [first.address]
    assert addresses(seen.facts([first, second], 2.0)) == [first.address]
    assert seen.facts([second], 3.0) == {
        f"neighbour:eth0 {second.address}": Neighbour("eth0", MAC, second.address, 2.0)
    }


def test_since_is_the_first_time_without_a_gap() -> None:
    seen, entry = NeighbourHistory(), NeighbourEntry("eth0", MAC, "192.168.1.7")
    for now, there, since in ((1.0, True, 1.0), (2.0, True, 1.0), (3.0, False, None), (4.0, True, 4.0)):
        found = seen.facts([entry] if there else [], now)
        assert [one.since for one in found.values()] == ([] if since is None else [since])
    (other,) = seen.facts([entry._replace(mac="080027000002")], 5.0).values()
    assert (other.mac, other.since) == ("080027000002", 5.0)


def test_of_too_many_the_newest_are_taken() -> None:
    def entries(first: int, count: int) -> list[NeighbourEntry]:
        return [
            NeighbourEntry("eth0", f"080027{at:06x}", f"10.0.{at // 256}.{at % 256}")
            for at in range(first, first + count)
        ]

    seen = NeighbourHistory()
    old = entries(0, MAX_ENTRIES)
    assert len(seen.facts(old, 1.0)) == MAX_ENTRIES
    fresh = entries(MAX_ENTRIES, 10)
    found = seen.facts(old + fresh, 2.0)
    assert len(found) == MAX_ENTRIES
    assert {f"neighbour:eth0 {one.address}" for one in fresh} <= found.keys()


def kept(entries: list[NeighbourEntry]) -> list[tuple[str, ...]]:
    return [(one.interface, one.mac, one.address) for one in NeighbourHistory().facts(entries, time.time()).values()]


def test_macos() -> None:
    assert kept(list(commands.parse_macos(sample("macos-arp")))) == [
        ("bridge100", "525400010203", "192.168.64.2"),
        ("en0", "080027" + "0a0b0c", "192.168.1.77"),
        ("en0", "3c22fb000102", "192.168.1.1"),
        ("en0", "3c22fbaabbcc", "192.168.1.42"),
        ("vboxnet0", "080027000001", "192.168.56.101"),
    ]
    assert kept(list(commands.parse_macos(sample("macos-ndp")))) == [
        ("en0", "080027000001", "2001:db8:1763:4351::1000"),
        ("en0", "080027000002", "2001:db8:1763:4351:a00:27ff:fe00:2"),
    ]


def test_windows() -> None:
    rows = [
        NeighbourRow(12, "192.168.1.1", "3c22fb000102", 5),
        NeighbourRow(12, "192.168.1.66", "", 0),  # unreachable
        NeighbourRow(12, "192.168.1.67", "080027000009", 1),  # incomplete: what it was before
        NeighbourRow(12, "224.0.0.22", "01005e000016", 6),
        NeighbourRow(12, "192.168.1.255", "ffffffffffff", 6),
        NeighbourRow(12, "fe80::1%12", "3c22fb000102", 4),
        NeighbourRow(19, "2001:db8::501", "080027000001", 4),
        NeighbourRow(77, "192.168.9.1", "080027000001", 4),  # of an adapter that just vanished
    ]
    assert kept(commands.adapter_neighbours(rows, {12: "이더넷", 19: "Ethernet 2"})) == [
        ("Ethernet 2", "080027000001", "2001:db8::501"),
        ("이더넷", "3c22fb000102", "192.168.1.1"),
    ]


@given(text=some.text(alphabet="(:.)-%0aF \n\tonat1f[]", max_size=300))
def test_no_output_breaks_them(text: str) -> None:
    NeighbourHistory().facts(commands.parse_macos(text), 1.0)
