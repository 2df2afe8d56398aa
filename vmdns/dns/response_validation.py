"""Judges what an upstream sent back: is it the answer to our question, and what of it may be passed on?

Nothing of an upstream's message is relayed. The answer is built anew from the one chain that was asked for:
question -> CNAME ... -> records of the type (RFC 2181 section 5.4.1, RFC 5452 section 6); everything else is dropped.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.rrset

from vmdns.dns import message as wire
from vmdns.dns import rebinding
from vmdns.dns.common_response import in_lower_case, quick_judge
from vmdns.dns.forwarded_answer import EDE_BLOCKED, Forwarded
from vmdns.dns.limits import Limits
from vmdns.dns.message_cost import MOST_THINGS, is_heavy
from vmdns.dns.name import from_labels
from vmdns.dns.upstreams import closest

# Why an answer is withheld that `private_domains` would allow.
PRIVATE_ADDRESS = "a private address in an answer from outside is withheld (DNS rebinding); private_domains allows it"
MOST_ALIASES = 16
# dnspython takes some 50 us a record, and meanwhile nobody else is served: so 15 ms at the most.
MOST_RECORDS = 300
_DENIAL = frozenset({dns.rdatatype.NSEC, dns.rdatatype.NSEC3})


class Verdict(enum.Enum):
    """What to do where a message gives no answer."""

    IGNORE = "not the reply to our question: go on waiting for it"
    OTHER_CASE = "the question came back in another case: ask again over TCP"
    TRUNCATED = "ask again over TCP"
    NO_EDNS = "ask again without EDNS"
    FAILED = "this server has no answer: ask the next one"


class Rejected(NamedTuple):
    """A message that gives no answer, and why. answer: for OTHER_CASE, the answer if the case is its only fault."""

    verdict: Verdict
    why: str
    answer: Forwarded | None = None


class _Blocked(Exception):
    """The answer would lead into the user's own networks."""


def judge(
    message: bytes,
    sent: wire.Query,
    limits: Limits,
    *,
    trusted: bool,
    own: Callable[[bytes], bool],
    stream: bool = False,
) -> Forwarded | Rejected:
    """Judges a message that came back on the socket through which `sent` went out.

    trusted: the name may have private addresses. own: whether a wire name (lower case) lies in our zones,
    where no alias from outside may lead. stream: it came over TCP.
    """
    return quick_judge(message, sent, limits, trusted, own) or judge_fully(message, sent, limits, trusted, own, stream)


def judge_fully(
    message: bytes, sent: wire.Query, limits: Limits, trusted: bool, own: Callable[[bytes], bool], stream: bool
) -> Forwarded | Rejected:
    """The same by the general path."""
    rejected = _is_reply(message, sent, stream)
    if rejected is not None and rejected.verdict is Verdict.OTHER_CASE:
        restored = message[:12] + sent.question + message[12 + len(sent.question) :]
        found = judge_fully(restored, sent, limits, trusted, own, stream)
        if isinstance(found, Forwarded):
            return rejected._replace(answer=found)
        return found if found.verdict in (Verdict.NO_EDNS, Verdict.IGNORE) else rejected
    if rejected is not None:
        return rejected
    if is_heavy(message):
        return Rejected(Verdict.FAILED, f"over {MOST_THINGS} things in its records")
    try:
        # ValueError and its like: dnspython promises DNSException only, but its input is a stranger's.
        parsed = dns.message.from_wire(in_lower_case(message, sent), ignore_trailing=True)
        rcode = int(parsed.rcode())
        if rcode == 16 and sent.edns is not None:
            return Rejected(Verdict.NO_EDNS, "BADVERS")
        if rcode not in (wire.NOERROR, wire.NXDOMAIN):
            return Rejected(Verdict.FAILED, f"answered {dns.rcode.to_text(dns.rcode.Rcode(rcode))}")
        return _rebuild(parsed, sent, limits, trusted, own)
    except (dns.exception.DNSException, ValueError, IndexError, KeyError, AttributeError, RecursionError) as error:
        return Rejected(Verdict.IGNORE, f"cannot be parsed: {error!r}")


