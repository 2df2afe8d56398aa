"""F01-F44: forwarding, against an upstream that behaves as the first label of the name says."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import dns.edns
import dns.flags

from tests.contract.behaviour.client import Client, check, question, wait
from tests.contract.behaviour.table import case
from tests.contract.behaviour.upstream import PLAIN
from tests.unit.server.fakeupstream import EVIL, GOOD

AA, TC, RA, AD, CD = 0x0400, 0x0200, 0x0080, 0x0020, 0x0010
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3
BLOCKED = 15


async def good(client: Client, first: str, asked: int = 1) -> None:
    """Only the right answer is given, and nothing of what came with it."""
    got = await client.query(client.name(first))
    assert (got.rcode, got.data, got.counts) == (NOERROR, [GOOD], (1, 1, 0, 1))
    assert client.forwarded(first) == asked


async def until(true: object) -> None:
    """Lets the others run until something is true."""
    async with asyncio.timeout(10):
        while not true():  # type: ignore[operator]
            await asyncio.sleep(0.005)


@case("F01")
async def _(client: Client) -> None:
    got = await client.query("www.up.test")
    assert (got.rcode, got.lines) == (NOERROR, [f"www.up.test. A {PLAIN}"])
    assert got.flags & RA


@case("F02")
async def _(client: Client) -> None:
    for first in ("www", "www", "neg", "neg", "servfail"):
        assert not (await client.query(client.name(first))).flags & AA


@case("F03", slow=True)
async def _(client: Client) -> None:
    first = await client.query(client.name("ttl"))
    await asyncio.sleep(2.1)
    second = await client.query(client.name("ttl"))
    assert (first.ttls, client.forwarded("ttl")) == ([30], 1)
    assert 0 < second.ttls[0] <= 28


@case("F04")
async def _(client: Client) -> None:
    for asked in (1, 2):
        await good(client, "zero", asked)


@case("F05", slow=True)
async def _(client: Client) -> None:
    first = await client.query(client.name("neg"))
    await asyncio.sleep(1.1)
    second = await client.query(client.name("neg"))
    assert first.rcode == second.rcode == NXDOMAIN
    assert first.soa == ("fz.test.", 20, 20)
    assert second.soa is not None
    assert second.soa[1] < 20
    assert client.forwarded("neg") == 1


@case("F06")
async def _(client: Client) -> None:
    for kind in ("AAAA", "AAAA", "MX", "MX"):
        got = await client.query(client.name("nodata"), kind)
        assert (got.rcode, got.lines) == (NOERROR, [])
        assert got.soa is not None
    assert client.forwarded("nodata") == 2


@case("F07")
async def _(client: Client) -> None:
    for kind in ("A", "AAAA", "TXT", "HTTPS"):
        assert (await client.query(client.name("neg"), kind)).rcode == NXDOMAIN
    assert client.forwarded("neg") == 1


@case("F08")
async def _(client: Client) -> None:
    for asked in (1, 2):
        got = await client.query(client.name("nosoa"))
        assert (got.rcode, got.soa, client.forwarded("nosoa")) == (NXDOMAIN, None, asked)


@case("F09")
async def _(client: Client) -> None:
    for _ in range(5):
        assert (await client.query(client.name("servfail"))).rcode == SERVFAIL
    assert client.forwarded("servfail") <= 2


@case("F10", slow=True)
async def _(client: Client) -> None:
    async with asyncio.timeout(10):
        assert (await client.query(client.name("drop"))).rcode == SERVFAIL
    assert 1 < client.forwarded("drop") <= 6


@case("F11", slow=True)
async def _(client: Client) -> None:
    async with asyncio.timeout(5):
        await good(client, "dropfirst", 2)


@case("F12")
async def _(client: Client) -> None:
    got = await client.query(client.name("tc"))
    assert (client.forwarded("tc", False), client.forwarded("tc", True)) == (1, 1)
    # 100 records are more than a datagram holds; a response over UDP has TC and what fits.
    assert (len(got.data) == 100) == client.tcp == (not got.flags & TC)
    assert len(got.data) > 60
    whole = await client.by(True).query(client.name("tc"))
    assert len(whole.data) == 100


@case("F13")
async def _(client: Client) -> None:
    await good(client, "wrongid")


@case("F14")
async def _(client: Client) -> None:
    await good(client, "wrongq")


@case("F15")
async def _(client: Client) -> None:
    await good(client, "wrongport")


@case("F16")
async def _(client: Client) -> None:
    for number in range(50):
        await client.query(client.name(f"n{number}"))
    seen = [one for one in client.upstream.seen if one.name.endswith(f".{client.unique}.fz.test.")]
    assert len(seen) == 50
    for values in ([one.port for one in seen], [one.id for one in seen]):
        assert len(set(values)) >= 45
        steps = [(after - before) % 65536 for before, after in itertools.pairwise(values)]
        assert sum(0 < step < 100 for step in steps) < 10


@case("F17")
async def _(client: Client) -> None:
    asking = [asyncio.ensure_future(client.query(client.name("slow"))) for _ in range(40)]
    await until(lambda: client.forwarded("slow"))
    assert (await client.query("web-01.local")).rcode == NOERROR
    assert not any(one.done() for one in asking)
    with client.upstream.answering():
        assert [(await one).data for one in asking] == [[GOOD]] * 40
    assert client.forwarded("slow") <= 2


@case("F18")
async def _(client: Client) -> None:
    await client.query(client.name("extra"))
    got = await client.query("victim.fz.test")
    assert got.data == [GOOD]
    assert EVIL not in got.read.to_text()
    assert client.upstream.count("victim.fz.test") == 1


@case("F19")
async def _(client: Client) -> None:
    await good(client, "extra")


@case("F20")
async def _(client: Client) -> None:
    for asked in (1, 2):
        got = await client.query(client.name("endless"))
        assert (got.data, got.ttls, client.forwarded("endless")) == ([GOOD], [0], asked)


@case("F21")
async def _(client: Client) -> None:
    got = await client.query(client.name("long"))
    assert (got.data, got.ttls) == ([GOOD], [86_400])


@case("F22")
async def _(client: Client) -> None:
    got = await client.query(client.name("formerredns"))
    assert (got.rcode, got.data) == (NOERROR, [GOOD])
    seen = [one.message.edns for one in client.upstream.seen if one.name.startswith(client.name("formerredns"))]
    assert seen == [0, -1]
    # One good answer, and it is not taken for a server that never understands EDNS.
    assert (await client.query(client.name("good"))).data == [GOOD]


@case("F23")
async def _(client: Client) -> None:
    got = await client.query(client.name("unk"), "TYPE65280")
    assert got.data == [r"\# 5 00ff41c00c"]
    assert b"\xff\0\0\1\0\0\0\x3c\0\5\0\xff\x41\xc0\x0c" in got.raw


@case("F24")
async def _(client: Client) -> None:
    for name in ("WwW.Up.TeSt", "www.UP.test", "WWW.up.TEST"):
        sent = question(name)
        got = await client.send(sent)
        assert got.raw[12:25] == sent[12:25]
        assert got.lines == [f"{name}. A {PLAIN}"]


@case("F25")
async def _(client: Client) -> None:
    async with asyncio.timeout(5):
        got = await client.query(client.name("loop"))
    assert got.rcode == SERVFAIL
    assert client.forwarded("loop") < 20


@case("F26")
async def _(client: Client) -> None:
    for address in ("3.2.1.10", "1.0.16.172", "9.9.168.192", "1.2.254.169", "1.0.0.127"):
        got = await client.query(f"{address}.in-addr.arpa", "PTR")
        assert got.rcode == NXDOMAIN or got.data == ["localhost."]
    local = f"{'.'.join('1' + '0' * 27)}.0.8.e.f.ip6.arpa"
    assert (await client.query(local, "PTR")).rcode == NXDOMAIN
    assert client.upstream.count(".arpa") == 0


@case("F27")
async def _(client: Client) -> None:
    for name in ("localhost", "foo.localhost", "LOCALHOST"):
        assert (await client.query(name)).data == ["127.0.0.1"]
        assert (await client.query(name, "AAAA")).data == ["::1"]
    assert client.upstream.count("localhost") == 0


@case("F28")
async def _(client: Client) -> None:
    assert (await client.query("x.invalid")).rcode == NXDOMAIN
    assert client.upstream.count("invalid") == 0


@case("F29")
async def _(client: Client) -> None:
    for kind in ("A", "AAAA", "HTTPS", "PTR", "TYPE65280"):
        got = await client.query("foo.local", kind)
        assert got.rcode == NXDOMAIN
        assert got.soa is not None
    assert not [one.name for one in client.upstream.seen if one.name.endswith(".local.")]


@case("F30")
async def _(client: Client) -> None:
    got = await client.query(client.name("rebind"))
    assert (got.rcode, got.lines, got.errors) == (NOERROR, [], [BLOCKED])


@case("F31")
async def _(client: Client) -> None:
    for first in ("rebindlo", "rebindz"):
        got = await client.query(client.name(first))
        assert (got.rcode, got.lines, got.errors) == (NOERROR, [], [BLOCKED])


@case("F32")
async def _(client: Client) -> None:
    got = await client.query(client.name("www"), options=[dns.edns.ECSOption("192.0.2.0", 24)])
    assert got.data == [PLAIN]
    assert got.option(8) is None
    (seen,) = [one for one in client.upstream.seen if one.name.startswith(client.name("www"))]
    assert seen.message.options == ()


@case("F33")
async def _(client: Client) -> None:
    await client.query(client.name("www"), options=[dns.edns.GenericOption(10, b"12345678")])
    (seen,) = [one for one in client.upstream.seen if one.name.startswith(client.name("www"))]
    assert b"12345678" not in seen.message.to_wire()


@case("F34")
async def _(client: Client) -> None:
    name = client.name("signed")
    signed = await client.query(name, flags=0x0100 | CD, want_dnssec=True)
    assert [one.rdtype for one in signed.read.answer] == [1, 46]
    assert signed.flags & CD
    (seen,) = [one for one in client.upstream.seen if one.name.startswith(name)]
    assert seen.message.ednsflags & dns.flags.DO
    assert seen.message.flags & dns.flags.CD
    bare = await client.query(name)
    assert ([one.rdtype for one in bare.read.answer], bare.flags & CD) == ([1], 0)


@case("F35")
async def _(client: Client) -> None:
    name = client.name("adset")
    assert not (await client.query(name)).flags & AD
    assert (await client.query(name, flags=0x0100 | AD)).flags & AD
    assert not (await client.query(name)).flags & AD


@case("F36")
async def _(client: Client) -> None:
    await client.query(client.name("www"), payload=4096)
    (seen,) = [one for one in client.upstream.seen if one.name.startswith(client.name("www"))]
    assert (seen.message.edns, seen.message.payload) == (0, 1232)


@case("F37", slow=True)
async def _(client: Client) -> None:
    name = client.name("stale")
    first = await client.query(name)
    assert (first.data, first.errors) == ([GOOD], [])
    await asyncio.sleep(2.1)
    async with asyncio.timeout(5):
        got = await client.query(name)
    assert (got.data, got.errors, client.forwarded("stale") > 1) == ([GOOD], [3], True)
    assert 0 < got.ttls[0] <= 30


@case("F38")
async def _(client: Client) -> None:
    for first in ("trunc", "cut"):
        await good(client, first)


@case("F39")
async def _(client: Client) -> None:
    for first in ("empty", "garbage", "isquery"):
        await good(client, first)


@case("F40")
async def _(client: Client) -> None:
    await _under_load(client, "web-01.local")


@case("F41")
async def _(client: Client) -> None:
    await client.query(client.name("cached"))
    await _under_load(client, client.name("cached"), client.name("fresh"))


async def _under_load(client: Client, *names: str) -> None:
    """These are answered while 300 questions wait for an upstream that says nothing."""
    load = [question(f"slow.n{number}.{client.unique}.fz.test") for number in range(300)]
    async with contextlib.AsyncExitStack() as stack:
        # Ten a socket: the answers come at once, and more than its buffer holds would be lost.
        sockets = [await stack.enter_async_context(client.by(False).datagrams()) for _ in load[::10]]
        for number, one in enumerate(load):
            sockets[number // 10].send(one)
        await until(lambda: client.upstream.count(f".{client.unique}.") >= len(load))
        for name in names:
            assert (await client.query(name)).rcode == NOERROR
        assert sum(socket.received for socket in sockets) == 0
        asked = {one[:2]: one for one in load}
        with client.upstream.answering():
            for number in range(len(load)):
                raw = await wait(sockets[number // 10].get())
                check(asked.pop(raw[:2]), raw, False)


@case("F42")
async def _(client: Client) -> None:
    for label in ("_x._tcp", "12345", "a" * 63, r"a\001b\.c\ d", "-", "xn--a"):
        assert (await client.query(f"{label}.{client.unique}.fz.test")).data == [GOOD]


@case("F43")
async def _(client: Client) -> None:
    for kind in ("DS", "DNSKEY", "RRSIG", "NSEC", "CAA", "HTTPS"):
        got = await client.query(client.name("www"), kind)
        assert (got.rcode, got.lines) == (NOERROR, [])
        assert got.soa is not None
    assert len({one.type for one in client.upstream.seen if one.name.startswith(client.name("www"))}) == 6


@case("F44")
async def _(client: Client) -> None:
    for first in ("cnlocal", "cnonly"):
        got = await client.query(client.name(first))
        assert (got.rcode, got.lines, got.errors) == (NOERROR, [], [BLOCKED])
