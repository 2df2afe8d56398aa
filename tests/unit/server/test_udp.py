"""The threads that answer datagrams, with listeners that come and go."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from selectors import SelectorKey, SelectSelector
from typing import Any

import dns.message
import pytest

from tests.unit.server.dnsbench import HOST, Bench, Script, answer, question, run, until
from vmdns.server import io_thread, udp, udp_linux
from vmdns.server.dns_server import DnsServer
from vmdns.server.listeners import Listener, bind


@pytest.mark.parametrize("batches", [True, False])
def test_listeners_come_and_go_while_others_answer(batches: bool) -> None:
    before = set(threading.enumerate())

    def threads() -> list[str]:
        return sorted(one.name for one in set(threading.enumerate()) - before if one.name.startswith("udp"))

    async def main() -> None:
        script = Script()
        server = script.serve(batches=batches)
        benches: list[Bench] = []
        for host in ("127.0.0.1", "127.0.0.2", "::1"):
            try:
                listener = bind(host, 0)
            except OSError:
                continue  # no IPv6
            server.open(listener)
            benches.append(Bench(server, listener, script))
            for bench in benches:
                assert (await bench.ask("db.local")).answer
        assert threads() == ["udp"]
        while benches:
            gone = benches.pop(0)
            server.close(gone.listener)
            for bench in benches:
                assert (await bench.ask("db.local")).answer
        await until(lambda: threads() == [])
        answered = server.handler.counts.answered
        listener = bind(HOST, 0)
        server.open(listener)
        assert (await Bench(server, listener, script).ask("db.local")).answer
        assert server.handler.counts.answered == answered + 1, "nothing that was counted is forgotten"
        await server.stop()

    run(main())


@pytest.mark.parametrize("batches", [True, False])
def test_many_at_several_listeners_are_each_answered_by_the_one_that_was_asked(batches: bool) -> None:
    async def main() -> None:
        script = Script()
        server = script.serve(batches=batches)
        benches = []
        for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"):
            listener = bind(host, 0)
            server.open(listener)
            benches.append(Bench(server, listener, script))
        names = ("db.local", "DB.local", "nope.local", "x.db.local", "localhost", "big.local")
        for start in range(0, 300, 100):
            packets = [question(names[at % len(names)], ident=at) for at in range(start, start + 100)]
            slow = sorted([await answer(server, packet) for packet in packets])
            assert server.udp.path == ("in batches" if batches and udp_linux.POSSIBLE else "one by one")
            for replies in await asyncio.gather(*(bench.udp(*packets) for bench in benches)):
                assert sorted(replies) == slow
        await server.stop()

    run(main())


def test_a_flood_at_one_listener_leaves_others_their_turn() -> None:
    async def main() -> None:
        script = Script()
        server = script.serve()
        benches = []
        for host in ("127.0.0.1", "127.0.0.2"):
            listener: Listener = bind(host, 0)
            server.open(listener)
            benches.append(Bench(server, listener, script))
        flooded, other = benches
        over = threading.Event()

        def flood() -> None:
            packets = [question("db.local", ident=at) for at in range(200)]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.connect((flooded.listener.address, flooded.listener.port))
                while not over.is_set():
                    for packet in packets:
                        client.send(packet)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            for _ in range(50):
                reply = await asyncio.wait_for(other.ask("db.local"), 10)
                assert isinstance(reply, dns.message.Message)
                assert reply.answer
        finally:
            over.set()
            thread.join()
        await server.stop()

    run(main())


def test_a_system_that_has_only_select_and_blocking_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows: no recvmmsg, no MSG_DONTWAIT, and select(2) for all listeners."""
    monkeypatch.setattr(io_thread, "new_selector", SelectSelector)
    monkeypatch.setattr(udp_linux, "POSSIBLE", False)
    monkeypatch.setattr(udp, "_DONT_WAIT", 0)

    async def main() -> None:
        script = Script()
        server = script.serve()
        benches = []
        for host in ("127.0.0.1", "127.0.0.2"):
            listener = bind(host, 0)
            server.open(listener)
            benches.append(Bench(server, listener, script))
        for bench in (*benches, *benches):
            packets = [question("db.local", ident=at) for at in range(50)]
            assert sorted(reply[:2] for reply in await bench.udp(*packets)) == sorted(one[:2] for one in packets)
        assert server.udp.path == "one by one"
        await server.stop()

    run(main())


