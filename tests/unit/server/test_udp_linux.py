"""What Linux has for the UDP thread: batches of datagrams, the filter against floods, the time slice."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import socket
import struct
import sys
import threading
from collections.abc import Iterator

import pytest

from vmdns.dns.cookie import COOKIE
from vmdns.dns.name import to_wire
from vmdns.dns.query import encode_option, encode_query
from vmdns.server.answer_cache import NO_RESPONSE, QUERY, make_key, pack
from vmdns.server.udp_linux import MAX_MUTED, ROOM, SIZE, SLICE_SECONDS, Batch, FloodFilter, request_short_slice

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")

HOST = "127.0.0.1"


# -- batches -------------------------------------------------------------------------------------------------------


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind((HOST, 0))
        client.bind((HOST, 0))
        client.connect(server.getsockname())
        client.settimeout(10)
        yield server, client


def test_datagrams_are_read_as_they_were_sent_and_with_nothing_of_those_before(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    server, client = ends
    batch = Batch()
    for lengths in ([60] * SIZE, [0, 1, 2, 3, 12, 59, 60, 61, 62, 63, 500, ROOM], [1] * 5, [ROOM] * 9, [2, 30]):
        sent = [bytes([1 + at % 255]) * length for at, length in enumerate(lengths)]
        for one in sent:
            client.send(one)
        assert batch.receive(server) == len(sent)
        keys = batch.keys(len(sent))
        for at, one in enumerate(sent):
            assert batch.packet(at) == one
            assert batch.peer(at) == client.getsockname()
            assert (keys[at] == make_key(one)) == (len(one) <= QUERY)
        assert batch.clients(len(sent)) == [socket.inet_aton(HOST)] * len(sent)
    assert batch.receive(server) <= 0


@pytest.mark.parametrize("silent", [set(), {0}, {3, 4}, set(range(9)), {8}])
@pytest.mark.parametrize("large", [set(), {1}, {0, 8}])
def test_each_gets_its_own_response_and_some_none(
    ends: tuple[socket.socket, socket.socket], silent: set[int], large: set[int]
) -> None:
    server, client = ends
    batch = Batch()
    responses = [b"%02d" % at + b"%d" % at * (300 if at in large else at) for at in range(9)]
    for at in range(9):
        client.send(b"%02d a query" % at)
    assert batch.receive(server) == 9
    failures: list[OSError] = []
    packed = [NO_RESPONSE if at in silent else pack(one) for at, one in enumerate(responses)]
    batch.send(server, packed, failures.append)
    client.send(b"99")  # the last one: what did not come before its response does not come
    assert batch.receive(server) == 1
    batch.send(server, [pack(b"99over")], failures.append)
    assert failures == []
    found = []
    while (got := client.recv(4096)) != b"99over":
        found.append(got)
    assert sorted(found) == [one for at, one in enumerate(responses) if at not in silent]


# -- the filter against floods -------------------------------------------------------------------------------------

PACKET = encode_query(1, to_wire("web.local"), 1)
COUNT = 300
# One in three of 300, six standard deviations of 8.2 to either side.
A_THIRD = range(51, 150)


def with_option(code: int, length: int) -> bytes:
    data = encode_option(code, bytes(length))
    return PACKET[:-2] + len(data).to_bytes(2, "big") + data


def received(server: socket.socket, source: str, packet: bytes = PACKET) -> int:
    """How many of COUNT datagrams from this address come through. They are there at once, or not at all."""
    count = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((source, 0))
        for _ in range(COUNT):
            client.sendto(packet, server.getsockname())
            with contextlib.suppress(BlockingIOError):
                count += server.recv(100, socket.MSG_DONTWAIT) == packet
    return count


def test_which_networks_are_muted_and_until_when() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((HOST, 0))
        flood_filter = FloodFilter(server)
        assert flood_filter.mute("127.0.0.9")
        assert flood_filter.mute("127.8.7.0/24")
        assert not flood_filter.mute("127.8.7.0/24")  # it is muted: what comes now was in the queue
        assert all(received(server, one) in A_THIRD for one in ("127.0.0.9", "127.8.7.1", "127.8.7.255"))
        assert [received(server, one) for one in ("127.0.0.8", "127.0.0.1", "127.8.6.1")] == [COUNT] * 3
        flood_filter.unmute("127.0.0.9")
        assert received(server, "127.0.0.9") == COUNT
        assert received(server, "127.8.7.1") in A_THIRD
        flood_filter.clear()
        assert received(server, "127.8.7.1") == COUNT
    flood_filter.mute("127.8.7.0/24")  # of a closed socket


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
        server.bind((HOST, 0))
        assert FloodFilter(server).mute("127.0.0.0/8")
        count = received(server, "127.0.0.9", packet)
        assert count == COUNT if all_of_them else count in A_THIRD


def test_no_more_networks_than_the_bound_and_no_ipv6() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((HOST, 0))
        flood_filter = FloodFilter(server)
        assert not flood_filter.mute("fd00::/56")
        found = [flood_filter.mute(f"127.1.{number}.0/24") for number in range(MAX_MUTED + 5)]
        assert found == [True] * MAX_MUTED + [False] * 5
        assert received(server, "127.1.0.1") in A_THIRD
        assert received(server, f"127.1.{MAX_MUTED - 1}.1") in A_THIRD
        assert received(server, f"127.1.{MAX_MUTED}.1") == COUNT


# -- the time slice ------------------------------------------------------------------------------------------------

GETATTR = {"x86_64": 315, "aarch64": 275}


def attributes() -> tuple[int, int, int]:
    """Policy, nice value and time slice (ns) of the calling thread."""
    buffer = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(GETATTR[platform.machine()], 0, buffer, 48, 0) == 0
    _, policy, _, nice, _, time_slice, *_ = struct.unpack("=IIQiIQQQ", buffer.raw)
    return policy, nice, time_slice


@pytest.mark.skipif(platform.machine() not in GETATTR, reason="the number of the system call is not known")
def test_one_thread_gets_a_short_slice_and_keeps_its_nice_value() -> None:
    found: list[object] = []

    def work() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, nice)  # of this thread
        found.extend((request_short_slice(), attributes()))

    nice = min(os.getpriority(os.PRIO_PROCESS, 0) + 3, 19)  # a lower one may be forbidden
    before = attributes()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    accepted, after = found
    if not accepted:
        pytest.skip("this system has no sched_setattr, or forbids it")
    assert after in ((os.SCHED_OTHER, nice, round(SLICE_SECONDS * 1e9)), (os.SCHED_OTHER, nice, 0))  # 0 before 6.12
    assert attributes() == before
