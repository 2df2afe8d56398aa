"""Queries in flight, each sent once, and their waiters (RFC 5452 section 5, CVE-2020-25686)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from vmdns.dns.forwarded_answer import Failure, Forwarded, Question
from vmdns.server.upstream_server import UpstreamServer

_log = logging.getLogger(__name__)

MOST_WAITERS = 100

# Takes the result of a query, in the thread that finds it.
Waiter = Callable[[Forwarded | Failure], object]


@dataclass(slots=True, eq=False)
class InFlightQuery:
    """A query in flight: the servers in the order to query them, the generation of the configuration, the waiters.

    trusted: its answer may hold private addresses. task continues it in the event loop.
    """

    question: Question
    servers: list[UpstreamServer]
    generation: int
    trusted: bool
    waiters: list[Waiter] = field(default_factory=list)
    task: asyncio.Task[Forwarded | Failure] | None = None


class InFlightQueries:
    """Queries in flight, by question and generation. The caller has the forwarder's lock, except for `notify`."""

    def __init__(self) -> None:
        self._queries: dict[tuple[int, Question], InFlightQuery] = {}
        self.waiter_count = 0

    def __len__(self) -> int:
        return len(self._queries)

    @property
    def all(self) -> list[InFlightQuery]:
        return list(self._queries.values())

    def find(self, generation: int, question: Question) -> InFlightQuery | None:
        return self._queries.get((generation, question))

    def has_room(self, most: int, query: InFlightQuery | None) -> bool:
        """Whether one more waiter may join this query or a new one. most: limits.outstanding."""
        full = max(self.waiter_count, len(self._queries)) >= most
        return not full and (query is None or len(query.waiters) < MOST_WAITERS)

    def add(self, query: InFlightQuery) -> None:
        self._queries[query.generation, query.question] = query

    def join(self, query: InFlightQuery, waiter: Waiter) -> None:
        query.waiters.append(waiter)
        self.waiter_count += 1

    def leave(self, query: InFlightQuery, waiter: Waiter) -> None:
        """Removes a waiter, if it was not notified yet."""
        if waiter in query.waiters:
            query.waiters.remove(waiter)
            self.waiter_count -= 1

    def finish(self, query: InFlightQuery) -> list[Waiter]:
        """Ends a query. Returns the waiters to notify: none where it had ended before."""
        if self._queries.get((query.generation, query.question)) is not query:
            return []
        del self._queries[query.generation, query.question]
        waiters, query.waiters = query.waiters, []
        self.waiter_count -= len(waiters)
        return waiters


def notify(waiters: list[Waiter], found: Forwarded | Failure) -> None:
    """Notifies all waiters, even if one of them raises."""
    for waiter in waiters:
        try:
            waiter(found)
        except Exception:
            _log.exception("a response could not be sent")