class Resetting:
    """A UDP socket of Windows, where an ICMP error that a response caused is reported by a later call."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.arrived = [question("db.local", ident=1), ConnectionResetError(), question("db.local", ident=2)]
        self.errors = [ConnectionResetError()]
        self.sent: list[bytes] = []

    def recvfrom(self, *_: object) -> tuple[bytes, tuple[str, int]]:
        if not self.arrived:
            raise BlockingIOError
        found = self.arrived.pop(0)
        if isinstance(found, Exception):
            raise found
        return found, ("192.168.56.2", 5000)

    def sendto(self, response: bytes, *_: object) -> None:
        if self.errors:
            raise self.errors.pop()
        self.sent.append(response)


def listener_on(sock: Any, server: DnsServer) -> udp.UdpListener:
    return udp.UdpListener(Listener(HOST, 53, sock, sock), server.udp._thread, batched=False)


def test_an_icmp_error_costs_no_query_and_no_response() -> None:
    server, sock = Script().serve(batches=False), Resetting()
    listener = listener_on(sock, server)
    while sock.arrived:
        server.udp._read(listener)
    assert [int.from_bytes(response[:2], "big") for response in sock.sent] == [1, 2]
    assert server.handler.counts.failed == 0


def test_the_thread_survives_each_error_of_the_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [OSError(10038, "not a socket"), OSError(10038, "not a socket"), ValueError("too many")]

    class Failing(SelectSelector):
        def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
            if errors:
                raise errors.pop(0)
            return super().select(timeout)

    monkeypatch.setattr(io_thread, "new_selector", Failing)
    monkeypatch.setattr(io_thread, "_FAILED_WAIT_SECONDS", 0.0)
    thread, done = io_thread.IoThread(), threading.Event()
    thread.submit(done.set)
    assert done.wait(20)
    assert not errors
    assert [record.getMessage() for record in caplog.records] == [
        f"the UDP thread cannot wait for packets ({text}); it tries again"
        for text in ("[Errno 10038] not a socket", "too many")
    ]


def test_calls_that_wake_the_thread_while_its_wake_up_socket_is_full_are_all_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full:
        def __init__(self, sock: socket.socket) -> None:
            self._socket = sock

        def setblocking(self, flag: bool) -> None:
            self._socket.setblocking(flag)

        def send(self, data: bytes) -> int:
            self._socket.send(data)
            raise BlockingIOError

        def close(self) -> None:
            self._socket.close()

    real = socket.socketpair
    monkeypatch.setattr(io_thread.socket, "socketpair", lambda: (Full((pair := real())[0]), pair[1]))
    thread, done = io_thread.IoThread(), threading.Event()
    for _ in range(50):
        thread.submit(lambda: None)
    thread.submit(done.set)
    assert done.wait(20)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("platform", "error", "reason"),
    [
        ("darwin", errno.EHOSTUNREACH, "macOS does not let this Python send to the local network"),
        ("linux", errno.EPERM, "a firewall or the kill switch of a VPN blocks local networks"),
        ("win32", errno.EACCES, "a firewall or the kill switch of a VPN blocks local networks"),
        ("darwin", errno.ENOBUFS, ""), ("linux", errno.EHOSTUNREACH, ""), ("freebsd14", errno.EPERM, ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("batches", [True, False])
def test_responses_that_this_computer_refuses_to_send(
    monkeypatch: pytest.MonkeyPatch, platform: str, error: int, reason: str, batches: bool
) -> None:
    class Refusing:
        family = socket.AF_INET

        def recvfrom(self, *_: object) -> tuple[bytes, tuple[str, int]]:
            return question("db.local"), ("192.168.56.2", 5000)

        def sendto(self, *_: object) -> None:
            raise OSError(error, "it is refused")

    server = Script().serve(batches=batches)
    assert server.udp.refusal[0] == ""
    monkeypatch.setattr(udp.sys, "platform", platform)
    if batches and server.udp._batch is not None:
        monkeypatch.setattr(server.udp._batch, "_send", lambda *_: -1)
        monkeypatch.setattr(server.udp._batch, "peer", lambda at: ("192.168.56.2", 5000))
        server.udp._batch.send(Refusing(), [b"xxresponse"], server.udp._count_failure)  # type: ignore[arg-type]
    else:
        listener = listener_on(Refusing(), server)
        server.udp._send(listener, ("192.168.56.2", 5000), b"response")
    assert reason in server.udp.refusal[0]
    assert bool(reason) == bool(server.udp.refusal[1])
    assert server.handler.counts.failed == 1
