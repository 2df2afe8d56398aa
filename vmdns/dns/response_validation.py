"""Validates the response of an upstream: whether it answers our query, and what of it may be passed on.

Nothing of an upstream's message is relayed. The answer is built from the one chain that was asked for:
question -> CNAME ... -> records of the type (RFC 2181 section 5.4.1, RFC 5452 section 6); everything else is dropped.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from vmdns.dns import message as wire
from vmdns.dns import rebinding
from vmdns.dns.forwarded_answer import EDE_BLOCKED, Forwarded
from vmdns.dns.limits import Limits
from vmdns.dns.record_parser import DNAME, NSEC, NSEC3, RRSIG, Names, ParsedRecord, parse_record
from vmdns.dns.upstreams import closest_domain

# Why an answer is withheld that `private_domains` would allow.
PRIVATE_ADDRESS = "a private address in an answer from outside is withheld (DNS rebinding); private_domains allows it"
MOST_ALIASES = 16
MOST_RECORDS = 300
_DENIAL = frozenset({NSEC, NSEC3})
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


class _Blocked(Exception):
    """The answer would lead into the user's own networks."""


def validate_response(
    message: bytes,
    sent: wire.Query,
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
        parsed = _parse_response(message, sent)
        if parsed.rcode == wire.BADVERS and sent.edns is not None:
            return Rejected(ResponseFault.NO_EDNS, "BADVERS")
        if parsed.rcode not in (wire.NOERROR, wire.NXDOMAIN):
            return Rejected(ResponseFault.FAILED, f"answered {_RCODES.get(parsed.rcode, f'RCODE {parsed.rcode}')}")
        return _rebuild_answer(parsed, sent, limits, trusted, own)
    except (IndexError, ValueError, struct.error) as error:
        return Rejected(ResponseFault.IGNORE, f"cannot be parsed: {error}")


def _check_header(message: bytes, sent: wire.Query, stream: bool) -> Rejected | None:
    """RFC 5452 section 9.1: id and question must be ours (the socket is connected, so address and port are)."""
    if len(message) < 12 or int.from_bytes(message[:2], "big") != sent.id:
        return Rejected(ResponseFault.IGNORE, "short, or another id")
    flags, questions = int.from_bytes(message[2:4], "big"), int.from_bytes(message[4:6], "big")
    if flags & 0xF800 != 0x8000:
        return Rejected(ResponseFault.IGNORE, "no response to a query")
    no_edns = sent.edns is not None and flags & 0xF in (wire.FORMERR, wire.NOTIMP)
    if questions == 0 and no_edns:
        # Servers older than RFC 6891 send back a bare header.
        return Rejected(ResponseFault.NO_EDNS, "FORMERR or NOTIMP")
    end = 12 + len(sent.question)
    question = message[12:end]
    if questions != 1 or question[:-4].lower() != sent.key or question[-4:] != sent.question[-4:]:
        return Rejected(ResponseFault.IGNORE, "another question")
    if question != sent.question and not stream:
        return Rejected(ResponseFault.OTHER_CASE, "the question came back in another case")
    if no_edns:
        return Rejected(ResponseFault.NO_EDNS, "FORMERR or NOTIMP")
    if flags & 0x0200:
        return Rejected(ResponseFault.FAILED if stream else ResponseFault.TRUNCATED, "truncated")
    if sum(int.from_bytes(message[at : at + 2], "big") for at in (6, 8, 10)) > MOST_RECORDS:
        return Rejected(ResponseFault.FAILED, f"over {MOST_RECORDS} records")
    return None


class _ParsedRRset:
    """The records of one owner and type, of signatures those that cover one type (RFC 4034 section 3)."""

    __slots__ = ("key", "owner", "rdatas", "ttl", "type")

    def __init__(self, record: ParsedRecord, ttl: int) -> None:
        self.owner = record.owner
        self.key = record.key
        self.type = record.type
        self.ttl = ttl
        self.rdatas = [record.rdata]

    @property
    def covered(self) -> int:
        """The type that signatures cover; 0 for other records."""
        return _covered_type(self.type, self.rdatas[0])


class _ParsedResponse(NamedTuple):
    rcode: int
    authentic: bool
    answer: list[ParsedRecord]
    authority: list[ParsedRecord]


def _parse_response(message: bytes, sent: wire.Query) -> _ParsedResponse:
    """Raises ValueError, IndexError and struct.error. The whole message is read, since part of it may be malformed."""
    # Other names point into the question, and would have the random case of our query.
    message = message[:12] + sent.key + message[12 + len(sent.key) :]
    _, flags, _, *counts = wire.HEADER.unpack_from(message)
    at = 12 + len(sent.question)
    names: Names = {12: (sent.key, at - 4)}
    sections: list[list[ParsedRecord]] = []
    for count in counts:
        records = []
        for _ in range(count):
            record, at = parse_record(message, at, names)
            if record.type == wire.TXT and not record.rdata:
                raise ValueError("a TXT record without a string")
            records.append(record)
        sections.append(records)
    answer, authority, additional = sections
    opts = [record for record in additional if record.type == wire.OPT]
    if (
        len(opts) > 1
        or any(record.type == wire.OPT for record in answer + authority)
        or any(record.owner != b"\0" for record in opts)
    ):
        raise ValueError("OPT record")
    rcode = flags & 0xF | (opts[0].ttl >> 24 << 4 if opts else 0)
    return _ParsedResponse(rcode, flags & 0x0020 != 0, answer, authority)


def _rebuild_answer(
    parsed: _ParsedResponse, sent: wire.Query, limits: Limits, trusted: bool, own: Callable[[bytes], bool]
) -> Forwarded | Rejected:
    found = _AnswerSection(parsed.answer, limits)
    signed = sent.dnssec_ok
    kept: list[_ParsedRRset] = []
    name, complete = sent.key, False
    for _ in range(MOST_ALIASES + 1):
        sets = found.find(name, sent.type, signed)
        if sets:
            kept += found.find_alias(name, sent.key, signed) if sent.type == wire.CNAME else sets
            complete = True
            break
        alias = found.find_alias(name, sent.key, signed)
        if not alias:
            break
        kept += alias
        name = found.find(name, wire.CNAME, False)[0].rdatas[0].lower()
    else:
        return Rejected(ResponseFault.FAILED, "the aliases (CNAME) of this name do not end")

    _restore_case(kept)
    ttl = min((one.ttl for one in kept), default=limits.cache_ttl)
    try:
        _check_targets(kept, trusted, own)
    except _Blocked as why:
        return Forwarded(wire.NOERROR, ttl=ttl, error=(EDE_BLOCKED, str(why)))

    answer = tuple(record for one in kept for record in _make_records(one, one.ttl))
    if complete and not signed:
        return Forwarded(wire.NOERROR, answer, (), ttl, parsed.authentic)
    rcode = wire.NOERROR if complete else parsed.rcode
    sets = list(_group_rrsets(parsed.authority, limits).values())
    authority: list[wire.Record] = []
    if not complete:
        soa = _find_soa(sets, name)
        if soa is None and rcode == wire.NOERROR and any(one.type == wire.NS for one in sets):
            # RFC 2308 section 2.2: name servers and no SOA.
            return Rejected(ResponseFault.FAILED, "answered with a referral: it is no recursive server")
        # RFC 2308 section 5: the lesser of the SOA's TTL and its MINIMUM; without a SOA it is not kept.
        negative = 0
        if soa is not None:
            minimum = int.from_bytes(soa.rdatas[0][-4:], "big")
            negative = min(soa.ttl, minimum, limits.negative_ttl)
            authority += _make_records(soa, negative)
        ttl = min(ttl, negative)
    if signed:
        proofs = [one for one in sets if _is_proof(one, complete)]
        ttl = min((one.ttl for one in proofs), default=ttl) if ttl else 0
        authority += [record for one in proofs for record in _make_records(one, one.ttl)]
    return Forwarded(rcode, answer, tuple(authority), ttl, parsed.authentic)


_Key = tuple[bytes, int, int]  # owner in lower case, type, covered type


def _covered_type(kind: int, rdata: bytes) -> int:
    return int.from_bytes(rdata[:2], "big") if kind == RRSIG else 0


def _group_rrsets(records: Iterable[ParsedRecord], limits: Limits) -> dict[_Key, _ParsedRRset]:
    """The record sets of class IN of a section. The lowest TTL counts (RFC 2181 section 5.2); all are capped."""
    sets: dict[_Key, _ParsedRRset] = {}
    for record in records:
        if record.cls != wire.IN:
            continue
        key = record.key, record.type, _covered_type(record.type, record.rdata)
        ttl = min(record.ttl, limits.cache_ttl)
        rrset = sets.get(key)
        if rrset is None:
            sets[key] = _ParsedRRset(record, ttl)
            continue
        rrset.ttl = min(rrset.ttl, ttl)
        if record.type in (wire.CNAME, DNAME, wire.SOA):
            rrset.rdatas = [record.rdata]  # a name has one of these (RFC 2181 section 10.1, RFC 6672 section 2.4)
        elif record.rdata not in rrset.rdatas:
            rrset.rdatas.append(record.rdata)
    return sets


def _restore_case(chain: list[_ParsedRRset]) -> None:
    """Gives the owner of the records after a CNAME that was made of a DNAME the letter case of its target.

    A server that makes one takes the random letter case of our query into both.
    """
    target = b""
    made = False
    for one in chain:
        if one.key == target.lower():
            one.owner = target
        if one.type == DNAME:
            made = True
        elif one.type == wire.CNAME:
            target, made = one.rdatas[0] if made else b"", False


class _AnswerSection:
    """The record sets of an answer section."""

    def __init__(self, section: Iterable[ParsedRecord], limits: Limits) -> None:
        self._sets = _group_rrsets(section, limits)

    def find(self, owner: bytes, kind: int, signed: bool) -> list[_ParsedRRset]:
        """The records of this owner and type, with their signatures if wanted."""
        if kind in (wire.ANY, RRSIG):
            return [one for one in self._sets.values() if one.key == owner and kind in (wire.ANY, one.type)]
        rrset = self._sets.get((owner, kind, 0))
        if rrset is None:
            return []
        signatures = self._sets.get((owner, RRSIG, kind)) if signed else None
        return [rrset] if signatures is None else [rrset, signatures]

    def find_alias(self, owner: bytes, asked: bytes, signed: bool) -> list[_ParsedRRset]:
        """The CNAME of this owner, after the DNAME that it was made of (RFC 6672 sections 3.1 and 5.3.1).

        A CNAME made of a DNAME begins with the labels of our query, in their random case: they are replaced by those
        in lower case, and what the owner of the DNAME wrote is kept.
        """
        kept = self.find(owner, wire.CNAME, signed)
        above = owner
        while kept and above[0]:
            above = above[1 + above[0] :]
            if not (dnames := self.find(above, DNAME, signed)):
                continue
            alias = kept[0]
            begin = asked if owner == asked else alias.owner
            made = begin[: len(begin) - len(above)] + dnames[0].rdatas[0]
            if made.lower() == alias.rdatas[0].lower():
                alias.rdatas = [made]
                return dnames + kept
        return kept


def _check_targets(kept: list[_ParsedRRset], trusted: bool, own: Callable[[bytes], bool]) -> None:
    for one in kept:
        for rdata in one.rdatas:
            name = rebinding.find_target(one.type, rdata)
            if name is not None and own(name):
                raise _Blocked("blocked: an alias from outside into our own zone")
            inner = [packed for packed in rebinding.find_addresses(one.type, rdata) if rebinding.is_private(packed)]
            if inner and not trusted:
                raise _Blocked(PRIVATE_ADDRESS)


def _find_soa(sets: Iterable[_ParsedRRset], name: bytes) -> _ParsedRRset | None:
    """The SOA of a negative answer: that of the name's zone or of one above it; others do not apply to the name."""
    return next((one for one in sets if one.type == wire.SOA and closest_domain(name, (one.key,)) is not None), None)


def _is_proof(one: _ParsedRRset, complete: bool) -> bool:
    """Whether a validating client needs it beside the answer (RFC 4035 section 3.1.3)."""
    if one.type == RRSIG:
        return one.covered in _DENIAL or (not complete and one.covered == wire.SOA)
    return one.type in _DENIAL


def _make_records(one: _ParsedRRset, ttl: int) -> Iterator[wire.Record]:
    return (wire.Record(one.owner, one.type, ttl, rdata) for rdata in one.rdatas)
