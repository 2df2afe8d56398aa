"""The server over TCP: connections that mean harm (threat T10), and their limits. Answers: tests/contract/behaviour."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys

import dns.message
import dns.rcode
import pytest

from tests.unit.server.dnsbench import HOST, LAST, Bench, Stream, question, run, served, serving
from vmdns.dns.limits import Limits
from vmdns.server import tcp


def lines(message: dns.message.Message) -> list[str]:
    return [line for rrset in message.answer for line in rrset.to_text().split("\n")]


WEB = ["web-01.local. 5 IN A 192.168.56.101"]
IDLE = Limits(tcp_idle=0.05)


@served(IDLE)
async def test_t07_who_says_nothing_is_sent_away(bench: Bench) -> None:
    async with bench.tcp() as silent, bench.tcp() as half, bench.tcp() as done:
        half.writer.write(b"\0\x30half")
        done.send(question("web-01.local"))
        await done.receive()
        for stream in (silent, half, done):
            assert await stream.ended()


@served(IDLE)
async def test_who_waits_for_an_answer_is_not_idle(bench: Bench) -> None:
    async with bench.tcp() as waiting, bench.tcp() as silent:
        waiting.send(question("slow.test"))
        assert await silent.ended()
        bench.script.open_gate()
        assert lines(dns.message.from_wire(await waiting.receive())) == ["slow.test. 9 IN A 198.51.100.1"]
        assert await waiting.ended()


@served()
async def test_what_is_malformed_is_answered_and_the_connection_stays(bench: Bench) -> None:
    async with bench.tcp() as stream:
        stream.send(b"\0\1\x01\0" + b"\0\2" + b"\0" * 6, question("web-01.local"))
        assert dns.message.from_wire(await stream.receive()).rcode() == dns.rcode.FORMERR
        assert lines(dns.message.from_wire(await stream.receive())) == WEB


async def idle(bench: Bench, count: int) -> list[Stream]:
    """That many connections, each of which was answered once."""
    streams = []
    for _ in range(count):
        stream = Stream(*await asyncio.open_connection(HOST, bench.listener.port))
        stream.send(LAST)
        await stream.receive()
        streams.append(stream)
    return streams


@served(Limits(tcp_connections=40))
async def test_t12_idle_connections_hinder_nobody(bench: Bench) -> None:
    streams = await idle(bench, 100)
    # The half of all that one peer may have.
    assert len(bench.server.tcp) == 20
    assert lines(await bench.ask("web-01.local")) == WEB
    assert lines(await bench.ask_tcp("web-01.local")) == WEB
    # The newest were kept, the others told.
    assert all([await stream.ended() for stream in streams[:80]])
    streams[-1].send(question("web-01.local"))
    assert await streams[-1].receive()
    for stream in streams:
        stream.writer.close()


@served(Limits(tcp_connections=8))
async def test_the_one_that_was_idle_for_longest_goes_first(bench: Bench) -> None:
    first, *others = await idle(bench, 4)
    first.send(LAST)
    await first.receive()
    (newest,) = await idle(bench, 1)
    assert await others[0].ended()
    for stream in (first, *others[1:], newest):
        stream.send(LAST)
        assert await stream.receive()
    for stream in (first, *others, newest):
        stream.writer.close()


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning", "error::ResourceWarning")
@served(Limits(tcp_connections=8))
async def test_connections_that_come_all_at_once_are_not_more(bench: Bench) -> None:
    # Connected before the server has looked once.
    clients = [socket.create_connection((HOST, bench.listener.port)) for _ in range(30)]
    for client in clients:
        client.setblocking(False)
    assert lines(await bench.ask_tcp("web-01.local")) == WEB
    assert len(bench.server.tcp) <= 4
    loop = asyncio.get_running_loop()
    ended = [await loop.sock_recv(client, 1) for client in clients[:26]]
    assert ended == [b""] * 26
    for client in clients:
        client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127/8 as it stands")
def test_one_peer_does_not_take_the_places_of_another() -> None:
    async def main() -> None:
        async with serving(Limits(tcp_connections=8)) as bench:
            where = HOST, bench.listener.port
            other = Stream(*await asyncio.open_connection(*where, local_addr=("127.0.0.2", 0)))
            other.send(LAST)
            await other.receive()
            streams = await idle(bench, 20)
            assert len(bench.server.tcp) == 5
            other.send(LAST)
            assert await other.receive()
            for stream in (other, *streams):
                stream.writer.close()

    run(main())


async def send_for_ever(client: socket.socket, data: bytes) -> None:
    while True:  # until the server has had enough
        await asyncio.get_running_loop().sock_sendall(client, data)


@pytest.mark.parametrize("name", ["huge.local", "fat.test"])
def test_t10_who_does_not_read_is_sent_away(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tcp, "SEND_SECONDS", 0.05)

    async def main() -> None:
        async with serving() as bench:
            bench.listener.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((HOST, bench.listener.port))
            client.setblocking(False)
            packet = question(name)
            many = (len(packet).to_bytes(2, "big") + packet) * 200
            with pytest.raises(OSError):
                await send_for_ever(client, many)
            client.close()
            assert lines(await bench.ask_tcp("web-01.local")) == WEB

    run(main())
    assert caplog.records == []


def test_who_goes_away_before_the_answer_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving() as bench:
            for _ in range(5):
                async with bench.tcp() as stream:
                    stream.send(*[question("slow.test")] * 3, LAST)
                    await stream.receive()
                    stream.writer.transport.abort()
            bench.script.open_gate()
            left = list(bench.server.tcp._open)
            if left:
                await asyncio.wait(left)
            assert len(bench.server.tcp) == 0

    run(main())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@served(Limits(tcp_connections=4, query_timeout=3600))
async def test_who_makes_room_has_no_claim_to_answers(bench: Bench) -> None:
    (first,) = await idle(bench, 1)
    first.send(question("slow.test"), LAST)
    await first.receive()
    (second,) = await idle(bench, 1)
    second.send(question("slow.test"), LAST)
    await second.receive()
    (third,) = await idle(bench, 1)
    assert await first.ended()
    (fourth,) = await idle(bench, 1)
    assert await third.ended()  # idle, while the second waits
    for stream in (first, second, third, fourth):
        stream.writer.close()


@served()
async def test_more_questions_than_the_pipeline_holds_are_all_answered(bench: Bench) -> None:
    async with bench.tcp() as stream:
        stream.send(*(question("slow.test", ident=ident) for ident in range(tcp.PIPELINE + 50)))
        while len(bench.script.forwarded) < tcp.PIPELINE:
            await asyncio.sleep(0)
        # No more are taken on than the pipeline holds, until the first are answered.
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(bench.script.forwarded) == tcp.PIPELINE
        bench.script.open_gate()
        found = {int.from_bytes((await stream.receive())[:2], "big") for _ in range(tcp.PIPELINE + 50)}
        assert found == set(range(tcp.PIPELINE + 50))


@served()
async def test_without_file_descriptors_udp_goes_on(bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    accept, refused = loop.sock_accept, asyncio.Event()

    async def full(sock: socket.socket) -> object:
        loop.sock_accept = accept  # type: ignore[method-assign]
        refused.set()
        raise OSError(errno.EMFILE, "too many open files")

    loop.sock_accept = full  # type: ignore[assignment,method-assign]
    await bench.ask_tcp("web-01.local")  # the accept that was under way
    await refused.wait()
    assert lines(await bench.ask("web-01.local")) == WEB
    assert lines(await bench.ask_tcp("web-01.local")) == WEB
