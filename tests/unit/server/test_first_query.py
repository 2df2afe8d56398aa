"""The first try of a question in the thread that received it: its ports, and what becomes of it in the end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import select
import socket
from collections.abc import Iterator
from functools import partial

import dns.message
import pytest

from tests.testzone import SNAPSHOT
from tests.unit.server.dnsbench import until
from tests.unit.server.fakeupstream import GOOD, FakeUpstream
from tests.unit.server.test_forwarder import LIMITS, NOWHERE, QUICK, Clock, Lab, lab, run, told
from tests.unit.server.threaded import Asker
from vmdns.dns.query import Query, parse_query
from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.server import source_ports as ports
from vmdns.server.dns_server import DnsServer
from vmdns.server.external_names import ExternalNames
from vmdns.server.first_query import POSSIBLE
from vmdns.server.forwarder import Forwarder
from vmdns.server.listeners import bind
from vmdns.server.source_ports import MAX_SECONDS, MAX_USES, RandomBytes, SourcePortPool
from vmdns.server.upstream_socket import UpstreamSockets

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="this system has no way to wait for many sockets in a thread")


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield Upstream(*sock.getsockname())


def port_of(port: ports.SourcePort) -> int:
    return int(port.socket.getsockname()[1])


def test_f16_with_little_to_ask_each_question_has_a_port_of_its_own(upstream: Upstream) -> None:
    sockets = UpstreamSockets(1000)
    pool = SourcePortPool(sockets, RandomBytes())
    used = []
    for _ in range(50):
        port = pool.take(upstream, 0.0)
        used.append(port_of(port))
        assert pool.release(port, 0.0)
    assert len(set(used)) >= 49  # two may have drawn the same number by chance only after the first was closed
    assert (sockets.open, pool.idle) == (50, 50)
    for port in pool.expired(MAX_SECONDS):
        pool.drop(port)
    assert (sockets.open, pool.idle, sockets.spare) == (0, 0, True)


def test_under_load_ports_are_used_again_at_random_and_not_for_long(upstream: Upstream) -> None:
    sockets = UpstreamSockets(4000)
    pool = SourcePortPool(sockets, RandomBytes())
    uses: dict[int, int] = {}
    order = []
    for _ in range(6000):
        port = pool.take(upstream, 0.0)
        uses[id(port)] = port.uses
        order.append(port_of(port))
        if not pool.release(port, 1.0):
            pool.drop(port)
    assert max(uses.values()) == MAX_USES
    assert pool.idle <= ports.MAX_IDLE
    # About 129 rest, each for 32 uses: so many ports in 6000 questions, spread over all.
    assert len(set(order)) > 6000 // MAX_USES
    buckets = [0] * 8
    for number in set(order):
        buckets[(number - 1024) * 8 // (65536 - 1024)] += 1
    fair = len(set(order)) / 8
    assert sum((found - fair) ** 2 / fair for found in buckets) < 40  # chi-square, 7 degrees: once in a million
    # Which one comes next is not to be told from those before: the same follows the same by chance only.
    assert sum(a == b for a, b in itertools.pairwise(order)) < 6000 * 8 // 128
    for port in pool.expired(float("inf")):
        pool.drop(port)
    assert sockets.open == 0


def test_one_port_has_one_question_at_a_time(upstream: Upstream) -> None:
    pool = SourcePortPool(UpstreamSockets(100), RandomBytes())
    taken = [pool.take(upstream, 0.0) for _ in range(40)]
    assert len({port_of(port) for port in taken}) == 40
    with contextlib.ExitStack() as stack:
        for port in taken:
            stack.callback(pool.drop, port)


def test_a_port_that_is_too_old_or_that_nobody_has_room_for_is_not_kept(upstream: Upstream) -> None:
    pool = SourcePortPool(UpstreamSockets(8), RandomBytes())  # a quarter may rest
    taken = [pool.take(upstream, 0.0) for _ in range(8)]
    with pytest.raises(OSError, match="too many sockets"):
        pool.take(upstream, 0.0)
    assert not pool.release(taken[0], MAX_SECONDS)
    assert [pool.release(port, 0.0) for port in taken[:3]] == [True, True, False]
    assert pool.take(upstream, 0.0) in taken[:2]  # where no more can be opened, one that rests will do
    assert pool.take_stray(-1) is None
    for port in {*taken, *pool.expired(float("inf"))}:
        port.socket.close()


def test_noise_is_never_given_twice() -> None:
    noise = RandomBytes()
    drawn = [noise.draw(16) for _ in range(1000)]
    assert len(set(drawn)) == 1000
    assert {len(one) for one in drawn} == {16}


def test_what_rests_is_closed_soon_and_the_thread_waits_for_its_listener_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Lab, "threaded", True)
    monkeypatch.setattr(ports, "MAX_SECONDS", 0.3)
    monkeypatch.setattr("vmdns.server.first_query._CHECK_SECONDS", 0.1)

    async def scenario() -> None:
        async with lab() as net:
            assert net.asker is not None
            for at in range(5):
                assert told(await net.ask(f"www.{at}.fz.test")) == [GOOD]
            await until(lambda: not net.asker.first_queries.busy and net.forwarder.status()["sockets"] == 0)

    run(scenario)


def test_a_late_answer_to_the_first_try_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lab, "threaded", True)

    async def scenario() -> None:
        async with lab(2, limits=QUICK) as net:
            first, second = net.servers
            second.dead = True
            asking = asyncio.ensure_future(net.ask("firstonly.1.fz.test"))
            await until(lambda: second.count() == 1)
            first.go.set()
            assert told(await asking) == [GOOD]
            assert (first.count(), second.count()) == (1, 1)

    run(scenario)


def test_a_thread_that_ends_leaves_its_questions_to_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        clock, up = Clock(), await FakeUpstream().start()
        forwarder = Forwarder(LIMITS, clock)
        forwarder.configure(Upstreams((Upstream(up.address, up.port),)), NOWHERE, frozenset(), LIMITS)
        asker = Asker(forwarder)
        query = _query("slow.1.fz.test")
        asking = asyncio.ensure_future(asker.ask(query, 1232))
        await until(lambda: up.count() == 1)
        asker.stop()
        up.go.set()
        assert told(dns.message.from_wire(await asking)) == [GOOD]
        await forwarder.close()
        await up.stop()
        assert (forwarder.status()["sockets"], forwarder.status()["waiting"]) == (0, 0)

    run(scenario)


def test_a_server_that_stops_answers_what_it_has_asked_upstreams() -> None:
    async def scenario() -> None:
        up = await FakeUpstream().start()
        forwarder = Forwarder(LIMITS)
        forwarder.configure(Upstreams((Upstream(up.address, up.port),)), NOWHERE, frozenset(), LIMITS)

        async def nobody(*_: object) -> bytes:
            raise AssertionError

        others = ExternalNames(forwarder.resolve, forwarder.cached, nobody, nobody)  # type: ignore[arg-type]
        others.begin, others.first_queries, others.settle = forwarder.begin, forwarder.first_queries, forwarder.settle
        server = DnsServer(lambda: SNAPSHOT, others, LIMITS)
        listener = bind("127.0.0.1", 0)
        server.open(listener)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(("127.0.0.1", listener.port))
            loop = asyncio.get_running_loop()
            client.send(dns.message.make_query("www.1.fz.test", "A").to_wire())
            first = dns.message.from_wire(await asyncio.wait_for(loop.sock_recv(client, 4096), 10))
            assert told(first) == [GOOD]
            for _ in range(2):
                client.send(dns.message.make_query("slow.1.fz.test", "A").to_wire())
            # A query counts as waiting before its datagram leaves the thread, so the upstream may see it later.
            await until(lambda: forwarder.status()["waiting"] == 2 and up.count("slow") > 0)
            assert up.count("slow") == 1
            loop.call_later(0.05, up.go.set)
            await server.stop(grace=10.0)
            for _ in range(2):
                assert told(dns.message.from_wire(await asyncio.wait_for(loop.sock_recv(client, 4096), 10))) == [GOOD]
            assert server.counts.forwarded == 3
        await forwarder.close()
        await up.stop()

    run(scenario)


def _query(name: str) -> Query:
    return parse_query(dns.message.make_query(name, "A").to_wire())


def test_where_there_is_poll_and_no_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lab, "threaded", True)
    monkeypatch.delattr(select, "epoll", raising=False)

    async def scenario() -> None:
        async with lab(2, limits=QUICK) as net:
            first, second = net.servers
            assert told(await net.ask("www.1.fz.test")) == [GOOD]
            first.dead = True
            assert told(await net.ask("www.2.fz.test")) == [GOOD]
            assert (first.count(), second.count()) == (2, 1)

    run(scenario)


def test_what_comes_to_a_port_that_rests_closes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lab, "threaded", True)

    async def scenario() -> None:
        async with lab() as net:
            await net.ask("www.1.fz.test")
            assert net.forwarder.status()["sockets"] == 1
            net.up.udp.sendto(b"what nobody asked for", ("127.0.0.1", net.up.seen[0].port))
            await until(lambda: net.forwarder.status()["sockets"] == 0)

    run(scenario)


def test_t3_what_is_not_the_reply_is_passed_over_in_the_thread_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The right id with another question, and the right question with another id, both before the reply."""
    monkeypatch.setattr(Lab, "threaded", True)

    async def scenario() -> None:
        async with lab() as net:
            for name in ("wrongid.1.fz.test", "wrongq.1.fz.test"):
                assert told(await net.ask(name)) == [GOOD]
            # Only a wrong id is sure not to be the reply; what else is odd is judged in the event loop.
            assert net.forwarder.status()["upstreams"][0]["failed"] == 0
            assert net.up.count() == 2

    run(scenario)


