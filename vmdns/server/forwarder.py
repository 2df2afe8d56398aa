"""Forwards queries for names outside the local zones to upstreams, and caches the answers.

Equal queries are merged (CVE-2020-25686); so a query that another resolver sends back to us ends by itself. Everything
is bounded: queries in flight, waiters of one, sockets, cache. All of it happens in the UDP thread, without a lock.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from vmdns.dns import message
from vmdns.dns.forwarded_answer import Forwarded, ForwardedCache, Question
from vmdns.dns.limits import Limits
from vmdns.dns.name import to_text
from vmdns.dns.query import Query
from vmdns.dns.rebinding import WithheldNames
from vmdns.dns.response_validation import PRIVATE_ADDRESS, Rejected, validate_response
from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.server.forward_routes import ForwardRoutes, usable_upstreams
from vmdns.server.io_thread import IoThread, Timer
from vmdns.server.upstream_server import Attempt, Unanswered, UpstreamServer
from vmdns.server.upstream_sockets import UpstreamSockets, max_sockets

_log = logging.getLogger(__name__)

MAX_WAITERS = 100
# RFC 9520 section 3.2: seconds to cache a failure that a server reported, one without any response, and one with a
# stale answer (RFC 8767 section 5).
_FAILED, _SILENT, _RECHECK = 5.0, 1.0, 30.0
_CLOSE_INTERVAL = 0.01  # seconds between checks whether no query is in flight
_WITHHELD = (message.EDE_BLOCKED, PRIVATE_ADDRESS)
_STOPPING = Forwarded(message.SERVFAIL, error=(message.EDE_NO_REACHABLE_AUTHORITY, "vmdns is stopping"))
_FAULT = Forwarded(message.SERVFAIL, error=(message.EDE_OTHER, "internal error"))
_LATE = "the upstream servers do not answer in time"
# RFC 8767 section 5: how long a client waits that can get a stale answer.
STALE_WAIT = 1.8
# A server has this part of limits.upstream_timeout, and this many seconds at most, before the next one is queried too.
_DELAY_PART, _MAX_DELAY = 0.4, 0.8
# Attempts at one server, and at all servers together.
TRIES_EACH, _MAX_TRIES = 2, 6
# Seconds before a server is queried again after an ICMP error, which may be forged.
_PAUSE = 0.2

# Takes the result of a query, in the UDP thread.
Waiter = Callable[[Forwarded], object]


@dataclass(slots=True, eq=False)
class Lookup:
    """A question in flight: its waiters, its servers in the order to query them, and what became of each.

    Failover: the next server is queried when one fails, or does not respond in time; the first answer wins. An attempt
    stays open until the end, so a slow server still counts.

    Times are of time.monotonic. trusted: the answer may have private addresses. stale: what the waiters get after
    STALE_WAIT.
    """

    question: Question
    routes: ForwardRoutes
    limits: Limits
    began: float
    trusted: bool
    stale: Forwarded | None
    left: dict[UpstreamServer, int]  # attempts left
    waiters: list[Waiter] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)  # in flight
    tries: int = 0
    replied: bool = False
    timer: Timer | None = None
    _last: float = 0.0  # when the last attempt began
    _retry_at: dict[UpstreamServer, float] = field(default_factory=dict)
    _why: dict[UpstreamServer, str] = field(default_factory=dict)

    @property
    def stale_at(self) -> float:
        """When the waiters get the stale answer, if there is one."""
        return self.began + STALE_WAIT if self.stale is not None else math.inf

    @property
    def delay(self) -> float:
        """How many seconds a server may take before the next one is queried too."""
        return min(_DELAY_PART * self.limits.upstream_timeout, _MAX_DELAY)

    def next(self, now: float, sockets: UpstreamSockets) -> tuple[UpstreamServer | None, float]:
        """Returns the server to query next, and when; None and when to give up where none is left.

        Servers are queried again while others are only where there are spare sockets.
        """
        found, due = None, self._last + self.limits.upstream_timeout
        for server, left in self.left.items() if self.tries < _MAX_TRIES else ():
            if left == TRIES_EACH or (left and (not self.attempts or sockets.spare)):
                at = self._retry_at.get(server)
                if at is None:
                    at = self._last + self.delay if self.attempts else now
                if found is None or at < due:
                    found, due = server, at
        return found, due if found is not None or self.attempts else now

    def begin(self, server: UpstreamServer, now: float) -> None:
        """Notes that the server is queried."""
        self.left[server] -= 1
        self.tries += 1
        self._last = now
        self._retry_at[server] = now + self.limits.upstream_timeout

    def note_failure(self, attempt: Attempt, unanswered: Unanswered, now: float) -> None:
        """Notes that a server had no answer."""
        self.attempts.remove(attempt)
        self._why[attempt.server] = unanswered.why
        if unanswered.final:
            self.left[attempt.server] = 0
            self.replied = True
        else:
            self._retry_at[attempt.server] = now + _PAUSE

    def error(self) -> tuple[int, str]:
        """Returns the Extended DNS Error where no server had an answer."""
        for attempt in self.attempts:
            self._why.setdefault(attempt.server, "does not answer")
        text = "; ".join(f"{server} {why}" for server, why in self._why.items())
        return message.EDE_NO_REACHABLE_AUTHORITY if self.replied else message.EDE_NETWORK_ERROR, text


class Forwarder:
    """Forwards queries in the UDP thread.

    now is a monotonic clock that counts suspends, in seconds. report_withheld is called in the UDP thread with a name
    whose answer is withheld because it has private addresses, once an hour for each.
    """

    def __init__(
        self,
        limits: Limits,
        now: Callable[[], float] = time.monotonic,
        report_withheld: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.thread = IoThread()
        self._limits = limits
        self._report_withheld = report_withheld
        self._now = now
        self._sockets = UpstreamSockets(self.thread, max_sockets())
        self._routes = ForwardRoutes(Upstreams(), frozenset(), ForwardedCache(limits), self._server)
        self._withheld = WithheldNames()
        self._lookups: set[Lookup] = set()
        self._waiting = 0
        self._hits = self._misses = 0

    # -- for any thread -----------------------------------------------------------------------------------------

    def configure(
        self, upstreams: Upstreams, own: frozenset[tuple[str, int]], zones: frozenset[bytes], limits: Limits
    ) -> list[str]:
        """Sets upstreams, zones and limits. Returns a sentence for each upstream that is left out.

        own: the addresses and ports of the server's listeners, which are never queried. zones: the local zones (wire
        names, lower case). Another configuration begins with an empty cache, as other upstreams may know other names;
        not where no upstream is left.
        """
        usable, problems = usable_upstreams(upstreams, own)
        before, config = self._routes, (usable, zones)
        self._limits = limits
        if config != (before.upstreams, before.zones):
            self._withheld = WithheldNames()
        cache = before.cache
        if config != cache.config and any((usable.default, *usable.domains.values())):
            cache = ForwardedCache(limits, config)
        cache.limits = limits
        self._routes = ForwardRoutes(usable, zones, cache, self._server)
        return problems

    def _server(self, one: Upstream) -> UpstreamServer:
        """Returns the existing server of an upstream with what is known of it, or a new one."""
        before = self._routes.servers.get(one)
        return before or UpstreamServer(one, self._sockets, self._now, lambda: self._routes.cache.forget_failures())

    def retry_failed(self) -> None:
        """After a suspend: unresponsive servers and failed names are tried again at once."""

        def retry() -> None:
            self._routes.cache.forget_failures()
            for one in self._routes.servers.values():
                one.silent = False

        self.thread.submit(retry)

    def status(self) -> dict[str, Any]:
        """Returns the status as JSON values: each upstream with its domains, the cache, the load."""
        routes = self._routes
        cache = routes.cache
        return {
            "upstreams": [{**server.status(), "domains": names} for server, names in routes.domains_by_server()],
            "cache": {"entries": len(cache), "bytes": cache.size, "hits": self._hits, "misses": self._misses},
            "outstanding": len(self._lookups),
            "waiting": self._waiting,
            "sockets": self._sockets.open,
            "held_back": self._withheld.names(self._now()),
        }

    async def close(self, grace: float) -> None:
        """Ends all queries in flight, which have that many seconds to be answered; then their waiters get SERVFAIL."""
        until, loop, closed = time.monotonic() + grace, asyncio.get_running_loop(), asyncio.Event()

        def close() -> None:
            if self._lookups and time.monotonic() < until:
                self.thread.call_at(time.monotonic() + _CLOSE_INTERVAL, close)
                return
            for lookup in list(self._lookups):
                self._finish(lookup, _STOPPING)
            for server in self._routes.servers.values():
                server.close()
            self._sockets.close_idle()
            loop.call_soon_threadsafe(closed.set)

        self.thread.submit(close)
        await closed.wait()

    # -- for the UDP thread -------------------------------------------------------------------------------------

    def find(self, question: Question, waiter: Waiter) -> Forwarded | None:
        """Returns the answer if it is known at once; else the waiter is called with it, within limits.query_timeout.

        Not for queries that `check_forwardable` refuses.
        """
        routes = self._routes
        found = self.find_cached(question)
        if found is not None:
            return found
        self._misses += 1
        if routes.is_own(question.name):
            return Forwarded(message.REFUSED, error=(message.EDE_OTHER, "names of our own zones are never forwarded"))
        now, limits = time.monotonic(), self._limits
        lookup = routes.in_flight.get(question)
        if max(self._waiting, len(self._lookups)) >= limits.outstanding or (
            lookup is not None and len(lookup.waiters) >= MAX_WAITERS
        ):
            return self._fail(routes, question, message.EDE_OTHER, "too many queries are pending")
        if lookup is None:
            servers = routes.of(question.name)
            if not servers:
                why = "no upstream server is known for this name"
                return self._fail(routes, question, message.EDE_NO_REACHABLE_AUTHORITY, why)
            stale, left = routes.cache.stale(question, self._now(), _LATE), dict.fromkeys(servers, TRIES_EACH)
            lookup = Lookup(question, routes, limits, now, routes.trusts(question.name), stale, left)
            routes.in_flight[question] = lookup
            self._lookups.add(lookup)
        elif now >= lookup.stale_at:
            return lookup.stale
        lookup.waiters.append(waiter)
        self._waiting += 1
        if not lookup.tries:
            self._continue(lookup)
        return None

    def find_cached(self, question: Question) -> Forwarded | None:
        """Returns a cached answer, or a cached failure; None where there is none."""
        now, routes = self._now(), self._routes
        found: Forwarded | None = routes.cache.get(question, now)
        if found is None:
            error = routes.cache.failure(question, now)
            if error is None:
                return None
            found = self._fail(routes, question, *error)
        self._hits += 1
        return found

    def _fail(self, routes: ForwardRoutes, question: Question, code: int, why: str) -> Forwarded:
        return routes.cache.stale(question, self._now(), why) or Forwarded(message.SERVFAIL, error=(code, why))

    def _continue(self, lookup: Lookup) -> None:
        try:
            self._query_due_servers(lookup)
        except Exception:
            _log.exception("forwarding %s failed", to_text(lookup.question.name))
            self._finish(lookup, _FAULT)

    def _query_due_servers(self, lookup: Lookup) -> None:
        """Queries the servers that are due, and waits for the next deadline; fails where none is left."""
        now, end = time.monotonic(), lookup.began + lookup.limits.query_timeout
        for attempt in lookup.attempts:
            if now - attempt.first_began >= lookup.delay:
                attempt.server.note_no_response(attempt.first_began)
        if lookup.stale is not None and now >= lookup.stale_at:
            self._notify(lookup, lookup.stale)
        while True:
            server, due = lookup.next(now, self._sockets)
            if now >= end or (server is None and due <= now):
                self._give_up(lookup)
                return
            if server is None or due > now:
                break
            lookup.begin(server, now)
            validate = partial(self._validate, lookup, server)
            lookup.attempts.append(Attempt(server, lookup.question, validate, partial(self._receive, lookup)))
        due = min(due, end, lookup.stale_at if now < lookup.stale_at else end)
        if lookup.timer is not None:
            lookup.timer.call = None
        lookup.timer = self.thread.call_at(due, partial(self._continue, lookup))

    def _validate(
        self, lookup: Lookup, server: UpstreamServer, message: bytes, sent: Query, stream: bool
    ) -> Forwarded | Rejected:
        return validate_response(
            message,
            sent,
            lookup.limits,
            trusted=lookup.trusted or server.local,
            own=self._routes.is_own,
            stream=stream,
        )

    def _receive(self, lookup: Lookup, attempt: Attempt, found: Forwarded | Unanswered) -> None:
        """Takes what a server answered."""
        name, now = lookup.question.name, self._now()
        if isinstance(found, Forwarded):
            lookup.routes.cache.put(lookup.question, found, now)
            self._finish(lookup, found)
            if found.error == _WITHHELD and self._withheld.add(name, now):
                self._report_withheld(to_text(name))
        elif found.fault is not None:
            _log.error("forwarding %s failed", to_text(name), exc_info=found.fault)
            self._finish(lookup, _FAULT)
        else:
            lookup.note_failure(attempt, found, time.monotonic())
            self._continue(lookup)

    def _give_up(self, lookup: Lookup) -> None:
        error, now = lookup.error(), self._now()
        found = self._fail(lookup.routes, lookup.question, *error)
        seconds = _RECHECK if found.rcode != message.SERVFAIL else _FAILED if lookup.replied else _SILENT
        lookup.routes.cache.put_failure(lookup.question, error, now, seconds)
        self._finish(lookup, found)

    def _finish(self, lookup: Lookup, found: Forwarded) -> None:
        self._lookups.remove(lookup)
        lookup.routes.in_flight.pop(lookup.question)
        if lookup.timer is not None:
            lookup.timer.call = None
        for attempt in lookup.attempts:
            attempt.close()
        lookup.attempts = []  # they have a reference to the lookup
        self._notify(lookup, found)

    def _notify(self, lookup: Lookup, found: Forwarded) -> None:
        """Notifies all waiters, even if one of them raises."""
        waiters, lookup.waiters = lookup.waiters, []
        self._waiting -= len(waiters)
        for waiter in waiters:
            try:
                waiter(found)
            except Exception:
                _log.exception("a response could not be sent")
