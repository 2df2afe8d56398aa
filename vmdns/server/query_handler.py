"""Answers queries from UDP and TCP: from the local zones, from an upstream or a link, or with an error.

Everything happens in the UDP thread, except what waits for multicast DNS or for the neighbour table: that is awaited in
the event loop. A query never raises: a malformed one gets FORMERR or no response, a fault of ours gives SERVFAIL.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from vmdns.dns.cookie import COOKIE, FULL, Cookies
from vmdns.dns.forwarded_answer import Forwarded, Question, check_forwardable, encode_answer
from vmdns.dns.limits import Limits
from vmdns.dns.message import AAAA, EDE_OTHER, EDE_PROHIBITED, NXDOMAIN, REFUSED, SERVFAIL, A, Record, address_record
from vmdns.dns.query import (
    Malformed,
    Query,
    add_cookie,
    add_keepalive,
    encode_header_response,
    encode_option,
    encode_response,
    encode_truncated,
    encoded_response_limit,
    parse_query,
    remove_cookie,
    udp_response_limit,
)
from vmdns.server.answer_cache import ABSENT_SECONDS, FORWARDED_SECONDS, AnswerCache, Answers, find
from vmdns.server.client_limits import REFUSED_FORWARD, UNCACHED, ClientLimits, SendDecision
from vmdns.server.forwarder import Forwarder
from vmdns.state.authoritative import Reply, answer_query
from vmdns.state.name_rules import LookupState, is_lookup_allowed
from vmdns.state.snapshot import AccessRight, Snapshot

log = logging.getLogger(__name__)

OVER_BUDGET = EDE_OTHER, "too many lookups by multicast DNS; try again in a second"
TCP_LIMIT = 65_535
MAX_AWAITED = 10_000  # queries that wait for the event loop; more get no response, and clients retry

_OUR_COOKIE = encode_option(COOKIE, bytes(FULL))[:4]

# Takes the response to a query that is not answered at once; b"" for none. Called in the UDP thread.
Respond = Callable[[bytes], object]
Step = Callable[[], bytes | None]  # what answers a query once something was awaited
Mute = Callable[[str], bool]  # has the kernel drop most datagrams from a network


@dataclass(slots=True)
class Counters:
    """Counts queries, and TCP connections, since the start. silenced: UDP queries beyond the rate limit, which got no
    response or an empty one with TC."""

    queries: int = 0
    answered: int = 0
    forwarded: int = 0
    refused: int = 0
    malformed: int = 0
    failed: int = 0
    silenced: int = 0
    tcp_connections: int = 0


class LinkLookups(Protocol):
    """Lookups of `X.local` by multicast DNS on the host's links (mdns/transport.py)."""

    def state(self, name: bytes, client: str) -> LookupState: ...

    async def find(self, name: bytes, client: str) -> tuple[str, ...] | None: ...


@dataclass(slots=True)
class Request:
    """A query from `peer` to the host's address `local`, whose response may have `limit` bytes, answered from a
    snapshot. admitted: whether its peer was looked for among the guests."""

    query: Query
    packet: bytes
    peer: str
    local: str
    limit: int
    tcp: bool
    respond: Respond
    snapshot: Snapshot
    admitted: bool = False


