"""The first try of a question, in the thread that received it: sent from a port of its own, awaited with
everything else that the thread waits for, and judged there if it is an answer like most.

So a forwarded question takes no task and no hand-over between threads. Whatever else comes of it (silence, a strange
reply, a fault of the network) goes on in the event loop, which is told what comes until it has enough.
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

from vmdns.dns import message as wire
from vmdns.dns.forwarded_answer import Forwarded
from vmdns.dns.response_validation import Rejected, ResponseFault
from vmdns.server.in_flight import InFlightQuery
from vmdns.server.source_ports import RandomBytes, SourcePort, SourcePortPool
from vmdns.server.upstream_server import Validate
from vmdns.server.upstream_socket import MOST_DATAGRAM, MOST_STRAYS, UpstreamSockets

_log = logging.getLogger(__name__)

# select(2), which is all that Windows has, waits for few sockets: the event loop sends all upstream queries there.
POSSIBLE = sys.platform != "win32"

_MOST_UNSENT = 64
_LOOK_SECONDS = 1.0  # between looks at what nobody waits for
_GUESSED = Rejected(ResponseFault.TRUNCATED, f"{MOST_STRAYS} datagrams that are no reply")

Came = bytes | Rejected | OSError


class FirstQuery:
    """A query under way. begun is by the clock of the server; the others are in seconds of time.monotonic."""

    __slots__ = ("begun", "flight", "judge", "next_at", "over_at", "port", "sent", "server", "strays", "verdict")

    def __init__(self, flight: InFlightQuery, port: SourcePort, sent: wire.Query, begun: float) -> None:
        self.flight = flight
        self.server = flight.servers[0]
        self.port = port
        self.sent = sent
        self.begun = begun
        self.next_at = self.over_at = 0.0  # when others are asked as well, when nobody waits any more
        self.strays = 0
        # In the event loop, once that goes on with it.
        self.judge: Validate | None = None
        self.verdict: asyncio.Future[Forwarded | Rejected] | None = None

    @property
    def ended(self) -> bool:
        """Whether the event loop has heard enough."""
        return self.verdict is not None and self.verdict.done()

    def expect(self, judge: Validate) -> None:
        """The event loop goes on with it, and judges what comes."""
        self.judge = judge
        self.verdict = asyncio.get_running_loop().create_future()

    async def outcome(self) -> Forwarded | Rejected:
        """What comes of it. Raises OSError."""
        assert self.verdict is not None
        return await self.verdict

    def tell(self, came: Came) -> None:
        """Something came: a message, or a reason why none will. In the event loop."""
        if self.verdict is None or self.judge is None or self.verdict.done():
            return
        if isinstance(came, OSError):
            self.verdict.set_exception(came)
            return
        try:
            found = self.judge(came, self.sent, False) if isinstance(came, bytes) else came
        except Exception as error:
            self.verdict.set_exception(error)
            return
        if not isinstance(found, Rejected) or found.verdict is not ResponseFault.IGNORE:
            self.verdict.set_result(found)


class Owner(Protocol):
    """Whose questions are asked: the forwarder. Any thread may call this."""

    def judged(self, flight: InFlightQuery, message: bytes, sent: wire.Query) -> Forwarded | None:
        """The answer that a message is; None where the event loop has to look at it."""

    def answered(self, attempt: FirstQuery, found: Forwarded) -> None:
        """The question is answered."""

    def go_on(self, flight: InFlightQuery, attempt: FirstQuery | None) -> None:
        """Lets the event loop go on with a question, from an attempt at it if there is one."""

    def tell(self, attempt: FirstQuery, came: Came) -> None:
        """Tells an attempt, with which the event loop goes on, what came."""


class FirstQueries:
    """The attempts of one thread, which waits in `wait` for as long as it is `busy`. Used in that thread alone.

    now is the clock of the servers; selector also has the listeners' sockets.
    """

    def __init__(
        self, owner: Owner, sockets: UpstreamSockets, now: Callable[[], float], selector: BaseSelector
    ) -> None:
        self._owner = owner
        self._now = now
        self._noise = RandomBytes()
        self._ports = SourcePortPool(sockets, self._noise)
        self._selector = selector
        self._numbers: set[int] = set()  # of sockets of theirs
        # By file number, in the order of their beginning; and those with which the event loop goes on.
        self._alone: dict[int, FirstQuery] = {}
        self._late: dict[int, FirstQuery] = {}
        self._unsent: list[tuple[FirstQuery, bytes]] = []
        self._look_at = 0.0

    @property
    def busy(self) -> bool:
        """Whether anything of theirs is waited for."""
        return bool(self._alone or self._late or self._ports.resting)

    def ask(self, flight: InFlightQuery, patience: float, most: float) -> None:
        """Asks the first server of a flight, as soon as the thread waits.

        After `patience` seconds others may be asked too; `most` is all it has.
        """
        now, server = time.monotonic(), flight.servers[0]
        try:
            port = self._ports.take(server.upstream, now)
        except (OSError, ValueError):
            self._owner.go_on(flight, None)  # where the same may happen, and is told
            return
        if not self.busy:
            self._look_at = now + _LOOK_SECONDS
        packet, sent = server.begin(flight.question, self._noise.draw)
        attempt = FirstQuery(flight, port, sent, self._now())
        attempt.next_at, attempt.over_at = now + patience, now + most
        self._alone[port.number] = attempt
        self._unsent.append((attempt, packet))
        if len(self._unsent) >= _MOST_UNSENT:
            self._send()

    def _send(self) -> None:
        """Sends what was asked, all in a row: each send may wake the upstream, where it is on this host."""
        unsent, self._unsent = self._unsent, []
        for attempt, packet in unsent:
            port = attempt.port
            try:
                if port.uses == 1:
                    self._selector.register(port.number, EVENT_READ)
                    self._numbers.add(port.number)
                port.socket.send(packet)
            except OSError as error:
                self._pass_on(attempt)
                self._fail(attempt, error)

    def wait(self) -> list[int]:
        """Waits for what comes next, and sees to what is theirs. Returns which other sockets have something."""
        if self._unsent:
            self._send()
        if not self.busy:
            return [key.fd for key, _ in self._selector.select()]
        until = self._look_at
        for first in self._alone.values():
            until = min(until, first.next_at)
            break
        numbers = [key.fd for key, _ in self._selector.select(until - time.monotonic())]
        now, others = time.monotonic(), []
        for number in numbers:
            if (attempt := self._alone.get(number)) is not None:
                try:
                    self._hear(attempt, now)
                except Exception:
                    self._break_off(attempt)
            elif (attempt := self._late.get(number)) is not None:
                try:
                    self._hear_late(attempt)
                except Exception:
                    self._break_off(attempt)
            elif number not in self._numbers:
                others.append(number)
            elif (port := self._ports.stray(number)) is not None:
                self._drop(port)
        if now >= until:
            self._look(now)
        return others

    def end(self) -> None:
        """The thread ends: the event loop asks anew what is under way."""
        for attempt in self._alone.values():
            self._owner.go_on(attempt.flight, None)
            self._drop(attempt.port)
        for attempt in self._late.values():
            self._drop(attempt.port)
        self._alone.clear()
        self._late.clear()
        for port in self._ports.end():
            self._drop(port)

    def _break_off(self, attempt: FirstQuery) -> None:
        """A fault of ours: the event loop asks anew."""
        _log.exception("a reply could not be taken")
        number = attempt.port.number
        late = self._late.pop(number, None)
        if late is not None or self._alone.pop(number, None) is not None:
            self._drop(attempt.port)
        if late is None:
            self._owner.go_on(attempt.flight, None)

    def _hear(self, attempt: FirstQuery, now: float) -> None:
        port = attempt.port
        try:
            message = port.socket.recv(MOST_DATAGRAM)
        except BlockingIOError:
            return
        except OSError as error:
            self._pass_on(attempt)
            self._fail(attempt, error)
            return
        if int.from_bytes(message[:2], "big") != attempt.sent.id or len(message) < 12:
            # Not the reply: the waiting goes on, whatever it is (RFC 5452 section 9.1), but not for ever.
            attempt.strays += 1
            if attempt.strays >= MOST_STRAYS:
                self._pass_on(attempt)
                self._fail(attempt, _GUESSED)
            return
        found = self._owner.judged(attempt.flight, message, attempt.sent)
        if found is None:
            self._pass_on(attempt)
            self._owner.tell(attempt, message)
            return
        del self._alone[port.number]
        if not self._ports.rest(port, now):
            self._drop(port)
        self._owner.answered(attempt, found)

    def _hear_late(self, attempt: FirstQuery) -> None:
        try:
            message = attempt.port.socket.recv(MOST_DATAGRAM)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(attempt, error)
            return
        attempt.strays += 1
        if attempt.ended:
            self._forget(attempt)
        elif attempt.strays >= MOST_STRAYS:
            self._fail(attempt, _GUESSED)
        else:
            self._owner.tell(attempt, message)

    def _look(self, now: float) -> None:
        """Goes on with what was silent for too long, and clears away what nobody waits for."""
        silent = []
        for attempt in self._alone.values():
            if attempt.next_at > now:
                break
            silent.append(attempt)
        for attempt in silent:
            self._pass_on(attempt)
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        for attempt in [one for one in self._late.values() if one.ended or one.over_at <= now]:
            self._forget(attempt)
        for port in self._ports.tired(now):
            self._drop(port)

    def _pass_on(self, attempt: FirstQuery) -> None:
        """The event loop goes on with it; what comes yet is told to that."""
        del self._alone[attempt.port.number]
        self._late[attempt.port.number] = attempt
        self._owner.go_on(attempt.flight, attempt)

    def _fail(self, attempt: FirstQuery, why: Rejected | OSError) -> None:
        self._owner.tell(attempt, why)
        self._forget(attempt)

    def _forget(self, attempt: FirstQuery) -> None:
        del self._late[attempt.port.number]
        self._drop(attempt.port)

    def _drop(self, port: SourcePort) -> None:
        with contextlib.suppress(KeyError):  # it has not been used yet
            self._selector.unregister(port.number)
        self._numbers.discard(port.number)
        self._ports.drop(port)
