"""Who floods is dropped by the kernel, and heard again: with real sockets."""

from __future__ import annotations

import socket
import sys

import pytest

from vmdns.serve.mute import MOST_MUTED, MUTE_SECONDS, Mute

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="filters on sockets are Linux's")


def heard(server: socket.socket, source: str) -> bool:
    """Whether a datagram from this address gets through. It is there at once, or not: loopback waits for nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((source, 0))
        client.sendto(b"question", server.getsockname())
    try:
        return server.recv(100, socket.MSG_DONTWAIT) == b"question"
    except BlockingIOError:
        return False


def test_who_is_muted_and_for_how_long() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        mute = Mute(server)
        assert mute.add("127.0.0.9", 10.0)
        assert mute.add("127.8.7.0/24", 11.0)
        assert not mute.add("127.8.7.0/24", 11.1)  # it is muted: what comes now was waiting
        assert [heard(server, one) for one in ("127.0.0.9", "127.8.7.1", "127.8.7.255")] == [False] * 3
        assert [heard(server, one) for one in ("127.0.0.8", "127.0.0.1", "127.8.6.1")] == [True] * 3
        mute.lift(10.0 + MUTE_SECONDS)
        assert [heard(server, one) for one in ("127.0.0.9", "127.8.7.1")] == [True, False]
        mute.lift(12.0)
        assert heard(server, "127.8.7.1")


def test_no_more_than_the_bound_and_no_ipv6() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        mute = Mute(server)
        assert not mute.add("fd00::/56", 0.0)
        found = [mute.add(f"127.1.{number}.0/24", 0.0) for number in range(MOST_MUTED + 5)]
        assert found == [True] * MOST_MUTED + [False] * 5
        assert not heard(server, f"127.1.{MOST_MUTED - 1}.1")
        assert heard(server, f"127.1.{MOST_MUTED}.1")
