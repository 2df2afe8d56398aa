"""Those of X01-X24 that a running server can be asked; the others are with what they are about (`test_ids`)."""

from __future__ import annotations

import asyncio

from tests.contract.behaviour.client import Client, packet
from tests.contract.behaviour.rows_header import ASKED, NOTIMP, bare
from tests.contract.behaviour.table import case
from tests.unit.server.fakeupstream import GOOD

BLOCKED, STALE, NO_REACHABLE_AUTHORITY, NETWORK_ERROR = 15, 3, 22, 23


@case("X02", slow=True)
async def _(client: Client) -> None:
    clock = asyncio.get_running_loop().time
    name = client.name("late")
    assert (await client.query(name)).ttls == [1]
    await asyncio.sleep(2.1)
    begun = clock()
    got = await client.query(name)
    # RFC 8767 section 5: an upstream that is only slow has 1.8 seconds; its answer comes after three.
    assert clock() - begun > 1.7
    assert (got.data, got.ttls, got.errors) == ([GOOD], [30], [STALE])
    while got.errors:
        await asyncio.sleep(0.1)
        got = await client.query(name)
    assert 50 < got.ttls[0] <= 60
    assert client.forwarded("late") <= 3


@case("X08")
async def _(client: Client) -> None:
    # A good one now and then, so that the server is not taken for one that never keeps the case.
    for number, first in enumerate(("flat", "flat", "good", "flat", "flat", "good")):
        got = await client.query(f"{first}.mixed-case-name-{number}.{client.unique}.fz.test")
        assert (got.rcode, got.data) == (0, [GOOD])


@case("X09")
async def _(client: Client) -> None:
    await bare(client, packet(0, 0, 0, 0, flags=4 << 11, body=b""), NOTIMP)
    await bare(client, packet(2, 0, 0, 0, flags=4 << 11, body=ASKED * 2), NOTIMP)


@case("X20")
async def _(client: Client) -> None:
    # Not followed: services are announced by the VMs themselves (docs/rfcs.md). Unknown ones are denied, not forwarded.
    for name in ("_services._dns-sd._udp.local", "lb._dns-sd._udp.local", "_http._tcp.vm.internal"):
        got = await client.query(name, "PTR")
        assert (got.lines, got.soa is not None) == ([], True)


@case("X21")
async def _(client: Client) -> None:
    # With data, so that a guest with nss-mdns asks us for its names of two labels (docs/networks.md).
    got = await client.query("local", "SOA")
    assert (got.rcode, got.counts[1], got.flags & 0x0400) == (0, 1, 0x0400)


@case("X22")
async def _(client: Client) -> None:
    assert (await client.query(client.name("rebind"))).errors == [BLOCKED]
    for edns, errors in ((0, [NO_REACHABLE_AUTHORITY]), (-1, [])):
        assert (await client.query(client.name("servfail"), edns=edns)).errors == errors
    # Stale is X02, a silent upstream E20.


@case("X23")
async def _(client: Client) -> None:
    # Nothing is delegated: a name server comes as an answer only, and never beside it.
    for name in ("local", "x.local", "web-01.local"):
        for kind in ("NS", "A"):
            got = await client.query(name, kind)
            assert not [one for one in (*got.read.authority, *got.read.additional) if one.rdtype == 2]
