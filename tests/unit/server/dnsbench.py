"""A DNS server on real loopback sockets, a scripted world behind it, and a client that counts every byte."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import dns.message

from tests.testzone import SNAPSHOT
from vmdns.dns import message as wire
from vmdns.dns.forwarded_answer import Forwarded, Question
from vmdns.dns.limits import Limits
from vmdns.dns.message import Record
from vmdns.dns.name import split_labels
from vmdns.dns.query import encode_query
from vmdns.server.dns_server import DnsServer
from vmdns.server.io_thread import IoThread
from vmdns.server.listeners import Listener, bind
from vmdns.server.query_handler import QueryHandler
from vmdns.state.snapshot import Snapshot

HOST = "127.0.0.1"
PATIENCE = 20.0  # seconds until an answer that does not come is a failure


class InlineThread(IoThread):
    """Stands for the UDP thread where a simulated clock does not wait for one."""

    def submit(self, call: Callable[[], None]) -> None:
        call()


class Script:
    """What the server is given: a snapshot, and a forwarder that does as the first label of the name says."""

    def __init__(self, thread: IoThread | None = None) -> None:
        self.snapshot: Snapshot | Exception = SNAPSHOT
        self.thread = thread or IoThread()
        self.forwarded: list[bytes] = []
        self.slow: list[tuple[Question, Callable[[Forwarded], object]]] = []  # names that begin with `slow`
        self._open = False

    def current(self) -> Snapshot:
        if isinstance(self.snapshot, Exception):
            raise self.snapshot
        return self.snapshot

    async def admit(self, peer: str) -> None:
        """Nobody turns out to be a guest."""

    def find_cached(self, question: Question) -> Forwarded | None:
        return _made(question) if split_labels(question.name)[0] == b"cached" else None

    def find(self, question: Question, waiter: Callable[[Forwarded], object]) -> Forwarded | None:
        found = self.find_cached(question)
        if found is not None:
            return found
        self.forwarded.append(question.name)
        match split_labels(question.name)[0]:
            case b"slow" if not self._open:
                self.slow.append((question, waiter))
            case b"broken":
                raise RuntimeError("the forwarder is broken")
            case b"fat":
                many = [Record(question.name, wire.A, 9, n.to_bytes(4, "big")) for n in range(1000)]
                self.thread.submit(lambda: waiter(Forwarded(0, tuple(many))))
            case _:
                self.thread.submit(lambda: waiter(_made(question)))
        return None

    def open_gate(self) -> None:
        """Answers the slow ones."""

        def answer() -> None:
            self._open = True
            for question, waiter in self.slow:
                waiter(_made(question))
            self.slow.clear()

        self.thread.submit(answer)

    async def close(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.slow:
                    await asyncio.sleep(0.001)
        self.thread.run(lambda: None)

    def serve(self, limits: Limits | None = None, *, batches: bool = True) -> DnsServer:
        """A server without listeners. batches: whether it uses them where the system has them."""
        server = DnsServer(QueryHandler(self.current, self, self.admit, limits or Limits()))  # type: ignore[arg-type]
        if not batches:
            server.udp._batch = None
        return server


def _made(question: Question) -> Forwarded:
    return Forwarded(0, (Record(question.name, wire.A, 9, b"\xc6\x33\x64\x01"),))


def answer_at_once(
    server: DnsServer, packet: bytes, peer: str = HOST, local: str = HOST, *, tcp: bool = False
) -> bytes | None:
    """The response of the query handler, b"" for none; None where it follows."""
    return server.handler.answer(packet, peer, local, lambda response: None, tcp=tcp)


async def answer(server: DnsServer, packet: bytes, peer: str = HOST, local: str = HOST, *, tcp: bool = False) -> bytes:
    """The response of the query handler, also one that follows."""
    loop = server.handler.loop = asyncio.get_running_loop()
    later: asyncio.Future[bytes] = loop.create_future()

    def respond(response: bytes) -> None:
        loop.call_soon_threadsafe(later.set_result, response)

    response = server.handler.answer(packet, peer, local, respond, tcp=tcp)
    return response if response is not None else await later


class Bench:
    """One server, one listener."""

    def __init__(self, server: DnsServer, listener: Listener, script: Script) -> None:
        self.server = server
        self.listener = listener
        self.script = script

    async def udp(self, *packets: bytes) -> list[bytes]:
        """All responses to these packets and to a last good query, up to the one to that (which is left out)."""
        async with self.datagrams() as (send, received):
            send(*packets, LAST)
            found = []
            while not (reply := await received.get()).startswith(LAST[:2]):
                found.append(reply)
            return found

    async def ask(self, name: str, kind: str = "A", **how: Any) -> dns.message.Message:
        """The response over UDP."""
        async with self.datagrams() as (send, received):
            send(question(name, kind, **how))
            return dns.message.from_wire(await received.get())

    @contextlib.asynccontextmanager
    async def datagrams(self) -> AsyncIterator[tuple[Callable[..., None], asyncio.Queue[bytes]]]:
        """A client's socket: what sends packets, and what was received."""
        received: asyncio.Queue[bytes] = asyncio.Queue()

        class Client(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, _: object) -> None:
                received.put_nowait(data)

        def send(*packets: bytes) -> None:
            for packet in packets:
                transport.sendto(packet)

        where = (self.listener.address, self.listener.port)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Client, remote_addr=where)
        try:
            yield send, received
        finally:
            transport.close()

    @contextlib.asynccontextmanager
    async def tcp(self) -> AsyncIterator[Stream]:
        reader, writer = await asyncio.open_connection(self.listener.address, self.listener.port)
        try:
            yield Stream(reader, writer)
        finally:
            writer.close()

    async def ask_tcp(self, name: str, kind: str = "A", **how: Any) -> dns.message.Message:
        async with self.tcp() as stream:
            stream.send(question(name, kind, **how))
            return dns.message.from_wire(await stream.receive())


