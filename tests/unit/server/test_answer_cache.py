"""The fast path: the same bytes as the slow one, whatever is asked, and nothing that is no longer true."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterator
from dataclasses import replace

import dns.edns
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.facts import EVERYWHERE, HOSTONLY, NETWORKS, NOW, lease, vm
from tests.testzone import SNAPSHOT
from tests.unit.server.dnsbench import HOST, Bench, Script, question, run
from vmdns.dns.limits import Limits
from vmdns.server import answer_cache as caches
from vmdns.server.answer_cache import AnswerCache, Answers, find
from vmdns.server.dns_server import DnsServer
from vmdns.server.listeners import Listener, bind
from vmdns.server.udp import CALLS
from vmdns.state.build import build
from vmdns.state.policy import Policy
from vmdns.state.snapshot import AccessRight
from vmdns.state.views import View

ASKER = EVERYWHERE, AccessRight.ALL
NAMES = (
    "web-01.local", "db.local", "x.db.local", "nope.local", "off.local", "waiting.local", "www.local", "big.local",
    "local", "vm.internal", "_http._tcp.web-01.local", "_tcp.web-01.local", "102.56.168.192.in-addr.arpa",
    "77.56.168.192.in-addr.arpa", "localhost", "nas.example.org", "vmdns.local", "xn--pd1b38l32h.local", "web",
)  # fmt: skip
KINDS = ("A", "AAAA", "PTR", "SOA", "TXT", "HTTPS", "ANY", "SRV", "TYPE65280")


def served() -> tuple[DnsServer, Listener]:
    """A server that nobody listens to, with the test zone."""
    script = Script()
    server = DnsServer(script.current, script.others(), Limits())
    server.publish(SNAPSHOT)
    return server, Listener(HOST, 53, None, None)  # type: ignore[arg-type]


def cased(packet: bytes, seed: int) -> bytes:
    """The packet with its name in random case (0x20)."""
    lots = random.Random(seed)
    end = packet.index(0, 12)
    name = bytes(lots.choice((one, one ^ 0x20)) if chr(one).isalpha() and one > 63 else one for one in packet[12:end])
    return packet[:12] + name + packet[end:]


@given(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(KINDS), st.integers(0, 3), st.integers(0, 9)), max_size=9
    )
)
def test_fast_and_slow_give_the_same_bytes(asked: list[tuple[str, str, int, int]]) -> None:
    server, listener = served()
    for number, (name, kind, edns, seed) in enumerate(asked * 2):
        options = [dns.edns.GenericOption(65001, b"x")] if edns == 3 else None
        how = {"use_edns": 0, "payload": 600 * edns, "options": options} if edns else {"use_edns": -1}
        packet = cased(question(name, kind, ident=number, **how), seed)
        slow = server.handle(packet, HOST, HOST, False)
        if isinstance(slow, Coroutine):
            asyncio.run(slow)  # it is forwarded
        if not isinstance(slow, bytes):
            continue
        ready = server.datagrams.find_answers(listener, HOST)
        assert ready is not None
        fast = find(ready, packet)
        if fast is None:
            fast = server.datagrams.answer(packet, (HOST, 1234), listener)
        if fast is not None:  # what is forwarded comes from the loop
            assert packet[:2] + fast == slow


def test_what_was_said_once_stands_ready() -> None:
    server, listener = served()
    for name, kind in (("db.local", "A"), ("db.local", "AAAA"), ("nope.local", "A"), ("x.db.local", "A")):
        packet = question(name, kind)
        ready = server.datagrams.find_answers(listener, HOST)
        assert ready is not None
        assert find(ready, packet) is None
        said = server.datagrams.answer(packet, (HOST, 1234), listener)
        assert find(ready, packet) == said
        assert find(ready, cased(packet, 1)) not in (None, said)


@given(st.binary(max_size=60))
def test_no_packet_is_taken_for_another(tail: bytes) -> None:
    server, listener = served()
    packet = question("db.local", "HTTPS")
    server.datagrams.answer(packet, (HOST, 1234), listener)
    ready = server.datagrams.find_answers(listener, HOST)
    assert ready
    for other in (packet[:12] + tail, tail, packet + tail, packet[:-4] + tail, packet[: len(tail)]):
        found = find(ready, other)
        if found is not None:
            assert server.handle(other, HOST, HOST, False) == other[:2] + found


# -- forgetting ------------------------------------------------------------------------------------------------


HEAD = b"\1\0\0\1\0\0\0\0\0\0"


def stored(answers: Answers) -> set[bytes]:
    """The queries without their ids."""
    return {key[: int.from_bytes(key[58:], "little") - 2] for key in answers.by_key}


def filled() -> tuple[AnswerCache, Answers]:
    cache = AnswerCache()
    cache.publish(SNAPSHOT)
    for name in (b"a", b"b"):
        cache.store(ASKER, SNAPSHOT, HEAD + name, b"answer")
    cache.store_forwarded(ASKER, b"forwarded", b"answer")
    return cache, cache.view(ASKER)


def test_a_new_snapshot_clears_the_cache() -> None:
    cache, answers = filled()
    assert stored(answers) == {HEAD + b"a", HEAD + b"b", b"forwarded"}
    cache.publish(replace(SNAPSHOT, serial=8))
    assert stored(answers) == set()
    assert cache.view(ASKER) is answers


def test_an_answer_of_the_snapshot_before_is_not_stored() -> None:
    cache, answers = filled()
    cache.publish(replace(SNAPSHOT, serial=8))
    cache.store(ASKER, SNAPSHOT, HEAD + b"late", b"answer")
    assert stored(answers) == set()


def test_a_forwarded_answer_is_dropped_after_a_second() -> None:
    cache, answers = filled()
    cache.expire(100.0)
    assert stored(answers) == {HEAD + b"a", HEAD + b"b"}
    assert cache.next_second == 101.0


def test_the_cache_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "MOST_ANSWERS", 100)
    monkeypatch.setattr(caches, "MOST_FORWARDED", 50)
    monkeypatch.setattr(caches, "MOST_VIEWS", 5)
    cache, _ = filled()
    for number in range(1000):
        view = View((), f"10.0.0.{number % 10}"), AccessRight.ALL
        cache.store(view, SNAPSHOT, HEAD + b"%d" % number, b"answer")
        cache.store_forwarded(view, b"f%d" % number, b"answer")
        assert sum(len(one.by_key) for one in cache._views.values()) <= 150
        assert len(cache._views) <= 5


# -- on real sockets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [True, False])
def test_both_paths_answer_alike(batches: bool) -> None:
    def asked() -> Iterator[bytes]:
        for number in range(200):
            how = {"use_edns": 0} if number % 2 else {"use_edns": -1}
            packet = question(NAMES[number % 13], KINDS[number % 4], ident=number, **how)
            yield cased(packet, number) if number % 3 else packet

    async def main() -> None:
        script = Script()
        server = DnsServer(script.current, script.others(), Limits())
        listener = bind(HOST, 0)
        server.open(listener, batches=batches)
        bench = Bench(server, listener, script)
        packets = list(asked())
        slow = {packet[:2]: server.handle(packet, HOST, HOST, False) for packet in packets}
        for at in range(0, len(packets), 50):
            for reply in await bench.udp(*packets[at : at + 50]):
                assert reply == slow.pop(reply[:2])
        assert slow == {}
        assert server.datagrams.path == ("in batches" if batches and CALLS else "one by one")
        await server.stop()

    run(main())


@pytest.mark.parametrize("batches", [True, False])
def test_a_change_is_answered_at_once(batches: bool) -> None:
    def world(address: str) -> object:
        return build((*NETWORKS, vm(1, "web", HOSTONLY), lease(1, address, HOSTONLY)), Policy(), NOW, 7)

    async def main() -> None:
        script = Script()
        server = DnsServer(script.current, script.others(), Limits())
        listener = bind(HOST, 0)
        script.snapshot = world("192.168.56.101")  # type: ignore[assignment]
        server.open(listener, batches=batches)
        bench = Bench(server, listener, script)
        for last in range(101, 120):
            script.snapshot = world(f"192.168.56.{last}")  # type: ignore[assignment]
            server.publish(script.current())
            for _ in range(3):
                assert str((await bench.ask("web.local")).answer[0][0]) == f"192.168.56.{last}"
        await server.stop()

    run(main())
