"""H01-H20: the header, and packets that are none."""

from __future__ import annotations

import struct

from tests.contract.behaviour.client import Client, packet, question
from tests.contract.behaviour.table import TCP, UDP, case
from vmdns.dns.name import join_labels, to_wire

FORMERR, NOTIMP, REFUSED, NXDOMAIN = 1, 4, 5, 3
ZONE = to_wire("local") + b"\0\6\0\1"
WEB = to_wire("web-01.local")
ASKED = WEB + b"\0\1\0\1"


async def bare(client: Client, sent: bytes, rcode: int, question: bytes = b"") -> None:
    """The header comes back, with the question section if the fault lies behind it. The server goes on."""
    raw = await client.raw(sent)
    flags = int.from_bytes(sent[2:4], "big")
    flags = 0x8000 | flags & (0x7800 if flags & 0x7800 else 0x0100) | rcode
    assert raw == sent[:2] + struct.pack("!5H", flags, len(question) > 0, 0, 0, 0) + question
    assert (await client.query("web-01.local")).data == ["192.168.56.101"]


@case("H01")
async def _(client: Client) -> None:
    await bare(client, packet(1, 0, 0, 0, flags=2 << 11, body=ASKED), NOTIMP)


@case("H02")
async def _(client: Client) -> None:
    for opcode in (1, 3, 6, 7, 14, 15):  # 6: DNS Stateful Operations (RFC 8490), whose query has no question either
        await bare(client, packet(1, 0, 0, 0, flags=opcode << 11, body=ASKED), NOTIMP)
        await bare(client, packet(1, 0, 0, 0, flags=opcode << 11 | 0x07FF, body=ASKED), NOTIMP)
    await bare(client, packet(0, 0, 0, 0, flags=6 << 11, body=b"\0\1\0\0"), NOTIMP)


@case("H03")
async def _(client: Client) -> None:
    deletion = WEB + b"\0\1\0\xff" + bytes(6)
    addition = WEB + b"\0\1\0\1\0\0\0\x3c\0\4\6\6\6\6"
    await bare(client, packet(1, 0, 1, 0, flags=5 << 11, body=ZONE + deletion), NOTIMP)
    await bare(client, packet(1, 0, 2, 0, flags=5 << 11, body=ZONE + deletion + addition), NOTIMP)
    # bare() has asked for the name that was to go and for the address that was to come. The serial says nothing: it
    # rises when an address of this computer changes.


@case("H04")
async def _(client: Client) -> None:
    await bare(client, packet(1, 0, 0, 0, flags=4 << 11, body=ZONE), NOTIMP)
    await bare(client, packet(1, 1, 0, 0, flags=4 << 11, body=ZONE + ZONE + b"\0\0\0\0\0\0"), NOTIMP)
    assert not [one for one in client.upstream.seen if one.type in (6, 251, 252)]


@case("H05")
async def _(client: Client) -> None:
    for flags in (0x8000, 0x8180, 0x8400, 0xFFFF, 0x8180 | 4 << 11):
        await client.silent(packet(1, 0, 0, 0, flags=flags, body=ASKED))
    await client.silent(packet(0, 0, 0, 0, flags=0x8001, body=b""))


@case("H06")
async def _(client: Client) -> None:
    await bare(client, packet(0, 0, 0, 0, body=b""), FORMERR)
    await bare(client, packet(0, 0, 0, 1, body=b"\0\0\x29\4\xd0\0\0\0\0\0\0"), FORMERR)


@case("H07")
async def _(client: Client) -> None:
    await bare(client, packet(2, 0, 0, 0, body=ASKED * 2), FORMERR)
    await bare(client, packet(0xFFFF, 0, 0, 0, body=ASKED), FORMERR)


@case("H08")
async def _(client: Client) -> None:
    await bare(client, packet(1, 0, 0, 0, body=b""), FORMERR)
    for cut in range(1, len(ASKED)):
        await bare(client, packet(1, 0, 0, 0, body=ASKED[:cut]), FORMERR)


@case("H09")
async def _(client: Client) -> None:
    await bare(client, packet(1, 0, 0, 0, body=b"\xc0\x0c\0\1\0\1"), FORMERR)
    await bare(client, packet(1, 0, 0, 0, body=b"\1a\xc0\x0c\0\1\0\1"), FORMERR)
    await bare(client, packet(1, 0, 0, 0, body=b"\xc0\xff\0\1\0\1"), FORMERR)


