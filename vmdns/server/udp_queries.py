"""UDP queries: answered in the UDP thread, except those that wait for another host."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from vmdns.dns.cookie import COOKIE, FULL
from vmdns.dns.forwarded_answer import Failure, Forwarded, Question, check_forwardable, encode_answer
from vmdns.dns.message import NXDOMAIN, SERVFAIL
from vmdns.dns.query import (
    Malformed,
    Query,
    add_cookie,
    encode_header_response,
    encode_truncated,
    encoded_response_limit,
    parse_query,
    remove_cookie,
    udp_response_limit,
)
from vmdns.server.answer_cache import AnswerCache, Answers, ClientView, find
from vmdns.server.client_limits import Client, ClientLimits
from vmdns.server.cookies import Cookies
from vmdns.server.counters import Counters
from vmdns.server.external_names import ExternalNames
from vmdns.server.flood_filter import MUTE_SECONDS, FloodFilter
from vmdns.server.listeners import Listener
from vmdns.server.query_handler import QueryHandler
from vmdns.server.rate_limit import SendDecision
from vmdns.server.udp import UdpReader
from vmdns.server.udp_listener import UdpListener
from vmdns.state.snapshot import AccessRight, Snapshot

log = logging.getLogger(__name__)

Peer = tuple[Any, ...]

MAX_CLIENTS = 4096
MOST_PENDING = 10_000  # queries that wait for the event loop; more get no response, and clients retry

_OUR_COOKIE = struct.pack("!HH", COOKIE, FULL)  # the first bytes of the option
_NEVER_WAIT = getattr(socket, "MSG_DONTWAIT", 0)


class UdpQueries:
    """Answers UDP queries. spawn runs in the event loop what has to wait."""

    def __init__(
        self,
        current: Callable[[], Snapshot],
        handler: QueryHandler,
        external: ExternalNames,
        clients: ClientLimits,
        cookies: Cookies,
        spawn: Callable[[Awaitable[None]], object],
    ) -> None:
        self._current = current
        self._handler = handler
        self._external = external
        self._clients = clients
        self._cookies = cookies
        self._spawn = spawn
        self._counts = handler.counts
        self.answer_cache = AnswerCache()
        self._reader = UdpReader(external.thread, self.answer_cache, self.find_answers, self.ask)
        self._listeners: dict[Listener, UdpListener] = {}
        self._flood_filters: dict[Listener, FloodFilter] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: deque[tuple[Query, bytes, Peer, Listener]] = deque()
        self._wake_sent = False
        # Recent clients: (peer, the host's address that it queried) -> time of the query, in seconds of time.monotonic.
        self.recent_clients: dict[tuple[str, str], float] = {}

    @property
    def counts(self) -> Counters:
        """Counters of the UDP thread; the rest is counted by the query handler."""
        return self._reader.counts

    @property
    def path(self) -> str:
        """How datagrams are read: in batches, one by one, or both."""
        return " and ".join(sorted({udp_listener.path for udp_listener in self._listeners.values()}))

    def open(self, listener: Listener, *, batches: bool) -> None:
        """Starts answering on a listener."""
        self._loop = asyncio.get_running_loop()
        if not self._listeners:
            self.answer_cache.publish(self._current())
        self._flood_filters[listener] = FloodFilter(listener.udp)
        self._listeners[listener] = self._reader.open(listener, batches=batches)

    def close(self, listener: Listener) -> None:
        """Stops answering on a listener."""
        udp_listener = self._listeners.pop(listener)
        self._flood_filters.pop(listener).unmute(math.inf)
        self._reader.close(udp_listener)

    def _unmute(self, listener: Listener) -> None:
        if listener in self._flood_filters:
            self._clients.unmute(self._flood_filters[listener])

    def publish(self, snapshot: Snapshot) -> None:
        """Takes a new snapshot."""
        self.answer_cache.publish(snapshot)
        for udp_listener in self._listeners.values():
            udp_listener.forget_clients()

    # -- in the UDP thread -----------------------------------------------------------------------------------

    def find_answers(self, listener: Listener, peer: str) -> Answers | None:
        """Returns the cached answers for this peer; None where each query must be checked."""
        if len(self.recent_clients) >= MAX_CLIENTS:
            self.recent_clients.clear()
        self.recent_clients[peer, listener.address] = time.monotonic()
        snapshot = self._current()
        right = snapshot.right(listener.address, peer)
        if right in (AccessRight.UNKNOWN, AccessRight.NOTHING):
            return None
        client = self._clients.client(listener.address, peer)
        if client is not None and not client.from_host:
            return None
        return self.answer_cache.view((snapshot.view(listener.address, peer), right))

    def ask(self, packet: bytes, peer: Peer, listener: Listener) -> bytes | None:
        """Returns the response without its id; None for no response, or where it is sent later. For limited clients,
        and for queries whose answer is not cached in that form."""
        client = self._clients.client(listener.address, peer[0])
        if client is not None and (verdict := self._clients.admit(client, peer[1])) is not SendDecision.SEND:
            proven = self._verified_client(packet, peer, listener)
            if proven is None:
                return self._limit_rate(packet, client, verdict, listener)
            client = proven
        made = self._cached(packet, peer, listener, client)
        if made is None:
            if client is not None:
                client.charge_uncached()
            made = self.answer(packet, peer, listener)
        if made is None or client is None or client.from_host:
            return made
        passed = self._clients.limit_response(client, packet[:2] + made, len(packet))
        return passed[2:] if passed is not None else None

    def _verified_client(self, packet: bytes, peer: Peer, listener: Listener) -> Client | None:
        """Returns the sender of a query where a valid cookie verifies it and its own limits allow the query."""
        if not self._cookies.is_valid(_cookie(packet), peer[0]):
            return None
        self._clients.verify_address(peer[0])
        client = self._clients.client(listener.address, peer[0], proven=True)
        return client if client is not None and self._clients.admit(client, peer[1]) is SendDecision.SEND else None

    def _limit_rate(self, packet: bytes, client: Client, verdict: SendDecision, listener: Listener) -> bytes | None:
        """Returns the response without its id to a query beyond the rate: empty with TC, or None."""
        self._counts.silenced += 1
        if self._clients.mute_flood(client, self._flood_filters[listener]) and self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, MUTE_SECONDS + 0.01, self._unmute, listener)
        empty = encode_truncated(packet) if verdict is SendDecision.TRUNCATE else None
        return empty[2:] if empty is not None else None

    def _cached(self, packet: bytes, peer: Peer, listener: Listener, client: Client | None) -> bytes | None:
        """Returns the cached answer for a limited client, or for a query with a cookie, which differs each time."""
        plain, cookie = remove_cookie(packet)
        if client is None and not cookie:
            return None
        snapshot = self._current()
        client_view = _client_view(snapshot, listener, peer)
        if client_view[1] not in (AccessRight.ALL, AccessRight.NAMES):
            return None
        found = find(self.answer_cache.view(client_view), plain)
        if found is not None and cookie:
            cookie_data, proves = self._cookies.check(cookie, peer[0])
            if proves:
                self._clients.verify_address(peer[0])
            found = add_cookie(found, cookie_data, encoded_response_limit(plain))
        if found is not None:
            self._counts.queries += 1
            self._counts.answered += 1
        return found

    def answer(self, packet: bytes, peer: Peer, listener: Listener) -> bytes | None:
        """Returns the response without its id; None for no response, or where it is sent later."""
        self._counts.queries += 1
        try:
            return self._answer(packet, peer, listener)
        except Exception:
            log.exception("a query could not be answered")
            self._counts.failed += 1
            return encode_header_response(packet, SERVFAIL)[2:] if len(packet) >= 12 else None

    def _answer(self, packet: bytes, peer: Peer, listener: Listener) -> bytes | None:
        snapshot = self._current()
        client_view = _client_view(snapshot, listener, peer)
        try:
            query = parse_query(packet)
        except Malformed as malformed:
            self._counts.malformed += 1
            return malformed.reply[2:] if malformed.reply is not None else None
        query = self._cookies.with_cookie(query, peer[0])
        if query.verified:
            self._clients.verify_address(peer[0])
        limit = udp_response_limit(query)
        response, reply = self._handler.answer_locally(query, peer[0], listener.address, limit)
        if response is None:
            if reply is None and client_view[1] is AccessRight.ALL and check_forwardable(query) is None:
                client = self._clients.client(listener.address, peer[0], query.verified)
                if not self._clients.may_forward(client):
                    return (
                        self._external.cached(query, limit) or self._handler.forward_limit_reached(query, limit, client)
                    )[2:]
                if self._external.find is not None:
                    return self._forward(query, packet, limit, peer, listener, client)
            self._hand_over(query, packet, peer, listener)
            return None
        if reply is not None and self._handler.may_exist_on_link(query, reply, snapshot):
            self._store_forwarded(query, packet, response, peer, listener, snapshot)
        elif reply is not None and _is_plain(query, packet):
            self.answer_cache.store(client_view, snapshot, _key(query, packet), _with_lower_case_name(query, response))
        return response[2:]

    def _forward(
        self, query: Query, packet: bytes, limit: int, peer: Peer, listener: Listener, client: Client | None
    ) -> bytes | None:
        """Returns the response without its id from the cache; None where it follows."""

        def respond(found: Forwarded | Failure) -> None:
            self._clients.end_forward(client)
            self._send(listener, encode_answer(query, found, limit), peer)

        assert self._external.find is not None
        self._counts.forwarded += 1
        found = self._external.find(Question.of(query), respond)
        if found is None:
            self._clients.count_forward(client)
            return None
        response = encode_answer(query, found, limit)
        self._store_forwarded(query, packet, response, peer, listener)
        return response[2:]

    def _hand_over(self, query: Query, packet: bytes, peer: Peer, listener: Listener) -> None:
        """Passes the query to the event loop."""
        if len(self._pending) >= MOST_PENDING or self._loop is None:
            self._counts.failed += 1
            return
        self._pending.append((query, packet, peer, listener))
        if not self._wake_sent:
            self._wake_sent = True
            try:
                self._loop.call_soon_threadsafe(self.resolve_pending)
            except RuntimeError:  # the loop is closed: the server is stopping
                self._pending.clear()

    # -- in the event loop --------------------------------------------------------------------------------------

    def resolve_pending(self) -> None:
        """Resolves the queries that the UDP thread handed over."""
        self._wake_sent = False  # first: later queries wake the loop again
        for _ in range(len(self._pending)):
            try:
                self._resolve(*self._pending.popleft())
            except Exception:
                log.exception("a query could not be answered")
                self._counts.failed += 1

    def _resolve(self, query: Query, packet: bytes, peer: Peer, listener: Listener) -> None:
        limit, snapshot = udp_response_limit(query), self._current()
        response, reply = self._handler.answer_locally(query, peer[0], listener.address, limit)
        answer_external = response or self._handler.answer_external(query, reply, peer[0], listener.address, limit)
        if not isinstance(answer_external, bytes):
            # A lookup on the links is cached for a moment, above all that no host has the name.
            from_links = reply is not None and reply.chase is None
            absent_in = snapshot if from_links else None
            self._spawn(self._send_later(listener, answer_external, query, packet, peer, absent_in))
            return
        self._send(listener, answer_external, peer)
        if response is None and reply is None:
            self._store_forwarded(query, packet, answer_external, peer, listener)

    async def _send_later(
        self,
        listener: Listener,
        coming: Awaitable[bytes],
        query: Query,
        packet: bytes,
        peer: Peer,
        snapshot: Snapshot | None,
    ) -> None:
        response = await coming
        self._send(listener, response, peer)
        if snapshot is not None:
            self._store_forwarded(query, packet, response, peer, listener, snapshot)

    def _store_forwarded(
        self,
        query: Query,
        packet: bytes,
        response: bytes,
        peer: Peer,
        listener: Listener,
        absent_in: Snapshot | None = None,
    ) -> None:
        """Caches a response for a second. absent_in: the snapshot that has no such name, where another host on a link
        may have it."""
        client = self._clients.client(listener.address, peer[0])
        if client is not None and not client.from_host and response[3] & 0xF == SERVFAIL:
            return  # one client's budget was used up, which says nothing about other clients of the view
        if _is_plain(query, packet):
            snapshot = self._current()
            client_view = _client_view(snapshot, listener, peer)
            key, lowered = _key(query, packet), _with_lower_case_name(query, response)
            if absent_in is not None and response[3] & 0xF == NXDOMAIN:
                self.answer_cache.store_absent(client_view, absent_in, key, lowered)
            else:
                self.answer_cache.store_forwarded(client_view, key, lowered)

    def _send(self, listener: Listener, reply: bytes, peer: Peer) -> None:
        passed = self._clients.limit_response(self._clients.client(listener.address, peer[0]), reply)
        if passed is None:
            self._counts.silenced += 1
            return
        try:
            listener.udp.sendto(passed, _NEVER_WAIT, peer)
        except OSError:
            self._counts.failed += 1  # a full buffer, or a peer that went away: the client retries


def _client_view(snapshot: Snapshot, listener: Listener, peer: Peer) -> ClientView:
    return snapshot.view(listener.address, peer[0]), snapshot.right(listener.address, peer[0])


def _is_plain(query: Query, packet: bytes) -> bool:
    """Whether the packet has a question and at most an OPT record without options: few of those differ."""
    length = 12 + len(query.question)
    if query.edns is None:
        return len(packet) == length
    return len(packet) == length + 11 and not query.edns.options and packet[length] == 0


def _cookie(packet: bytes) -> bytes:
    """Returns the data of the query's COOKIE option, if it is as long as ours; nothing if there is none, or the packet
    is malformed."""
    if _OUR_COOKIE not in packet:
        return b""
    cookie = remove_cookie(packet)[1]
    if cookie:
        return cookie
    try:
        query = parse_query(packet)
    except Malformed:
        return b""
    return query.edns.cookie if query.edns is not None else b""


def _key(query: Query, packet: bytes) -> bytes:
    return packet[2:12] + query.key + packet[12 + len(query.key) :]


def _with_lower_case_name(query: Query, response: bytes) -> bytes:
    """Returns the response without its id, with the name in lower case: later names point to it."""
    return response[2:12] + query.key + response[12 + len(query.key) :]
