"""What the list does not have: RFC 8906 section 8, and DNSSEC that passes through (RFC 4035 section 3.2)."""

from __future__ import annotations

import dns.flags
import dns.rdatatype
import dns.rrset

from tests.contract.behaviour.client import Client, packet
from tests.contract.behaviour.rows_edns import ASKED, WEB, opt, option, plain
from tests.contract.behaviour.rows_header import NOTIMP, bare
from tests.contract.behaviour.table import case
from tests.contract.behaviour.upstream import SIGNED, signed
from vmdns.dns.name import to_wire

BADVERS = 16
UNKNOWN = option(100, b"1234")


@case("RFC8906-1")
async def _(client: Client) -> None:
    """Section 8.1: without EDNS."""
    zone = to_wire("local")
    for flags in (0, 0x0010, 0x0040, 0x0100, 0x0020, 0x0170):
        got = await client.send(packet(1, 0, 0, 0, flags=flags, body=zone + b"\0\6\0\1"))
        assert (got.rcode, got.counts) == (0, (1, 1, 0, 0))
        assert got.flags & 0x0450 == 0x0400 | flags & 0x0010
    got = await client.send(packet(1, 0, 0, 0, body=zone + b"\x03\xe8\0\1"))
    assert (got.rcode, got.lines, got.soa is not None) == (0, [], True)
    await bare(client, packet(0, 0, 0, 0, flags=15 << 11, body=b""), NOTIMP)


@case("RFC8906-2")
async def _(client: Client) -> None:
    """Section 8.2: with EDNS of any version, flags and options."""

    async def query(additional: bytes) -> tuple[int, int, list[str]]:
        got = await client.send(packet(1, 0, 0, 1, body=ASKED + additional))
        assert got.raw[10:12] == b"\0\1"
        assert not [one for one in got.read.options if int(one.otype) == 100]
        return got.rcode, int(got.read.ednsflags) & 0xFFFF, got.data

    for flags, expected in ((0, 0), (0x0080, 0), (0x8000, 0x8000), (0xFFFF, 0x8000)):
        for rdata in (b"", UNKNOWN, option(3) + option(9) + UNKNOWN + option(8, b"\0\1\0\0")):
            assert await query(opt(rdata, ttl=flags)) == (0, expected, [WEB])
            assert await query(opt(rdata, ttl=1 << 16 | flags)) == (BADVERS, expected, [])
    plain(await client.send(packet(1, 0, 0, 1, body=ASKED + opt(UNKNOWN + UNKNOWN))))


@case("RFC4035")
async def _(client: Client) -> None:
    """Every record comes with its signature, both as they were: rdata byte for byte, names in their case."""
    for kind in SIGNED:
        name = client.name("proved")
        got = await client.query(name, kind, flags=0x0110, want_dnssec=True)
        data, signature = signed(f"{name}.", kind)
        assert got.rcode == 0
        assert [set(rrset) for rrset in got.read.answer] == [set(data), set(signature)], kind
        whole = [one.to_wire() for one in data]
        if kind in ("MX", "NS"):  # the upstream had these point into the question, of whose letters nothing is kept
            whole = [rdata.replace(b"Fz\x04TEST", b"fz\x04test") for rdata in whole]
        assert [one.to_wire() for one in got.read.answer[0]] == whole
        assert [one.to_wire() for one in got.read.answer[1]] == [one.to_wire() for one in signature]
        bare_answer = await client.query(name, kind)
        assert [set(rrset) for rrset in bare_answer.read.answer] == [set(data)]


@case("RFC4035-absent")
async def _(client: Client) -> None:
    """What proves an absence comes too, for those who ask for it (RFC 4035 section 3.1.3, RFC 5155)."""
    for first, kinds in (("unproved", {"SOA", "RRSIG", "NSEC"}), ("unproved3", {"SOA", "RRSIG", "NSEC3"})):
        for _ in range(2):  # from upstream, then from the cache
            got = await client.query(client.name(first), want_dnssec=True)
            assert got.rcode == 3
            assert {dns.rdatatype.to_text(rrset.rdtype) for rrset in got.read.authority} == kinds
            covered = {
                dns.rdatatype.to_text(rdata.covers())
                for rrset in got.read.authority
                for rdata in rrset
                if rrset.rdtype == 46
            }
            assert covered == kinds - {"RRSIG"}
        bare_answer = await client.query(client.name(first))
        assert (bare_answer.rcode, bare_answer.soa is not None) == (3, True)


@case("RFC9462")
async def _(client: Client) -> None:
    """Who looks for encrypted servers behind ours hears that there are none: theirs could not be ours (section 6.1)."""
    for name in ("_dns.resolver.arpa", "resolver.arpa"):
        for kind in ("SVCB", "A"):
            got = await client.query(name, kind)
            assert (got.rcode, got.lines, got.soa is not None) == (0, [], True)
    assert client.upstream.count("resolver.arpa") == 0


@case("RFC7873")
async def _(client: Client) -> None:
    """Every answer to a cookie has one: negative, forwarded, refused, and of a later version of EDNS."""
    asked = option(10, b"abcdefgh")
    for name in (
        "web-01.local",
        "nope.local",
        "big.local",
        client.name("www"),
        client.name("servfail"),
        client.name("neg"),
    ):
        for _ in range(2):
            got = await client.send(packet(1, 0, 0, 1, body=to_wire(name) + b"\0\1\0\1" + opt(asked)))
            assert (got.option(10) or b"")[:8] == b"abcdefgh", name
            assert len(got.option(10) or b"") == 24
    later = await client.send(packet(1, 0, 0, 1, body=ASKED + opt(asked, ttl=1 << 16)))
    assert (later.rcode, len(later.option(10) or b"")) == (BADVERS, 24)
    other = await client.send(packet(1, 0, 0, 1, body=to_wire("web-01.local") + b"\0\1\0\3" + opt(asked)))
    assert (other.rcode, len(other.option(10) or b"")) == (5, 24)


@case("RFC6840")
async def _(client: Client) -> None:
    """AD for those who asked, by AD or by DO; CD goes upstream and is kept apart from answers without."""
    name = client.name("adset")
    assert (await client.query(name, want_dnssec=True)).flags & 0x0020
    assert (await client.query(name, flags=0x0120)).flags & 0x0020
    assert not (await client.query(name)).flags & 0x0020
    before = client.forwarded("adset")
    got = await client.query(name, flags=0x0110)
    assert (got.flags & 0x0010, client.forwarded("adset")) == (0x0010, before + 1)
    seen = [one for one in client.upstream.seen if one.name.startswith(name)]
    assert seen[-1].message.flags & dns.flags.CD