def _is_reply(message: bytes, sent: wire.Query, stream: bool) -> Rejected | None:
    """RFC 5452 section 9.1: id and question must be ours (the socket is connected, so address and port are)."""
    if len(message) < 12 or int.from_bytes(message[:2], "big") != sent.id:
        return Rejected(Verdict.IGNORE, "short, or another id")
    flags, questions = int.from_bytes(message[2:4], "big"), int.from_bytes(message[4:6], "big")
    if flags & 0xF800 != 0x8000:
        return Rejected(Verdict.IGNORE, "no response to a query")
    no_edns = sent.edns is not None and flags & 0xF in (wire.FORMERR, wire.NOTIMP)
    if questions == 0 and no_edns:
        # Servers older than RFC 6891 send back a bare header.
        return Rejected(Verdict.NO_EDNS, "FORMERR or NOTIMP")
    end = 12 + len(sent.question)
    question = message[12:end]
    if questions != 1 or question[:-4].lower() != sent.key or question[-4:] != sent.question[-4:]:
        return Rejected(Verdict.IGNORE, "another question")
    if question != sent.question and not stream:
        return Rejected(Verdict.OTHER_CASE, "the question came back in another case")
    if no_edns:
        return Rejected(Verdict.NO_EDNS, "FORMERR or NOTIMP")
    if flags & 0x0200:
        return Rejected(Verdict.FAILED if stream else Verdict.TRUNCATED, "truncated")
    if sum(int.from_bytes(message[at : at + 2], "big") for at in (6, 8, 10)) > MOST_RECORDS:
        return Rejected(Verdict.FAILED, f"over {MOST_RECORDS} records")
    return None


def _rebuild(
    parsed: dns.message.Message, sent: wire.Query, limits: Limits, trusted: bool, own: Callable[[bytes], bool]
) -> Forwarded | Rejected:
    found = _Answers(parsed.answer)
    signed = sent.dnssec_ok
    kept: list[dns.rrset.RRset] = []
    name, complete = sent.key, False
    for _ in range(MOST_ALIASES + 1):
        sets = found.of(name, sent.type, signed)
        if sets:
            kept += found.alias(name, sent.key, signed) if sent.type == wire.CNAME else sets
            complete = True
            break
        alias = found.alias(name, sent.key, signed)
        if not alias:
            break
        kept += alias
        name = rebinding.target(found.of(name, wire.CNAME, False)[0][0]) or name
    else:
        return Rejected(Verdict.FAILED, "the aliases (CNAME) of this name do not end")

    _spell_as_targets(kept)
    ttl = min((_ttl(one, limits) for one in kept), default=limits.cache_ttl)
    try:
        _check(kept, trusted, own)
    except _Blocked as why:
        return Forwarded(wire.NOERROR, ttl=ttl, error=(EDE_BLOCKED, str(why)))

    rcode = wire.NOERROR if complete else int(parsed.rcode())
    authority: list[wire.Record] = []
    if not complete:
        soa = _soa(parsed.authority, name)
        if soa is None and rcode == wire.NOERROR and _is_referral(parsed):
            return Rejected(Verdict.FAILED, "answered with a referral: it is no recursive server")
        # RFC 2308 section 5: the lesser of the SOA's TTL and its MINIMUM; without a SOA it is not kept.
        negative = 0
        if soa is not None:
            negative = min(_ttl(soa, limits), soa[0].minimum, limits.negative_ttl)
            authority += _records([soa], negative)
        ttl = min(ttl, negative)
    if signed:
        proofs = [one for one in parsed.authority if _is_proof(one, complete)]
        ttl = min((_ttl(one, limits) for one in proofs), default=ttl) if ttl else 0
        authority += [record for one in proofs for record in _records([one], _ttl(one, limits))]
    answer = tuple(record for one in kept for record in _records([one], _ttl(one, limits)))
    authentic = bool(parsed.flags & 0x0020)
    return Forwarded(rcode, answer, tuple(authority), ttl, authentic)


def _spell_as_targets(chain: list[dns.rrset.RRset]) -> None:
    """Gives the owner of the records behind a CNAME that was made of a DNAME the letter case of its target.

    A server that makes one takes the random letter case of our query into both.
    """
    target: dns.name.Name | None = None
    made = False
    for one in chain:
        if one.name == target:
            one.name = target
        if one.rdtype == dns.rdatatype.DNAME:
            made = True
        elif one.rdtype == wire.CNAME:
            target, made = one[0].target if made else None, False


