"""The fast path: the same bytes as the slow one, whatever is asked, and nothing that is no longer true."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterator
from dataclasses import replace

import dns.edns
import pytest
from dnsbench import HOST, Bench, Script, question, run
from hypothesis import given
from hypothesis import strategies as st

from tests.facts import EVERYWHERE, HOSTONLY, NETWORKS, NOW, lease, vm
from tests.testzone import SNAPSHOT
from vmdns.core.build import build
from vmdns.core.limits import Limits
from vmdns.core.name import to_wire
from vmdns.core.policy import Policy
from vmdns.core.quick import quick
from vmdns.core.snapshot import Right
from vmdns.core.view import View
from vmdns.serve import memo as memos
from vmdns.serve.dns import DnsServer
from vmdns.serve.listeners import Listener, bind
from vmdns.serve.memo import Memo, Ready, find
from vmdns.serve.udp import CALLS

ASKER = EVERYWHERE, Right.ALL
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
    server.publish(SNAPSHOT, None)
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
        ready = server.datagrams.ready(listener, HOST)
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
        ready = server.datagrams.ready(listener, HOST)
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
    ready = server.datagrams.ready(listener, HOST)
    assert ready
    for other in (packet[:12] + tail, tail, packet + tail, packet[:-4] + tail, packet[: len(tail)]):
        found = find(ready, other)
        if found is not None:
            assert server.handle(other, HOST, HOST, False) == other[:2] + found


# -- forgetting ------------------------------------------------------------------------------------------------


HEAD = b"\1\0\0\1\0\0\0\0\0\0"


def held(ready: Ready) -> set[bytes]:
    """The queries without their ids."""
    return {key[: int.from_bytes(key[58:], "little") - 2] for key in (*ready.names, *ready.loose)}


def kept() -> tuple[Memo, Ready]:
    memo = Memo()
    memo.publish(SNAPSHOT, None)
    for name in (b"a", b"b"):
        memo.keep(ASKER, SNAPSHOT, HEAD + name, b"said", name)
        memo.keep(ASKER, SNAPSHOT, HEAD + name + b"6", b"said", name)
    memo.keep(ASKER, SNAPSHOT, b"loose", b"said", None)
    memo.keep_passing(ASKER, b"passing", b"said")
    return memo, memo.of(ASKER)


def test_a_change_forgets_its_names_and_what_is_loose() -> None:
    memo, ready = kept()
    later = replace(SNAPSHOT, serial=8)
    memo.publish(later, [b"a", b"unknown"])
    assert held(ready) == {HEAD + b"b", HEAD + b"b6", b"passing"}
    memo.publish(later, None)
    assert held(ready) == set()
    assert memo.of(ASKER) is ready


def test_an_answer_of_the_snapshot_before_is_not_kept() -> None:
    memo, ready = kept()
    memo.publish(replace(SNAPSHOT, serial=8), None)
    memo.keep(ASKER, SNAPSHOT, HEAD + b"late", b"said", b"late")
    assert held(ready) == set()


def test_what_passes_is_forgotten_after_a_second() -> None:
    memo, ready = kept()
    memo.age(100.0)
    assert b"passing" not in held(ready)
    assert len(held(ready)) == 5
    assert memo.next_second == 101.0


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.sampled_from((b"a", b"b", b"a6", b"b6")), st.booleans(), st.sampled_from((b"x", b"y"))
        )
        | st.sets(st.sampled_from((b"a", b"b"))),
        max_size=40,
    )
)
def test_each_sort_of_askers_holds_what_it_would_hold_alone(
    steps: list[tuple[int, bytes, bool, bytes] | set[bytes]],
) -> None:
    askers = [(View((), f"10.0.0.{number}"), Right.ALL) for number in range(3)]
    together, alone = Memo(), {asker: Memo() for asker in askers}
    for memo in (together, *alone.values()):
        memo.publish(SNAPSHOT, None)
    for step in steps:
        if isinstance(step, set):  # what changed
            for memo in (together, *alone.values()):
                memo.publish(SNAPSHOT, step)
        else:
            number, query, loose, response = step
            asker = askers[number]
            for memo in (together, alone[asker]):
                memo.keep(asker, SNAPSHOT, HEAD + query, response, None if loose else query[:1])
        for asker in askers:
            mine, single = together.of(asker), alone[asker].of(asker)
            assert (mine.names, mine.loose) == (single.names, single.loose)


def test_what_is_held_alike_is_in_memory_once() -> None:
    memo, _ = kept()
    held: list[Ready] = []
    for local in ("10.0.0.1", "10.0.0.2"):
        held.append(memo.of((View((), local), Right.ALL)))
        memo.keep((View((), local), Right.ALL), SNAPSHOT, HEAD + b"c", b"".join((b"sa", b"id")), b"c")
    (one,), (other,) = (ready.names.items() for ready in held)
    assert one[0] is other[0]
    assert one[1] is other[1]


def test_it_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memos, "MOST_ANSWERS", 100)
    monkeypatch.setattr(memos, "MOST_LOOSE", 50)
    memo, ready = kept()
    for number in range(1000):
        memo.keep(ASKER, SNAPSHOT, HEAD + b"%d" % number, b"said", b"%d" % number)
        memo.keep(ASKER, SNAPSHOT, b"l%d" % number, b"said", None)
        memo.keep_passing(ASKER, b"p%d" % number, b"said")
        assert len(held(ready)) <= 150
    memo.publish(SNAPSHOT, None)
    assert held(ready) == set()
    assert memo._names == memo._loose == 0
    for second in range(20):
        memo.age(100.0 + second)
    assert memo._left == []
    assert memo._common == memo._common_loose == {}


def test_queries_of_too_many_kinds_are_not_kept() -> None:
    memo, ready = kept()
    for number in range(1000):
        memo.keep(ASKER, SNAPSHOT, HEAD + b"a%d" % number, b"said", b"a")
    assert len(held(ready)) < 100
    memo.publish(replace(SNAPSHOT, serial=8), [b"a"])
    assert {key for key in held(ready) if key.startswith(HEAD + b"a")} == set()


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
            server.publish(script.current(), [to_wire("web.local")])
            for _ in range(3):
                assert str((await bench.ask("web.local")).answer[0][0]) == f"192.168.56.{last}"
        await server.stop()

    run(main())


@given(st.sampled_from(NAMES), st.sampled_from(KINDS), st.booleans(), st.binary(max_size=14), st.integers(0, 200))
def test_the_quick_path_gives_the_same_or_nothing(name: str, kind: str, edns: bool, noise: bytes, at: int) -> None:
    server, _ = served()
    whole = question(name, kind, **({"use_edns": 0} if edns else {"use_edns": -1}))
    at = min(at, len(whole))
    for packet in (whole, whole[:at] + noise, whole[:at] + noise + whole[at + len(noise) :], whole + noise):
        slow = server.handle(packet, HOST, HOST, False)
        if isinstance(slow, Coroutine):
            asyncio.run(slow)  # it is forwarded
            continue
        fast = quick(packet, SNAPSHOT, SNAPSHOT.view(HOST, HOST), True) if len(packet) > 12 else None
        if fast is not None:
            response, key, about = fast
            end = 12 + len(key)
            assert packet[:2] + response[:10] + packet[12:end] + response[end - 2 :] == slow
            assert about in (None, key)


def test_the_quick_path_is_taken() -> None:
    view = SNAPSHOT.view(HOST, HOST)
    for name, kind in (("db.local", "A"), ("db.local", "AAAA"), ("DB.vm.internal", "A")):
        assert quick(question(name, kind), SNAPSHOT, view, True) is not None, name
