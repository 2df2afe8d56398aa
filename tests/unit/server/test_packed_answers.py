"""The forms in which queries and responses stand ready, and batches of datagrams in them."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmdns.server.packed_answers import KEY, NO_RESPONSE, QUERY, SENT, key_of, packed, unpacked
from vmdns.server.recvmmsg import ROOM, SIZE, Batch
from vmdns.server.udp import CALLS

HOST = "127.0.0.1"
NEAR = (0, 1, 2, 57, 58, 59, 60, 61, 62, 63, 1400)  # lengths around those at which forms change


@given(st.binary(max_size=200), st.sampled_from(NEAR))
def test_a_response_comes_out_as_it_went_in(response: bytes, more: int) -> None:
    whole = response + bytes(more)
    assert unpacked(packed(whole)) == whole
    assert len(packed(whole)) == max(SENT, 10 + len(whole))
    assert packed(whole) != NO_RESPONSE


@given(st.binary(max_size=70), st.binary(max_size=70), st.sampled_from(NEAR), st.binary(max_size=5))
def test_no_two_queries_have_one_key(one: bytes, other: bytes, zeros: int, end: bytes) -> None:
    for query in (other, one + bytes(zeros), one + bytes(zeros) + end, key_of(one), key_of(one)[:-1], one + b"\xff"):
        assert (key_of(query) == key_of(one)) == (query == one)
    assert len(key_of(one)) == KEY if len(one) <= QUERY - 2 else len(one) + 1


# -- on a real socket --------------------------------------------------------------------------------------------


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


@pytest.mark.skipif(CALLS is None, reason="this system takes no datagrams by the dozen")
def test_what_comes_is_told_as_it_came_and_nothing_of_what_came_before(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    assert CALLS is not None
    server, client = ends
    batch = Batch(CALLS)
    for lengths in ([60] * SIZE, [0, 1, 2, 3, 12, 59, 60, 61, 62, 63, 500, ROOM], [1] * 5, [ROOM] * 9, [2, 30]):
        sent = [bytes([1 + at % 255]) * length for at, length in enumerate(lengths)]
        for one in sent:
            client.send(one)
        assert batch.receive(server.fileno(), 0) == len(sent)
        keys = batch.keys(len(sent))
        for at, one in enumerate(sent):
            assert batch.length(at) == len(one)
            assert batch.packet(at) == one
            assert batch.peer(at) == client.getsockname()
            assert (keys[at] == key_of(one[2:])) == (1 < len(one) <= QUERY)
        assert batch.common_client(0, len(sent)) == socket.inet_aton(HOST)
        assert batch.clients(0, len(sent)) == [socket.inet_aton(HOST)] * len(sent)
        batch.clear()
    assert batch.receive(server.fileno(), 0) <= 0


@pytest.mark.skipif(CALLS is None, reason="this system takes no datagrams by the dozen")
@pytest.mark.parametrize("silent", [set(), {0}, {3, 4}, set(range(9)), {8}])
@pytest.mark.parametrize("large", [set(), {1}, {0, 8}])
def test_each_gets_its_own_response_and_some_none(
    ends: tuple[socket.socket, socket.socket], silent: set[int], large: set[int]
) -> None:
    """Five come by one socket and four by another one."""
    assert CALLS is not None
    one, _ = ends
    batch = Batch(CALLS)
    responses = [b"%d" % at * (300 if at in large else at) for at in range(9)]
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        other.bind((HOST, 0))
        client.settimeout(10)
        parts = [(one, 0, 5), (other, 5, 9)]
        for server, start, end in parts:
            for at in range(start, end):
                client.sendto(b"%02d what is asked" % at, server.getsockname())
            assert batch.receive(server.fileno(), start) == end - start
            assert batch.common_client(start, end) == socket.inet_aton(HOST)
        held = [NO_RESPONSE if at in silent else packed(response) for at, response in enumerate(responses)]
        assert batch.send(parts, held, silent=bool(silent)) == 0
        client.sendto(b"99", one.getsockname())  # the last one: what did not come before its response does not come
        assert batch.receive(one.fileno(), 0) == 1
        assert batch.send([(one, 0, 1)], [packed(b"over")]) == 0
        found = []
        while (got := client.recvfrom(4096))[0] != b"99over":
            found.append(got)
        names = {at: server.getsockname() for server, start, end in parts for at in range(start, end)}
    wanted = [(b"%02d" % at + responses[at], name) for at, name in names.items() if at not in silent]
    assert sorted(found) == wanted
