"""The answer cache: the same bytes as without it, whatever is queried, and nothing that is no longer true."""

from __future__ import annotations

import random
from dataclasses import replace

import dns.edns
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.facts import EVERYWHERE, HOSTONLY, NETWORKS, NOW, lease, vm
from tests.testzone import SNAPSHOT
from tests.unit.server.dnsbench import HOST, InlineThread, Script, answer_at_once, question, run, serving
from vmdns.dns.query import parse_query
from vmdns.server import answer_cache as caches
from vmdns.server.answer_cache import (
    ABSENT_SECONDS,
    FORWARDED_SECONDS,
    KEY,
    NO_RESPONSE,
    QUERY,
    SENT,
    AnswerCache,
    Answers,
    find,
    make_key,
    pack,
    unpack,
)
from vmdns.server.dns_server import DnsServer
from vmdns.state.build import build
from vmdns.state.snapshot import AccessRight, Policy
from vmdns.state.views import View

CLIENT = EVERYWHERE, AccessRight.ALL
NAMES = (
    "web-01.local", "db.local", "x.db.local", "nope.local", "off.local", "waiting.local", "www.local", "big.local",
    "local", "vm.internal", "_http._tcp.web-01.local", "_tcp.web-01.local", "102.56.168.192.in-addr.arpa",
    "77.56.168.192.in-addr.arpa", "localhost", "nas.example.org", "vmdns.local", "xn--pd1b38l32h.local", "web",
)  # fmt: skip
KINDS = ("A", "AAAA", "PTR", "SOA", "TXT", "HTTPS", "ANY", "SRV", "TYPE65280")
NEAR = (0, 1, 2, 57, 58, 59, 60, 61, 62, 63, 1400)  # lengths around those at which forms change


@given(st.binary(min_size=2, max_size=200), st.sampled_from(NEAR))
def test_a_packed_response_is_unpacked_as_it_was(response: bytes, more: int) -> None:
    whole = response + bytes(more)
    assert unpack(pack(whole), whole[:2]) == whole
    assert len(pack(whole)) == max(SENT, 8 + len(whole))
    assert pack(whole) != NO_RESPONSE


@given(st.binary(max_size=70), st.binary(max_size=70), st.sampled_from(NEAR), st.binary(max_size=5))
def test_no_two_queries_have_one_key(one: bytes, other: bytes, zeros: int, end: bytes) -> None:
    def key(query: bytes) -> bytes:
        return make_key(b"id" + query)

    for query in (other, one + bytes(zeros), one + bytes(zeros) + end, key(one), key(one)[:-1], one + b"\xff"):
        assert (key(query) == key(one)) == (query == one)
    assert len(key(one)) == KEY if len(one) <= QUERY - 2 else len(one) + 1


# -- in front of the query handler ---------------------------------------------------------------------------------


def served() -> DnsServer:
    """A server without listeners, with the test zone."""
    script = Script(InlineThread())
    server = script.serve()
    server.publish(SNAPSHOT)
    return server


def cached(server: DnsServer, packet: bytes) -> bytes | None:
    answers = server.handler.find_answers(HOST, HOST)
    assert answers is not None
    return find(answers, packet)


def mix_case(packet: bytes, seed: int) -> bytes:
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
def test_a_cached_answer_has_the_bytes_of_the_first(queries: list[tuple[str, str, int, int]]) -> None:
    server = served()
    for number, (name, kind, edns, seed) in enumerate(queries * 2):
        options = [dns.edns.GenericOption(65001, b"x")] if edns == 3 else None
        how = {"use_edns": 0, "payload": 600 * edns, "options": options} if edns else {"use_edns": -1}
        packet = mix_case(question(name, kind, ident=number, **how), seed)
        before, fresh = cached(server, packet), answer_at_once(server, packet)
        assert before in (None, fresh)


def test_answers_are_cached_whatever_the_case() -> None:
    server = served()
    for name, kind in (("db.local", "A"), ("db.local", "AAAA"), ("nope.local", "A"), ("x.db.local", "A")):
        packet = question(name, kind)
        assert cached(server, packet) is None
        assert answer_at_once(server, packet) == cached(server, packet)
        assert cached(server, mix_case(packet, 1)) == answer_at_once(served(), mix_case(packet, 1))


@given(st.binary(max_size=60))
def test_no_packet_is_taken_for_another(tail: bytes) -> None:
    server = served()
    packet = question("db.local", "HTTPS")
    answer_at_once(server, packet)
    for other in (packet[:12] + tail, tail, packet + tail, packet[:-4] + tail, packet[: len(tail)]):
        found = cached(server, other)
        if found is not None:
            assert answer_at_once(server, other) == found


# -- what is dropped ---------------------------------------------------------------------------------------------


class World:
    """A cache with two answers of the snapshot, a forwarded and an absent one."""

    def __init__(self) -> None:
        self.cache = AnswerCache()
        self.cache.publish(SNAPSHOT)
        self.cache.expire()
        for name in ("a.local", "b.local"):
            self.store(name)
        self.store("forwarded.test", FORWARDED_SECONDS)
        self.store("absent.local", ABSENT_SECONDS)

    def store(self, name: str, *seconds: float, view: tuple[View, AccessRight] = CLIENT) -> None:
        packet = question(name)
        self.cache.store(view, SNAPSHOT, parse_query(packet), packet, packet, *seconds)

    def names(self) -> list[str]:
        answers: Answers = self.cache.view(CLIENT)
        names = ("a.local", "b.local", "forwarded.test", "absent.local", "late.local")
        return [name for name in names if find(answers, question(name)) is not None]


def test_a_new_snapshot_clears_the_cache_and_takes_no_answer_of_the_one_before() -> None:
    world = World()
    assert world.names() == ["a.local", "b.local", "forwarded.test", "absent.local"]
    world.cache.publish(replace(SNAPSHOT, serial=8))
    world.store("late.local")
    assert world.names() == []


def test_answers_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches.time, "monotonic", lambda: now)
    now = 100.0
    world = World()
    for seconds, left in ((0.9, 4), (FORWARDED_SECONDS, 3), (ABSENT_SECONDS - 0.1, 3), (ABSENT_SECONDS + 1, 2)):
        now = 100.0 + seconds
        world.cache.expire()
        assert len(world.names()) == left
    world.store("absent.local", ABSENT_SECONDS)
    world.cache.drop_absent()
    world.cache.expire()
    assert world.names() == ["a.local", "b.local"]


def test_the_cache_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "MAX_ANSWERS", 100)
    monkeypatch.setattr(caches, "MAX_EXPIRING", 25)
    world = World()
    for number in range(1000):
        view = View((), f"10.0.0.{number % 10}"), AccessRight.ALL
        world.store(f"x{number}.local", view=view)
        for seconds in (FORWARDED_SECONDS, ABSENT_SECONDS):
            world.store(f"{seconds}{number}.test", seconds, view=view)
        assert sum(map(len, world.cache._views.values())) <= 150


# -- on real sockets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [True, False])
def test_a_change_is_answered_at_once(batches: bool) -> None:
    async def main() -> None:
        async with serving(batches=batches) as bench:
            for last in range(101, 120):
                facts = (*NETWORKS, vm(1, "web", HOSTONLY), lease(1, f"192.168.56.{last}", HOSTONLY))
                bench.script.snapshot = build(facts, Policy(), NOW, 7)
                bench.server.publish(bench.script.snapshot)
                for _ in range(3):
                    assert str((await bench.ask("web.local")).answer[0][0]) == f"192.168.56.{last}"

    run(main())
