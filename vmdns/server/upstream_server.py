"""One upstream server: what is known of it, and how a question is put to it."""

from __future__ import annotations

import asyncio
import errno
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from vmdns.dns import message as wire
from vmdns.dns.forwarded_answer import Forwarded, Question
from vmdns.dns.response_validation import Rejected, ResponseFault
from vmdns.dns.upstreams import Upstream
from vmdns.server.upstream_probe import Abilities, check_response, find_abilities
from vmdns.server.upstream_query import encode_query
from vmdns.server.upstream_socket import UpstreamSockets

# A server that fell silent is asked last, and probed again after so many seconds if there are queries.
PROBE_SECONDS = 15.0
# What a server was found unable to do is remembered for so long, and looked at again after a minute at the earliest.
_ABILITIES_SECONDS = 900.0
_CHECK_SECONDS = 60.0
# How long TCP is waited for, in seconds, where UDP gave an answer whose only fault is the case of its question.
_CASE_SECONDS = 1.0
# As it is; without EDNS; over TCP; over TCP without EDNS.
_MOST_ROUNDS = 4


class Validate(Protocol):
    """`validate_response` with everything but the message filled in."""

    def __call__(self, message: bytes, sent: wire.Query, stream: bool) -> Forwarded | Rejected: ...


class PendingFirst(Protocol):
    """A query over UDP that is under way already: what was sent, when by the clock of the server, and what comes."""

    @property
    def sent(self) -> wire.Query: ...

    @property
    def begun(self) -> float: ...

    async def outcome(self) -> Forwarded | Rejected:
        """Waits without end. Raises OSError, ValueError."""


class Unanswered(Exception):
    """A server had no answer; the text says why. final: asking this server again would give the same."""

    def __init__(self, why: str, *, final: bool) -> None:
        super().__init__(why)
        self.final = final


# Runs a coroutine as a task; to be called in the event loop.
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
# Has the event loop call this; from any thread.
InLoop = Callable[[Callable[[], None]], None]


class UpstreamServer:
    """One upstream. now is a monotonic clock in seconds; recovered is called when it answers after a silence.

    What a client's query meets never changes how others' queries are sent: it starts a probe (`upstream_probe`), and
    only that one's response does.
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
        self._last_sign = float("-inf")
        self._probe_after = 0.0
        self._spawn = spawn
        self._in_loop = in_loop
        self._check: asyncio.Task[None] | None = None
        self._abilities = Abilities()
        self._abilities_until = 0.0
        self._check_after = float("-inf")

    def __str__(self) -> str:
        return str(self.upstream)

    async def ask(self, question: Question, judge: Validate, first: PendingFirst | None = None) -> Forwarded:
        """Asks until it answers: a silent server is given up by cancelling. Raises `Unanswered`.

        first: a query that is under way, to go on from.
        """
        edns = self._can().edns if first is None else first.sent.edns is not None
        stream = other_case = False
        only_case: Forwarded | None = None  # an answer whose only fault is the case of its question
        with_edns = edns
        why = ""
        self.asked += first is None
        for _ in range(_MOST_ROUNDS):
            try:
                if first is None:
                    async with asyncio.timeout(None if only_case is None else _CASE_SECONDS):
                        verdict = await self._round(question, judge, edns, stream)
                else:
                    verdict = await self._listen(first.outcome(), first.sent, first.begun, stream=False)
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

    async def _round(self, question: Question, judge: Validate, edns: bool, stream: bool) -> Forwarded | Rejected:
        packet, sent = encode_query(question, secrets.token_bytes, edns=edns, mix_case=self._can().case)
        if stream:
            coming = self._sockets.ask_tcp(self.upstream, packet, lambda reply: judge(reply, sent, True))
        else:
            coming = self._sockets.ask_udp(self.upstream, packet, lambda reply: judge(reply, sent, False))
        return await self._listen(coming, sent, self._now(), stream=stream)

    async def _listen(
        self, coming: Awaitable[Forwarded | Rejected], sent: wire.Query, begun: float, *, stream: bool
    ) -> Forwarded | Rejected:
        try:
            verdict = await coming
        except (OSError, ValueError) as error:
            # One who spoke over UDP a moment ago is not silent.
            if not stream and not self.silent:
                self._check_silence()
            raise self._fail(f"cannot be reached: {error}", final=stream) from error
        now = self._now()
        self._alive(now)
        if not stream:
            self._measure(now - begun)
        return verdict

    def begin(self, question: Question, draw: Callable[[int], bytes]) -> tuple[bytes, wire.Query]:
        """The query to put to it first, which whoever calls this sends. draw gives random bytes."""
        self.asked += 1
        can = self._can()
        return encode_query(question, draw, edns=can.edns, mix_case=can.case)

    def answered_first(self, begun: float) -> None:
        """Tells that such a query was answered."""
        now = self._now()
        self._alive(now)
        self._measure(now - begun)
        self.answered += 1

    def _measure(self, took: float) -> None:
        self.round_trip = took if self.round_trip is None else self.round_trip + (took - self.round_trip) / 8

    # -- probes: in the event loop ------------------------------------------------------------------------------

    def _can(self) -> Abilities:
        """What it is able to do, as far as is known. In any thread."""
        return self._abilities if self._now() < self._abilities_until else Abilities()

    def _check_abilities(self) -> None:
        """Probes what it can do, since a query fared better with less."""
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
        self._alive(now)
        self._abilities_until = now + _ABILITIES_SECONDS

    async def _learn_silence(self) -> None:
        try:
            await check_response(self._sockets, self.upstream)
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) != errno.EMFILE:  # a lack of sockets is our own
                self.silent = True
                self._probe_after = self._now() + PROBE_SECONDS
                self.failed += 1
                self.error = "does not answer" if isinstance(error, TimeoutError) else f"cannot be reached: {error}"
        else:
            self._alive(self._now())

    def _fail(self, why: str, *, final: bool) -> Unanswered:
        self.failed += 1
        self.error = why
        return Unanswered(why, final=final)

    def forget_silence(self) -> None:
        """It may answer again: it is asked in its turn."""
        self.silent = False

    def _alive(self, now: float) -> None:
        self._last_sign = now
        if self.silent:
            self.silent = False
            self._recovered()

    def no_reply_since(self, begun: float) -> None:
        """Tells that a question of that time still waits: a server that sent nothing since then is probed."""
        if self._last_sign < begun and not self.silent:
            self._check_silence()

    def is_silent(self) -> bool:
        """Whether it was found silent; now and then it is probed again. In any thread."""
        silent = self.silent
        if silent and self._now() >= self._probe_after:
            self._probe_after = self._now() + PROBE_SECONDS
            self._in_loop(self._check_silence)
        return silent

    def status(self) -> dict[str, Any]:
        """As JSON values; the round trip in milliseconds."""
        return {
            "address": str(self.upstream),
            "asked": self.asked,
            "answered": self.answered,
            "failed": self.failed,
            "silent": self.silent,
            "error": self.error,
            "round_trip_ms": None if self.round_trip is None else round(self.round_trip * 1000, 1),
        }


def in_turn(servers: tuple[UpstreamServer, ...]) -> list[UpstreamServer]:
    """The servers in the order to ask them: as configured, silent ones last."""
    return sorted(servers, key=UpstreamServer.is_silent) if any(server.silent for server in servers) else list(servers)
