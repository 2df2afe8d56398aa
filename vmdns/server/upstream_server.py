"""One upstream server: its state, how it is queried, and probes of it. Used in the UDP thread alone.

The response to a client's query never changes how later queries are sent, since clients can query names to which a
server responds badly or not at all. It starts a probe, and only the response to that changes something.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from vmdns.dns import message as wire
from vmdns.dns.forwarded_answer import Forwarded, Question
from vmdns.dns.limits import Limits
from vmdns.dns.name import LOCALHOST
from vmdns.dns.query import Query
from vmdns.dns.response_validation import Rejected, ResponseFault, validate_response
from vmdns.dns.upstreams import Upstream
from vmdns.server.upstream_exchange import Exchange, Result, Validate, encode_query
from vmdns.server.upstream_sockets import UpstreamSockets

# An unresponsive server is queried last, and probed again after this many seconds if there are queries.
PROBE_SECONDS = 15.0
# How long a missing ability is remembered; it is probed again after a minute at the earliest. In seconds.
_ABILITIES_SECONDS = 900.0
_CHECK_SECONDS = 60.0
# Timeout of TCP, in seconds, after UDP gave an answer whose only fault is the case of its question.
_CASE_SECONDS = 1.0
# As usual; without EDNS; over TCP; over TCP without EDNS.
_MAX_QUERIES = 4
# How long a probe's response is waited for, in seconds.
_TIMEOUT = 1.5
# An upstream lacks an ability only if this many probes in a row say so.
_REPEATS = 3
# Resolvers answer localhost themselves (RFC 6761 section 6.3).
_PROBE = Question(LOCALHOST, wire.A, False, False)
_LIMITS = Limits()


class Unanswered(NamedTuple):
    """A server had no answer. final: a retry would give the same. fault: it is a fault of ours."""

    why: str
    final: bool
    fault: Exception | None = None


class UpstreamServer:
    """One upstream. now is a monotonic clock that counts suspends, in seconds; recovered is called when it responds
    again."""

    def __init__(
        self, upstream: Upstream, sockets: UpstreamSockets, now: Callable[[], float], recovered: Callable[[], None]
    ) -> None:
        self.upstream = upstream
        self.local = upstream.local
        self.asked = self.answered = self.failed = 0
        self.error = ""
        self.round_trip: float | None = None
        self.silent = False
        self.sockets = sockets
        self._abilities = True, True
        self._now = now
        self._recovered = recovered
        self._last_response = float("-inf")  # of time.monotonic
        self._probe_after = 0.0
        self._probe: _Probe | None = None  # the probe in flight
        self._abilities_until = 0.0
        self._check_after = float("-inf")

    def __str__(self) -> str:
        return str(self.upstream)

    def is_silent(self) -> bool:
        """Whether it does not respond; it is probed again now and then."""
        if self.silent and self._now() >= self._probe_after:
            self._probe_after = self._now() + PROBE_SECONDS
            self.check()
        return self.silent

    def abilities(self) -> tuple[bool, bool]:
        """Returns whether it takes queries with an OPT record (RFC 6891), and repeats the case of the question."""
        if not all(self._abilities) and self._now() >= self._abilities_until:
            self._abilities = True, True
        return self._abilities

    def check_abilities(self) -> None:
        """Probes it, once a minute at most."""
        if self._now() >= self._check_after:
            self._check_after = self._now() + _CHECK_SECONDS
            self.check()

    def note_response(self, began: float | None = None) -> None:
        """Notes that it responded; began: to a query over UDP that was sent then."""
        self._last_response = time.monotonic()
        if began is not None:
            took = self._last_response - began
            self.round_trip = took if self.round_trip is None else self.round_trip + (took - self.round_trip) / 8
        if self.silent:
            self.silent = False
            self._recovered()

    def note_no_response(self, began: float) -> None:
        """Probes the server if it has sent nothing since that time, when a query was sent."""
        if self._last_response < began and not self.silent:
            self.check()

    # -- probes -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Probes whether it responds, and what it is able to do."""
        if self._probe is None:
            self._probes = self._learn()
            self._send_probe(next(self._probes))

    def close(self) -> None:
        """Ends its probe."""
        if self._probe is not None:
            self._probe.close()
            self._probe = None

    def _learn(self) -> Generator[bool, tuple[ResponseFault | None, int], None]:
        """Yields whether the next probe has an OPT record, and takes the verdict on the response and its rcode."""
        no_edns = flat_case = True
        for _ in range(_REPEATS):
            verdict, rcode = yield True
            if verdict is ResponseFault.NO_EDNS:
                verdict, rcode = yield False
                no_edns = no_edns and rcode not in (wire.FORMERR, wire.NOTIMP)
            else:
                no_edns = False
            flat_case = flat_case and verdict is ResponseFault.OTHER_CASE
            if not no_edns and not flat_case:
                break
        self._abilities = not no_edns, not flat_case
        self._abilities_until = self._now() + _ABILITIES_SECONDS

    def _send_probe(self, edns: bool) -> None:
        if self._probe is None:
            self._probe = _Probe(self.sockets, self._receive)
        while True:
            packet, sent = encode_query(_PROBE, edns=edns, mix_case=True)
            if sent.name != sent.key:  # a name that happens to be in lower case would show nothing about case
                self._probe.send(self.upstream, packet, sent, timeout=_TIMEOUT)
                return

    def _receive(self, result: Result, rcode: int) -> None:
        if not isinstance(result, Exception):
            self.note_response()
            try:
                self._send_probe(self._probes.send((getattr(result, "verdict", None), rcode)))
                return
            except StopIteration:
                pass
        elif getattr(result, "errno", None) != errno.EMFILE:  # too few sockets is our own fault
            self.silent = True
            self._probe_after = self._now() + PROBE_SECONDS
            self.failed += 1
            self.error = "does not answer" if isinstance(result, TimeoutError) else f"cannot be reached: {result}"
        self._probe = None

    def status(self) -> dict[str, Any]:
        """Returns its status as JSON values; the round trip in milliseconds. Any thread may call this."""
        return {
            "address": str(self.upstream),
            "asked": self.asked,
            "answered": self.answered,
            "failed": self.failed,
            "silent": self.silent,
            "error": self.error,
            "round_trip_ms": None if self.round_trip is None else round(self.round_trip * 1000, 1),
        }


