"""A question in flight, and which server is to be queried next.

Failover: the next server is queried when one fails, or does not respond in time; the first answer wins. An attempt
stays open until the end, so a slow server still counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vmdns.dns.forwarded_answer import Forwarded, Question
from vmdns.dns.limits import Limits
from vmdns.dns.message import EDE_NETWORK_ERROR, EDE_NO_REACHABLE_AUTHORITY
from vmdns.server.io_thread import Timer
from vmdns.server.upstream_server import Attempt, Unanswered, UpstreamServer
from vmdns.server.upstream_sockets import UpstreamSockets

if TYPE_CHECKING:
    from vmdns.server.forward_routes import ForwardRoutes

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
        return EDE_NO_REACHABLE_AUTHORITY if self.replied else EDE_NETWORK_ERROR, text
