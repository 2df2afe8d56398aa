"""Forwarding: what is not ours is answered from the cache, or asked of the upstreams.

One question is asked once, however many wait for it (CVE-2020-25686); so also a question that another resolver
sends back to us ends by itself. Everything is bounded: questions under way, those who wait for one, sockets, cache.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vmdns.core import wire
from vmdns.core.cache import Cache
from vmdns.core.forwarded import (
    EDE_NO_REACHABLE_AUTHORITY,
    EDE_OTHER,
    Failure,
    Forwarded,
    Question,
    refusal,
    render,
)
from vmdns.core.judge import Rejected, judge
from vmdns.core.limits import Limits
from vmdns.core.name import to_text
from vmdns.core.upstream import Upstream, Upstreams, closest
from vmdns.serve.failover import AllFailed, Round
from vmdns.serve.upstream_server import Server, in_turn
from vmdns.serve.upstream_socket import Sockets, budget
from vmdns.serve.usable import usable

_log = logging.getLogger(__name__)

# RFC 8767 section 5: how long one who could have a stale answer waits for a new one.
_STALE_WAIT = 1.8
# RFC 9520 section 3.2, in seconds: how long a failure is believed, where a server said so, where none spoke, and
# where there is a stale answer to give meanwhile (RFC 8767 section 5).
_FAILED, _SILENT, _RECHECK = 5.0, 1.0, 30.0
_MOST_WAITERS = 100


@dataclass(slots=True, eq=False)
class _Flight:
    """A question under way, and how many wait for it."""

    task: asyncio.Task[Forwarded | Failure]
    waiters: int = 0


class Forwarder:
    """Answers what is not ours. now is a monotonic clock in seconds. One event loop uses it."""

    def __init__(self, limits: Limits, now: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._now = now
        self._cache = Cache(limits)
        self._sockets = Sockets(budget())
        self._servers: dict[Upstream, Server] = {}
        self._default: tuple[Upstream, ...] = ()
        self._domains: dict[bytes, tuple[Upstream, ...]] = {}
        self._trusted: frozenset[bytes] = frozenset()
        self._zones: frozenset[bytes] = frozenset()
        self._generation = 0
        self._known: object = None
        self._flights: dict[tuple[int, Question], _Flight] = {}
        self._waiting = 0

    def configure(
        self, upstreams: Upstreams, own: frozenset[tuple[str, int]], zones: frozenset[bytes], limits: Limits
    ) -> list[str]:
        """Puts upstreams, zones and limits in force; one sentence for each upstream that is left out.

        own: the addresses and ports we listen at, which are never asked. zones: our own (wire names, lower case).
        Other upstreams may know other things, so the cache is emptied when they change; not when they are gone.
        """
        problems: list[str] = []
        self._default = usable(upstreams.default, own, problems)
        self._domains = {key: usable(servers, own, problems) for key, servers in upstreams.domains.items()}
        # The root in either would take every name for one of ours.
        self._trusted = (upstreams.search | upstreams.domains.keys()) - {b"\0"}
        self._zones = zones
        self._limits = limits
        self._cache.configure(limits)
        wanted = {*self._default, *(one for servers in self._domains.values() for one in servers)}
        self._servers = {
            one: self._servers.get(one) or Server(one, self._sockets, self._now, self._cache.forget_failures)
            for one in wanted
        }
        known = (self._default, self._domains, self._trusted, zones)
        if wanted and known != self._known:
            self._known = known
            self._generation += 1
            self._cache.clear()
        return list(dict.fromkeys(problems))

    def route(self, key: bytes) -> tuple[Upstream, ...] | None:
        """The servers of the most specific domain at or above the name; None where the default servers are asked.

        Empty where such a domain has no server that can be asked: its names go nowhere else.
        """
        domain = closest(key, self._domains)
        return None if domain is None else self._domains[domain]

    def _is_own(self, key: bytes) -> bool:
        """Whether a name lies in a zone of ours, and in no more specific domain that is forwarded."""
        zone = closest(key, self._zones)
        if zone is None:
            return False
        domain = closest(key, self._domains)
        return domain is None or len(domain) <= len(zone)

    def cached(self, query: wire.Query, limit: int) -> bytes | None:
        """The response from the cache, in at most `limit` bytes; None where it takes `resolve`."""
        if refusal(query) is not None:
            return None
        found = self._ready(Question.of(query))
        if found is None:
            return None
        self._cache.hits += 1
        return render(query, found, limit)

    async def resolve(self, query: wire.Query, limit: int) -> bytes:
        """The response in at most `limit` bytes, within limits.query_timeout; at worst SERVFAIL that says why."""
        found: Forwarded | Failure | None = refusal(query)
        if found is None:
            try:
                found = await self.find(Question.of(query))
            except Exception:
                _log.exception("forwarding %s failed", to_text(query.key))
                found = Failure(wire.SERVFAIL, (EDE_OTHER, "internal error"))
        return render(query, found, limit)

    async def find(self, question: Question) -> Forwarded | Failure:
        """What is known of a question, from the cache or from upstream."""
        found = self._ready(question)
        if found is not None:
            self._cache.hits += 1
            return found
        self._cache.misses += 1
        if self._is_own(question.name):
            return Failure(wire.REFUSED, (EDE_OTHER, "names of our own zones are never forwarded"))
        servers = self._ask_of(question.name)
        if not servers:
            return self._give_up(question, EDE_NO_REACHABLE_AUTHORITY, "no upstream server is known for this name")
        flight = self._flights.get((self._generation, question))
        full = max(self._waiting, len(self._flights)) >= self._limits.outstanding
        if full or (flight is not None and flight.waiters >= _MOST_WAITERS):
            return self._give_up(question, EDE_OTHER, "too many questions are under way")
        if flight is None:
            flight = self._take_off(question, servers)
        return await self._wait(question, flight)

    def _ready(self, question: Question) -> Forwarded | Failure | None:
        """What can be said at once: an answer that is good, or that the last try failed a moment ago."""
        now = self._now()
        found = self._cache.get(question, now)
        if found is not None:
            return found
        error = self._cache.failure(question, now)
        return None if error is None else self._give_up(question, *error)

    def _give_up(self, question: Question, code: int, why: str) -> Forwarded | Failure:
        return self._cache.stale(question, self._now(), why) or Failure(wire.SERVFAIL, (code, why))

    def _ask_of(self, name: bytes) -> tuple[Server, ...]:
        route = self.route(name)
        return tuple(self._servers[one] for one in (self._default if route is None else route))

    def _take_off(self, question: Question, servers: tuple[Server, ...]) -> _Flight:
        key = (self._generation, question)
        flight = _Flight(asyncio.create_task(self._fly(question, servers, self._generation)))
        self._flights[key] = flight
        flight.task.add_done_callback(lambda _: self._flights.pop(key, None))
        return flight

    async def _wait(self, question: Question, flight: _Flight) -> Forwarded | Failure:
        """Waits for a flight, which goes on whatever becomes of those who wait."""
        why = "the upstream servers do not answer in time"
        stale = self._cache.stale(question, self._now(), why)
        # A flight ends by itself at query_timeout, and then says more: this is for one that should not.
        timeout = self._limits.query_timeout + 0.5
        self._waiting += 1
        flight.waiters += 1
        try:
            await asyncio.wait({flight.task}, timeout=timeout if stale is None else min(_STALE_WAIT, timeout))
        finally:
            self._waiting -= 1
            flight.waiters -= 1
        if flight.task.done() and not flight.task.cancelled():
            return flight.task.result()
        return stale or Failure(wire.SERVFAIL, (EDE_NO_REACHABLE_AUTHORITY, why))

    async def _fly(self, question: Question, servers: tuple[Server, ...], generation: int) -> Forwarded | Failure:
        limits, trusted = self._limits, closest(question.name, self._trusted) is not None

        def judged(message: bytes, sent: wire.Query, stream: bool) -> Forwarded | Rejected:
            return judge(message, sent, limits, trusted=trusted, own=self._is_own, stream=stream)

        tries = Round(in_turn(servers), lambda server: server.ask(question, judged), limits)
        try:
            found = await tries.run(lambda: self._sockets.spare, self._now)
        except AllFailed as failed:
            given = self._give_up(question, *failed.error)
            if generation == self._generation:
                seconds = _RECHECK if isinstance(given, Forwarded) else _FAILED if failed.replied else _SILENT
                self._cache.put_failure(question, failed.error, self._now(), seconds)
            return given
        if generation == self._generation:
            self._cache.put(question, found, self._now())
        return found

    def status(self) -> dict[str, Any]:
        """How forwarding fares, as JSON values: each upstream with the domains it is asked for, the cache, the load."""
        asked_for: dict[Upstream, list[str]] = {one: ["."] for one in self._default}
        for key, servers in self._domains.items():
            for one in servers:
                asked_for.setdefault(one, []).append(to_text(key))
        cache = self._cache
        return {
            "upstreams": [{**self._servers[one].status(), "domains": names} for one, names in asked_for.items()],
            "cache": {"entries": len(cache), "bytes": cache.size, "hits": cache.hits, "misses": cache.misses},
            "outstanding": len(self._flights),
            "waiting": self._waiting,
            "sockets": self._sockets.open,
        }

    async def close(self) -> None:
        """Ends every question under way; those who wait get SERVFAIL."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