def test_equal_questions_of_a_thread_and_the_loop_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lab, "threaded", True)

    async def scenario() -> None:
        async with lab() as net:
            for at, name in enumerate(("slow.0.fz.test", "slow.1.fz.test")):
                asking = []
                for way in (net.ask, partial(_in_loop, net))[:: 1 - 2 * at]:
                    asking.append(asyncio.ensure_future(way(name)))
                    await until(lambda: net.forwarder.status()["waiting"] == len(asking))  # noqa: B023
                net.up.go.set()
                assert [told(answer) for answer in await asyncio.gather(*asking)] == [[GOOD]] * 2
                net.up.go.clear()
                assert net.up.count(name) == 1

    run(scenario)


async def _in_loop(net: Lab, name: str) -> dns.message.Message:
    return dns.message.from_wire(await net.forwarder.resolve(_query(name), 1232))


def test_whatever_happens_at_once_every_question_ends_and_nothing_is_left_behind() -> None:
    """Two threads and the loop, upstreams of all manners, and settings that change meanwhile."""
    manners = ("www", "neg", "servfail", "drop", "dropfirst", "tc", "wrongid", "flat", "formerredns", "zero", "trunc")

    async def scenario() -> None:
        async with lab(2, limits=QUICK) as net:
            askers = [Asker(net.forwarder) for _ in range(2)]
            ways = [*(asker.ask for asker in askers), net.forwarder.resolve]
            asking = []
            for at in range(600):
                name = f"{manners[at % len(manners)]}.{at % 97}.fz.test"
                asking.append(asyncio.ensure_future(ways[at % 3](_query(name), 1232)))
                if at % 50 == 49:
                    net.configure(*net.servers[:: 1 - 2 * (at // 50 % 2)], limits=QUICK)
                    await asyncio.sleep(0.01)
                if at == 300:
                    await asyncio.sleep(0)
                    askers[0].stop()
                    ways[0] = net.forwarder.resolve
            answers = [dns.message.from_wire(one) for one in await asyncio.wait_for(asyncio.gather(*asking), 60)]
            # What a busy machine does not answer in time is a failure too.
            assert {"NOERROR"} <= {answer.rcode().name for answer in answers} <= {"NOERROR", "NXDOMAIN", "SERVFAIL"}
            for at, answer in enumerate(answers):
                assert f".{at % 97}.fz.test." in answer.question[0].to_text()
                assert set(told(answer)) <= {GOOD} | {f"198.51.100.{n}" for n in range(1, 101)}
            askers[1].stop()
            await net.forwarder.settle(5.0)
            status = net.forwarder.status()
            assert (status["outstanding"], status["waiting"]) == (0, 0)
            assert net.forwarder._sockets.pools == []

    run(scenario)
