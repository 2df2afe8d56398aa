"""Forwards queries for names outside the local zones to upstreams, and caches the answers.

Equal queries are merged (CVE-2020-25686); so a query that another resolver sends back to us ends by itself. Everything
is bounded: queries in flight, waiters of one, sockets, cache.

The UDP thread queries the first server itself (`begin`, `first_query`); everything else happens in the event loop
(`failover`). One lock protects what both use, and is never kept while waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from selectors import BaseSelector
from typing import Any

from vmdns.dns import message as wire
from vmdns.dns.cache import ForwardedCache
from vmdns.dns.forwarded_answer import (
    EDE_BLOCKED,
    EDE_NO_REACHABLE_AUTHORITY,
    EDE_OTHER,
    Failure,
    Forwarded,
    Question,
    check_forwardable,
    encode_answer,
)
from vmdns.dns.limits import Limits
from vmdns.dns.name import to_text
from vmdns.dns.query import Query
from vmdns.dns.response_validation import PRIVATE_ADDRESS, Rejected, validate_response
from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.server.failover import AllFailed, Failover, failover_delay
from vmdns.server.first_query import POSSIBLE, FirstQueries, FirstQuery, Received
from vmdns.server.forward_routes import ForwardRoutes, RouteConfig, make_route_config
from vmdns.server.in_flight import InFlightQueries, InFlightQuery, Waiter, notify
from vmdns.server.upstream_server import UpstreamServer, Validate, order_servers
from vmdns.server.upstream_socket import UpstreamSockets, budget
from vmdns.state.withheld_names import WithheldNames

_log = logging.getLogger(__name__)

# RFC 8767 section 5: how long a client waits that can get a stale answer.
_STALE_WAIT = 1.8
# RFC 9520 section 3.2: seconds to cache a failure that a server reported, one without any response, and one with a
# stale answer (RFC 8767 section 5).
_FAILED, _SILENT, _RECHECK = 5.0, 1.0, 30.0
_HELD_BACK = (EDE_BLOCKED, PRIVATE_ADDRESS)
_NOT_YET = Failure(wire.SERVFAIL, (EDE_OTHER, "not known yet"))
_STOPPING = Failure(wire.SERVFAIL, (EDE_NO_REACHABLE_AUTHORITY, "vmdns is stopping"))


# A failure, or the query in flight and whether it is new.
_Started = tuple[Forwarded | Failure, InFlightQuery | None, bool]


class Forwarder:
    """Forwards queries. One event loop and the UDP thread use it.

    now is a monotonic clock in seconds. report_held_back is called in the event loop with a name whose answer is
    withheld because it has private addresses, once an hour for each.
    """

    def __init__(
        self,
        limits: Limits,
        now: Callable[[], float] = time.monotonic,
        report_held_back: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._limits = limits
        self._report_held_back = report_held_back
        self._withheld = WithheldNames()
        self._failover_delay = failover_delay(limits)
        self._now = now
        self._cache = ForwardedCache(limits)
        self._sockets = UpstreamSockets(budget())
        self._routes = ForwardRoutes(RouteConfig(), self._server)  # not configured yet
        self._generation = 0
        self._config = RouteConfig()
        self._in_flight = InFlightQueries()
        self._probes: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()  # for the cache, the queries in flight and the configuration
        self._loop: asyncio.AbstractEventLoop | None = None

    def configure(
        self, upstreams: Upstreams, own: frozenset[tuple[str, int]], zones: frozenset[bytes], limits: Limits
    ) -> list[str]:
        """Sets upstreams, zones and limits. Returns a sentence for each upstream that is left out.

        own: the addresses and ports of the server's listeners, which are never queried. zones: the local zones (wire
        names, lower case). The cache is cleared when the upstreams change, as others may know other names; not when
        none is left.
        """
        problems: list[str] = []
        what = make_route_config(upstreams, own, zones, problems)
        with self._lock:
            self._limits = limits
            self._failover_delay = failover_delay(limits)
            self._cache.configure(limits)
            self._routes = ForwardRoutes(what, self._server)
            if what != self._config:
                self._withheld.clear()
            if what.upstreams and what != self._config:
                self._config = what
                self._generation += 1
                self._cache.clear()
        return list(dict.fromkeys(problems))

    def _server(self, one: Upstream) -> UpstreamServer:
        """Returns the existing server of an upstream with what is known of it, or a new one."""
        before = self._routes.servers.get(one)
        recovered = self._cache.forget_failures
        return before or UpstreamServer(one, self._sockets, self._now, recovered, self._spawn_probe, self._in_loop)

    def _spawn_probe(self, probe: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(probe)
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)
        return task

    def cached(self, query: Query, limit: int) -> bytes | None:
        """Returns the response from the cache, in at most `limit` bytes; None if there is none. Any thread may call
        this."""
        if check_forwardable(query) is not None:
            return None
        with self._lock:
            found = self._find_cached(Question.of(query))
        return None if found is None else encode_answer(query, found, limit)

    def begin(self, question: Question, waiter: Waiter, first_queries: FirstQueries) -> Forwarded | Failure | bool:
        """Returns a cached answer; else whether a query was sent, of whose result the waiter is notified.

        False where `resolve` has to be called: a client that can get a stale answer waits less long. Not for queries
        that `check_forwardable` refuses.
        """
        with self._lock:
            found = self._find_cached(question)
            if found is not None:
                return found
            if self._loop is None or self._cache.knows(question):
                return False
            found, query, new = self._start(question, waiter)
        if query is None:
            waiter(found)
        elif new:
            self._ask_first(query, first_queries)
        return True

    def first_queries(self, selector: BaseSelector) -> FirstQueries | None:
        """For a thread that waits with this selector; None where select(2) is all that the system has."""
        if not POSSIBLE:
            return None
        self._loop = asyncio.get_running_loop()
        return FirstQueries(self, self._sockets, self._now, selector)

    async def resolve(self, query: Query, limit: int) -> bytes:
        """Returns the response in at most `limit` bytes, within limits.query_timeout; at worst SERVFAIL with the
        reason."""
        found = check_forwardable(query) or await self.find(Question.of(query))
        return encode_answer(query, found, limit)

    async def find(self, question: Question) -> Forwarded | Failure:
        """Returns the answer to a question, from the cache or from an upstream."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Forwarded | Failure] = loop.create_future()
        waiter = _notify_in_loop(loop, result)
        why = "the upstream servers do not answer in time"
        with self._lock:
            now = self._now()
            ready = self._find_cached(question)
            if ready is not None:
                return ready
            stale = self._cache.stale(question, now, why)
            given, query, new = self._start(question, waiter)
        if query is None:
            return given
        if new:
            self._continue(query, None)
        # A query ends by itself at query_timeout, with a better reason: this is in case it does not.
        timeout = self._limits.query_timeout + 0.5
        try:
            await asyncio.wait({result}, timeout=timeout if stale is None else min(_STALE_WAIT, timeout))
        finally:
            with self._lock:
                self._in_flight.leave(query, waiter)
        return result.result() if result.done() else stale or Failure(wire.SERVFAIL, (EDE_NO_REACHABLE_AUTHORITY, why))

    # -- under the lock ---------------------------------------------------------------------------------------

    def _find_cached(self, question: Question) -> Forwarded | Failure | None:
        """Returns a cached answer, or a cached failure."""
        now = self._now()
        found: Forwarded | Failure | None = self._cache.get(question, now)
        if found is None:
            error = self._cache.failure(question, now)
            if error is None:
                return None
            found = self._fail(question, *error)
        self._cache.hits += 1
        return found

    def _start(self, question: Question, waiter: Waiter) -> _Started:
        """Starts a cache miss: returns a failure, or the query in flight and whether it is new."""
        self._cache.misses += 1
        routes, in_flight = self._routes, self._in_flight
        if routes.is_own(question.name):
            return Failure(wire.REFUSED, (EDE_OTHER, "names of our own zones are never forwarded")), None, False
        servers = routes.of(question.name)
        if not servers:
            why = "no upstream server is known for this name"
            return self._fail(question, EDE_NO_REACHABLE_AUTHORITY, why), None, False
        query = in_flight.find(self._generation, question)
        if not in_flight.has_room(self._limits.outstanding, query):
            return self._fail(question, EDE_OTHER, "too many queries are pending"), None, False
        new = query is None
        if query is None:
            query = InFlightQuery(question, order_servers(servers), self._generation, routes.trusts(question.name))
            in_flight.add(query)
        in_flight.join(query, waiter)
        return _NOT_YET, query, new

    def _fail(self, question: Question, code: int, why: str) -> Forwarded | Failure:
        return self._cache.stale(question, self._now(), why) or Failure(wire.SERVFAIL, (code, why))

    # -- queries: in any thread -------------------------------------------------------------------------------

    def _ask_first(self, query: InFlightQuery, first_queries: FirstQueries) -> None:
        try:
            first_queries.ask(query, self._failover_delay, self._limits.query_timeout)
        except Exception:
            _log.exception("querying %s failed", to_text(query.question.name))
            self.continue_in_loop(query, None)

    def validate_common(self, query: InFlightQuery, message: bytes, sent: Query) -> Forwarded | None:
        """Returns the answer in a response; None where the event loop has to retry or to report an error."""
        trusted = query.trusted or query.servers[0].local
        own = self._routes.is_own
        found = validate_response(message, sent, self._limits, trusted=trusted, own=own)
        return found if isinstance(found, Forwarded) and found.error is None else None

    def answered(self, first: FirstQuery, found: Forwarded) -> None:
        """Takes the answer of the first server."""
        query = first.query
        with self._lock:
            first.server.record_first_response(first.begun)
            self._store(query, found)
            waiters = self._in_flight.finish(query)
        notify(waiters, found)

    def _store(self, query: InFlightQuery, found: Forwarded) -> None:
        if query.generation == self._generation:
            self._cache.put(query.question, found, self._now())

    def continue_in_loop(self, query: InFlightQuery, first: FirstQuery | None) -> None:
        """Continues a query in the event loop."""
        self._in_loop(self._continue, query, first)

    def deliver(self, first: FirstQuery, received: Received) -> None:
        """Delivers what was received to a query that the event loop continues."""
        self._in_loop(first.deliver, received)

    def _in_loop(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server is stopping
            loop = self._loop or asyncio.get_running_loop()  # without a UDP thread this is the loop's
            loop.call_soon_threadsafe(call, *arguments)

    # -- queries: in the event loop ---------------------------------------------------------------------------

    def _continue(self, query: InFlightQuery, first: FirstQuery | None) -> None:
        limits = self._limits

        def validator_of(server: UpstreamServer) -> Validate:
            trusted = query.trusted or server.local

            def validate(message: bytes, sent: Query, stream: bool) -> Forwarded | Rejected:
                return validate_response(message, sent, limits, trusted=trusted, own=self._routes.is_own, stream=stream)

            return validate

        def ask(server: UpstreamServer) -> Awaitable[Forwarded]:
            return server.ask(query.question, validator_of(server))

        failover = Failover(query.servers, ask, limits)
        if first is not None:
            validate = validator_of(first.server)
            first.expect(validate)
            asking = first.server.ask(query.question, validate, first)
            failover.add_pending(first.server, asking, first.begun, self._now())
        query.task = asyncio.get_running_loop().create_task(self._run(query, failover))
        query.task.add_done_callback(partial(self._on_done, query))

    async def _run(self, query: InFlightQuery, failover: Failover) -> Forwarded | Failure:
        try:
            found = await failover.run(lambda: self._sockets.spare, self._now)
            with self._lock:
                self._store(query, found)
            if found.error == _HELD_BACK and self._withheld.add(query.question.name, self._now()):
                self._report_held_back(to_text(query.question.name))
            return found
        except AllFailed as failed:
            with self._lock:
                given = self._fail(query.question, *failed.error)
                if query.generation == self._generation:
                    seconds = _RECHECK if isinstance(given, Forwarded) else _FAILED if failed.replied else _SILENT
                    self._cache.put_failure(query.question, failed.error, self._now(), seconds)
            return given

    def _on_done(self, query: InFlightQuery, task: asyncio.Task[Forwarded | Failure]) -> None:
        if task.cancelled():
            found: Forwarded | Failure = _STOPPING
        elif (error := task.exception()) is not None:
            _log.error("forwarding %s failed", to_text(query.question.name), exc_info=error)
            found = Failure(wire.SERVFAIL, (EDE_OTHER, "internal error"))
        else:
            found = task.result()
        self._finish(query, found)

    def _finish(self, query: InFlightQuery, found: Forwarded | Failure) -> None:
        with self._lock:
            waiters = self._in_flight.finish(query)
        notify(waiters, found)

    def retry_failed(self) -> None:
        """After a suspend: unresponsive servers and failed names are tried again at once."""
        self._cache.forget_failures()
        for one in self._routes.servers.values():
            one.forget_silence()

    def status(self) -> dict[str, Any]:
        """Returns the status as JSON values: each upstream with its domains, the cache, the load."""
        cache = self._cache
        return {
            "upstreams": [{**server.status(), "domains": names} for server, names in self._routes.asked_for()],
            "cache": {"entries": len(cache), "bytes": cache.size, "hits": cache.hits, "misses": cache.misses},
            "outstanding": len(self._in_flight),
            "waiting": self._in_flight.waiter_count,
            "sockets": self._sockets.open,
            "held_back": self._withheld.names(self._now()),
        }

    async def settle(self, seconds: float) -> None:
        """Waits until all queries in flight have ended, or for that many seconds."""
        loop = asyncio.get_running_loop()
        ends = []
        with self._lock:
            for query in self._in_flight.all:
                end = loop.create_future()
                self._in_flight.join(query, _notify_in_loop(loop, end))
                ends.append(end)
        if ends:
            await asyncio.wait(ends, timeout=seconds)

    async def close(self) -> None:
        """Ends all queries in flight; their waiters get SERVFAIL. The UDP thread has ended before."""
        with self._lock:
            in_flight = self._in_flight.all
        tasks = [*self._probes, *(query.task for query in in_flight if query.task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for query in in_flight:
            self._finish(query, _STOPPING)
        await asyncio.sleep(0)  # waiters are notified in the next iteration


def _notify_in_loop(loop: asyncio.AbstractEventLoop, result: asyncio.Future[Forwarded | Failure]) -> Waiter:
    """Who waits in the event loop."""
    return lambda found: loop.call_soon_threadsafe(_set_result, result, found)


def _set_result(result: asyncio.Future[Forwarded | Failure], found: Forwarded | Failure) -> None:
    if not result.done():
        result.set_result(found)
