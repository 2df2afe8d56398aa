"""From a query and a snapshot to what is said: the order of decisions of an authoritative server that forwards.

RFC 1034 section 4.3.2 for the walk, RFC 2308 for negatives, RFC 4592 for wildcards, RFC 8482 for ANY.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vmdns.core.build import Snapshot
from vmdns.core.name import labels, unicode_name
from vmdns.core.node import Node, RRset
from vmdns.core.wire import (
    AAAA,
    ANY,
    AXFR,
    BADVERS,
    CNAME,
    HINFO,
    HTTPS,
    IN,
    IXFR,
    NOERROR,
    NXDOMAIN,
    REFUSED,
    SERVFAIL,
    SOA,
    SVCB,
    A,
    Query,
    Record,
)

MAX_CHAIN = 16
_MINIMAL_ANY = b"\x07RFC8482\x00"

# Extended DNS Errors (RFC 8914 section 4).
EDE_NOT_READY, EDE_PROHIBITED = 14, 18
EDE_OTHER = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What is said: rcode, sections, AA, and an EDE. chase is a name outside of our zones that a CNAME led to."""

    rcode: int = NOERROR
    answer: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    authoritative: bool = True
    extended_error: tuple[int, str] | None = None
    chase: bytes | None = None
    why: tuple[str, ...] = field(default=(), compare=False)


def answer(query: Query, snapshot: Snapshot) -> Reply | None:
    """The reply, or None where the question is not ours and is to be forwarded."""
    if query.edns is not None and query.edns.version > 0:
        return Reply(BADVERS, authoritative=False)
    if query.cls != IN or query.type in (AXFR, IXFR, 253, 254):
        return Reply(REFUSED, authoritative=False, extended_error=(EDE_PROHIBITED, "not offered by this server"))
    key = unicode_name(query.key) or query.key
    zone = _zone_of(key, snapshot)
    if zone is None:
        node = snapshot.nodes.get(key) or snapshot.outside.get(key)
        if node and (query.type in node or (query.type in (A, AAAA, HTTPS, SVCB) and (A in node or AAAA in node))):
            return _at(query, key, query.name, node, key, snapshot, ())
        if _is_bare(key, query.type):
            why = ("a single label is never forwarded",)
            return Reply(NXDOMAIN, authority=(_soa(snapshot, b"\0"),), authoritative=False, why=why)
        return None
    return _walk(query, key, zone, snapshot)


def _is_bare(key: bytes, kind: int) -> bool:
    return len(labels(key)) == 1 and kind in (A, AAAA, HTTPS, SVCB, ANY)


def _zone_of(key: bytes, snapshot: Snapshot) -> bytes | None:
    """The apex of the closest zone of ours at or above the name; None if it is to be forwarded."""
    while True:
        if key in snapshot.zones:
            return key
        if key in snapshot.forwarded or not key[0]:
            return None
        key = key[1 + key[0] :]


def _walk(query: Query, key: bytes, zone: bytes, snapshot: Snapshot) -> Reply:
    chain: list[Record] = []
    passed: set[bytes] = set()
    owner = query.name
    while key not in passed and len(passed) < MAX_CHAIN:
        passed.add(key)
        node = snapshot.nodes.get(key)
        if node is None:
            node = _wildcard(key, zone, snapshot.nodes)
        if node is None:
            return _absent(key, zone, snapshot, tuple(chain))
        alias = node.get(CNAME)
        if alias is None or query.type in (CNAME, ANY):
            return _at(query, key, owner, node, zone, snapshot, tuple(chain))
        chain.append(Record(owner, CNAME, alias.ttl, alias.rdatas[0]))
        owner = alias.rdatas[0]
        key = owner.lower()
        target = _zone_of(key, snapshot)
        if target is None:
            return Reply(answer=tuple(chain), chase=key)
        zone = target
    return Reply(answer=tuple(chain), why=("its CNAME records go in a circle",))


def _wildcard(key: bytes, zone: bytes, nodes: Mapping[bytes, Node]) -> Node | None:
    """The node of the wildcard that covers the name: that of the closest encloser alone (RFC 4592 section 3.3.1)."""
    above = key
    while above != zone:
        above = above[1 + above[0] :]
        if above in nodes:
            return nodes.get(b"\x01*" + above)
    return None


def _at(
    query: Query, key: bytes, owner: bytes, node: Node, zone: bytes, snapshot: Snapshot, chain: tuple[Record, ...]
) -> Reply:
    if query.type == ANY and node:
        # RFC 8482 section 4.2: one small record says that all of them are not given.
        records: tuple[Record, ...] = (Record(owner, HINFO, snapshot.ttl, _MINIMAL_ANY),)
        return Reply(answer=chain + records)
    rrset = node.get(query.type)
    if rrset is not None:
        return Reply(answer=chain + _records(owner, query.type, rrset))
    why = _why_empty(key, snapshot)
    return Reply(
        answer=chain,
        authority=(_soa(snapshot, zone),),
        extended_error=(EDE_NOT_READY, why) if why and query.type in (A, AAAA) else None,
    )


def _why_empty(key: bytes, snapshot: Snapshot) -> str:
    if snapshot.nodes.get(key):
        return ""
    for guest in snapshot.guests:
        if guest.machine.online and not guest.addresses and _has_name(guest.named.names, key, snapshot.own):
            return f"VM {guest.machine.name!r} runs, but no address of it is known yet"
    return ""


def _has_name(names: tuple[tuple[str, ...], ...], key: bytes, zones: tuple[bytes, ...]) -> bool:
    for zone in zones:
        if key.endswith(zone):
            below = tuple(part.decode("ascii", "replace") for part in labels(key)[: -len(labels(zone))])
            return below in names
    return False


def _absent(key: bytes, zone: bytes, snapshot: Snapshot, chain: tuple[Record, ...]) -> Reply:
    why = snapshot.absent.get(key)
    if not snapshot.looked and zone in snapshot.own:
        return Reply(SERVFAIL, authoritative=False, extended_error=(EDE_NOT_READY, "VirtualBox is being looked at"))
    return Reply(
        NXDOMAIN,
        answer=chain,
        authority=(_soa(snapshot, zone),),
        extended_error=(EDE_OTHER, why) if why else None,
        why=(why,) if why else (),
    )


def _records(owner: bytes, kind: int, rrset: RRset) -> tuple[Record, ...]:
    return tuple(Record(owner, kind, rrset.ttl, rdata) for rdata in rrset.rdatas)


def _soa(snapshot: Snapshot, apex: bytes) -> Record:
    """The SOA of a negative response; its TTL is the time the negative may be kept (RFC 2308 section 3)."""
    return Record(apex, SOA, snapshot.ttl, snapshot.soa)
