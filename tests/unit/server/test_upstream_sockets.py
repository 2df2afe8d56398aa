"""Sockets to upstreams: which queries share one, and for how long (RFC 5452 section 9.2)."""

from __future__ import annotations

import itertools
import socket
from collections import Counter
from collections.abc import Iterator
from unittest.mock import Mock

import pytest

from vmdns.dns.forwarded_answer import Forwarded
from vmdns.dns.upstreams import Upstream
from vmdns.server import upstream_exchange, upstream_sockets
from vmdns.server.upstream_sockets import MAX_IDLE, MAX_USES, UpstreamSocket, UpstreamSockets


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield Upstream(*sock.getsockname())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(upstream_sockets, "time", Mock(monotonic=lambda: now[0]))
    return now


def take(sockets: UpstreamSockets, upstream: Upstream) -> UpstreamSocket:
    return sockets.take(upstream, False, lambda: None)


def port_of(one: UpstreamSocket) -> int:
    return int(one.sock.getsockname()[1])


def test_f16_with_few_queries_each_has_a_port_of_its_own(upstream: Upstream, clock: list[float]) -> None:
    sockets = UpstreamSockets(Mock(), 4000)
    used = []
    for _ in range(50):
        one = take(sockets, upstream)
        used.append(port_of(one))
        sockets.release(one)
    assert len(set(used)) == 50
    sockets.close_idle(clock[0])
    assert (sockets.open, sockets.spare) == (50, True)
    sockets.close_idle(clock[0] + 1)
    assert sockets.open == 0


def test_under_load_ports_are_reused_at_random_and_not_for_long(upstream: Upstream, clock: list[float]) -> None:
    sockets = UpstreamSockets(Mock(), 4000)
    uses: Counter[int] = Counter()
    order = []
    for _ in range(9000):
        one = take(sockets, upstream)
        uses[id(one), port_of(one)] += 1  # type: ignore[index]
        order.append(port_of(one))
        sockets.release(one)
        assert sockets.open <= MAX_IDLE
    assert max(uses.values()) == MAX_USES
    assert len(set(order)) > 9000 // MAX_USES
    # Which one comes next cannot be told from those before: the same follows the same by chance only.
    assert sum(a == b for a, b in itertools.pairwise(order)) < 9000 * 8 // 256
    sockets.close_idle()
    assert sockets.open == 0


def test_a_port_has_one_query_at_a_time_and_is_not_kept_when_it_is_old(upstream: Upstream, clock: list[float]) -> None:
    sockets = UpstreamSockets(Mock(), 4)  # half of them may be idle
    taken = [take(sockets, upstream) for _ in range(4)]
    assert len(set(map(port_of, taken))) == 4
    with pytest.raises(OSError, match="too many sockets"):
        take(sockets, upstream)
    for one in taken[:3]:
        sockets.release(one)
    assert sockets.open == 3
    assert take(sockets, upstream) in taken[:2]
    clock[0] += 1
    sockets.release(taken[3])
    assert sockets.open == 2
    sockets.close_idle()
    for one in taken:
        one.sock.close()


def test_what_comes_to_an_idle_port_closes_it(upstream: Upstream) -> None:
    sockets = UpstreamSockets(Mock(), 100)
    one = take(sockets, upstream)
    sockets.release(one)
    one.call()
    assert sockets.open == 0


def test_a_datagram_that_is_too_long_for_windows_is_no_response() -> None:
    """Its recv raises an error then. Anybody can forge such a datagram, so the query is in flight still."""
    error = OSError(10040, "a message sent on a datagram socket was larger than the buffer")
    error.winerror = 10040  # type: ignore[attr-defined]
    sock, results = Mock(recv=Mock(side_effect=[error, b"response"])), list[upstream_exchange.Result]()

    class Query(upstream_exchange.Exchange):
        def receive(self, result: upstream_exchange.Result) -> None:
            results.append(result)

    sockets = Mock(take=Mock(return_value=UpstreamSocket(sock, Upstream("192.0.2.1"), lambda: None)))
    answer = Forwarded(0)
    query = Query(sockets, lambda *_: answer)
    query.send(Upstream("192.0.2.1"), b"query", Mock())
    query._receive()
    assert results == []
    query._receive()
    assert results == [answer]
