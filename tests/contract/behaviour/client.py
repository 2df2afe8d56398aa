"""A client that checks each response byte by byte before dnspython reads it."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rdatatype

from tests.contract.behaviour.upstream import Upstream
from tests.unit.server.dnsbench import Stream

PATIENCE = 15.0  # seconds until an answer that does not come is a failure; no case may take as long
SIZE = 1232
_HEADER = struct.Struct("!6H")
_idents = itertools.count(1)


@dataclass
class Response:
    """A response: its bytes, and what they say."""

    raw: bytes
    read: dns.message.Message

    @property
    def rcode(self) -> int:
        return int(self.read.rcode())

    @property
    def flags(self) -> int:
        return int(self.read.flags)

    @property
    def counts(self) -> tuple[int, ...]:
        return _HEADER.unpack_from(self.raw)[2:]

    @property
    def lines(self) -> list[str]:
        """The answer section, a record each: owner, type and data."""
        return [
            f"{rrset.name} {dns.rdatatype.to_text(rrset.rdtype)} {rdata}"
            for rrset in self.read.answer
            for rdata in rrset
        ]

    @property
    def data(self) -> list[str]:
        return sorted(str(rdata) for rrset in self.read.answer for rdata in rrset)

    @property
    def ttls(self) -> list[int]:
        return [rrset.ttl for rrset in self.read.answer]

    @property
    def soa(self) -> tuple[str, int, int] | None:
        """Owner, TTL and MINIMUM of the SOA in the authority section, which holds nothing else."""
        if not self.read.authority:
            return None
        (one,) = self.read.authority
        assert one.rdtype == dns.rdatatype.SOA
        return str(one.name), one.ttl, one[0].minimum

    @property
    def errors(self) -> list[int]:
        """The codes of the Extended DNS Errors (RFC 8914)."""
        return [int(one.code) for one in self.read.options if isinstance(one, dns.edns.EDEOption)]

    def option(self, code: int) -> bytes | None:
        """What an EDNS option holds."""
        found = [one for one in self.read.options if int(one.otype) == code]
        return found[0].to_wire() if found else None


def question(name: str, kind: str = "A", *, flags: int = 0x0100, edns: int = 0, **how: Any) -> bytes:
    """A query; edns -1 is without an OPT record."""
    message = dns.message.make_query(name, kind, use_edns=edns, **how)
    message.id = next(_idents)
    message.flags = dns.flags.Flag(flags)
    return message.to_wire()


def packet(*counts: int, body: bytes, flags: int = 0x0100, ident: int | None = None) -> bytes:
    """A packet as it is written down: header with the four counts, and what follows."""
    return _HEADER.pack(next(_idents) if ident is None else ident, flags, *counts) + body


@dataclass
class Client:
    """Queries one server, by UDP or by TCP. unique: a label that no other case uses; log: the lines of the server."""

    address: tuple[str, int]
    tcp: bool
    unique: str
    upstream: Upstream
    log: Callable[[], list[str]]

    def by(self, tcp: bool) -> Client:
        return Client(self.address, tcp, self.unique, self.upstream, self.log)

    def name(self, first: str) -> str:
        """A name for which the upstream behaves as its first label says."""
        return f"{first}.{self.unique}.fz.test"

    def forwarded(self, first: str, tcp: bool | None = None) -> int:
        """How many queries for that name the upstream got."""
        return self.upstream.count(self.name(first), tcp)

    async def query(self, name: str, kind: str = "A", **how: Any) -> Response:
        return await self.send(question(name, kind, **how))

    async def send(self, sent: bytes) -> Response:
        """The response to a packet, checked for what holds of each."""
        return check(sent, await self.raw(sent), self.tcp)

    async def raw(self, sent: bytes) -> bytes:
        if self.tcp:
            async with self.stream() as stream:
                stream.send(sent)
                return await wait(stream.receive())
        async with self.datagrams() as socket:
            socket.send(sent)
            return await wait(socket.get())

    async def silent(self, sent: bytes) -> None:
        """This packet gets nothing at all; the server goes on."""
        last = question("web-01.local")
        if self.tcp:
            async with self.stream() as stream:
                stream.send(sent)
                assert await wait(stream.ended())
            assert (await self.send(last)).data == ["192.168.56.101"]
            return
        async with self.datagrams() as socket:
            socket.send(sent, last)
            assert check(last, await wait(socket.get()), False).data == ["192.168.56.101"]

    @asynccontextmanager
    async def stream(self) -> Any:
        reader, writer = await wait(asyncio.open_connection(*self.address))
        try:
            yield Stream(reader, writer)
        finally:
            writer.close()

    @asynccontextmanager
    async def datagrams(self) -> Any:
        loop = asyncio.get_running_loop()
        transport, socket = await loop.create_datagram_endpoint(Datagrams, remote_addr=self.address)
        try:
            yield socket
        finally:
            transport.close()


class Datagrams(asyncio.DatagramProtocol):
    """A client's UDP socket."""

    def __init__(self) -> None:
        self._received: asyncio.Queue[bytes] = asyncio.Queue()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, _: object) -> None:
        self._received.put_nowait(data)

    def send(self, *packets: bytes) -> None:
        for one in packets:
            self._transport.sendto(one)

    @property
    def received(self) -> int:
        return self._received.qsize()

    async def get(self) -> bytes:
        return await self._received.get()


async def wait(coming: Any) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await coming


def check(sent: bytes, raw: bytes, tcp: bool) -> Response:
    """What holds of each response to a query, whatever it answers."""
    ident, asked = _HEADER.unpack_from(sent)[:2]
    got, flags, questions = _HEADER.unpack_from(raw)[:3]
    assert got == ident
    assert flags & 0x8000, "QR"
    assert flags & 0x7800 == asked & 0x7800, "the opcode is that of the query"
    assert not flags & 0x0040, "Z is zero (RFC 1035 section 4.1.1)"
    assert flags & 0x0100 == asked & 0x0100, "RD is copied"
    assert not (tcp and flags & 0x0200), "TC over TCP"
    read = dns.message.from_wire(raw)  # raises on anything behind the last record
    if questions:
        end = sent.index(b"\0", 12) + 5  # none of the names that come here has a zero byte inside
        assert raw[12:end] == sent[12:end], "the question is echoed byte for byte"
    for section in (read.answer, read.authority, read.additional):
        for rrset in section:
            assert 0 <= rrset.ttl <= 604_800
    if not tcp:
        assert len(raw) <= SIZE, "RFC 9715"
    assert all(rrset.rdtype != dns.rdatatype.OPT for rrset in read.additional)
    if read.edns >= 0:
        assert (read.edns, read.payload) == (0, SIZE)
        assert not read.ednsflags & 0x7FFF, "flags that nobody knows are cleared (RFC 6891 section 6.1.4)"
    return Response(raw, read)
