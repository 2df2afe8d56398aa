"""One upstream server: its state, how it is queried, and probes of it. Used in the UDP thread alone.

The response to a client's query never changes how later queries are sent, since clients can query names to which a
server responds badly or not at all. It starts a probe, and only the response to that changes something.
"""

from __future__ import annotations

import contextlib
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
from vmdns.server.upstream_exchange import Exchange, Result, UpstreamSockets, Validate, encode_query

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
        # Whether it takes queries with an OPT record (RFC 6891), and repeats the case of the question.
        self.edns = self.mix_case = True
        self._now = now
        self._recovered = recovered
        self._last_response = float("-inf")  # of time.monotonic
        self._probe_after = 0.0
        self._probe: Exchange | None = None  # the probe in flight
        self._abilities_until = float("inf")
        self._check_after = float("-inf")

    def __str__(self) -> str:
        return str(self.upstream)

    def refresh(self) -> None:
        """Forgets missing abilities after a while, and probes an unresponsive server now and then."""
        now = self._now()
        if now >= self._abilities_until:
            self.edns = self.mix_case = True
            self._abilities_until = float("inf")
        if self.silent and now >= self._probe_after:
            self._probe_after = now + PROBE_SECONDS
            self.check()

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
        self.edns, self.mix_case = not no_edns, not flat_case
        self._abilities_until = self._now() + _ABILITIES_SECONDS

    def _send_probe(self, edns: bool) -> None:
        while True:
            query = encode_query(_PROBE, edns=edns, mix_case=True)
            if query[1].name != query[1].key:  # a name that happens to be in lower case would show nothing about case
                break
        rcode = 0

        def validate(message: bytes, sent: Query, stream: bool) -> Forwarded | Rejected:
            nonlocal rcode
            rcode = message[3] & 0xF if len(message) > 3 else 0
            return validate_response(message, sent, _LIMITS, trusted=True, own=lambda name: False)

        self._probe = Exchange(
            self.sockets, self.upstream, query, validate, lambda result: self._receive(result, rcode), timeout=_TIMEOUT
        )

    def _receive(self, result: Result, rcode: int) -> None:
        self._probe = None
        if not isinstance(result, Exception):
            self.note_response()
            with contextlib.suppress(StopIteration):
                self._send_probe(self._probes.send((getattr(result, "verdict", None), rcode)))
        elif getattr(result, "errno", None) != errno.EMFILE:  # too few sockets is our own fault
            self.silent = True
            self._probe_after = self._now() + PROBE_SECONDS
            self.failed += 1
            self.error = "does not answer" if isinstance(result, TimeoutError) else f"cannot be reached: {result}"

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


class Attempt:
    """Queries a server until it answers: again without EDNS, or over TCP, where its response calls for that."""

    def __init__(
        self,
        server: UpstreamServer,
        question: Question,
        validate: Validate,
        done: Callable[[Attempt, Forwarded | Unanswered], None],
    ) -> None:
        self.server = server
        self._question = question
        self._validate = validate
        self._done = done
        self._edns = self._with_edns = server.edns
        self._stream = self._other_case = False
        self._only_case: Forwarded | None = None  # an answer whose only fault is the case of its question
        self._queries = 0
        server.asked += 1
        self._send()
        self.began = self._exchange.began

    def close(self) -> None:
        """Ends it; nothing is called any more."""
        self._exchange.close()

    def _send(self) -> None:
        self._queries += 1
        server = self.server
        self._exchange = Exchange(
            server.sockets,
            server.upstream,
            encode_query(self._question, edns=self._edns, mix_case=server.mix_case),
            self._validate,
            self._receive,
            stream=self._stream,
            timeout=None if self._only_case is None else _CASE_SECONDS,
        )

    def _receive(self, result: Result) -> None:
        server = self.server
        if isinstance(result, Exception):
            if self._only_case is not None:
                self._answer(self._only_case)
            elif isinstance(result, OSError):
                if not self._stream and not server.silent:  # over TCP it has just responded over UDP
                    server.check()
                self._fail(Unanswered(f"cannot be reached: {result}", final=self._stream))
            else:
                self._fail(Unanswered("internal error", final=True, fault=result))
            return
        server.note_response(None if self._stream else self._exchange.began)
        if isinstance(result, Forwarded):
            self._answer(result)
            return
        match result.verdict:
            case ResponseFault.NO_EDNS:
                self._edns = False
            case ResponseFault.TRUNCATED:
                self._stream = True
            case ResponseFault.OTHER_CASE:
                self._stream = self._other_case = True
                self._only_case = result.answer
            case _:
                self._queries = _MAX_QUERIES
        if self._queries < _MAX_QUERIES:
            self._send()
        else:
            self._fail(Unanswered(result.why, final=True))

    def _answer(self, found: Forwarded) -> None:
        self.server.answered += 1
        if self._other_case or self._edns != self._with_edns:  # a simpler query had more success
            self.server.check_abilities()
        self._done(self, found)

    def _fail(self, unanswered: Unanswered) -> None:
        self.server.failed += 1
        self.server.error = unanswered.why
        self._done(self, unanswered)
