"""X03: nothing that is kept expires, or lives on, because the wall clock was set (RFC 8767, RFC 1035 section 7.3)."""

from __future__ import annotations

import asyncio
import time

import dns.message
import pytest

from tests.contract.behaviour.upstream import Upstream as Scripted
from tests.unit.server.fakeupstream import resolve
from vmdns.dns.limits import Limits
from vmdns.dns.query import parse_query
from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.server.forwarder import Forwarder

DAY = 86_400.0


@pytest.mark.parametrize("jump", [-DAY, 3650 * DAY, 3600.0, -3600.0])
def test_x03_a_jump_of_the_wall_clock_changes_nothing(jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        up = await Scripted().start()
        forwarder = Forwarder(Limits())
        try:
            forwarder.configure(Upstreams((Upstream("127.0.0.1", up.port),)), frozenset(), frozenset(), Limits())
            query = parse_query(dns.message.make_query("ttl.x03.fz.test", "A").to_wire())
            first = dns.message.from_wire(await resolve(forwarder, query, 1232))
            now = time.time()
            monkeypatch.setattr(time, "time", lambda: now + jump)
            second = dns.message.from_wire(await resolve(forwarder, query, 1232))
            assert first.answer[0].ttl == 30
            assert 25 <= second.answer[0].ttl <= 30
            assert up.count() == 1
        finally:
            await forwarder.close(0.0)
            await up.stop()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())
