"""M01-M23: multicast DNS as another computer on the link sees it. Runs there, says {id: what is wrong} as JSON.

Each case has a name of its own, since a record is multicast once a second at most, and all run at once. "remove
m23.local" on the output is a request to whatever started this.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.rrset

GROUP, PORT = "224.0.0.251", 5353
IP_PKTINFO, IP_RECVTTL, IP_TTL = 8, 12, 2
SO_TIMESTAMPNS = 35  # nanoseconds since 1970, by the kernel, so that it does not matter when this program reads
FLUSH = QU = 0x8000
A, PTR, AAAA, NSEC, ANY = 1, 12, 28, 47, 255
SECONDS = 2.0  # an answer comes within half a second, so silence for this long is silence


@dataclass
class Packet:
    """A received packet: whether it was multicast, its IP TTL, from where, and when."""

    data: bytes
    multicast: bool
    hops: int
    source: tuple[str, int]
    at: float

    @cached_property
    def read(self) -> dns.message.Message:
        return dns.message.from_wire(self.data)

    @cached_property
    def _answers(self) -> dict[tuple[str, int], list[tuple[int, bool, str]]]:
        found: dict[tuple[str, int], list[tuple[int, bool, str]]] = {}
        for rrset in self.read.answer:
            among = found.setdefault((str(rrset.name).lower(), int(rrset.rdtype)), [])
            for rdata in rrset:
                data = _ip(rdata) if rrset.rdtype == A else str(rdata)
                among.append((rrset.ttl, bool(int(rrset.rdclass) & FLUSH), data))
        return found

    def records(self, name: str, kind: int) -> list[tuple[int, bool, str]]:
        """TTL, cache-flush bit and data of the answer's records of this name and type."""
        return self._answers.get((f"{name}.", kind), [])


def _ip(rdata: Any) -> str:
    return str(ip_address(rdata.to_wire()))


class Link:
    """The sockets of this computer on the link: one on port 5353 as a responder's, others as a plain resolver's."""

    def __init__(self, address: str, addresses: dict[str, str]) -> None:
        self.address = address
        self.addresses = addresses
        self.log: list[Packet] = []
        self._news = asyncio.Event()
        self.open(PORT)

    def open(self, port: int) -> socket.socket:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        one.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        one.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, ip_address(self.address).packed)
        if port:
            member = ip_address(GROUP).packed + ip_address(self.address).packed
            one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            self.socket = one
        one.setblocking(False)
        one.bind(("", port))
        asyncio.get_running_loop().add_reader(one, self._readable, one)
        return one

    def _readable(self, one: socket.socket) -> None:
        data, more, _, peer = one.recvmsg(9000, 1024)
        if peer[0] == self.address:
            return
        ancillary = {kind: content for _, kind, content in more}
        hops = struct.unpack("@i", ancillary[IP_TTL])[0]
        to = str(ip_address(ancillary[IP_PKTINFO][8:12]))
        seconds, parts = struct.unpack("@qq", ancillary[SO_TIMESTAMPNS])
        self.log.append(Packet(data, to == GROUP, hops, peer, seconds + parts / 1e9))
        self._news.set()

    def send(self, packet: bytes, by: socket.socket | None = None) -> int:
        """Multicasts a packet; what comes later has this place in the log or a later one."""
        (by or self.socket).sendto(packet, (GROUP, PORT))
        return len(self.log)

    def query(self, name: str, kind: int = A, **how: Any) -> int:
        return self.send(question((name, kind), **how))

    async def wait_for(self, true: Callable[[Packet], Any], since: int, seconds: float = 10) -> Packet:
        """The first packet of which this is true."""
        async with asyncio.timeout(seconds):
            while True:
                for one in self.log[since:]:
                    if true(one):
                        return one
                since = len(self.log)
                self._news.clear()
                await self._news.wait()

    async def answer(self, name: str, since: int, kind: int = A) -> Packet:
        return await self.wait_for(lambda one: one.records(name, kind), since)

    async def silence(self, about: str, since: int) -> None:
        """Waits, and no packet may hold this name."""
        await asyncio.sleep(SECONDS)
        packets = [one for one in self.log[since:] if about.encode() in one.data.lower()]
        assert not packets, packets