class _Probe(Exchange):
    """A query of vmdns's own. done gets the result and the rcode."""

    def __init__(self, sockets: UpstreamSockets, done: Callable[[Result, int], None]) -> None:
        super().__init__(sockets, self._validate_any)
        self._done = done
        self._rcode = 0

    def _validate_any(self, message: bytes, sent: Query, stream: bool) -> Forwarded | Rejected:
        self._rcode = message[3] & 0xF if len(message) > 3 else 0
        return validate_response(message, sent, _LIMITS, trusted=True, own=lambda name: False)

    def receive(self, result: Result) -> None:
        self._done(result, self._rcode)


class Attempt(Exchange):
    """Queries a server until it answers: again without EDNS, or over TCP, where its response calls for that.

    done gets the answer, or why there is none. first_began: when the first query was sent, of time.monotonic.
    """

    def __init__(
        self,
        server: UpstreamServer,
        question: Question,
        validate: Validate,
        done: Callable[[Attempt, Forwarded | Unanswered], None],
    ) -> None:
        super().__init__(server.sockets, validate)
        self.server = server
        self._question = question
        self._done = done
        self._edns, self._mix_case = server.abilities()
        self._simpler = False  # whether a simpler query than usual was sent
        self._only_case: Forwarded | None = None  # an answer whose only fault is the case of its question
        self._queries = 0
        server.asked += 1
        self._query()
        self.first_began = self.began

    def _query(self) -> None:
        self._queries += 1
        packet, sent = encode_query(self._question, edns=self._edns, mix_case=self._mix_case)
        self.send(self.server.upstream, packet, sent, None if self._only_case is None else _CASE_SECONDS)

    def receive(self, result: Result) -> None:
        server = self.server
        if isinstance(result, Exception):
            if self._only_case is not None:
                self._answer(self._only_case)
            elif isinstance(result, OSError):
                if not self.stream and not server.silent:  # over TCP it has just responded over UDP
                    server.check()
                self._fail(Unanswered(f"cannot be reached: {result}", final=self.stream))
            else:
                self._fail(Unanswered("internal error", final=True, fault=result))
            return
        server.note_response(None if self.stream else self.began)
        if isinstance(result, Forwarded):
            self._answer(result)
            return
        match result.verdict:
            case ResponseFault.NO_EDNS:
                self._edns, self._simpler = False, True
            case ResponseFault.TRUNCATED:
                self.stream = True
            case ResponseFault.OTHER_CASE:
                self.stream = self._simpler = True
                self._only_case = result.answer
            case _:
                self._queries = _MAX_QUERIES
        if self._queries < _MAX_QUERIES:
            self._query()
        else:
            self._fail(Unanswered(result.why, final=True))

    def _answer(self, found: Forwarded) -> None:
        self.server.answered += 1
        if self._simpler:
            self.server.check_abilities()
        self._done(self, found)

    def _fail(self, unanswered: Unanswered) -> None:
        self.server.failed += 1
        self.server.error = unanswered.why
        self._done(self, unanswered)
