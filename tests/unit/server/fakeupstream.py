"""A scripted upstream on loopback that behaves as the first label of the name says: well, badly or hostile.

`servfail.7.fz.test` asks for SERVFAIL; the other labels only make the name new. What came is kept in `seen`; probes of
vmdns's own (localhost) in `probes`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import NamedTuple

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from vmdns.dns.forwarded_answer import Forwarded, Question, check_forwardable, encode_answer
from vmdns.dns.query import Query
from vmdns.server.forwarder import Forwarder

GOOD = "198.51.100.77"
EVIL = "6.6.6.6"
SOA = "fz.test.|300 SOA ns.fz.test. admin.fz.test. 1 3600 600 86400 20"

Send = Callable[[bytes], None]


class Fixed(NamedTuple):
    """The one reply of a name, as `make_reply` takes it; {name} in its records is the name itself."""

    answer: tuple[str, ...] = ()
    authority: tuple[str, ...] = ()
    rcode: int = 0
    flags: int = 0


FIXED = {
    "ttl": Fixed((f"30 A {GOOD}",)),
    "zero": Fixed((f"0 A {GOOD}",)),
    "short": Fixed((f"1 A {GOOD}",)),
    "neg": Fixed(authority=(SOA,), rcode=3),
    "nodata": Fixed(authority=(SOA,)),
    "nosoa": Fixed(rcode=3),
    "formerr": Fixed(rcode=1),
    "servfail": Fixed(rcode=2),
    "refused": Fixed(rcode=5),
    "tconly": Fixed(flags=dns.flags.TC),
    "adset": Fixed((f"60 A {GOOD}",), flags=dns.flags.AD),
    "unk": Fixed((r"60 TYPE65280 \# 5 00ff41c00c",)),
    "loop": Fixed(("60 CNAME {name}",)),
    "rebind": Fixed(("60 A 192.168.56.101",)),
    "cnlocal": Fixed(("60 CNAME web-01.local.", "web-01.local.|60 A 198.51.100.9")),
    "signed": Fixed((f"60 A {GOOD}", "60 RRSIG A 13 3 60 20300101000000 20200101000000 1 fz.test. AAAA")),
}


async def resolve(forwarder: Forwarder, query: Query, limit: int) -> bytes:
    """The forwarder's response, as the event loop can await it."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Forwarded] = loop.create_future()

    def notify(found: Forwarded) -> None:
        loop.call_soon_threadsafe(lambda: result.done() or result.set_result(found))  # type: ignore[func-returns-value]

    def find() -> None:
        found = check_forwardable(query) or forwarder.find(Question.of(query), notify)
        if found is not None:
            notify(found)

    forwarder.thread.submit(find)
    return encode_answer(query, await result, limit)


class Seen(NamedTuple):
    """One query as it arrived."""

    tcp: bool
    name: str
    raw_name: str
    type: int
    id: int
    port: int
    message: dns.message.Message


def make_reply(
    query: dns.message.Message,
    answer: Iterable[str] = (),
    authority: Iterable[str] = (),
    rcode: int = 0,
    flags: int = 0,
) -> dns.message.Message:
    """A reply; a record without an owner is the question's, `owner| rest` another's."""
    out = dns.message.make_response(query, recursion_available=True)
    out.set_rcode(rcode)
    out.flags |= flags
    for section, texts in ((out.answer, answer), (out.authority, authority)):
        for text in texts:
            owner, bar, rest = text.rpartition("|")
            name = dns.name.from_text(owner) if bar else query.question[0].name
            ttl, kind, data = rest.split(None, 2)
            made = dns.rrset.from_text(name, int(ttl), "IN", kind, data)
            out.find_rrset(section, name, 1, made.rdtype, made[0].covers(), create=True).update(made)
    return out