def question(*asked: tuple[str, int], qu: bool = False, flags: int = 0, ident: int = 0, **sections: Any) -> bytes:
    out = b"".join(
        dns.name.from_text(name).to_wire() + struct.pack("!HH", kind, 1 | (QU if qu else 0)) for name, kind in asked
    )
    counts = [len(asked)]
    for section in ("answer", "authority"):
        records = sections.get(section, [])
        counts.append(len(records))
        out += b"".join(records)
    return struct.pack("!6H", ident, flags, *counts, 0) + out


def record(name: str, address: str, ttl: int = 120, kind: int = A) -> bytes:
    data = ip_address(address).packed
    return dns.name.from_text(name).to_wire() + struct.pack("!HHIH", kind, 1 | FLUSH, ttl, len(data)) + data


ROWS: dict[str, Callable[[Link, str], Awaitable[None]]] = {}


def case(ident: str) -> Any:
    def add(scenario: Callable[[Link, str], Awaitable[None]]) -> Callable[[Link, str], Awaitable[None]]:
        ROWS[ident] = scenario
        return scenario

    return add


@case("M01")
async def _(link: Link, name: str) -> None:
    got = await link.answer(name, link.query(name))
    assert got.multicast
    assert [data for _, _, data in got.records(name, A)] == [link.addresses[name]]


@case("M02")
async def _(link: Link, name: str) -> None:
    got = await link.answer(name, link.query(name, ident=4711))
    assert got.data[:4] == b"\0\0\x84\0"


@case("M03")
async def _(link: Link, name: str) -> None:
    got = await link.answer(name, link.query(name))
    assert got.data[4:6] == b"\0\0"


@case("M04")
async def _(link: Link, name: str) -> None:
    got = await link.answer(name, link.query(name))
    assert (got.source[1], got.hops) == (PORT, 255)


@case("M05")
async def _(link: Link, name: str) -> None:
    got = await link.answer(name, link.query(name))
    assert [flush for _, flush, _ in got.records(name, A)] == [True]


@case("M06")
async def _(link: Link, name: str) -> None:
    got = await link.answer(name, link.query(name))
    assert [ttl for ttl, _, _ in got.records(name, A)] == [120]


@case("M07")
async def _(link: Link, name: str) -> None:
    got = await link.answer(name, link.query(name, qu=True))
    assert [data for _, _, data in got.records(name, A)] == [link.addresses[name]]


async def _plain(link: Link, name: str) -> tuple[Packet, bytes]:
    asked = question((name, A), flags=0x0100, ident=0x1234)
    got = await link.answer(name, link.send(asked, link.open(0)))
    assert not got.multicast
    return got, asked


@case("M08")
async def _(link: Link, name: str) -> None:
    got, asked = await _plain(link, name)
    assert got.data[:2] == b"\x12\x34"
    assert got.data[4:6] == b"\0\1"
    assert got.data[12 : len(asked)] == asked[12:]


@case("M09")
async def _(link: Link, name: str) -> None:
    got, _ = await _plain(link, name)
    assert all(0 < ttl <= 10 for ttl, _, _ in got.records(name, A))


@case("M10")
async def _(link: Link, name: str) -> None:
    got, _ = await _plain(link, name)
    assert [flush for _, flush, _ in got.records(name, A)] == [False]


@case("M11")
async def _(link: Link, name: str) -> None:
    await link.silence("m11", link.query(name, answer=[record(name, link.addresses[name], 120)]))


@case("M12")
async def _(link: Link, name: str) -> None:
    await link.answer(name, link.query(name, answer=[record(name, link.addresses[name], 59)]))


@case("M13")
async def _(link: Link, name: str) -> None:
    since = link.query("m13-nobody.local")
    link.query("m13-nobody.example")
    link.send(question(("m13-nobody.local", A), ident=7), link.open(0))
    await link.silence("m13-nobody", since)


