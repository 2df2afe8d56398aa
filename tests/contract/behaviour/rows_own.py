"""A01-A25: our own zones."""

from __future__ import annotations

from tests.contract.behaviour.client import Client, Response, question
from tests.contract.behaviour.table import case

AA, RA = 0x0400, 0x0080
NOERROR, FORMERR, NXDOMAIN, REFUSED = 0, 1, 3, 5
TTL = 5


def answered(got: Response, *lines: str) -> None:
    assert (got.rcode, got.lines, got.counts) == (NOERROR, list(lines), (1, len(lines), 0, 1))
    assert got.flags & AA
    assert all(ttl <= 60 for ttl in got.ttls)


def negative(got: Response, rcode: int, apex: str = "local.") -> None:
    """The SOA alone, whose TTL is the lesser of its own and its MINIMUM (RFC 2308 section 3)."""
    assert (got.rcode, got.lines, got.soa) == (rcode, [], (apex, TTL, TTL))
    assert got.flags & AA


@case("A01")
async def _(client: Client) -> None:
    sent = question("web-01.local", edns=-1)
    got = await client.send(sent)
    assert got.raw[:2] == sent[:2]
    assert got.raw[12 : len(sent)] == sent[12:]
    assert (got.flags, got.counts) == (0x8000 | AA | RA | 0x0100, (1, 1, 0, 0))
    # The owner points to the question's name; then type, class, TTL, length and address.
    assert got.raw[len(sent) :] == b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\xc0\xa8\x38\x65"


@case("A02")
async def _(client: Client) -> None:
    assert (await client.query("web-01.local")).flags & AA


@case("A03")
async def _(client: Client) -> None:
    answered(await client.query("web-01.local", "AAAA"), "web-01.local. AAAA fd00:56::101")


@case("A04")
async def _(client: Client) -> None:
    negative(await client.query("db.local", "AAAA"), NOERROR)


@case("A05")
async def _(client: Client) -> None:
    negative(await client.query("nope.local"), NXDOMAIN)


@case("A06")
async def _(client: Client) -> None:
    negative(await client.query("x.y.nope.local"), NXDOMAIN)


@case("A07")
async def _(client: Client) -> None:
    negative(await client.query("_tcp.web-01.local"), NOERROR)


@case("A08")
async def _(client: Client) -> None:
    lower, mixed = await client.query("web-01.local"), await client.query("wEb-01.LoCaL")
    assert mixed.data == lower.data == ["192.168.56.101"]


@case("A09")
async def _(client: Client) -> None:
    for name in ("wEb-01.LoCaL", "WEB-01.local", "wEb-01.LoCaL"):
        sent = question(name)
        got = await client.send(sent)
        assert got.raw[12:29] == sent[12:29]
        answered(got, f"{name}. A 192.168.56.101")


@case("A10")
async def _(client: Client) -> None:
    answered(await client.query("_ssh._tcp.local", "SRV"), "_ssh._tcp.local. SRV 0 0 2222 host.local.")
    target = await client.query("host.local")
    answered(target, "host.local. A 192.168.56.1")


@case("A11")
async def _(client: Client) -> None:
    got = await client.query("_http._tcp.local", "SRV")
    assert (got.data, len(got.read.answer)) == (["0 0 8080 host.local.", "0 0 8081 host.local."], 1)


@case("A12")
async def _(client: Client) -> None:
    # big.local has this address too: a PTR for each would be two.
    name = "101.56.168.192.in-addr.arpa"
    answered(await client.query(name, "PTR"), f"{name}. PTR web-01.local.")


@case("A13")
async def _(client: Client) -> None:
    negative(await client.query("77.0.168.192.in-addr.arpa", "PTR"), NXDOMAIN, "168.192.in-addr.arpa.")
    assert client.upstream.count("in-addr.arpa") == 0


@case("A14")
async def _(client: Client) -> None:
    got = await client.query("web-01.local", "TXT")
    answered(got, 'web-01.local. TXT "first string" "second string"')
    assert b"\x0cfirst string\x0dsecond string" in got.raw


@case("A15")
async def _(client: Client) -> None:
    answered(await client.query("www.local"), "www.local. CNAME web-01.local.", "web-01.local. A 192.168.56.101")


@case("A16")
async def _(client: Client) -> None:
    answered(await client.query("www.local", "CNAME"), "www.local. CNAME web-01.local.")


@case("A17")
async def _(client: Client) -> None:
    for _ in range(2):
        got = await client.query("multi.local")
        assert got.data == ["192.168.56.21", "192.168.56.22", "192.168.56.23"]
        assert (got.counts[1], got.ttls) == (3, [TTL])  # dnspython makes one set of them only where their TTLs agree


@case("A18")
async def _(client: Client) -> None:
    got = await client.query("local", "SOA")
    assert (got.rcode, got.counts[1], str(got.read.answer[0].name)) == (NOERROR, 1, "local.")
    assert got.flags & AA


@case("A19")
async def _(client: Client) -> None:
    for kind in ("TYPE65280", "TYPE0", "TYPE127", "TYPE65535"):
        negative(await client.query("web-01.local", kind), NOERROR)
    # RFC 9824 section 3.5: NXNAME (128) and the other types that no query may ask for are FORMERR, wherever they lie.
    for number in (41, 128, 129, 248, 249, 250):
        for name in ("web-01.local", client.name("good"), "host"):
            got = await client.query(name, f"TYPE{number}")
            assert (got.rcode, got.lines, got.soa, got.counts[0]) == (FORMERR, [], None, 1)
    assert client.upstream.count(client.unique) == 0


@case("A20")
async def _(client: Client) -> None:
    negative(await client.query("web-01.local", "HTTPS"), NOERROR)
    assert client.upstream.count("web-01") == 0


@case("A21")
async def _(client: Client) -> None:
    got = await client.query("web-01.local", "ANY")
    answered(got, 'web-01.local. HINFO "RFC8482" ""')
    assert len(got.raw) < 512


@case("A22")
async def _(client: Client) -> None:
    name = f"www.{client.unique}.example.org"
    got = await client.query(name, flags=0)
    assert (got.rcode, got.lines) == (REFUSED, [])
    assert client.upstream.count(name) == 0
    # Nor does it learn what other clients query (cache snooping).
    assert (await client.query(name)).rcode == NOERROR
    assert (await client.query(name, flags=0)).rcode == REFUSED


@case("A23")
async def _(client: Client) -> None:
    got = await client.query("version.bind", "TXT", rdclass="CH")
    assert (got.rcode, got.lines) == (REFUSED, [])
    assert client.upstream.count("version.bind") == 0


@case("A24")
async def _(client: Client) -> None:
    for cls in ("HS", "CH", "CLASS65280"):
        got = await client.query("web-01.local", rdclass=cls)
        assert (got.rcode, got.lines, got.soa) == (REFUSED, [], None)


@case("A25")
async def _(client: Client) -> None:
    for cls in ("NONE", "ANY"):
        got = await client.query("web-01.local", rdclass=cls)
        assert (got.rcode, got.lines, got.soa) == (REFUSED, [], None)
