"""Sends the first upstream query from the UDP thread, on its own source port, and validates common responses there.
Timeouts, truncation and unusual responses are handed to the event loop.

So a forwarded query needs no task and no hand-over between threads. See tests/bench/forwarded.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Callable
from selectors import EVENT_READ, BaseSelector
from typing import Protocol

from vmdns.dns.forwarded_answer import Forwarded
from vmdns.dns.query import Query
from vmdns.dns.response_validation import Rejected, ResponseFault
from vmdns.server.in_flight import InFlightQuery
from vmdns.server.source_ports import RandomBytes, SourcePort, SourcePortPool
from vmdns.server.upstream_server import Validate
from vmdns.server.upstream_socket import MOST_DATAGRAM, MOST_STRAYS, UpstreamSockets

_log = logging.getLogger(__name__)

# select(2), which is all that Windows has, waits for few sockets: the event loop sends all upstream queries there.
POSSIBLE = sys.platform != "win32"

_CHECK_SECONDS = 1.0  # between checks for sockets to close
_TOO_MANY_STRAYS = Rejected(ResponseFault.TRUNCATED, f"{MOST_STRAYS} datagrams that are no response")

Received = bytes | Rejected | OSError


class FirstQuery:
    """A pending query. begun is by the clock of the server; the other times are in seconds of time.monotonic."""

    __slots__ = ("begun", "next_at", "over_at", "port", "query", "sent", "server", "strays", "validate", "verdict")

    def __init__(self, query: InFlightQuery, port: SourcePort, sent: Query, begun: float) -> None:
        self.query = query
        self.server = query.servers[0]
        self.port = port
        self.sent = sent
        self.begun = begun
        self.next_at = self.over_at = 0.0  # when other servers are queried too, and when it ends
        self.strays = 0
        # Set in the event loop, once that continues it.
        self.validate: Validate | None = None
        self.verdict: asyncio.Future[Forwarded | Rejected] | None = None

    @property
    def ended(self) -> bool:
        """Whether the event loop needs no more responses."""
        return self.verdict is not None and self.verdict.done()

    def expect(self, validate: Validate) -> None:
        """Hands the query to the event loop, which validates what is received."""
        self.validate = validate
        self.verdict = asyncio.get_running_loop().create_future()

    async def outcome(self) -> Forwarded | Rejected:
        """Awaits the result. Raises OSError."""
        assert self.verdict is not None
        return await self.verdict

    def deliver(self, received: Received) -> None:
        """Takes a message, or the reason why none will follow. In the event loop."""
        if self.verdict is None or self.validate is None or self.verdict.done():
            return
        if isinstance(received, OSError):
            self.verdict.set_exception(received)
            return
        try:
            found = self.validate(received, self.sent, False) if isinstance(received, bytes) else received
        except Exception as error:
            self.verdict.set_exception(error)
            return
        if not isinstance(found, Rejected) or found.verdict is not ResponseFault.IGNORE:
            self.verdict.set_result(found)


class QueryOwner(Protocol):
    """The forwarder, whose queries are sent. Any thread may call this."""

    def validate_common(self, query: InFlightQuery, message: bytes, sent: Query) -> Forwarded | None:
        """Returns the answer in a message; None where the event loop has to validate it."""

    def answered(self, first: FirstQuery, found: Forwarded) -> None:
        """Takes the answer."""

    def continue_in_loop(self, query: InFlightQuery, first: FirstQuery | None) -> None:
        """Continues a query in the event loop, from a first query if there is one."""

    def deliver(self, first: FirstQuery, received: Received) -> None:
        """Delivers what was received to a first query that the event loop continues."""


class FirstQueries:
    """The first queries of one thread, which waits in `wait` while they are `busy`. Used in that thread alone.

    now is the clock of the servers; selector also has the listeners' sockets.
    """

    def __init__(
        self, owner: QueryOwner, sockets: UpstreamSockets, now: Callable[[], float], selector: BaseSelector
    ) -> None:
        self._owner = owner
        self._now = now
        self._random = RandomBytes()
        self._ports = SourcePortPool(sockets, self._random)
        self._selector = selector
        self._numbers: set[int] = set()  # of their sockets
        # By file number, oldest first; and those that the event loop continues.
        self._waiting: dict[int, FirstQuery] = {}
        self._late: dict[int, FirstQuery] = {}
        self._next_check = 0.0

    @property
    def busy(self) -> bool:
        """Whether any socket of theirs is open."""
        return bool(self._waiting or self._late or self._ports.idle)

    def ask(self, query: InFlightQuery, failover_after: float, timeout: float) -> None:
        """Queries the first server.

        Other servers may be queried after `failover_after` seconds; `timeout` is the limit.
        """
        now, server = time.monotonic(), query.servers[0]
        try:
            port = self._ports.take(server.upstream, now)
        except (OSError, ValueError):
            self._owner.continue_in_loop(query, None)  # where the same error may happen, and is reported
            return
        if not self.busy:
            self._next_check = now + _CHECK_SECONDS
        packet, sent = server.make_first_query(query.question, self._random.draw)
        first = FirstQuery(query, port, sent, self._now())
        first.next_at, first.over_at = now + failover_after, now + timeout
        self._waiting[port.number] = first
        try:
            if port.uses == 1:
                self._selector.register(port.number, EVENT_READ)
                self._numbers.add(port.number)
            port.socket.send(packet)
        except OSError as error:
            self._hand_over(first)
            self._fail(first, error)

    def wait(self) -> list[int]:
        """Waits for the next datagrams, and handles those of upstreams. Returns the file numbers of other sockets that
        have some."""
        if not self.busy:
            return [key.fd for key, _ in self._selector.select()]
        until = self._next_check
        for oldest in self._waiting.values():
            until = min(until, oldest.next_at)
            break
        numbers = [key.fd for key, _ in self._selector.select(until - time.monotonic())]
        now, other_numbers = time.monotonic(), []
        for number in numbers:
            if (first := self._waiting.get(number)) is not None:
                try:
                    self._receive(first, now)
                except Exception:
                    self._abandon(first)
            elif (first := self._late.get(number)) is not None:
                try:
                    self._receive_late(first)
                except Exception:
                    self._abandon(first)
            elif number not in self._numbers:
                other_numbers.append(number)
            elif (port := self._ports.take_stray(number)) is not None:
                self._drop(port)
        if now >= until:
            self._check_timeouts(now)
        return other_numbers

    def end(self) -> None:
        """Ends with the thread: the event loop repeats pending queries."""
        for first in self._waiting.values():
            self._owner.continue_in_loop(first.query, None)
            self._drop(first.port)
        for first in self._late.values():
            self._drop(first.port)
        self._waiting.clear()
        self._late.clear()
        for port in self._ports.end():
            self._drop(port)

    def _abandon(self, first: FirstQuery) -> None:
        """Has the event loop repeat the query after a fault of ours."""
        _log.exception("a response could not be handled")
        number = first.port.number
        late = self._late.pop(number, None)
        if late is not None or self._waiting.pop(number, None) is not None:
            self._drop(first.port)
        if late is None:
            self._owner.continue_in_loop(first.query, None)

    def _receive(self, first: FirstQuery, now: float) -> None:
        port = first.port
        try:
            message = port.socket.recv(MOST_DATAGRAM)
        except BlockingIOError:
            return
        except OSError as error:
            self._hand_over(first)
            self._fail(first, error)
            return
        if int.from_bytes(message[:2], "big") != first.sent.id or len(message) < 12:
            # Not the response: the wait continues (RFC 5452 section 9.1), but not forever.
            first.strays += 1
            if first.strays >= MOST_STRAYS:
                self._hand_over(first)
                self._fail(first, _TOO_MANY_STRAYS)
            return
        found = self._owner.validate_common(first.query, message, first.sent)
        if found is None:
            self._hand_over(first)
            self._owner.deliver(first, message)
            return
        del self._waiting[port.number]
        if not self._ports.release(port, now):
            self._drop(port)
        self._owner.answered(first, found)

    def _receive_late(self, first: FirstQuery) -> None:
        try:
            message = first.port.socket.recv(MOST_DATAGRAM)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(first, error)
            return
        first.strays += 1
        if first.ended:
            self._end_late(first)
        elif first.strays >= MOST_STRAYS:
            self._fail(first, _TOO_MANY_STRAYS)
        else:
            self._owner.deliver(first, message)

    def _check_timeouts(self, now: float) -> None:
        """Hands over queries without a response, and closes sockets that are not needed any more."""
        silent = []
        for first in self._waiting.values():
            if first.next_at > now:
                break
            silent.append(first)
        for first in silent:
            self._hand_over(first)
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_SECONDS
        for first in [one for one in self._late.values() if one.ended or one.over_at <= now]:
            self._end_late(first)
        for port in self._ports.expired(now):
            self._drop(port)

    def _hand_over(self, first: FirstQuery) -> None:
        """Hands the query to the event loop; later datagrams are delivered to that."""
        del self._waiting[first.port.number]
        self._late[first.port.number] = first
        self._owner.continue_in_loop(first.query, first)

    def _fail(self, first: FirstQuery, why: Rejected | OSError) -> None:
        self._owner.deliver(first, why)
        self._end_late(first)

    def _end_late(self, first: FirstQuery) -> None:
        del self._late[first.port.number]
        self._drop(first.port)

    def _drop(self, port: SourcePort) -> None:
        with contextlib.suppress(KeyError):  # it has not been used yet
            self._selector.unregister(port.number)
        self._numbers.discard(port.number)
        self._ports.drop(port)
