"""One upstream server: its state, and how it is queried."""

from __future__ import annotations

import asyncio
import errno
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from vmdns.dns.forwarded_answer import Forwarded, Question
from vmdns.dns.query import Query
from vmdns.dns.response_validation import Rejected, ResponseFault
from vmdns.dns.upstreams import Upstream
from vmdns.server.upstream_probe import Abilities, check_response, find_abilities
from vmdns.server.upstream_query import encode_query
from vmdns.server.upstream_socket import UpstreamSockets

# An unresponsive server is queried last, and probed again after this many seconds if there are queries.
PROBE_SECONDS = 15.0
# How long a missing ability is remembered; it is probed again after a minute at the earliest. In seconds.
_ABILITIES_SECONDS = 900.0
_CHECK_SECONDS = 60.0
# Timeout of TCP, in seconds, after UDP gave an answer whose only fault is the case of its question.
_CASE_SECONDS = 1.0
# As usual; without EDNS; over TCP; over TCP without EDNS.
_MAX_QUERIES = 4


class Validate(Protocol):
    """`core.validate.validate` with everything but the message filled in."""

    def __call__(self, message: bytes, sent: Query, stream: bool) -> Forwarded | Rejected: ...


class PendingQuery(Protocol):
    """A UDP query that was sent already: the query, its time by the clock of the server, and its result."""

    @property
    def sent(self) -> Query: ...

    @property
    def begun(self) -> float: ...

    async def outcome(self) -> Forwarded | Rejected:
        """Waits without a timeout. Raises OSError, ValueError."""


class Unanswered(Exception):
    """A server had no answer; the text says why. final: a retry would give the same."""

    def __init__(self, why: str, *, final: bool) -> None:
        super().__init__(why)
        self.final = final


# Runs a coroutine as a task; to be called in the event loop.
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
# Has the event loop call this; from any thread.
InLoop = Callable[[Callable[[], None]], None]