class Stream:
    """The client's end of a TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *packets: bytes) -> None:
        self.writer.write(b"".join(struct.pack("!H", len(packet)) + packet for packet in packets))

    async def receive(self) -> bytes:
        (length,) = struct.unpack("!H", await self.reader.readexactly(2))
        return await self.reader.readexactly(length)

    async def ended(self) -> bool:
        """Waits for the server's end of the connection: nothing more comes."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True


async def until(true: Callable[[], bool]) -> None:
    """Lets the loop run until something is true."""
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.005)


LAST = encode_query(0xFFFE, b"\2db\5local\0", wire.A)


def question(name: str, kind: str = "A", ident: int = 4711, **how: Any) -> bytes:
    message = dns.message.make_query(name, kind, **how)
    message.id = ident
    return message.to_wire()


@contextlib.asynccontextmanager
async def serving(limits: Limits | None = None, address: str = HOST, *, batches: bool = True) -> AsyncIterator[Bench]:
    script = Script()
    server = script.serve(limits, batches=batches)
    listener = bind(address, 0)
    server.open(listener)
    try:
        yield Bench(server, listener, script)
    finally:
        await server.stop(grace=0.0)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Runs on the loop that vmdns uses on every system; what goes wrong in its callbacks is a failure too."""
    errors: list[object] = []

    async def bounded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        async with asyncio.timeout(PATIENCE):
            await scenario

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(bounded())
    assert not errors, errors


def served(
    limits: Limits | None = None,
) -> Callable[[Callable[[Bench], Coroutine[Any, Any, None]]], Callable[[], None]]:
    """A test that is given a running server: one that takes datagrams in batches, then one that does not."""

    def wrap(scenario: Callable[[Bench], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        def test() -> None:
            async def main(batches: bool) -> None:
                async with serving(limits, batches=batches) as bench:
                    await scenario(bench)

            for batches in (True, False):
                run(main(batches))

        test.__name__ = scenario.__name__
        return test

    return wrap
