"""T01-T12: TCP (RFC 7766, RFC 7828)."""

from __future__ import annotations

import asyncio
import contextlib

import dns.edns

from tests.contract.behaviour.client import Client, check, question, wait
from tests.contract.behaviour.table import TCP, UDP, case

WEB = "192.168.56.101"
KEEPALIVE = 11
ASKED = dns.edns.GenericOption(KEEPALIVE, b"")


@case("T01", TCP)
async def _(client: Client) -> None:
    for name, kind in (("web-01.local", "A"), ("nope.local", "A"), ("www.local", "A"), ("web-01.local", "TXT")):
        sent = question(name, kind)
        assert await client.raw(sent) == await client.by(False).raw(sent)


@case("T02", TCP)
async def _(client: Client) -> None:
    for edns in (-1, 0):
        got = await client.query("big.local", edns=edns)
        assert (got.counts[1], len(got.data), got.flags & 0x0200) == (60, 60, 0)
    assert (await client.query("huge.local")).counts[1] == 100


@case("T03", TCP)
async def _(client: Client) -> None:
    async with client.stream() as stream:
        for name in ("web-01.local", "nope.local", client.name("www"), "web-01.local"):
            sent = question(name)
            stream.send(sent)
            check(sent, await wait(stream.receive()), True)


@case("T04", TCP)
async def _(client: Client) -> None:
    sent = {
        int.from_bytes(one[:2], "big"): one
        for one in (question(client.name(f"n{n}") if n % 2 else "web-01.local") for n in range(20))
    }
    async with client.stream() as stream:
        stream.send(*sent.values())
        while sent:
            raw = await wait(stream.receive())
            check(sent.pop(int.from_bytes(raw[:2], "big")), raw, True)


@case("T05", TCP)
async def _(client: Client) -> None:
    slow, quick = question(client.name("slow")), question("web-01.local")
    async with client.stream() as stream:
        stream.send(slow, quick)
        assert check(quick, await wait(stream.receive()), True).data == [WEB]
        with client.upstream.answering():
            assert check(slow, await wait(stream.receive()), True).rcode == 0


@case("T06", TCP)
async def _(client: Client) -> None:
    sent = question("web-01.local")
    async with client.stream() as stream:
        for byte in len(sent).to_bytes(2, "big") + sent:
            stream.writer.write(bytes((byte,)))
            await stream.writer.drain()
            await asyncio.sleep(0.002)
        assert check(sent, await wait(stream.receive()), True).data == [WEB]


@case("T07", TCP, slow=True)
async def _(client: Client) -> None:
    clock = asyncio.get_running_loop().time
    async with client.stream() as stream:
        begun = clock()
        async with asyncio.timeout(30):
            assert await stream.ended()
        assert clock() - begun > 2  # one who types may think


@case("T08", TCP)
async def _(client: Client) -> None:
    async with client.stream() as stream:
        stream.writer.write(b"\0\0")
        assert await wait(stream.ended())
    assert (await client.query("web-01.local")).data == [WEB]


@case("T09", TCP)
async def _(client: Client) -> None:
    for name in ("web-01.local", "nope.local", client.name("www"), client.name("servfail"), "www.local"):
        got = await client.query(name, options=[ASKED])
        assert got.option(KEEPALIVE) is not None, name
        assert 0 < int.from_bytes(got.option(KEEPALIVE) or b"", "big") <= 300
    assert (await client.query("web-01.local")).option(KEEPALIVE) is None


@case("T10", UDP)
async def _(client: Client) -> None:
    for name in ("web-01.local", client.name("www")):
        got = await client.query(name, options=[ASKED])
        assert (got.rcode, got.read.options) == (0, ())


@case("T11", TCP)
async def _(client: Client) -> None:
    for name in ("web-01.local", client.name("www")):
        sent = question(name)
        async with client.stream() as stream:
            stream.send(sent)
            stream.writer.write_eof()
            assert check(sent, await wait(stream.receive()), True).rcode == 0
            assert await wait(stream.ended())


@case("T12")
async def _(client: Client) -> None:
    async with contextlib.AsyncExitStack() as idle:
        for _ in range(100):
            await idle.enter_async_context(client.stream())
        assert (await client.query("web-01.local")).data == [WEB]
        assert (await client.query(client.name("www"))).rcode == 0