@case("H10")
async def _(client: Client) -> None:
    await bare(client, packet(1, 0, 0, 0, body=(b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1"), FORMERR)
    await bare(
        client, packet(1, 0, 0, 0, body=(b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"a" * 62 + b"\0\0\1\0\1"), FORMERR
    )
    longest = packet(1, 0, 0, 0, body=(b"\x3f" + b"a" * 63) * 3 + b"\x37" + b"a" * 55 + b"\5local\0\0\1\0\1")
    assert len(longest) == 12 + 255 + 4
    assert (await client.send(longest)).rcode == NXDOMAIN


@case("H11")
async def _(client: Client) -> None:
    for head in (b"\x40", b"\x41", b"\x7f", b"\x80", b"\xbf"):
        await bare(client, packet(1, 0, 0, 0, body=head + b"abc\0\0\1\0\1"), FORMERR)


@case("H12")
async def _(client: Client) -> None:
    for size in range(12):
        await client.silent(bytes(size))
        await client.silent(b"\xff" * size)


@case("H13")
async def _(client: Client) -> None:
    for tail in (b"\xff" * 20, bytes(20), b"\0"):
        got = await client.send(packet(1, 0, 0, 0, body=ASKED + tail))
        assert got.data == ["192.168.56.101"]


@case("H14")
async def _(client: Client) -> None:
    got = await client.send(packet(1, 0, 0, 0, flags=0x0400 | 0x0200 | 0x0100 | 0x0080 | 5, body=ASKED))
    assert got.data == ["192.168.56.101"]
    assert got.flags == 0x8000 | 0x0400 | 0x0100 | 0x0080
    assert got.raw[3] & 0xF == 0
    other = await client.send(packet(1, 0, 0, 0, flags=0x0700 | 3, body=to_wire(client.name("good")) + b"\0\1\0\1"))
    assert (other.rcode, other.flags) == (0, 0x8000 | 0x0100 | 0x0080)


@case("H15")
async def _(client: Client) -> None:
    for name in (WEB, to_wire("nope.local"), to_wire(client.name("good"))):
        got = await client.send(packet(1, 0, 0, 0, flags=0x0140, body=name + b"\0\1\0\1"))
        assert got.raw[3] & 0x40 == 0


@case("H16")
async def _(client: Client) -> None:
    got = await client.query("web-01.local", flags=0x0120)
    assert (got.data, got.flags & 0x0020) == (["192.168.56.101"], 0)


@case("H17")
async def _(client: Client) -> None:
    for ident in (0, 0xFFFF, 1, 0x7FFF, 0x8000):
        got = await client.send(packet(1, 0, 0, 0, ident=ident, body=ASKED))
        assert got.raw[:2] == ident.to_bytes(2, "big")


@case("H18")
async def _(client: Client) -> None:
    for label in (b"\x00", b"\xff", b"a.b", b"a b", b"\x1b[31m", b"x\ny", b"\x00\xff. "):
        name = join_labels([label, client.unique.encode(), b"local"])
        sent = packet(1, 0, 0, 0, body=name + b"\0\1\0\1")
        got = await client.raw(sent)
        assert got[12 : 12 + len(name) + 4] == sent[12:]
        assert got[3] & 0xF == NXDOMAIN
    assert not [line for line in client.log() if client.unique in line or "\x1b" in line]


@case("H19", UDP)
async def _(client: Client) -> None:
    for kind in ("AXFR", "IXFR"):
        got = await client.query("local", kind)
        assert (got.rcode, got.lines, got.soa) == (REFUSED, [], None)


@case("H20", TCP)
async def _(client: Client) -> None:
    for kind in ("AXFR", "IXFR"):
        for zone in ("local", "vm.internal", "168.192.in-addr.arpa"):
            sent = question(zone, kind)
            async with client.stream() as stream:
                stream.send(sent)
                got = await stream.receive()
                assert got[3] & 0xF == REFUSED
                assert got[6:10] == bytes(4)
                stream.writer.write_eof()
                assert await stream.ended()