@case("M14")
async def _(link: Link, name: str) -> None:
    got = await link.answer(name, link.query(name, AAAA), NSEC)
    denied = [rdata for rrset in got.read.answer if rrset.rdtype == NSEC for rdata in rrset]
    assert any("TYPE" not in str(rdata) and " A" in str(rdata) and "AAAA" not in str(rdata) for rdata in denied)


@case("M15")
async def _(link: Link, name: str) -> None:
    pointer = ip_address(link.addresses[name]).reverse_pointer
    got = await link.answer(pointer, link.query(pointer, PTR), PTR)
    assert "m15.local." in got.read.to_text()


@case("M16")
async def _(link: Link, name: str) -> None:
    # In how much time, tests/unit/mdns/test_responder.py says by a clock of its own.
    probe = question((name, ANY), qu=True, authority=[record(name, "192.168.56.250")])
    got = await link.answer(name, link.send(probe))
    assert [data for _, _, data in got.records(name, A)] == [link.addresses[name]]


@case("M17")
async def _(link: Link, name: str) -> None:
    await link.answer(name, link.query(name.upper()))


@case("M18")
async def _(link: Link, name: str) -> None:
    since = [link.query(name, flags=opcode << 11) for opcode in (1, 2, 4, 5, 15)]
    await link.silence("m18", since[0])


@case("M19")
async def _(link: Link, name: str) -> None:
    since = [link.query(name, flags=rcode) for rcode in (1, 3, 5)]
    await link.silence("m19", since[0])


@case("M20")
async def _(link: Link, name: str) -> None:
    got = await link.answer(name, link.send(question((name, A), ("m20-too.local", A))))
    assert got.records("m20-too.local", A)


@case("M21")
async def _(link: Link, name: str) -> None:
    since = link.query(name)
    first = await link.answer(name, since)
    for _ in range(5):
        link.query(name)
        await asyncio.sleep(0.05)
    # The queries of meanwhile get one more response when the second is over (RFC 6762 section 6). That second is
    # the responder's, which may be held up between reading its clock and sending.
    await asyncio.sleep(SECONDS)
    times = [one.at for one in link.log[since:] if one.multicast and one.records(name, A)]
    assert times[0] == first.at
    assert all(later - earlier > 0.5 for earlier, later in pairwise(times)), [one - times[0] for one in times]
    assert len(times) <= 2


@case("M22")
async def _(link: Link, name: str) -> None:
    good = question((name, A))
    for cut in range(len(good)):
        link.send(good[:cut])
    for junk in (b"\xff" * 60, good[:12] + b"\xc0\x0c\0\1\0\1", good[:4] + b"\xff\xff" + good[6:], bytes(9000 - 28)):
        link.send(junk)
    await link.answer(name, link.send(good))


@case("M23")
async def _(link: Link, name: str) -> None:
    since = link.query(name)
    await link.answer(name, since)
    print("remove m23.local", flush=True)
    got = await link.wait_for(lambda one: any(ttl == 0 for ttl, _, _ in one.records(name, A)), since)
    assert [(ttl, data) for ttl, _, data in got.records(name, A)] == [(0, link.addresses[name])]


async def main(address: str, addresses: dict[str, str], wanted: list[str]) -> dict[str, str]:
    link = Link(address, addresses)
    print("listening", flush=True)
    # Everything is announced twice, a second apart; and a second later perhaps once more.
    for name in addresses:
        first = await link.answer(name, 0)
        await link.wait_for(lambda one, name=name, first=first: one is not first and one.records(name, A), 0)
    await asyncio.sleep(1.1)
    results: dict[str, str] = {}

    async def run(ident: str) -> None:
        try:
            await ROWS[ident](link, f"{ident.lower()}.local")
            results[ident] = ""
        except Exception:
            results[ident] = traceback.format_exc()

    await asyncio.gather(*(run(ident) for ident in wanted))
    return results


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        print(json.dumps(runner.run(main(given["address"], given["addresses"], given["wanted"]))), flush=True)
