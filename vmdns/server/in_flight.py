"""Questions under way, each once, and those who wait for them (RFC 5452 section 5, CVE-2020-25686)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from vmdns.dns.forwarded_answer import Failure, Forwarded, Question
from vmdns.server.upstream_server import UpstreamServer

_log = logging.getLogger(__name__)

MOST_WAITERS = 100

# Is told the end of a question, in whichever thread that is found out.
Waiter = Callable[[Forwarded | Failure], object]


@dataclass(slots=True, eq=False)
class InFlightQuery:
    """A question under way: the servers in the order to ask them, which upstreams were in force, who waits.

    trusted: its answer may hold private addresses. task: what goes on with it in the event loop, once that does.
    """

    question: Question
    servers: list[UpstreamServer]
    generation: int
    trusted: bool
    waiters: list[Waiter] = field(default_factory=list)
    task: asyncio.Task[Forwarded | Failure] | None = None


class InFlightQueries:
    """The flights, by question and upstreams. Who calls this holds the lock of the forwarder, but for `tell`."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[int, Question], InFlightQuery] = {}
        self.waiting = 0

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def all(self) -> list[InFlightQuery]:
        return list(self._under_way.values())

    def find(self, generation: int, question: Question) -> InFlightQuery | None:
        return self._under_way.get((generation, question))

    def has_room(self, most: int, flight: InFlightQuery | None) -> bool:
        """Whether one more may wait, for this flight or a new one. most: limits.outstanding."""
        full = max(self.waiting, len(self._under_way)) >= most
        return not full and (flight is None or len(flight.waiters) < MOST_WAITERS)

    def add(self, flight: InFlightQuery) -> None:
        self._under_way[flight.generation, flight.question] = flight

    def join(self, flight: InFlightQuery, waiter: Waiter) -> None:
        flight.waiters.append(waiter)
        self.waiting += 1

    def leave(self, flight: InFlightQuery, waiter: Waiter) -> None:
        """Waits no more; nothing happens where it was told already."""
        if waiter in flight.waiters:
            flight.waiters.remove(waiter)
            self.waiting -= 1

    def land(self, flight: InFlightQuery) -> list[Waiter]:
        """Ends it. Returns those who are to be told: nobody where it had ended before."""
        if self._under_way.get((flight.generation, flight.question)) is not flight:
            return []
        del self._under_way[flight.generation, flight.question]
        waiters, flight.waiters = flight.waiters, []
        self.waiting -= len(waiters)
        return waiters


def tell(waiters: list[Waiter], found: Forwarded | Failure) -> None:
    """Tells them all, whatever becomes of some."""
    for waiter in waiters:
        try:
            waiter(found)
        except Exception:
            _log.exception("a response could not be sent")
