"""The kernel drops most of who floods, and he is heard again: with real sockets."""

from __future__ import annotations

import contextlib
import socket
import sys

import pytest

from vmdns.dns.cookie import COOKIE
from vmdns.dns.name import to_wire
from vmdns.dns.query import encode_option, encode_query
from vmdns.server.flood_filter import MOST_MUTED, MUTE_SECONDS, FloodFilter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="filters on sockets are Linux's")

QUERY = encode_query(1, to_wire("web.local"), 1)
COUNT = 300
# One in three of 300, six standard deviations of 8.2 to either side.
A_THIRD = range(51, 150)


def with_option(code: int, length: int) -> bytes:
    data = encode_option(code, bytes(length))
    return QUERY[:-2] + len(data).to_bytes(2, "big") + data


def heard(server: socket.socket, source: str, packet: bytes = QUERY) -> int:
    """How many of COUNT datagrams from this address come through. They are there at once, or not at all."""
    count = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((source, 0))
        for _ in range(COUNT):
            client.sendto(packet, server.getsockname())
            with contextlib.suppress(BlockingIOError):
                count += server.recv(100, socket.MSG_DONTWAIT) == packet
    return count


def test_who_is_muted_and_for_how_long() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        flood_filter = FloodFilter(server)
        assert flood_filter.mute("127.0.0.9", 10.0)
        assert flood_filter.mute("127.8.7.0/24", 11.0)
        assert not flood_filter.mute("127.8.7.0/24", 11.1)  # it is muted: what comes now was waiting
        assert all(heard(server, one) in A_THIRD for one in ("127.0.0.9", "127.8.7.1", "127.8.7.255"))
        assert [heard(server, one) for one in ("127.0.0.8", "127.0.0.1", "127.8.6.1")] == [COUNT] * 3
        flood_filter.unmute(10.0 + MUTE_SECONDS)
        assert heard(server, "127.0.0.9") == COUNT
        assert heard(server, "127.8.7.1") in A_THIRD
        flood_filter.unmute(12.0)
        assert heard(server, "127.8.7.1") == COUNT


@pytest.mark.parametrize(
    ("packet", "all_of_them"),
    [
        (with_option(COOKIE, 24), True),
        (with_option(COOKIE, 8), False),
        (with_option(COOKIE, 40), False),
        (with_option(COOKIE + 1, 24), False),
        (encode_query(1, b"\0", 1, edns=False), False),  # shorter than an option
        (b"", False),
    ],
)
def test_what_may_be_a_cookie_of_ours_comes_through(packet: bytes, all_of_them: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        assert FloodFilter(server).mute("127.0.0.0/8", 10.0)
        count = heard(server, "127.0.0.9", packet)
        assert count == COUNT if all_of_them else count in A_THIRD


def test_no_more_than_the_bound_and_no_ipv6() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        flood_filter = FloodFilter(server)
        assert not flood_filter.mute("fd00::/56", 0.0)
        found = [flood_filter.mute(f"127.1.{number}.0/24", 0.0) for number in range(MOST_MUTED + 5)]
        assert found == [True] * MOST_MUTED + [False] * 5
        assert heard(server, "127.1.0.1") in A_THIRD
        assert heard(server, f"127.1.{MOST_MUTED - 1}.1") in A_THIRD
        assert heard(server, f"127.1.{MOST_MUTED}.1") == COUNT