class _Answers:
    """The records of class IN in an answer section, by owner and type."""

    def __init__(self, section: Iterable[dns.rrset.RRset]) -> None:
        self._sets: dict[bytes, list[dns.rrset.RRset]] = {}
        for one in section:
            if one.rdclass == wire.IN and len(one):
                self._sets.setdefault(one.name.to_digestable(), []).append(one)

    def of(self, owner: bytes, kind: int, signed: bool) -> list[dns.rrset.RRset]:
        """The records of this owner and type, with their signatures if wanted."""
        sets = self._sets.get(owner, [])
        if kind == wire.ANY:
            return sets
        kept = [one for one in sets if one.rdtype == kind]
        if kept and signed and kind != dns.rdatatype.RRSIG:
            kept += [one for one in sets if one.rdtype == dns.rdatatype.RRSIG and one.covers == kind]
        return kept

    def alias(self, owner: bytes, asked: bytes, signed: bool) -> list[dns.rrset.RRset]:
        """The CNAME of this owner, behind the DNAME that it was made of (RFC 6672 sections 3.1 and 5.3.1).

        A CNAME made of a DNAME begins as the name does that was asked for, so in the random case of our query: it is
        made anew in lower case, and what the owner of the DNAME wrote is kept.
        """
        kept = self.of(owner, wire.CNAME, signed)
        above = owner
        while kept and above[0]:
            above = above[1 + above[0] :]
            if not (dnames := self.of(above, dns.rdatatype.DNAME, signed)):
                continue
            begin = dns.name.from_wire(asked, 0)[0] if owner == asked else kept[0].name
            begin = begin.relativize(dnames[0].name)
            made = dns.name.Name(begin.labels + dnames[0][0].target.labels)
            if made == kept[0][0].target:
                kept[0] = dns.rrset.from_rdata(kept[0].name, kept[0].ttl, kept[0][0].replace(target=made))
                return dnames + kept
        return kept


def _check(kept: list[dns.rrset.RRset], trusted: bool, own: Callable[[bytes], bool]) -> None:
    for one in kept:
        for rdata in one:
            name = rebinding.target(rdata)
            if name is not None and own(name):
                raise _Blocked("blocked: an alias from outside into our own zone")
            if not trusted and any(rebinding.inner(packed) for packed in rebinding.addresses(rdata)):
                raise _Blocked(PRIVATE_ADDRESS)


def _soa(section: Iterable[dns.rrset.RRset], name: bytes) -> dns.rrset.RRset | None:
    """The SOA of a negative answer: that of the name's zone or of one above it, or it says nothing of the name."""
    for one in section:
        right = one.rdtype == wire.SOA and one.rdclass == wire.IN and len(one) == 1
        if right and closest(name, (one.name.to_digestable(),)) is not None:
            return one
    return None


def _is_referral(parsed: dns.message.Message) -> bool:
    """RFC 2308 section 2.2: name servers and no SOA."""
    return any(one.rdtype == wire.NS for one in parsed.authority)


def _is_proof(one: dns.rrset.RRset, complete: bool) -> bool:
    """What one who validates needs beside the answer (RFC 4035 section 3.1.3)."""
    if one.rdclass != wire.IN:
        return False
    if one.rdtype == dns.rdatatype.RRSIG:
        return one.covers in _DENIAL or (not complete and one.covers == wire.SOA)
    return one.rdtype in _DENIAL


def _ttl(one: dns.rrset.RRset, limits: Limits) -> int:
    """RFC 2181 section 8: a TTL with its highest bit set is 0 (dnspython sees to that); all are capped."""
    return min(int(one.ttl), limits.cache_ttl)


def _records(sets: Iterable[dns.rrset.RRset], ttl: int) -> Iterator[wire.Record]:
    for one in sets:
        owner = from_labels(list(one.name.labels[:-1]))
        for rdata in one:
            yield wire.Record(owner, int(one.rdtype), ttl, rdata.to_wire() or b"")
