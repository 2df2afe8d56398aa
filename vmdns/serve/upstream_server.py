"""One upstream server: what is known of it, and how a question is put to it."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from vmdns.core import wire
from vmdns.core.forwarded import Forwarded, Question
from vmdns.core.judge import Rejected, Verdict
from vmdns.core.upstream import Upstream
from vmdns.serve.upstream_socket import Sockets

# A server that fell silent is asked last for so many seconds; then one question tries it again.
PROBE_SECONDS = 15.0
# A server that three times running did not understand a thing is not troubled with it for so many seconds.
_QUIRK_STRIKES = 3
_QUIRK_SECONDS = 900.0
# As it is; without EDNS; over TCP; over TCP without EDNS.
_MOST_ROUNDS = 4

_RD, _AD, _CD = 0x0100, 0x0020, 0x0010
_PLAIN, _SIGNED = (wire.Edns(wire.UDP_SIZE, 0, signed, frozenset()) for signed in (False, True))
_LETTERS = bytes(0x20 if 0x61 <= byte <= 0x7A else 0 for byte in range(256))  # the bit of its case


class Judge(Protocol):
    """`core.judge.judge` with everything but the message filled in."""

    def __call__(self, message: bytes, sent: wire.Query, stream: bool) -> Forwarded | Rejected: ...


class First(Protocol):
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


class Quirk:
    """Something that a server may not understand: learned from failures in a row, forgotten after a while."""

    def __init__(self) -> None:
        self._strikes = 0
        self._until = 0.0

    def known(self, now: Callable[[], float]) -> bool:
        return self._until > 0 and now() < self._until

    def strike(self, now: float) -> None:
        self._strikes += 1
        if self._strikes >= _QUIRK_STRIKES:
            self._strikes, self._until = 0, now + _QUIRK_SECONDS

    def acquit(self) -> None:
        self._strikes = 0


class Server:
    """One upstream. now is a monotonic clock in seconds; recovered is called when it answers after a silence."""

    def __init__(
        self, upstream: Upstream, sockets: Sockets, now: Callable[[], float], recovered: Callable[[], None]
    ) -> None:
        self.upstream = upstream
        self.asked = self.answered = self.failed = 0
        self.error = ""
        self.round_trip: float | None = None
        self.silent = False
        self._sockets = sockets
        self._now = now
        self._recovered = recovered
        self._last_sign = float("-inf")
        self._avoid_until = 0.0
        self._no_edns = Quirk()
        self._flat_case = Quirk()

    def __str__(self) -> str:
        return str(self.upstream)

    async def ask(self, question: Question, judge: Judge, first: First | None = None) -> Forwarded:
        """Asks until it answers: a silent server is given up by cancelling. Raises `Unanswered`.

        first: a query that is under way, to go on from.
        """
        edns = not self._no_edns.known(self._now) if first is None else first.sent.edns is not None
        stream = other_case = flat = False
        why = ""
        self.asked += first is None
        for _ in range(_MOST_ROUNDS):
            try:
                if first is None:
                    verdict = await self._round(question, judge, edns, stream, flat)
                else:
                    verdict = await self._listen(first.outcome(), first.sent, first.begun, stream=False)
                    first = None
            except Unanswered:
                # It keeps no case, and takes no TCP: then it is asked as one that keeps none.
                if flat or not (stream and other_case):
                    raise
                stream, flat = False, True
                continue
            if isinstance(verdict, Forwarded):
                self._answers(edns)
                return verdict
            why = verdict.why
            match verdict.verdict:
                case Verdict.NO_EDNS:
                    self._no_edns.strike(self._now())
                    edns = False
                case Verdict.TRUNCATED:
                    stream = True
                case Verdict.OTHER_CASE:
                    self._flat_case.strike(self._now())
                    stream = other_case = True
                case _:
                    break
        raise self._fail(why, final=True)

    async def _round(
        self, question: Question, judge: Judge, edns: bool, stream: bool, flat: bool
    ) -> Forwarded | Rejected:
        packet, sent = self._query(question, edns, secrets.token_bytes, flat)
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
            # A lack of sockets is our own, and one who spoke over UDP a moment ago is not silent.
            if not stream and getattr(error, "errno", None) != errno.EMFILE:
                self._avoid()
            raise self._fail(f"cannot be reached: {error}", final=stream) from error
        now = self._now()
        self._alive(now)
        if not stream:
            self._spoke(sent, now - begun, understood=not isinstance(verdict, Rejected))
        return verdict

    def begin(self, question: Question, draw: Callable[[int], bytes]) -> tuple[bytes, wire.Query]:
        """The query to put to it first, which whoever calls this sends. draw gives random bytes."""
        self.asked += 1
        return self._query(question, not self._no_edns.known(self._now), draw)

    def answered_first(self, sent: wire.Query, begun: float) -> None:
        """Tells that such a query was answered."""
        now = self._now()
        self._alive(now)
        self._spoke(sent, now - begun, understood=True)
        self._answers(sent.edns is not None)

    def _answers(self, edns: bool) -> None:
        self.answered += 1
        if edns:
            self._no_edns.acquit()

    def _spoke(self, sent: wire.Query, took: float, *, understood: bool) -> None:
        if understood and sent.name != sent.key:
            self._flat_case.acquit()
        self.round_trip = took if self.round_trip is None else self.round_trip + (took - self.round_trip) / 8

    def _query(
        self, question: Question, edns: bool, draw: Callable[[int], bytes], flat: bool = False
    ) -> tuple[bytes, wire.Query]:
        """Its bytes and what they mean. AD asks for the AD bit of the answer without DNSSEC records (RFC 6840 section
        5.7)."""
        key, kind, signed, unchecked = question
        flags = _RD | _AD | (_CD if unchecked else 0)
        noise = draw(2 + len(key))
        ident = int.from_bytes(noise[:2], "big")
        name = key if flat or self._flat_case.known(self._now) else _mixed(key, noise[2:])
        packet = wire.make_query(ident, name, kind, flags=flags, dnssec_ok=signed, edns=edns)
        opt = (_SIGNED if signed else _PLAIN) if edns else None
        return packet, wire.Query(ident, flags, name, key, kind, wire.IN, packet[12 : 16 + len(name)], opt)

    def _fail(self, why: str, *, final: bool) -> Unanswered:
        self.failed += 1
        self.error = why
        return Unanswered(why, final=final)

    def forget_silence(self) -> None:
        """It may answer again: it is asked in its turn."""
        self.silent = False
        self._avoid_until = 0.0

    def _alive(self, now: float) -> None:
        self._last_sign = now
        self._avoid_until = 0.0
        if self.silent:
            self.silent = False
            self._recovered()

    def _avoid(self) -> None:
        self.silent = True
        self._avoid_until = self._now() + PROBE_SECONDS

    def no_reply_since(self, begun: float) -> None:
        """Tells that a question of that time still waits: a server that answered nothing since then is avoided.

        One slow name is no fault of the server's while it answers others.
        """
        if self._last_sign < begun and not self.silent:
            self._avoid()
            self.failed += 1
            self.error = "does not answer"

    def turn(self) -> float:
        """0 where it may be asked in its turn; else when it was last found silent, and it is asked after others.

        To whoever first comes after PROBE_SECONDS it says 0, so that one question probes it and the next do not.
        """
        now = self._now()
        if not self.silent:
            return 0.0
        if now >= self._avoid_until:
            self._avoid_until = now + PROBE_SECONDS
            return 0.0
        return self._avoid_until

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


def _mixed(name: bytes, noise: bytes) -> bytes:
    """The name with each letter in a random case, which the reply has to repeat (draft-vixie-dnsext-dns0x20)."""
    bits = int.from_bytes(noise, "big") & int.from_bytes(name.translate(_LETTERS), "big")
    return (int.from_bytes(name, "big") ^ bits).to_bytes(len(name), "big")


def in_turn(servers: tuple[Server, ...]) -> list[Server]:
    """The servers in the order to ask them: as configured, those that fell silent last."""
    if not any(server.silent for server in servers):
        return list(servers)
    turns = {server: server.turn() for server in servers}
    return sorted(servers, key=lambda server: turns[server])
