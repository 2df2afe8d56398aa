"""E01-E20: EDNS (RFC 6891) and its options."""

from __future__ import annotations

import struct

import dns.edns

from tests.contract.behaviour.client import SIZE, Client, Response, packet, question
from tests.contract.behaviour.rows_header import ASKED, FORMERR, bare
from tests.contract.behaviour.table import UDP, case
from vmdns.dns.name import to_wire

WEB = "192.168.56.101"
TC = 0x0200
COOKIE, ECS, PADDING, NSID, KEEPALIVE = 10, 8, 12, 3, 11


def opt(rdata: bytes = b"", *, owner: bytes = b"\0", size: int = 1232, ttl: int = 0) -> bytes:
    return owner + struct.pack("!HHIH", 41, size, ttl, len(rdata)) + rdata


def option(code: int, data: bytes = b"") -> bytes:
    return struct.pack("!HH", code, len(data)) + data


def plain(got: Response) -> None:
    """The normal answer, with one OPT record that promises nothing: version 0, no flags, no options."""
    assert (got.rcode, got.data) == (0, [WEB])
    assert got.raw.endswith(opt())
    assert got.counts == (1, 1, 0, 1)


async def sent_with(client: Client, additional: bytes, count: int = 1) -> Response:
    return await client.send(packet(1, 0, 0, count, body=ASKED + additional))


@case("E01")
async def _(client: Client) -> None:
    plain(await sent_with(client, opt()))


@case("E02")
async def _(client: Client) -> None:
    for name in (
        "web-01.local",
        "nope.local",
        "big.local",
        client.name("www"),
        client.name("servfail"),
        client.name("rebind"),
    ):
        got = await client.query(name, edns=-1)
        assert (got.read.edns, got.counts[3]) == (-1, 0)


@case("E03")
async def _(client: Client) -> None:
    for version in (1, 2, 255):
        for name in ("web-01.local", client.name("www")):
            got = await client.send(packet(1, 0, 0, 1, body=to_wire(name) + b"\0\1\0\1" + opt(ttl=version << 16)))
            assert (got.rcode, got.lines, got.read.edns, got.soa) == (16, [], 0, None)
            assert got.raw.endswith(opt(ttl=0x0100_0000))
    assert client.forwarded("www") == 0


@case("E04")
async def _(client: Client) -> None:
    for code in (65001, 65535, 0, 100):
        plain(await sent_with(client, opt(option(code, b"abcd"))))


@case("E05")
async def _(client: Client) -> None:
    for flags in (0x0040, 0x0001, 0x7FFF):
        plain(await sent_with(client, opt(ttl=flags)))


@case("E06")
async def _(client: Client) -> None:
    await bare(client, packet(1, 0, 0, 2, body=ASKED + opt() + opt()), FORMERR, ASKED)


@case("E07")
async def _(client: Client) -> None:
    await bare(client, packet(1, 0, 0, 1, body=ASKED + opt(owner=b"\1x\0")), FORMERR, ASKED)


@case("E08")
async def _(client: Client) -> None:
    await bare(client, packet(1, 0, 0, 1, body=ASKED + opt(b"\0\x0a\0\x09abc")), FORMERR, ASKED)
    await bare(client, packet(1, 0, 0, 1, body=ASKED + opt(b"\0\x0a\0")), FORMERR, ASKED)
    await bare(client, packet(1, 0, 0, 1, body=ASKED + opt()[:-1]), FORMERR, ASKED)
    await bare(client, packet(1, 0, 0, 1, body=ASKED), FORMERR, ASKED)


@case("E09", UDP)
async def _(client: Client) -> None:
    got = await client.query("big.local", edns=-1)
    assert len(got.raw) <= 512
    assert got.flags & TC


@case("E10", UDP)
async def _(client: Client) -> None:
    # 12 bytes of header, 15 of question, 16 for each record: 30 of them are 507 bytes.
    got = await client.query("big.local", edns=-1)
    assert (got.counts[1], len(got.data), len(got.raw)) == (30, 30, 507)
    assert got.flags & TC


@case("E11", UDP)
async def _(client: Client) -> None:
    got = await client.query("big.local", payload=4096)
    assert (len(got.data), got.flags & TC) == (60, 0)
    assert len(got.raw) <= SIZE


@case("E12", UDP)
async def _(client: Client) -> None:
    for size in (0, 100, 511, 512):
        got = await client.query("big.local", payload=size)
        assert (len(got.data), len(got.raw)) == (29, 502)
        assert got.flags & TC


@case("E13", UDP)
async def _(client: Client) -> None:
    for size in (1233, 4096, 65_535):
        got = await client.query("huge.local", payload=size)
        assert got.read.payload == SIZE
        assert SIZE - 16 < len(got.raw) <= SIZE
        assert got.flags & TC
    fetched = await client.query(client.name("tc"), payload=4096)
    assert len(fetched.raw) <= SIZE


@case("E14")
async def _(client: Client) -> None:
    got = await sent_with(client, opt(option(COOKIE, b"abcdefgh")))
    assert (got.rcode, got.data) == (0, [WEB])
    cookie = got.option(COOKIE)
    assert cookie is not None
    assert 16 <= len(cookie) <= 40
    assert cookie[:8] == b"abcdefgh"
    # With it, one is known (RFC 7873 section 5.2.4).
    again = await sent_with(client, opt(option(COOKIE, cookie)))
    assert (again.rcode, again.data) == (0, [WEB])
    assert (again.option(COOKIE) or b"")[:8] == b"abcdefgh"


@case("E15")
async def _(client: Client) -> None:
    for size in (0, 3, 7, 9, 15, 41):
        raw = await client.raw(packet(1, 0, 0, 1, body=ASKED + opt(option(COOKIE, b"c" * size))))
        assert raw[3] & 0xF == FORMERR, size
        assert raw[6:8] == b"\0\0"


@case("E16")
async def _(client: Client) -> None:
    plain(await sent_with(client, opt(option(ECS, b"\0\1\x18\0\xc0\0\2"))))
    assert client.upstream.count("web-01.local") == 0


@case("E17", UDP)
async def _(client: Client) -> None:
    plain(await sent_with(client, opt(option(PADDING, bytes(32)))))
    plain(await sent_with(client, opt(option(PADDING))))


@case("E18")
async def _(client: Client) -> None:
    plain(await sent_with(client, opt(option(NSID))))


@case("E19")
async def _(client: Client) -> None:
    got = await sent_with(client, opt(ttl=0x8000))
    assert (got.rcode, got.lines) == (0, [f"web-01.local. A {WEB}"])
    assert got.raw.endswith(opt(ttl=0x8000))
    assert not got.flags & 0x0020
    absent = await client.query("nope.local", want_dnssec=True)
    assert (absent.rcode, absent.soa is not None) == (3, True)


@case("E20", slow=True)
async def _(client: Client) -> None:
    name = f"{client.unique}.dead.test"
    got = await client.query(name)
    assert (got.rcode, got.lines) == (2, [])
    assert got.errors in ([22], [23])
    assert (await client.send(question(name, edns=-1))).rcode == 2
    options = [one for one in got.read.options if isinstance(one, dns.edns.EDEOption)]
    assert "does not answer" in (options[0].text or "")
