"""Answers a query from a snapshot, as an authoritative server does that forwards other names.

RFC 1034 section 4.3.2 for the walk, RFC 2308 for negatives, RFC 4592 for wildcards, RFC 8482 for ANY.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmdns.dns import message
from vmdns.dns.message import AAAA, ANY, CNAME, HTTPS, NOERROR, NXDOMAIN, SVCB, A, Node, Record
from vmdns.dns.name import RESOLVER, convert_utf8_labels, split_labels
from vmdns.dns.query import NOT_OFFERED_TYPES, NOT_QUERY_TYPES, Query
from vmdns.dns.upstreams import closest_domain
from vmdns.state.snapshot import Snapshot
from vmdns.state.views import View

MAX_CHAIN = 16
_MINIMAL_ANY = b"\x07RFC8482\x00"
_ADDRESS_TYPES = (A, AAAA, HTTPS, SVCB)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer: rcode, sections, AA, and an EDE. chase is a name outside of our zones that a CNAME led to."""

    rcode: int = NOERROR
    answer: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    authoritative: bool = True
    extended_error: tuple[int, str] | None = None
    chase: bytes | None = None


def answer_query(query: Query, snapshot: Snapshot, view: View) -> Reply | None:
    """The reply for clients of this view; None if the query is to be forwarded."""
    if query.edns is not None and query.edns.version > 0:
        return Reply(message.BADVERS, authoritative=False)
    if query.cls == message.IN and query.type in NOT_QUERY_TYPES:
        error = (message.EDE_INVALID_QUERY_TYPE, f"type {query.type} is not one to ask for")
        return Reply(message.FORMERR, authoritative=False, extended_error=error)
    if query.cls != message.IN or query.type in NOT_OFFERED_TYPES:
        error = (message.EDE_PROHIBITED, "not offered by this server")
        return Reply(message.REFUSED, authoritative=False, extended_error=error)
    key = convert_utf8_labels(query.key) or query.key
    zone = _find_zone(key, snapshot)
    if zone is not None:
        return _follow_aliases(query, key, zone, snapshot, view)
    node = snapshot.find(key, view) or snapshot.outside.get(key, {})
    if query.type in node or (query.type in _ADDRESS_TYPES and (A in node or AAAA in node)):
        return _answer_at(query, query.name, node, key, snapshot, ())
    if len(split_labels(key)) == 1 and query.type in (*_ADDRESS_TYPES, ANY):  # never forwarded
        return Reply(NXDOMAIN, authority=(_soa_record(snapshot, b"\0"),), authoritative=False)
    return None


def _find_zone(key: bytes, snapshot: Snapshot) -> bytes | None:
    """The apex of the closest zone of ours at or above the name; None if it is to be forwarded."""
    while key not in snapshot.policy.apexes:
        if key in snapshot.policy.forwarded or not key[0]:
            return None
        key = key[1 + key[0] :]
    return key


def _follow_aliases(query: Query, key: bytes, zone: bytes, snapshot: Snapshot, view: View) -> Reply:
    chain: list[Record] = []
    passed: set[bytes] = set()
    owner = query.name
    while key not in passed and len(passed) < MAX_CHAIN:
        passed.add(key)
        node = snapshot.find(key, view)
        if node is None:
            node = _find_wildcard(key, zone, snapshot, view)
        if node is None:
            return _answer_absent(key, zone, snapshot, tuple(chain))
        alias = node.get(CNAME)
        if alias is None or query.type in (CNAME, ANY):
            error = None if node else _explain_empty(key, snapshot, view)
            return _answer_at(query, owner, node, zone, snapshot, tuple(chain), error)
        chain.append(Record(owner, CNAME, alias.ttl, alias.rdatas[0]))
        owner = alias.rdatas[0]
        key = owner.lower()
        target = _find_zone(key, snapshot)
        if target is None:
            return Reply(answer=tuple(chain), chase=key)
        zone = target
    return Reply(answer=tuple(chain))  # its CNAME records go in a circle


def _find_wildcard(key: bytes, zone: bytes, snapshot: Snapshot, view: View) -> Node | None:
    """The node of the wildcard that covers the name: that of the closest encloser alone (RFC 4592 section 3.3.1).

    A VM that runs is such a wildcard itself, but not for services (RFC 2782): those it has are known.
    """
    above, below = key, b""
    while above != zone:
        above, below = above[1 + above[0] :], above
        if (guest := snapshot.owner(above)) is not None:
            covered = snapshot.policy.wildcards and below[1:2] != b"_"
            return snapshot.nodes.get(b"\x01*" + above) or (snapshot.find_addresses(guest, view) if covered else None)
        if snapshot.find(above, view) is not None:
            return snapshot.nodes.get(b"\x01*" + above)
    return None


def _answer_at(
    query: Query,
    owner: bytes,
    node: Node,
    zone: bytes,
    snapshot: Snapshot,
    chain: tuple[Record, ...],
    error: tuple[int, str] | None = None,
) -> Reply:
    if query.type == ANY and node:
        # RFC 8482 section 4.2: one small record in place of all.
        return Reply(answer=(*chain, Record(owner, message.HINFO, snapshot.policy.ttl, _MINIMAL_ANY)))
    rrset = node.get(query.type)
    if rrset is not None:
        return Reply(answer=(*chain, *(Record(owner, query.type, rrset.ttl, rdata) for rdata in rrset.rdatas)))
    error = error if query.type in (A, AAAA) else None
    return Reply(answer=chain, authority=(_soa_record(snapshot, zone),), extended_error=error)


def _explain_empty(key: bytes, snapshot: Snapshot, view: View) -> tuple[int, str] | None:
    """Why a VM has no address for this view; None where the name is no VM's."""
    owner = closest_domain(key, snapshot.owned)
    guest = None if owner is None else snapshot.owner(owner)
    if guest is None or not (why := snapshot.vm_view(guest, view).why):
        return None
    return message.EDE_NOT_READY if guest.waiting else message.EDE_OTHER, why


def _answer_absent(key: bytes, zone: bytes, snapshot: Snapshot, chain: tuple[Record, ...]) -> Reply:
    if not snapshot.policy.looked and zone in snapshot.policy.own:
        error = (message.EDE_NOT_READY, "VirtualBox is being looked at")
        return Reply(message.SERVFAIL, authoritative=False, extended_error=error)
    why = snapshot.absent.get(key)
    return Reply(
        # There are no encrypted resolvers to discover (RFC 9462 section 4).
        NOERROR if zone == RESOLVER else NXDOMAIN,
        answer=chain,
        authority=(_soa_record(snapshot, zone),),
        extended_error=(message.EDE_OTHER, why) if why else None,
    )


def _soa_record(snapshot: Snapshot, apex: bytes) -> Record:
    """The SOA of a negative response; its TTL is the time the negative may be kept (RFC 2308 section 3)."""
    return Record(apex, message.SOA, snapshot.policy.ttl, snapshot.soa)