class UpstreamServer:
    """One upstream. now is a monotonic clock in seconds; recovered is called when it responds again.

    The response to a client's query never changes how later queries are sent: it starts a probe (`upstream_probe`), and
    only the response to that does.
    """

    def __init__(
        self,
        upstream: Upstream,
        sockets: UpstreamSockets,
        now: Callable[[], float],
        recovered: Callable[[], None],
        spawn: Spawn,
        in_loop: InLoop,
    ) -> None:
        self.upstream = upstream
        self.local = upstream.local
        self.asked = self.answered = self.failed = 0
        self.error = ""
        self.round_trip: float | None = None
        self.silent = False
        self._sockets = sockets
        self._now = now
        self._recovered = recovered
        self._last_response = float("-inf")
        self._probe_after = 0.0
        self._spawn = spawn
        self._in_loop = in_loop
        self._check: asyncio.Task[None] | None = None
        self._abilities = Abilities()
        self._abilities_until = 0.0
        self._check_after = float("-inf")

    def __str__(self) -> str:
        return str(self.upstream)

    async def ask(self, question: Question, validate: Validate, first: PendingQuery | None = None) -> Forwarded:
        """Queries the server until it answers; cancel it to give up. Raises `Unanswered`.

        first: a query that was sent already, to continue.
        """
        edns = self._current_abilities().edns if first is None else first.sent.edns is not None
        stream = other_case = False
        only_case: Forwarded | None = None  # an answer whose only fault is the case of its question
        with_edns = edns
        why = ""
        self.asked += first is None
        for _ in range(_MAX_QUERIES):
            try:
                if first is None:
                    async with asyncio.timeout(None if only_case is None else _CASE_SECONDS):
                        verdict = await self._query(question, validate, edns, stream)
                else:
                    verdict = await self._await_response(first.outcome(), first.sent, first.begun, stream=False)
                    first = None
            except (Unanswered, TimeoutError):
                if only_case is None:
                    raise
                verdict = only_case
            if isinstance(verdict, Forwarded):
                self.answered += 1
                if other_case or edns != with_edns:
                    self._check_abilities()
                return verdict
            why = verdict.why
            match verdict.verdict:
                case ResponseFault.NO_EDNS:
                    edns = False
                case ResponseFault.TRUNCATED:
                    stream = True
                case ResponseFault.OTHER_CASE:
                    stream = other_case = True
                    only_case = verdict.answer
                case _:
                    break
        raise self._fail(why, final=True)

    async def _query(self, question: Question, validate: Validate, edns: bool, stream: bool) -> Forwarded | Rejected:
        packet, sent = encode_query(question, secrets.token_bytes, edns=edns, mix_case=self._current_abilities().case)
        if stream:
            coming = self._sockets.ask_tcp(self.upstream, packet, lambda reply: validate(reply, sent, True))
        else:
            coming = self._sockets.ask_udp(self.upstream, packet, lambda reply: validate(reply, sent, False))
        return await self._await_response(coming, sent, self._now(), stream=stream)

    async def _await_response(
        self, coming: Awaitable[Forwarded | Rejected], sent: Query, begun: float, *, stream: bool
    ) -> Forwarded | Rejected:
        try:
            verdict = await coming
        except (OSError, ValueError) as error:
            # It has just responded over UDP.
            if not stream and not self.silent:
                self._check_silence()
            raise self._fail(f"cannot be reached: {error}", final=stream) from error
        now = self._now()
        self._note_response(now)
        if not stream:
            self._update_round_trip(now - begun)
        return verdict

    def make_first_query(self, question: Question, draw: Callable[[int], bytes]) -> tuple[bytes, Query]:
        """Returns the first query, which the caller sends. draw gives random bytes."""
        self.asked += 1
        can = self._current_abilities()
        return encode_query(question, draw, edns=can.edns, mix_case=can.case)

    def record_first_response(self, begun: float) -> None:
        """Records that such a query was answered."""
        now = self._now()
        self._note_response(now)
        self._update_round_trip(now - begun)
        self.answered += 1

    def _update_round_trip(self, took: float) -> None:
        self.round_trip = took if self.round_trip is None else self.round_trip + (took - self.round_trip) / 8

    # -- probes: in the event loop ------------------------------------------------------------------------------

    def _current_abilities(self) -> Abilities:
        """Returns what it is able to do, as far as is known. Any thread may call this."""
        return self._abilities if self._now() < self._abilities_until else Abilities()

    def _check_abilities(self) -> None:
        """Probes its abilities, since a simpler query had more success."""
        if self._now() >= self._check_after and not self._checking:
            self._check_after = self._now() + _CHECK_SECONDS
            self._check = self._spawn(self._learn_abilities())

    def _check_silence(self) -> None:
        """Probes whether it responds at all."""
        if not self._checking:
            self._check = self._spawn(self._learn_silence())

    @property
    def _checking(self) -> bool:
        return self._check is not None and not self._check.done()

    async def _learn_abilities(self) -> None:
        try:
            self._abilities = await find_abilities(self._sockets, self.upstream)
        except (OSError, ValueError):
            return
        now = self._now()
        self._note_response(now)
        self._abilities_until = now + _ABILITIES_SECONDS

    async def _learn_silence(self) -> None:
        try:
            await check_response(self._sockets, self.upstream)
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) != errno.EMFILE:  # too few sockets is our own fault
                self.silent = True
                self._probe_after = self._now() + PROBE_SECONDS
                self.failed += 1
                self.error = "does not answer" if isinstance(error, TimeoutError) else f"cannot be reached: {error}"
        else:
            self._note_response(self._now())

    def _fail(self, why: str, *, final: bool) -> Unanswered:
        self.failed += 1
        self.error = why
        return Unanswered(why, final=final)

    def forget_silence(self) -> None:
        """Treats it as responsive again."""
        self.silent = False

    def _note_response(self, now: float) -> None:
        self._last_response = now
        if self.silent:
            self.silent = False
            self._recovered()

    def note_no_response(self, begun: float) -> None:
        """Probes the server if it has sent nothing since that time, when a query was sent."""
        if self._last_response < begun and not self.silent:
            self._check_silence()

    def is_silent(self) -> bool:
        """Whether it does not respond; it is probed again now and then. Any thread may call this."""
        silent = self.silent
        if silent and self._now() >= self._probe_after:
            self._probe_after = self._now() + PROBE_SECONDS
            self._in_loop(self._check_silence)
        return silent

    def status(self) -> dict[str, Any]:
        """Returns its status as JSON values; the round trip in milliseconds."""
        return {
            "address": str(self.upstream),
            "asked": self.asked,
            "answered": self.answered,
            "failed": self.failed,
            "silent": self.silent,
            "error": self.error,
            "round_trip_ms": None if self.round_trip is None else round(self.round_trip * 1000, 1),
        }


def order_servers(servers: tuple[UpstreamServer, ...]) -> list[UpstreamServer]:
    """Returns the servers in the order to query them: as configured, unresponsive ones last."""
    return sorted(servers, key=UpstreamServer.is_silent) if any(server.silent for server in servers) else list(servers)
