"""Forwarding: what is not ours is answered from the cache, or asked of the upstreams.

One question is asked once, however many wait for it (CVE-2020-25686); so also a question that another resolver
sends back to us ends by itself. Everything is bounded: questions under way, those who wait for one, sockets, cache.

The threads that receive datagrams ask the first server themselves (`begin`, `first_try`); everything else goes on in
the event loop (`Failover`). What both use is changed under one lock, which is never held while anybody waits.
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
from vmdns.dns.response_validation import PRIVATE_ADDRESS, Rejected, validate_response
from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.server.failover import AllFailed, Failover, patience
from vmdns.server.first_query import POSSIBLE, Came, FirstQueries, FirstQuery
from vmdns.server.forward_routes import ForwardRoutes, RouteConfig, known
from vmdns.server.in_flight import InFlightQueries, InFlightQuery, Waiter, tell
from vmdns.server.upstream_server import UpstreamServer, Validate, in_turn
from vmdns.server.upstream_socket import UpstreamSockets, budget
from vmdns.state.withheld_names import WithheldNames

_log = logging.getLogger(__name__)

# RFC 8767 section 5: how long one who could have a stale answer waits for a new one.
_STALE_WAIT = 1.8
# RFC 9520 section 3.2, in seconds: how long a failure is believed, where a server said so, where none spoke, and
# where there is a stale answer to give meanwhile (RFC 8767 section 5).
_FAILED, _SILENT, _RECHECK = 5.0, 1.0, 30.0
_HELD_BACK = (EDE_BLOCKED, PRIVATE_ADDRESS)
_NOT_YET = Failure(wire.SERVFAIL, (EDE_OTHER, "not known yet"))
_STOPPING = Failure(wire.SERVFAIL, (EDE_NO_REACHABLE_AUTHORITY, "vmdns is stopping"))


# What is said at once, or the flight that is waited for and whether it is a new one.
_Met = tuple[Forwarded | Failure, InFlightQuery | None, bool]


class Forwarder:
    """Answers what is not ours. One event loop uses it, and threads of it.

    now is a monotonic clock in seconds. report_held_back is called in the event loop with a name whose answer is
    withheld because it holds private addresses, once an hour for each.
    """

    def __init__(
        self,
        limits: Limits,
        now: Callable[[], float] = time.monotonic,
        report_held_back: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._limits = limits
        self._report_held_back = report_held_back
        self._held_back = WithheldNames()
        self._patience = patience(limits)
        self._now = now
        self._cache = ForwardedCache(limits)
        self._sockets = UpstreamSockets(budget())
        self._routes = ForwardRoutes(RouteConfig(), self._server)  # nobody is known yet
        self._generation = 0
        self._known = RouteConfig()
        self._flights = InFlightQueries()
        self._probes: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()  # for the cache, the flights and the configuration
        self._loop: asyncio.AbstractEventLoop | None = None

    def configure(
        self, upstreams: Upstreams, own: frozenset[tuple[str, int]], zones: frozenset[bytes], limits: Limits
    ) -> list[str]:
        """Puts upstreams, zones and limits in force; one sentence for each upstream that is left out.

        own: the addresses and ports we listen at, which are never asked. zones: our own (wire names, lower case).
        Other upstreams may know other things, so the cache is emptied when they change; not when they are gone.
        """
        problems: list[str] = []
        what = known(upstreams, own, zones, problems)
        with self._lock:
            self._limits = limits
            self._patience = patience(limits)
            self._cache.configure(limits)
            self._routes = ForwardRoutes(what, self._server)
            if what != self._known:
                self._held_back.clear()
            if what.upstreams and what != self._known:
                self._known = what
                self._generation += 1
                self._cache.clear()
        return list(dict.fromkeys(problems))

    def _server(self, one: Upstream) -> UpstreamServer:
        """The same as before, if there was one: what was learned of it stays true."""
        before = self._routes.servers.get(one)
        recovered = self._cache.forget_failures
        return before or UpstreamServer(one, self._sockets, self._now, recovered, self._spawn_probe, self._in_loop)

    def _spawn_probe(self, probe: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(probe)
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)
        return task

    def cached(self, query: wire.Query, limit: int) -> bytes | None:
        """The response from the cache, in at most `limit` bytes; None where it has to be asked for. In any thread."""
        if check_forwardable(query) is not None:
            return None
        with self._lock:
            found = self._ready(Question.of(query))
        return None if found is None else encode_answer(query, found, limit)

    def begin(self, question: Question, waiter: Waiter, first_queries: FirstQueries) -> Forwarded | Failure | bool:
        """Returns a cached answer; else whether a query is sent, of whose result the waiter is notified.

        False where it takes `resolve`: whoever could have a stale answer does not wait as long. For what no `refusal`
        is about.
        """
        with self._lock:
            found = self._ready(question)
            if found is not None:
                return found
            if self._loop is None or self._cache.knows(question):
                return False
            found, flight, new = self._meet(question, waiter)
        if flight is None:
            waiter(found)
        elif new:
            self._ask_first(flight, first_queries)
        return True

    def first_queries(self, selector: BaseSelector) -> FirstQueries | None:
        """For a thread that waits with this selector; None where select(2) is all that the system has."""
        if not POSSIBLE:
            return None
        self._loop = asyncio.get_running_loop()
        return FirstQueries(self, self._sockets, self._now, selector)

    async def resolve(self, query: wire.Query, limit: int) -> bytes:
        """The response in at most `limit` bytes, within limits.query_timeout; at worst SERVFAIL that says why."""
        found = check_forwardable(query) or await self.find(Question.of(query))
        return encode_answer(query, found, limit)

    async def find(self, question: Question) -> Forwarded | Failure:
        """What is known of a question, from the cache or from upstream."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[Forwarded | Failure] = loop.create_future()
        waiter = _in(loop, told)
        why = "the upstream servers do not answer in time"
        with self._lock:
            now = self._now()
            ready = self._ready(question)
            if ready is not None:
                return ready
            stale = self._cache.stale(question, now, why)
            given, flight, new = self._meet(question, waiter)
        if flight is None:
            return given
        if new:
            self._fly(flight, None)
        # A flight ends by itself at query_timeout, and then says more: this is for one that should not.
        timeout = self._limits.query_timeout + 0.5
        try:
            await asyncio.wait({told}, timeout=timeout if stale is None else min(_STALE_WAIT, timeout))
        finally:
            with self._lock:
                self._flights.leave(flight, waiter)
        return told.result() if told.done() else stale or Failure(wire.SERVFAIL, (EDE_NO_REACHABLE_AUTHORITY, why))

    # -- under the lock ---------------------------------------------------------------------------------------

    def _ready(self, question: Question) -> Forwarded | Failure | None:
        """What can be said at once: an answer that is good, or that the last try failed a moment ago."""
        now = self._now()
        found: Forwarded | Failure | None = self._cache.get(question, now)
        if found is None:
            error = self._cache.failure(question, now)
            if error is None:
                return None
            found = self._give_up(question, *error)
        self._cache.hits += 1
        return found

    def _meet(self, question: Question, waiter: Waiter) -> _Met:
        """A miss starts here, and nowhere else: what is said at once, or the flight that is waited for, and whether it
        is a new one."""
        self._cache.misses += 1
        routes, flights = self._routes, self._flights
        if routes.is_own(question.name):
            return Failure(wire.REFUSED, (EDE_OTHER, "names of our own zones are never forwarded")), None, False
        servers = routes.of(question.name)
        if not servers:
            why = "no upstream server is known for this name"
            return self._give_up(question, EDE_NO_REACHABLE_AUTHORITY, why), None, False
        flight = flights.find(self._generation, question)
        if not flights.has_room(self._limits.outstanding, flight):
            return self._give_up(question, EDE_OTHER, "too many questions are under way"), None, False
        new = flight is None
        if flight is None:
            flight = InFlightQuery(question, in_turn(servers), self._generation, routes.trusts(question.name))
            flights.add(flight)
        flights.join(flight, waiter)
        return _NOT_YET, flight, new

    def _give_up(self, question: Question, code: int, why: str) -> Forwarded | Failure:
        return self._cache.stale(question, self._now(), why) or Failure(wire.SERVFAIL, (code, why))

    # -- flights: in any thread -------------------------------------------------------------------------------

    def _ask_first(self, flight: InFlightQuery, first_queries: FirstQueries) -> None:
        try:
            first_queries.ask(flight, self._patience, self._limits.query_timeout)
        except Exception:
            _log.exception("asking for %s failed", to_text(flight.question.name))
            self.go_on(flight, None)

    def judged(self, flight: InFlightQuery, message: bytes, sent: wire.Query) -> Forwarded | None:
        """The answer in a response; None where the event loop has to act on it: a retry, or an error to report."""
        trusted = flight.trusted or flight.servers[0].local
        own = self._routes.is_own
        found = validate_response(message, sent, self._limits, trusted=trusted, own=own)
        return found if isinstance(found, Forwarded) and found.error is None else None

    def answered(self, attempt: FirstQuery, found: Forwarded) -> None:
        """The first server answered a flight."""
        flight = attempt.flight
        with self._lock:
            attempt.server.answered_first(attempt.begun)
            self._keep(flight, found)
            waiters = self._flights.land(flight)
        tell(waiters, found)

    def _keep(self, flight: InFlightQuery, found: Forwarded) -> None:
        if flight.generation == self._generation:
            self._cache.put(flight.question, found, self._now())

    def go_on(self, flight: InFlightQuery, attempt: FirstQuery | None) -> None:
        """Lets the event loop go on with a flight."""
        self._in_loop(self._fly, flight, attempt)

    def tell(self, attempt: FirstQuery, came: Came) -> None:
        """Tells the event loop what came of an attempt, with which it goes on."""
        self._in_loop(attempt.tell, came)

    def _in_loop(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # it is closed: this is the end
            loop = self._loop or asyncio.get_running_loop()  # without threads of ours this is the loop's
            loop.call_soon_threadsafe(call, *arguments)

    # -- flights: in the event loop ---------------------------------------------------------------------------

    def _fly(self, flight: InFlightQuery, attempt: FirstQuery | None) -> None:
        limits = self._limits

        def judged_of(server: UpstreamServer) -> Validate:
            trusted = flight.trusted or server.local

            def judged(message: bytes, sent: wire.Query, stream: bool) -> Forwarded | Rejected:
                return validate_response(message, sent, limits, trusted=trusted, own=self._routes.is_own, stream=stream)

            return judged

        def ask(server: UpstreamServer) -> Awaitable[Forwarded]:
            return server.ask(flight.question, judged_of(server))

        first_queries = Failover(flight.servers, ask, limits)
        if attempt is not None:
            judged = judged_of(attempt.server)
            attempt.expect(judged)
            asking = attempt.server.ask(flight.question, judged, attempt)
            first_queries.go_on(attempt.server, asking, attempt.begun, self._now())
        flight.task = asyncio.get_running_loop().create_task(self._run(flight, first_queries))
        flight.task.add_done_callback(partial(self._flown, flight))

    async def _run(self, flight: InFlightQuery, first_queries: Failover) -> Forwarded | Failure:
        try:
            found = await first_queries.run(lambda: self._sockets.spare, self._now)
            with self._lock:
                self._keep(flight, found)
            if found.error == _HELD_BACK and self._held_back.add(flight.question.name, self._now()):
                self._report_held_back(to_text(flight.question.name))
            return found
        except AllFailed as failed:
            with self._lock:
                given = self._give_up(flight.question, *failed.error)
                if flight.generation == self._generation:
                    seconds = _RECHECK if isinstance(given, Forwarded) else _FAILED if failed.replied else _SILENT
                    self._cache.put_failure(flight.question, failed.error, self._now(), seconds)
            return given

    def _flown(self, flight: InFlightQuery, task: asyncio.Task[Forwarded | Failure]) -> None:
        if task.cancelled():
            found: Forwarded | Failure = _STOPPING
        elif (error := task.exception()) is not None:
            _log.error("forwarding %s failed", to_text(flight.question.name), exc_info=error)
            found = Failure(wire.SERVFAIL, (EDE_OTHER, "internal error"))
        else:
            found = task.result()
        self._land(flight, found)

    def _land(self, flight: InFlightQuery, found: Forwarded | Failure) -> None:
        with self._lock:
            waiters = self._flights.land(flight)
        tell(waiters, found)

    def woke(self) -> None:
        """After a sleep, servers that were silent and names that failed get another try at once."""
        self._cache.forget_failures()
        for one in self._routes.servers.values():
            one.forget_silence()

    def status(self) -> dict[str, Any]:
        """How forwarding fares, as JSON values: each upstream with the domains it is asked for, the cache, the load."""
        cache = self._cache
        return {
            "upstreams": [{**server.status(), "domains": names} for server, names in self._routes.asked_for()],
            "cache": {"entries": len(cache), "bytes": cache.size, "hits": cache.hits, "misses": cache.misses},
            "outstanding": len(self._flights),
            "waiting": self._flights.waiting,
            "sockets": self._sockets.open,
            "held_back": self._held_back.names(self._now()),
        }

    async def settle(self, seconds: float) -> None:
        """Waits until what is under way now has ended, or for that many seconds."""
        loop = asyncio.get_running_loop()
        ends = []
        with self._lock:
            for flight in self._flights.all:
                end = loop.create_future()
                self._flights.join(flight, _in(loop, end))
                ends.append(end)
        if ends:
            await asyncio.wait(ends, timeout=seconds)

    async def close(self) -> None:
        """Ends every question under way; those who wait get SERVFAIL. Threads have ended before."""
        with self._lock:
            flights = self._flights.all
        tasks = [*self._probes, *(flight.task for flight in flights if flight.task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for flight in flights:
            self._land(flight, _STOPPING)
        await asyncio.sleep(0)  # those who wait are told in the next round


def _in(loop: asyncio.AbstractEventLoop, told: asyncio.Future[Forwarded | Failure]) -> Waiter:
    """Who waits in the event loop."""
    return lambda found: loop.call_soon_threadsafe(_settle, told, found)


def _settle(told: asyncio.Future[Forwarded | Failure], found: Forwarded | Failure) -> None:
    if not told.done():
        told.set_result(found)