class FakeUpstream:
    """UDP and TCP on one port. dead: it says nothing; go: slow names wait for it; good: what it answers.

    no_edns: it rejects every OPT record with FORMERR; flat: every question comes back in lower case over UDP.
    behaviour: the one of every name.
    """

    fixed = FIXED

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.address = address
        self.port = 0
        self.seen: list[Seen] = []
        self.probes: list[Seen] = []
        self.dead = self.no_edns = self.flat = self.silent_tcp = False
        self.go = asyncio.Event()
        self.good = GOOD
        self.behaviour = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> FakeUpstream:
        for _ in range(20):
            self.udp = socket.socket(socket.AF_INET6 if ":" in self.address else socket.AF_INET, socket.SOCK_DGRAM)
            self.udp.setblocking(False)
            self.udp.bind((self.address, port))
            self.port = self.udp.getsockname()[1]
            try:
                self.tcp = await asyncio.start_server(self._stream, self.address, self.port)
                break
            except OSError:  # the port that is free for UDP need not be for TCP
                self.udp.close()
                if port:
                    raise
        asyncio.get_running_loop().add_reader(self.udp, self._readable)
        return self

    async def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self.udp)
        self.udp.close()
        self.tcp.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def count(self, name: str = "", tcp: bool | None = None) -> int:
        return sum(name in one.name and tcp in (None, one.tcp) for one in self.seen)

    def _readable(self) -> None:
        packet, peer = self.udp.recvfrom(4096)
        self._spawn(packet, peer[1], False, lambda reply: self.udp.sendto(reply, peer))

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            size = int.from_bytes(await reader.readexactly(2), "big")
            packet = await reader.readexactly(size)
            port = writer.get_extra_info("peername")[1]
            await self._spawn(packet, port, True, lambda out: writer.write(len(out).to_bytes(2, "big") + out))
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    def _spawn(self, packet: bytes, port: int, tcp: bool, send: Send) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._handle(packet, port, tcp, send))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _handle(self, packet: bytes, port: int, tcp: bool, send: Send) -> None:
        query = dns.message.from_wire(packet)
        question = query.question[0]
        raw = question.name.to_text()
        one = Seen(tcp, raw.lower(), raw, question.rdtype, query.id, port, query)
        (self.probes if one.name == "localhost." else self.seen).append(one)
        if self.dead or (tcp and self.silent_tcp):
            await asyncio.sleep(60 if tcp else 0)
            return
        if self.no_edns and query.edns >= 0:
            send(make_reply(query, rcode=1).to_wire())
            return
        if self.flat and not tcp:
            await self._do_flat(one, send)
            return
        behaviour = self.behaviour or one.name.split(".")[0]
        action = getattr(self, f"_do_{behaviour}", None)
        if action is not None:
            await action(one, send)
            return
        fixed = self.fixed.get(behaviour) or Fixed((f"60 A {self.good}",))
        answer = [text.format(name=one.name) for text in fixed.answer]
        good = make_reply(query, answer, *fixed[1:]).to_wire()
        bad = _bad_reply(behaviour, one, good)
        if bad is not None:
            send(bad)
            await asyncio.sleep(0.05)
        send(good)

    def good_reply(self, one: Seen) -> bytes:
        return make_reply(one.message, [f"60 A {self.good}"]).to_wire()

    def seen_before(self, one: Seen) -> bool:
        """Whether this very name was asked before."""
        return self.count(one.name) > 1

    # -- behaviours that are more than one reply ----------------------------------------------------------------

    async def _do_drop(self, one: Seen, send: Send) -> None:
        pass

    async def _do_dropfirst(self, one: Seen, send: Send) -> None:
        if self.seen_before(one):
            send(self.good_reply(one))

    async def _do_slow(self, one: Seen, send: Send) -> None:
        await self.go.wait()
        send(self.good_reply(one))

    async def _do_firstonly(self, one: Seen, send: Send) -> None:
        """Answers what came first, when it may; nothing that came after."""
        if not self.seen_before(one):
            await self._do_slow(one, send)

    async def _do_tc(self, one: Seen, send: Send) -> None:
        reply = make_reply(one.message, [f"60 A 198.51.100.{at}" for at in range(1, 101)])
        if not one.tcp:
            reply.answer.clear()
            reply.flags |= dns.flags.TC
        send(reply.to_wire(max_size=65535))

    async def _do_wrongport(self, one: Seen, send: Send) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind((self.address, 0))
            other.sendto(make_reply(one.message, [f"60 A {EVIL}"]).to_wire(), (self.address, one.port))
        await asyncio.sleep(0.05)
        send(self.good_reply(one))

    async def _do_flood(self, one: Seen, send: Send) -> None:
        """So many guesses that asking over TCP is the better way."""
        if one.tcp:
            send(self.good_reply(one))
            return
        for guess in range(60):
            evil = make_reply(one.message, [f"60 A {EVIL}"])
            evil.id = (one.id + 1 + guess) & 0xFFFF
            send(evil.to_wire())

    async def _do_flat(self, one: Seen, send: Send) -> None:
        lower = dns.message.make_query(one.name, one.type, use_edns=False)
        lower.id = one.id
        send(make_reply(lower, [f"60 A {GOOD}"]).to_wire())

    async def _do_formerredns(self, one: Seen, send: Send) -> None:
        edns = one.message.edns >= 0
        send(make_reply(one.message, rcode=1).to_wire() if edns else self.good_reply(one))

    async def _do_baredns(self, one: Seen, send: Send) -> None:
        """A server so old that it sends back its header alone."""
        edns = one.message.edns >= 0
        send(one.id.to_bytes(2, "big") + b"\x81\x81" + bytes(8) if edns else self.good_reply(one))

    async def _do_extra(self, one: Seen, send: Send) -> None:
        evil = f"60 A {EVIL}"
        reply = make_reply(
            one.message,
            [f"60 A {GOOD}", f"victim.fz.test.|{evil}"],
            [f"fz.test.|{evil}", "fz.test.|60 NS evil.test."],
        )
        reply.additional.append(dns.rrset.from_text("victim.fz.test.", 60, "IN", "A", EVIL))
        send(reply.to_wire())


def _bad_reply(behaviour: str, one: Seen, good: bytes) -> bytes | None:
    """What comes before the good reply, if anything."""
    evil = make_reply(one.message, [f"60 A {EVIL}"])
    other = dns.message.make_query("other.fz.test.", one.type, id=one.id)
    return {
        "wrongid": (one.id ^ 0x5555).to_bytes(2, "big") + evil.to_wire()[2:],
        "wrongq": make_reply(other, [f"60 A {EVIL}"]).to_wire(),
        "isquery": one.message.to_wire(),
        "trunc": good[:20],
        "cut": good[:-3],
        "empty": b"",
        "garbage": good[:2] + b"\x81\x80" + b"\xff" * 60,
    }.get(behaviour)
