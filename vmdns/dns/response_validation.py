"""Validates the response of an upstream: whether it answers our query, and what of it may be passed on.

Nothing of an upstream's message is relayed. The answer is built from the one chain that was asked for:
question -> CNAME ... -> records of the type (RFC 2181 section 5.4.1, RFC 5452 section 6); everything else is dropped.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from vmdns.dns import message as wire
from vmdns.dns import rebinding
from vmdns.dns.forwarded_answer import Forwarded
from vmdns.dns.limits import Limits
from vmdns.dns.query import Query
from vmdns.dns.upstreams import closest_domain

# Why an answer is withheld that `private_domains` would allow.
PRIVATE_ADDRESS = "a private address in an answer from outside is withheld (DNS rebinding); private_domains allows it"
MAX_ALIASES = 16
MAX_RECORDS = 300
_DENIAL = frozenset({wire.NSEC, wire.NSEC3})
_RCODES = {wire.SERVFAIL: "SERVFAIL", wire.REFUSED: "REFUSED", wire.FORMERR: "FORMERR", wire.NOTIMP: "NOTIMP"}


class ResponseFault(enum.Enum):
    """What to do after a message that gives no answer."""

    IGNORE = "not the response to our query: keep waiting for it"
    OTHER_CASE = "the question came back in another case: retry over TCP"
    TRUNCATED = "retry over TCP"
    NO_EDNS = "retry without EDNS"
    FAILED = "this server has no answer: ask the next one"


class Rejected(NamedTuple):
    """A message that gives no answer, and why. answer: for OTHER_CASE, the answer if the case is its only fault."""

    verdict: ResponseFault
    why: str
    answer: Forwarded | None = None


def validate_response(
    message: bytes,
    sent: Query,
    limits: Limits,
    *,
    trusted: bool,
    own: Callable[[bytes], bool],
    stream: bool = False,
) -> Forwarded | Rejected:
    """Validates a message that arrived on the socket through which `sent` was sent. Never raises.

    trusted: the name may have private addresses. own: whether a wire name (lower case) lies in our zones,
    where no alias from outside may lead. stream: it arrived over TCP.
    """
    rejected = _check_header(message, sent, stream)
    if rejected is not None and rejected.verdict is ResponseFault.OTHER_CASE:
        restored = message[:12] + sent.question + message[12 + len(sent.question) :]
        found = validate_response(restored, sent, limits, trusted=trusted, own=own, stream=stream)
        if isinstance(found, Forwarded):
            return rejected._replace(answer=found)
        return found if found.verdict in (ResponseFault.NO_EDNS, ResponseFault.IGNORE) else rejected
    if rejected is not None:
        return rejected
    try:
        # Other names point into the question, and would have the random case of our query.
        parsed = wire.parse_message(message[:12] + sent.key + message[12 + len(sent.key) :])
        if wire.OPT in [record.type for record in parsed.answers + parsed.authorities]:
            raise ValueError("OPT record")
        opt = wire.find_opt(parsed.additionals)
        rcode = parsed.flags & 0xF | (opt.ttl >> 24 << 4 if opt is not None else 0)
        if rcode == wire.BADVERS and sent.edns is not None:
            return Rejected(ResponseFault.NO_EDNS, "BADVERS")
        if rcode not in (wire.NOERROR, wire.NXDOMAIN):
            return Rejected(ResponseFault.FAILED, f"answered {_RCODES.get(rcode, f'RCODE {rcode}')}")
        return _rebuild_answer(parsed, rcode, sent, limits, trusted, own)
    except (IndexError, ValueError) as error:
        return Rejected(ResponseFault.IGNORE, f"cannot be parsed: {error}")


def _check_header(message: bytes, sent: Query, stream: bool) -> Rejected | None:
    """RFC 5452 section 9.1: id and question must be ours (the socket is connected, so address and port are)."""
    if len(message) < 12:
        return Rejected(ResponseFault.IGNORE, "short")
    ident, flags, questions, *counts = wire.HEADER.unpack_from(message)
    if ident != sent.id:
        return Rejected(ResponseFault.IGNORE, "another id")
    if flags & 0xF800 != 0x8000:
        return Rejected(ResponseFault.IGNORE, "no response to a query")
    no_edns = sent.edns is not None and flags & 0xF in (wire.FORMERR, wire.NOTIMP)
    if questions == 0 and no_edns:
        # Servers older than RFC 6891 send back a bare header.
        return Rejected(ResponseFault.NO_EDNS, "FORMERR or NOTIMP")
    end = 12 + len(sent.question)
    question = message[12:end]
    if question != sent.question or questions != 1:
        if questions != 1 or question[:-4].lower() != sent.key or question[-4:] != sent.question[-4:]:
            return Rejected(ResponseFault.IGNORE, "another question")
        if not stream:
            return Rejected(ResponseFault.OTHER_CASE, "the question came back in another case")
    if no_edns:
        return Rejected(ResponseFault.NO_EDNS, "FORMERR or NOTIMP")
    if flags & 0x0200:
        return Rejected(ResponseFault.FAILED if stream else ResponseFault.TRUNCATED, "truncated")
    if sum(counts) > MAX_RECORDS:
        return Rejected(ResponseFault.FAILED, f"over {MAX_RECORDS} records")
    return None


@dataclass(slots=True)
class _ParsedRRset:
    """The records of one owner and type, of signatures those that cover one type (RFC 4034 section 3), else 0.

    key is the owner in lower case.
    """

    owner: bytes
    key: bytes
    type: int
    covered: int
    ttl: int
    rdatas: list[bytes]

    def records(self, ttl: int | None = None) -> list[wire.Record]:
        return [wire.Record(self.owner, self.type, self.ttl if ttl is None else ttl, rdata) for rdata in self.rdatas]


_RRsets = dict[tuple[bytes, int, int], _ParsedRRset]  # by owner in lower case, type, covered type


def _rebuild_answer(
    parsed: wire.Message, rcode: int, sent: Query, limits: Limits, trusted: bool, own: Callable[[bytes], bool]
) -> Forwarded | Rejected:
    rrsets = _group_rrsets(parsed.answers, limits)
    signed = sent.dnssec_ok
    kept: list[_ParsedRRset] = []
    name, complete = sent.key, False
    for _ in range(MAX_ALIASES + 1):
        alias = _find_alias(rrsets, name, signed)
        found = _find(rrsets, name.lower(), sent.type, signed)
        # Records after an alias have its letter case: a server may write its owners in the random one of our query.
        for one in found + alias:
            if one.key == name.lower():
                one.owner = name
        complete = bool(found)
        kept += alias if sent.type == wire.CNAME or not found else found
        if complete or not alias:
            break
        name = _find(rrsets, name.lower(), wire.CNAME, False)[0].rdatas[0]
    else:
        return Rejected(ResponseFault.FAILED, "the aliases (CNAME) of this name do not end")

    authentic = bool(parsed.flags & 0x0020)
    ttl = min((one.ttl for one in kept), default=limits.cache_ttl)
    blocked = _find_block(kept, trusted, own)
    if blocked is not None:
        return Forwarded(wire.NOERROR, ttl=ttl, error=(wire.EDE_BLOCKED, blocked))
    answer = tuple(record for one in kept for record in one.records())
    if complete and not signed:
        return Forwarded(wire.NOERROR, answer, (), ttl, authentic)
    sets = list(_group_rrsets(parsed.authorities, limits).values())
    authority: list[wire.Record] = []
    if complete:
        rcode = wire.NOERROR
    else:
        # The SOA of the name's zone or of one above it; others do not apply to the name.
        zones = (one for one in sets if one.type == wire.SOA and closest_domain(name.lower(), (one.key,)) is not None)
        soa = next(zones, None)
        if soa is None and rcode == wire.NOERROR and any(one.type == wire.NS for one in sets):
            # RFC 2308 section 2.2: name servers and no SOA.
            return Rejected(ResponseFault.FAILED, "answered with a referral: it is no recursive server")
        # RFC 2308 section 5: the lesser of the SOA's TTL and its MINIMUM; without a SOA it is not kept.
        negative = 0
        if soa is not None:
            minimum = int.from_bytes(soa.rdatas[0][-4:], "big")
            negative = min(soa.ttl, minimum, limits.negative_ttl)
            authority += soa.records(negative)
        ttl = min(ttl, negative)
    if signed:
        proofs = [one for one in sets if _is_proof(one, complete)]
        ttl = min((one.ttl for one in proofs), default=ttl) if ttl else 0
        authority += [record for one in proofs for record in one.records()]
    return Forwarded(rcode, answer, tuple(authority), ttl, authentic)


def _group_rrsets(records: Iterable[wire.ParsedRecord], limits: Limits) -> _RRsets:
    """The record sets of class IN of a section. The lowest TTL counts (RFC 2181 section 5.2); all are capped."""
    sets: _RRsets = {}
    for owner, key, kind, cls, ttl, rdata in records:
        if cls != wire.IN:
            continue
        if kind == wire.TXT and not rdata:
            raise ValueError("a TXT record without a string")  # multicast DNS has such ones (RFC 6763 section 6.1)
        covered = int.from_bytes(rdata[:2], "big") if kind == wire.RRSIG else 0
        ttl = min(ttl, limits.cache_ttl)
        rrset = sets.get((key, kind, covered))
        if rrset is None:
            sets[key, kind, covered] = _ParsedRRset(owner, key, kind, covered, ttl, [rdata])
            continue
        rrset.ttl = min(rrset.ttl, ttl)
        if kind in (wire.CNAME, wire.DNAME, wire.SOA):
            rrset.rdatas = [rdata]  # a name has one of these (RFC 2181 section 10.1, RFC 6672 section 2.4)
        elif rdata not in rrset.rdatas:
            rrset.rdatas.append(rdata)
    return sets


def _find(rrsets: _RRsets, owner: bytes, kind: int, signed: bool) -> list[_ParsedRRset]:
    """The records of this owner (lower case) and type, with their signatures if wanted."""
    if kind in (wire.ANY, wire.RRSIG):
        return [one for one in rrsets.values() if one.key == owner and kind in (wire.ANY, one.type)]
    keys = [(owner, kind, 0), *([(owner, wire.RRSIG, kind)] if signed else [])]
    return [rrsets[key] for key in keys if key in rrsets] if keys[0] in rrsets else []


def _find_alias(rrsets: _RRsets, name: bytes, signed: bool) -> list[_ParsedRRset]:
    """The CNAME of this name, after the DNAME that it was made of (RFC 6672 sections 3.1 and 5.3.1).

    A CNAME made of a DNAME begins with the labels of our query, in their random case: these are replaced by those of
    the name.
    """
    kept = _find(rrsets, name.lower(), wire.CNAME, signed)
    above = name
    while kept and above[0]:
        above = above[1 + above[0] :]
        if dnames := _find(rrsets, above.lower(), wire.DNAME, signed):
            made = name[: len(name) - len(above)] + dnames[0].rdatas[0]
            if made.lower() == kept[0].rdatas[0].lower():
                kept[0].rdatas = [made]
                return dnames + kept
    return kept


def _find_block(kept: list[_ParsedRRset], trusted: bool, own: Callable[[bytes], bool]) -> str | None:
    """Why the answer is withheld: it would lead into the user's own networks. Raises ValueError and IndexError."""
    for one in kept:
        for rdata in one.rdatas:
            name = rebinding.find_target(one.type, rdata)
            if name is not None and own(name):
                return "blocked: an alias from outside into our own zone"
            addresses = list(rebinding.find_addresses(one.type, rdata))  # which also checks service parameters
            if not trusted and any(map(rebinding.is_private, addresses)):
                return PRIVATE_ADDRESS
    return None


def _is_proof(one: _ParsedRRset, complete: bool) -> bool:
    """Whether a validating client needs it beside the answer (RFC 4035 section 3.1.3)."""
    if one.type == wire.RRSIG:
        return one.covered in _DENIAL or (not complete and one.covered == wire.SOA)
    return one.type in _DENIAL