class QueryHandler:
    """Answers queries. current gives the current snapshot; admit waits until a peer is known to be a guest, or for long
    enough. links looks up X.local on the host's links; None turns that off."""

    def __init__(
        self,
        current: Callable[[], Snapshot],
        forwarder: Forwarder,
        admit: Callable[[str], Awaitable[None]],
        limits: Limits,
    ) -> None:
        self.current = current
        self.forwarder = forwarder
        self._admit_peer = admit
        self.links: LinkLookups | None = None
        self._cookies = Cookies(time.time, os.urandom)
        self.clients = ClientLimits(current, limits)
        self.answer_cache = AnswerCache()
        self.counts = Counters()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.awaited: set[Future[None]] = set()  # what the event loop awaits for queries

    # -- datagrams: limits of the client, cached answers --------------------------------------------------------

    def find_answers(self, peer: str, local: str) -> Answers | None:
        """Returns the cached answers for a peer; None where each query must be checked."""
        client = self.clients.client(local, peer)
        return None if client is not None and not client.from_host else self._cached_answers(peer, local)

    def _cached_answers(self, peer: str, local: str) -> Answers | None:
        snapshot = self.current()
        right = snapshot.right(local, peer)
        if right in (AccessRight.UNKNOWN, AccessRight.NOTHING):
            return None
        return self.answer_cache.view((snapshot.view(local, peer), right))

    def answer_datagram(
        self, packet: bytes, peer: tuple[Any, ...], local: str, send: Respond, mute: Mute
    ) -> bytes | None:
        """Answers a UDP query as `answer` does, within the limits of its client; by the cache for limited clients, and
        for queries with a cookie, of which no two are equal."""
        clients, (address, port) = self.clients, peer[:2]
        client = clients.client(local, address)
        if client is not None and (decision := clients.admit(client, port, mute)) is not SendDecision.SEND:
            received = _read_cookie(packet) if _OUR_COOKIE in packet else b""
            verified = bool(received) and self._check_cookie(received, address)[1]
            client = clients.client(local, address, verified=True) if verified else None
            if client is None or clients.admit(client, port, mute) is not SendDecision.SEND:
                self.counts.silenced += 1
                return (encode_truncated(packet) if decision is SendDecision.TRUNCATE else None) or b""
        plain, cookie = remove_cookie(packet)
        answers = self._cached_answers(address, local) if client is not None or cookie else None
        response = find(answers, plain) if answers else None
        if response is not None and cookie:
            response = add_cookie(response, self._check_cookie(cookie, address)[0], encoded_response_limit(plain))
        if response is not None:
            self.counts.queries += 1
            self.counts.answered += 1
            return clients.limit_response(client, response, len(packet))
        if client is not None:
            client.usage.work.tokens -= UNCACHED
        response = self.answer(
            packet, address, local, lambda later: send(clients.limit_response(client, later, len(packet)))
        )
        return None if response is None else clients.limit_response(client, response, len(packet))

    def _check_cookie(self, cookie: bytes, peer: str) -> tuple[bytes, bool]:
        """Returns the cookie for the response, and whether the received one verifies the peer's address, which is noted
        then."""
        data, valid = self._cookies.check(cookie, peer)
        if valid:
            self.clients.verify_address(peer)
        return data, valid

    # -- any query ----------------------------------------------------------------------------------------------

    def answer(self, packet: bytes, peer: str, local: str, respond: Respond, *, tcp: bool = False) -> bytes | None:
        """Returns the response, b"" for none; None where it follows by a call of respond."""
        self.counts.queries += 1
        try:
            query = parse_query(packet)
            query.verified = tcp
            if query.edns is not None and query.edns.cookie:
                check = self._cookies.check if tcp else self._check_cookie
                data, valid = check(query.edns.cookie, peer)
                query.response_options += encode_option(COOKIE, data)
                query.verified |= valid
            if tcp:
                query = add_keepalive(query, self.clients.limits.tcp_idle)
            limit = TCP_LIMIT if tcp else udp_response_limit(query)
            return self._answer(Request(query, packet, peer, local, limit, tcp, respond, self.current()))
        except Malformed as malformed:
            self.counts.malformed += 1
            return malformed.reply or b""
        except Exception:
            return self.report_fault(packet)

    def report_fault(self, packet: bytes) -> bytes:
        """Logs a fault of ours. Returns the response to the packet."""
        log.exception("a query could not be answered")
        self.counts.failed += 1
        return encode_header_response(packet, SERVFAIL) if len(packet) >= 12 and packet[2] < 0x80 else b""

    def _answer(self, request: Request) -> bytes | None:
        query, peer, local, snapshot = request.query, request.peer, request.local, request.snapshot
        right = snapshot.right(local, peer)
        if right is AccessRight.UNKNOWN and not request.admitted:
            return self._await(request, self._admit(request))
        if right not in (AccessRight.ALL, AccessRight.NAMES):
            return self._refuse(request, f"{peer} is no guest of this host")
        forwards = right is AccessRight.ALL
        reply = answer_query(query, snapshot, snapshot.view(local, peer))
        if reply is None and not forwards:
            return self._refuse(request, f"{peer} may ask for local names only")
        if reply is None or (reply.chase is not None and forwards and query.recursion_desired):
            return self._forward(request, reply)
        if not forwards or self.links is None or not may_exist_on_link(query, reply, snapshot):
            return self._cache(request, self._encode(request, reply, forwards), math.inf)
        client = self.clients.client(local, peer, query.verified)
        budget = "" if client is None else client.lookup_client
        state = self.links.state(query.key, budget)
        if state is LookupState.LOOKUP:
            return self._await(request, self._find_on_links(request, reply, self.links, budget))
        if state is LookupState.OVER_BUDGET:
            return self._cache(request, self._fail(request, OVER_BUDGET), FORWARDED_SECONDS)
        return self._cache(request, self._encode(request, reply, forwards), ABSENT_SECONDS)

    def _encode(self, request: Request, reply: Reply, recursion_available: bool) -> bytes:
        self.counts.answered += 1
        return encode_response(
            request.query,
            reply.rcode,
            limit=request.limit,
            authoritative=reply.authoritative,
            recursion_available=recursion_available,
            answer=reply.answer,
            authority=reply.authority,
            extended_error=reply.extended_error,
        )

    def _refuse(self, request: Request, why: str) -> bytes:
        self.counts.refused += 1
        query, error = request.query, (EDE_PROHIBITED, why)
        return encode_response(query, REFUSED, limit=request.limit, recursion_available=False, extended_error=error)

    def _fail(self, request: Request, error: tuple[int, str]) -> bytes:
        self.counts.failed += 1
        return encode_response(request.query, SERVFAIL, limit=request.limit, extended_error=error)

    def _cache(self, request: Request, response: bytes, seconds: float) -> bytes:
        """Caches a response to a UDP query that has at most an OPT record without options: few of those differ."""
        query, packet, peer, local = request.query, request.packet, request.peer, request.local
        end = 12 + len(query.question)
        plain = len(packet) == end if query.edns is None else len(packet) == end + 11 and packet[end] == 0
        client = self.clients.client(local, peer)
        # A limited client's SERVFAIL says that its budget was used up, and nothing about other clients of the view.
        shared = client is None or client.from_host or response[3] & 0xF != SERVFAIL
        if plain and shared and not request.tcp:
            view = request.snapshot.view(local, peer), request.snapshot.right(local, peer)
            self.answer_cache.store(view, request.snapshot, query, packet, response, seconds)
        return response

    # -- names outside the local zones --------------------------------------------------------------------------

    def _forward(self, request: Request, reply: Reply | None) -> bytes | None:
        """Answers from the forwarder's cache or an upstream. reply: what the local zones have of a CNAME chain that
        leads out of them."""
        query = request.query
        self.counts.forwarded += 1
        question = Question.of(query)
        if reply is not None and reply.chase is not None:
            question = question._replace(name=reply.chase)
        elif (refused := check_forwardable(query)) is not None:
            return encode_answer(query, refused, request.limit)

        def encode(found: Forwarded) -> bytes:
            if reply is not None:
                found = replace(found, answer=(*reply.answer, *found.answer), authentic=False)
            return encode_answer(query, found, request.limit)

        def respond(found: Forwarded) -> None:
            self.clients.end_forward(client)
            request.respond(encode(found))

        client = self.clients.client(request.local, request.peer, query.verified)
        if self.clients.may_forward(client):
            found = self.forwarder.find(question, respond)
            if found is None:
                self.clients.begin_forward(client)
                return None
        else:
            found = self.forwarder.find_cached(question)
            if found is None:
                if client is not None:
                    client.usage.work.tokens -= REFUSED_FORWARD
                return self._fail(request, (EDE_OTHER, "too many forwarded queries"))
        return self._cache(request, encode(found), FORWARDED_SECONDS)

    def _await(self, request: Request, work: Coroutine[Any, Any, Step]) -> bytes | None:
        """Awaits something in the event loop, and has the UDP thread take the step that follows."""
        if self.loop is None or len(self.awaited) >= MAX_AWAITED:
            work.close()
            self.counts.failed += 1
            return b""

        async def wait() -> None:
            try:
                step = await work
            except Exception:
                step = partial(self.report_fault, request.packet)
            self.forwarder.thread.submit(partial(resume, step))

        def resume(step: Step) -> None:
            try:
                response = step()
            except Exception:
                response = self.report_fault(request.packet)
            if response is not None:
                request.respond(response)

        future = asyncio.run_coroutine_threadsafe(wait(), self.loop)
        self.awaited.add(future)
        future.add_done_callback(self.awaited.discard)
        return None

    async def _admit(self, request: Request) -> Step:
        """Waits until the packet of an unknown neighbour on a LAN has shown whether it is a VM."""
        await self._admit_peer(request.peer)
        request.admitted, request.snapshot = True, self.current()
        return partial(self._answer, request)

    async def _find_on_links(self, request: Request, reply: Reply, links: LinkLookups, budget: str) -> Step:
        found = await links.find(request.query.key, budget)
        return partial(self._answer_found, request, reply, found)

    def _answer_found(self, request: Request, reply: Reply, found: tuple[str, ...] | None) -> bytes:
        """Answers a name in `local` from the host's links (left to the server by RFC 6762 section 22.1). found: its
        addresses; None where the budgets allow no lookup, so that the name is not denied."""
        if found is None:
            return self._fail(request, OVER_BUDGET)
        if found:
            query, ttl, rdatas = request.query, self.clients.limits.ttl, map(address_record, found)
            records = tuple(Record(query.name, kind, ttl, rdata) for kind, rdata in rdatas if kind == query.type)
            reply = Reply(answer=records, authority=() if records else reply.authority, authoritative=False)
        return self._encode(request, reply, recursion_available=True)


def _read_cookie(packet: bytes) -> bytes:
    """Returns the data of a query's COOKIE option; b"" if there is none."""
    try:
        edns = parse_query(packet).edns
    except Malformed:
        return b""
    return edns.cookie if edns is not None else b""


def may_exist_on_link(query: Query, reply: Reply, snapshot: Snapshot) -> bool:
    """Whether another host on a link may have a name that no VM has: a VM that is off keeps its name."""
    absent = reply.rcode == NXDOMAIN and not reply.answer and query.key not in snapshot.absent
    return absent and query.type in (A, AAAA) and is_lookup_allowed(query.key)
