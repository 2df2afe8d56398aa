"""The server over UDP: what is forwarded, who may ask what, and its sockets. Answers: tests/contract/behaviour."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from dataclasses import asdict

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import facts
from tests.facts import BRIDGED, NETWORKS, NOW, vm
from tests.testzone import SNAPSHOT
from tests.unit.server.dnsbench import (
    HOST,
    LAST,
    Bench,
    Script,
    answer,
    answer_at_once,
    question,
    run,
    served,
    serving,
)  # fmt: skip
from vmdns.dns.name import to_wire
from vmdns.dns.query import encode_query
from vmdns.server.listeners import Listener, bind
from vmdns.server.udp import UdpListener
from vmdns.state.build import build
from vmdns.state.facts import HostAddress
from vmdns.state.snapshot import Policy

WEB = to_wire("web-01.local")
TAIL = WEB + b"\0\1\0\1"


def packet(*counts: int, flags: int = 0x0100, ident: int = 4711, body: bytes = TAIL) -> bytes:
    return struct.pack("!6H", ident, flags, *counts) + body


def lines(message: dns.message.Message) -> list[str]:
    return [line for rrset in message.answer for line in rrset.to_text().split("\n")]


# -- forwarding ----------------------------------------------------------------------------------------------------


@served()
async def test_what_is_not_ours_is_forwarded_and_answers_come_when_they_are_ready(bench: Bench) -> None:
    early = await bench.udp(
        question("slow.test", ident=1), question("x.test", ident=2), question("cached.test", ident=3)
    )
    # LAST came after all three and was answered before the slow one.
    assert all(reply[:2] in (b"\0\2", b"\0\3") for reply in early)
    assert bench.script.forwarded == [to_wire("slow.test"), to_wire("x.test")]
    assert lines(await bench.ask("x.test")) == ["x.test. 9 IN A 198.51.100.1"]
    assert bench.server.handler.counts.forwarded == 4


@served()
async def test_a_chain_that_leaves_our_zones_is_followed_for_those_who_want_recursion(bench: Bench) -> None:
    assert lines(await bench.ask("away.local")) == [
        "away.local. 5 IN CNAME www.example.org.", "www.example.org. 9 IN A 198.51.100.1",
    ]  # fmt: skip
    bench.script.forwarded.clear()
    read = await bench.ask("away.local", flags=0)
    assert lines(read) == ["away.local. 5 IN CNAME www.example.org."]
    assert bench.script.forwarded == []


def test_e20_what_fails_is_servfail_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving() as bench:
            read = await bench.ask("broken.test")
            assert read.rcode() == dns.rcode.SERVFAIL
            assert bench.server.handler.counts.failed == 1
            bench.script.snapshot = RuntimeError("no snapshot")
            assert (await bench.ask("web-01.local")).rcode() == dns.rcode.SERVFAIL
            bench.script.snapshot = SNAPSHOT
            assert lines(await bench.ask("web-01.local"))

    run(main())
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.ERROR]


# A LAN with one VM on it, the host's address there 203.0.113.5; a host-only network; a NAT Network's own address.
RIGHTS = (
    *NETWORKS,
    HostAddress("lo", "127.0.0.1/8"),
    HostAddress("lo", "198.18.53.1/32"),
    HostAddress("eth0", "203.0.113.5/24"),
    HostAddress("vboxnet0", "192.168.56.1/24"),
    vm(1, "db", BRIDGED, reports=(facts.report(1, "203.0.113.77"),)),
)


@pytest.mark.parametrize(
    ("lan", "local", "peer", "rcode", "recursion"),
    [
        ("guests", "127.0.0.1", "127.0.0.1", 0, True),
        ("guests", "::1", "::1", 0, True),
        ("guests", "203.0.113.5", "203.0.113.5", 0, True),  # the host, or a guest behind NAT
        ("guests", "198.18.53.1", "198.18.53.1", 0, True),
        ("guests", "198.18.53.1", "203.0.113.5", 0, True),
        ("guests", "203.0.113.5", "203.0.113.77", 0, True),  # a VM's address
        ("guests", "203.0.113.5", "203.0.113.6", 5, False),
        ("guests", "203.0.113.5", "8.8.8.8", 5, False),
        ("guests", "203.0.113.5", "nonsense", 5, False),
        ("guests", "192.168.56.1", "192.168.56.200", 0, True),  # nobody but VMs is on a host-only network
        ("guests", "192.168.56.1", "10.1.1.1", 5, False),
        ("names", "203.0.113.5", "203.0.113.6", 0, False),
        ("names", "203.0.113.5", "203.0.113.77", 0, True),
        ("all", "203.0.113.5", "203.0.113.6", 0, True),
        ("all", "203.0.113.5", "8.8.8.8", 0, False),
        ("off", "203.0.113.5", "203.0.113.6", 5, False),
        ("off", "203.0.113.5", "203.0.113.5", 0, True),
    ],
)
def test_t8_who_may_ask_what(lan: str, local: str, peer: str, rcode: int, recursion: bool) -> None:
    script = Script()
    script.snapshot = build(RIGHTS, Policy(lan=lan), NOW, 7)
    server = script.serve()

    async def main() -> None:
        ours = dns.message.from_wire(await answer(server, question("db.local"), peer, local))
        assert ours.rcode() == rcode
        assert bool(ours.flags & dns.flags.RA) == recursion
        other = dns.message.from_wire(await answer(server, question("cached.test"), peer, local))
        assert other.rcode() == (0 if recursion else dns.rcode.REFUSED)

    run(main())


def test_t8_no_answer_over_udp_is_a_weapon() -> None:
    # What a stranger gets for his bytes: ANY is small, a cut answer no larger than he offered.
    async def main() -> None:
        script = Script()
        server = script.serve()
        for name, kind in (("web-01.local", "ANY"), ("local", "ANY"), ("big.local", "A"), ("local", "AXFR")):
            asked = question(name, kind, use_edns=False)
            response = await answer(server, asked, "203.0.113.9", "192.168.56.1")
            assert len(response) <= (512 if name == "big.local" else 4 * len(asked))

    run(main())


@given(st.one_of(st.binary(max_size=80), st.binary(max_size=60).map(lambda body: packet(1, 0, 0, 1, body=body))))
def test_t23_no_packet_raises(data: bytes) -> None:
    script = Script()
    server = script.serve()
    for tcp in (False, True):
        answer_at_once(server, data, "203.0.113.9", "192.168.56.1", tcp=tcp)
    assert server.handler.counts.failed == 0


# -- sockets -------------------------------------------------------------------------------------------------------


class Datagrams:
    """Stands for a UDP socket: gives what it was given, in turn, and notes what is sent; then it is closed."""

    family = socket.AF_INET

    def __init__(self, *given: tuple[bytes, tuple[str, int]] | Exception) -> None:
        self.given = list(given)
        self.sent: list[tuple[str, int]] = []

    def setblocking(self, _: bool) -> None: ...

    def fileno(self) -> int:
        return 3

    def recvfrom(self, _: int, flags: int) -> tuple[bytes, tuple[str, int]]:
        if not self.given:
            raise OSError("closed")
        item = self.given.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    def sendto(self, reply: bytes, flags: int, peer: tuple[str, int]) -> None:
        if peer[1] in (0, 666):
            raise PermissionError("a firewall, or no port")
        self.sent.append(peer)


def test_t13_reflections_and_errors_of_the_socket() -> None:
    answered = encode_query(1, WEB, 1, flags=0x8180)
    datagrams = Datagrams(
        (answered, (HOST, 1234)),  # a response: as our own come to us where somebody forged our address
        (LAST, (HOST, 0)),  # source port 0
        ConnectionResetError(),  # Windows, for an earlier response that nobody wanted
        OSError(90, "message too long"),  # Windows, for a datagram larger than the buffer
        (LAST, (HOST, 666)),
        (LAST, ("192.168.56.101", 53)),
        (LAST, (HOST, 1234)),
    )
    script = Script()
    server = script.serve()
    listener = UdpListener(Listener(HOST, 53, datagrams, None), script.thread, batched=False)  # type: ignore[arg-type]
    while datagrams.given:
        server.udp._read(listener)
    assert datagrams.sent == [("192.168.56.101", 53), (HOST, 1234)]
    counts = server.handler.counts
    assert (counts.failed, counts.queries, counts.malformed) == (2, 5, 1)


def test_questions_under_way_are_answered_before_the_end() -> None:
    async def main() -> None:
        script = Script()
        server = script.serve()
        listener = bind(HOST, 0)
        server.open(listener)
        bench = Bench(server, listener, script)
        async with bench.tcp() as stream:
            stream.send(question("slow.test"), question("web-01.local", ident=1))
            assert (await stream.receive())[:2] == b"\0\1"
            asyncio.get_running_loop().call_later(0.01, script.open_gate)
            await server.stop(grace=10.0)
            assert (await stream.receive())[:2] == b"\x12\x67"
            assert await stream.ended()
        with pytest.raises(OSError):
            await asyncio.open_connection(HOST, listener.port)

    run(main())


@served()
async def test_listeners_come_and_go(bench: Bench) -> None:
    second = bind(HOST, 0)
    bench.server.open(second)
    other = Bench(bench.server, second, bench.script)
    assert lines(await other.ask("web-01.local"))
    assert bench.server.listeners == [bench.listener, second]
    async with bench.tcp() as stream:
        stream.send(question("web-01.local"))
        await stream.receive()
        bench.server.close(bench.listener)
        assert bench.server.listeners == [second]
        # What is open stays open.
        stream.send(question("db.local"))
        assert await stream.receive()
    assert lines(await other.ask("web-01.local"))
    assert lines(await other.ask_tcp("web-01.local"))


@served()
async def test_a_new_listener_may_have_the_numbers_of_the_sockets_of_an_old_one(bench: Bench) -> None:
    await bench.ask_tcp("web-01.local")
    numbers = bench.listener.udp.fileno(), bench.listener.tcp.fileno()
    bench.server.close(bench.listener)
    # So that UDP gets the number that TCP had, as a rule: other threads open and close descriptors too.
    placeholders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
    while placeholders[-1].fileno() < numbers[0]:
        placeholders.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    again = bind(HOST, 0)
    bench.server.open(again)
    other = Bench(bench.server, again, bench.script)
    assert lines(await other.ask("web-01.local"))
    assert lines(await other.ask_tcp("web-01.local"))
    for placeholder in placeholders:
        placeholder.close()


def test_ipv6() -> None:
    try:
        bind("::1", 0).close()
    except OSError:
        pytest.skip("no IPv6 here")

    async def main() -> None:
        async with serving(address="::1") as bench:
            assert lines(await bench.ask("web-01.local"))
            assert lines(await bench.ask_tcp("web-01.local"))

    run(main())


def test_a_port_that_is_taken_is_not_shared() -> None:
    first = bind(HOST, 0)
    try:
        with pytest.raises(OSError):
            bind(HOST, first.port)
        assert first.udp.getsockname() == first.tcp.getsockname() == (HOST, first.port)
    finally:
        first.close()
    bind(HOST, first.port).close()
    with pytest.raises(OSError):
        bind("192.0.2.1", 0)  # no address of this host


@served()
async def test_counts(bench: Bench) -> None:
    bench.script.open_gate()
    for name in ("web-01.local", "nope.local", "x.test"):
        await bench.ask_tcp(name)
    await bench.udp(b"\0" * 12)
    assert asdict(bench.server.handler.counts) == {
        "queries": 5, "answered": 3, "forwarded": 1, "refused": 0, "malformed": 1, "failed": 0, "silenced": 0,
        "tcp_connections": 3,
    }  # fmt: skip
