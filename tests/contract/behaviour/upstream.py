"""The upstream of the behaviour table."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import dns.flags
import dns.rdatatype
import dns.rrset

from tests.unit.server.fakeupstream import FIXED, GOOD, SOA, FakeUpstream, Fixed, Seen, Send, make_reply

PLAIN = "198.51.100.1"
# Types whose records hold names, compressed or not, and some that nothing is known of.
SIGNED = {
    "A": "198.51.100.77",
    "AAAA": "2001:db8::77",
    "MX": "10 Mail.Fz.TEST.",
    "NS": "Ns.Fz.TEST.",
    "SRV": "1 2 3 Host.Fz.TEST.",
    "NAPTR": '100 10 "S" "SIP+D2U" "" _sip._udp.Fz.TEST.',
    "TXT": r'"a\000b" "" "two"',
    "CAA": '0 issue "ca.test"',
    "DS": "60485 8 2 D4B7D520E7BB5F0F67674A0CCEB1E3E0614B93C4F9E99B8383F6A1E4469DA50A",
    "DNSKEY": "257 3 13 mdsswUyr3DPW132mOi8V9xESWE8jTo0dxCjjnopKl+GqJxpVXckHAeF+KkxLbxILfDLUT0rAK9iUzy1L53eKGQ==",
    "NSEC3PARAM": "1 0 12 AABBCCDD",
    "TLSA": "3 1 1 D2ABDE240D7CD3EE6B4B28C54DF034B97983A1D16E8A410E4561CB106618E971",
    "HTTPS": '1 Svc.Fz.TEST. alpn="h2" port="443"',
    "SVCB": "1 . port=53",
    "TYPE65280": r"\# 4 C00C00FF",
}


def signed(owner: str, kind: str) -> tuple[dns.rrset.RRset, dns.rrset.RRset]:
    """The records of this type, and a signature that nobody would believe."""
    return dns.rrset.from_text(owner, 60, "IN", kind, SIGNED[kind]), signature(owner, kind)


def signature(owner: str, kind: str) -> dns.rrset.RRset:
    return dns.rrset.from_text(
        owner, 60, "IN", "RRSIG", f"{kind} 13 3 60 20380101000000 20200101000000 7 Fz.TEST. AAEC"
    )


class Upstream(FakeUpstream):
    """`www` has one address and nothing else; the others do as their first label says."""

    fixed = FIXED | {
        "endless": Fixed((f"{0xFFFFFFFF} A {GOOD}",)),
        "long": Fixed((f"{0x7FFFFFFF} A {GOOD}",)),
        "rebindlo": Fixed(("60 A 127.0.0.1",)),
        "rebindz": Fixed(("60 A 0.0.0.0",)),
        "cnonly": Fixed(("60 CNAME web-01.local.",)),
    }

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Meanwhile slow names are answered."""
        self.go.set()
        try:
            yield
        finally:
            self.go.clear()

    async def _do_www(self, one: Seen, send: Send) -> None:
        zone = one.name.split(".", 1)[1]
        soa = f"{zone}|300 SOA ns.{zone} admin.{zone} 1 3600 600 86400 20"
        found = one.type == dns.rdatatype.A
        send(make_reply(one.message, [f"60 A {PLAIN}"] if found else [], [] if found else [soa]).to_wire())

    async def _do_stale(self, one: Seen, send: Send) -> None:
        """A second's answer, and none ever again."""
        if not self.seen_before(one):
            send(make_reply(one.message, [f"1 A {GOOD}"]).to_wire())

    async def _do_late(self, one: Seen, send: Send) -> None:
        """A second's answer, and a new one that takes three seconds."""
        if self.seen_before(one):
            await asyncio.sleep(3)
        send(make_reply(one.message, [f"{60 if self.seen_before(one) else 1} A {GOOD}"]).to_wire())

    async def _do_proved(self, one: Seen, send: Send) -> None:
        reply = make_reply(one.message)
        data, signature = signed(one.raw_name, dns.rdatatype.to_text(one.type))
        reply.answer += [data, signature] if one.message.ednsflags & dns.flags.DO else [data]
        send(reply.to_wire())

    async def _do_unproved(self, one: Seen, send: Send) -> None:
        self._deny(one, send, dns.rrset.from_text("A.fz.test.", 60, "IN", "NSEC", "Z.fz.test. A RRSIG NSEC"))

    async def _do_unproved3(self, one: Seen, send: Send) -> None:
        owner = "0p9mhaveqvm6t7vbl5lop2u3t2rp3tom.fz.test."
        hashed = "1 1 12 AABBCCDD 2t7b4g4vsa5smi47k61mv5bv1a22bojr A RRSIG"
        self._deny(one, send, dns.rrset.from_text(owner, 60, "IN", "NSEC3", hashed))

    def _deny(self, one: Seen, send: Send, proof: dns.rrset.RRset) -> None:
        reply = make_reply(one.message, authority=[SOA], rcode=3)
        if one.message.ednsflags & dns.flags.DO:
            kind = dns.rdatatype.to_text(proof.rdtype)
            reply.authority += [signature("fz.test.", "SOA"), proof, signature(str(proof.name), kind)]
        send(reply.to_wire())
