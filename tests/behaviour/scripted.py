"""The scripted upstream, with what the list of correct answers wants besides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import dns.rdatatype
import dns.rrset

from tests.serve.fakeupstream import GOOD, FakeUpstream, Seen, Send

PLAIN = "198.51.100.1"
_A_MINUTE = b"\0\1\0\1\0\0\0\x3c\0\4"  # type, class, TTL and length of an A record of the scripted upstream


class Upstream(FakeUpstream):
    """`www` has one address and nothing else; the others do as their first label says."""

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Meanwhile slow names are answered."""
        self.go.set()
        try:
            yield
        finally:
            self.go.clear()

    async def _do_www(self, one: Seen, send: Send) -> None:
        if one.type == dns.rdatatype.A:
            send(self.reply(one.message, f"60 A {PLAIN}").to_wire())
            return
        reply = self.reply(one.message)
        zone = one.name.split(".", 1)[1]
        reply.authority.append(
            dns.rrset.from_text(zone, 300, "IN", "SOA", f"ns.{zone} admin.{zone} 1 3600 600 86400 20")
        )
        send(reply.to_wire())

    async def _do_stale(self, one: Seen, send: Send) -> None:
        """A second's answer, and none ever again."""
        if not self._again(one):
            send(self.reply(one.message, f"1 A {GOOD}").to_wire())

    async def _do_late(self, one: Seen, send: Send) -> None:
        """A second's answer, and a new one that takes three seconds."""
        if self._again(one):
            await asyncio.sleep(3)
        send(self.reply(one.message, f"{60 if self._again(one) else 1} A {GOOD}").to_wire())

    async def _do_endless(self, one: Seen, send: Send) -> None:
        send(self._with_ttl(one, 0xFFFFFFFF))

    async def _do_long(self, one: Seen, send: Send) -> None:
        send(self._with_ttl(one, 0x7FFFFFFF))

    def _with_ttl(self, one: Seen, ttl: int) -> bytes:
        message = self.reply(one.message, f"60 A {GOOD}").to_wire()
        assert message.count(_A_MINUTE) == 1
        return message.replace(_A_MINUTE, b"\0\1\0\1" + ttl.to_bytes(4, "big") + b"\0\4")

    async def _do_rebindlo(self, one: Seen, send: Send) -> None:
        send(self.reply(one.message, "60 A 127.0.0.1").to_wire())

    async def _do_rebindz(self, one: Seen, send: Send) -> None:
        send(self.reply(one.message, "60 A 0.0.0.0").to_wire())

    async def _do_cnonly(self, one: Seen, send: Send) -> None:
        send(self.reply(one.message, "60 CNAME web-01.local.").to_wire())
