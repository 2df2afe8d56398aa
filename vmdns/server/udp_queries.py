"""Questions by UDP: answered in the threads that receive them, but for what waits for somebody."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from selectors import BaseSelector
from typing import Any

from vmdns.dns.cookie import COOKIE, FULL
from vmdns.dns.forwarded_answer import Failure, Forwarded, Question, refusal, render
from vmdns.dns.message import NXDOMAIN, SERVFAIL, Malformed, Query, bare_reply, parse_query, udp_limit
from vmdns.dns.truncation import put_on, take_off, truncated, udp_room
from vmdns.server.answer_cache import AnswerCache, Answers, find
from vmdns.server.client_limits import Asker, Gate
from vmdns.server.cookies import Cookies
from vmdns.server.counters import Counts
from vmdns.server.external_names import Others
from vmdns.server.first_query import FirstTries
from vmdns.server.flood_filter import MUTE_SECONDS, Mute
from vmdns.server.listeners import Listener
from vmdns.server.query_handler import Decisions
from vmdns.server.rate_limit import Verdict
from vmdns.server.udp import UdpThread
from vmdns.server.udp_listener import Door
from vmdns.state.snapshot import Right, Snapshot

log = logging.getLogger(__name__)

Peer = tuple[Any, ...]
Make = Callable[[Forwarded | Failure], bytes]  # the response of what is known

MOST_ASKERS = 4096
MOST_PENDING = 10_000  # datagrams that wait for the event loop; more are not answered, and asked again

_OUR_COOKIE = struct.pack("!HH", COOKIE, FULL)  # how the option begins
_NEVER_WAIT = getattr(socket, "MSG_DONTWAIT", 0)


class Datagrams:
    """spawn runs in the event loop what takes others."""

    def __init__(
        self,
        current: Callable[[], Snapshot],
        decisions: Decisions,
        others: Others,
        gate: Gate,
        cookies: Cookies,
        spawn: Callable[[Awaitable[None]], object],
    ) -> None:
        self._current = current
        self._decisions = decisions
        self._others = others
        self._gate = gate
        self._cookies = cookies
        self._spawn = spawn
        self._counts = decisions.counts
        self._closed = Counts()
        self.answer_cache = AnswerCache()
        self._thread: UdpThread | None = None  # while it has a listener
        self._doors: dict[Listener, Door] = {}
        self._mutes: dict[Listener, Mute] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: deque[tuple[Query, bytes, Peer, Listener]] = deque()
        self._woken = False
        # Who asked lately: (peer, the host's address that it asked at) -> when, in seconds of time.monotonic.
        self.askers: dict[tuple[str, str], float] = {}

    @property
    def counts(self) -> Counts:
        """What the threads did by themselves; the rest is among the counts of the decisions."""
        return self._closed if self._thread is None else self._closed + self._thread.counts

    @property
    def path(self) -> str:
        """How datagrams are taken: in batches, one by one, or both."""
        return " and ".join(sorted({door.path for door in self._doors.values()}))

    def open(self, listener: Listener, *, batches: bool) -> None:
        """Answers on it from now on."""
        self._loop = asyncio.get_running_loop()
        if not self._doors:
            self.answer_cache.publish(self._current())
        self._mutes[listener] = Mute(listener.udp)
        if self._thread is None:
            self._thread = UdpThread(self.answer_cache, self.cached_answers, self.ask, self._tries)
        self._doors[listener] = self._thread.open(listener, batches=batches)

    def close(self, listener: Listener) -> None:
        """Answers on it no more."""
        door = self._doors.pop(listener)
        self._mutes.pop(listener).lift(math.inf)
        if self._thread is not None and self._thread.close(door):
            self._closed += self._thread.counts
            self._thread = None

    def _tries(self, selector: BaseSelector) -> FirstTries | None:
        return self._others.tries(selector) if self._others.tries is not None else None

    def _lift(self, listener: Listener) -> None:
        if listener in self._mutes:
            self._gate.lift(self._mutes[listener])

    def publish(self, snapshot: Snapshot) -> None:
        """This snapshot is in force."""
        self.answer_cache.publish(snapshot)
        for door in self._doors.values():
            door.forget_askers()

    # -- in the threads of the listeners -----------------------------------------------------------------------

    def cached_answers(self, listener: Listener, peer: str) -> Answers | None:
        """The cached answers for this peer; None where every query must be looked at."""
        if len(self.askers) >= MOST_ASKERS:
            self.askers.clear()
        self.askers[peer, listener.address] = time.monotonic()
        snapshot = self._current()
        right = snapshot.right(listener.address, peer)
        if right in (Right.UNKNOWN, Right.NOTHING):
            return None
        asker = self._gate.asker(listener.address, peer)
        if asker is not None and not asker.own:
            return None
        return self.answer_cache.view((snapshot.view(listener.address, peer), right))

    def ask(self, packet: bytes, peer: Peer, listener: Listener) -> bytes | None:
        """The response without its id; None for silence, or for later. For who is counted, and for what does not stand
        ready as it was written."""
        asker = self._gate.asker(listener.address, peer[0])
        if asker is not None and (verdict := self._gate.admit(asker, peer[1])) is not Verdict.SEND:
            proven = self._proven(packet, peer, listener)
            if proven is None:
                return self._beyond_rate(packet, asker, verdict, listener)
            asker = proven
        made = self._stored(packet, peer, listener, asker)
        if made is None:
            if asker is not None:
                asker.charge()
            made = self.answer(packet, peer, listener)
        if made is None or asker is None or asker.own:
            return made
        passed = self._gate.passes(asker, packet[:2] + made, len(packet))
        return passed[2:] if passed is not None else None

    def _proven(self, packet: bytes, peer: Peer, listener: Listener) -> Asker | None:
        """Who sent a query, where a valid cookie proves it and its own rate allows it."""
        if not self._cookies.is_valid(_cookie(packet), peer[0]):
            return None
        self._gate.prove(peer[0])
        asker = self._gate.asker(listener.address, peer[0], proven=True)
        return asker if asker is not None and self._gate.admit(asker, peer[1]) is Verdict.SEND else None

    def _beyond_rate(self, packet: bytes, asker: Asker, verdict: Verdict, listener: Listener) -> bytes | None:
        """The response without its id to one query too many: empty with TC, or none."""
        self._counts.silenced += 1
        if self._gate.floods(asker, self._mutes[listener]) and self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, MUTE_SECONDS + 0.01, self._lift, listener)
        empty = truncated(packet) if verdict is Verdict.CUT else None
        return empty[2:] if empty is not None else None

    def _stored(self, packet: bytes, peer: Peer, listener: Listener, asker: Asker | None) -> bytes | None:
        """What stands ready for who is counted, and for what has a cookie, which is different each time."""
        plain, cookie = take_off(packet)
        if asker is None and not cookie:
            return None
        snapshot = self._current()
        sort = snapshot.view(listener.address, peer[0]), snapshot.right(listener.address, peer[0])
        if sort[1] not in (Right.ALL, Right.NAMES):
            return None
        found = find(self.answer_cache.view(sort), plain)
        if found is not None and cookie:
            told, proves = self._cookies.meet(cookie, peer[0])
            if proves:
                self._gate.prove(peer[0])
            found = put_on(found, told, udp_room(plain))
        if found is not None:
            self._counts.queries += 1
            self._counts.answered += 1
        return found

    def answer(self, packet: bytes, peer: Peer, listener: Listener) -> bytes | None:
        """The response without its id, where our own zones make it at once; None for silence or for later."""
        self._counts.queries += 1
        try:
            return self._answer(packet, peer, listener)
        except Exception:
            log.exception("a question could not be answered")
            self._counts.failed += 1
            return bare_reply(packet, SERVFAIL)[2:] if len(packet) >= 12 else None

    def _answer(self, packet: bytes, peer: Peer, listener: Listener) -> bytes | None:
        snapshot = self._current()
        asker = snapshot.view(listener.address, peer[0]), snapshot.right(listener.address, peer[0])
        try:
            query = parse_query(packet)
        except Malformed as malformed:
            self._counts.malformed += 1
            return malformed.reply[2:] if malformed.reply is not None else None
        query = self._cookies.told(query, peer[0])
        if query.proven:
            self._gate.prove(peer[0])
        limit = udp_limit(query)
        response, reply = self._decisions.decide(query, peer[0], listener.address, limit)
        if response is None:
            if reply is None and asker[1] is Right.ALL and refusal(query) is None:
                counted = self._gate.asker(listener.address, peer[0], query.proven)
                if not self._gate.may_miss(counted):
                    return (self._others.cached(query, limit) or self._decisions.too_many(query, limit, counted))[2:]
                made = self._miss(Question.of(query), partial(render, query, limit=limit), peer, listener, counted)
                if not isinstance(made, bool):
                    self._store_forwarded(query, packet, made, peer, listener)
                    return made[2:]
                if made:
                    return None
            self._hand_over(query, packet, peer, listener)
            return None
        if reply is not None and self._decisions.may_be_elsewhere(query, reply, snapshot):
            self._store_forwarded(query, packet, response, peer, listener, snapshot)
        elif reply is not None and _is_plain(query, packet):
            self.answer_cache.store(asker, snapshot, _key(query, packet), _lowered(query, response))
        return response[2:]

    def _miss(
        self, question: Question, make: Make, peer: Peer, listener: Listener, asker: Asker | None
    ) -> bytes | bool:
        """The response that `make` makes of what is known; else whether it was asked for, and will be sent."""
        thread = self._thread
        if self._others.begin is None or thread is None or thread.tries is None:
            return False
        post = self._post if asker is None else partial(self._post_counted, asker)
        found = self._others.begin(question, lambda found: post(listener, peer, make(found)), thread.tries)
        self._counts.forwarded += found is not False
        if found is True:
            self._gate.missed(asker)
        return found if isinstance(found, bool) else make(found)

    def _hand_over(self, query: Query, packet: bytes, peer: Peer, listener: Listener) -> None:
        """Has the event loop answer it."""
        if len(self._pending) >= MOST_PENDING or self._loop is None:
            self._counts.failed += 1
            return
        self._pending.append((query, packet, peer, listener))
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self.go_on)
            except RuntimeError:  # the loop is closed: this is the end
                self._pending.clear()

    # -- in the event loop --------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Goes on with the questions that the threads handed over."""
        self._woken = False  # first: what is put in from now on wakes the loop again
        for _ in range(len(self._pending)):
            try:
                self._take(*self._pending.popleft())
            except Exception:
                log.exception("a question could not be answered")
                self._counts.failed += 1

    def _take(self, query: Query, packet: bytes, peer: Peer, listener: Listener) -> None:
        limit, snapshot = udp_limit(query), self._current()
        response, reply = self._decisions.decide(query, peer[0], listener.address, limit)
        onward = response or self._decisions.onward(query, reply, peer[0], listener.address, limit)
        if not isinstance(onward, bytes):
            # What others on the links say of a name stays known for a moment, above all that nobody has it.
            relayed = reply is not None and reply.chase is None
            kept = snapshot if relayed else None
            self._spawn(self._finish_udp(listener, onward, query, packet, peer, kept))
            return
        self._send(listener, onward, peer)
        if response is None and reply is None:
            self._store_forwarded(query, packet, onward, peer, listener)

    async def _finish_udp(
        self,
        listener: Listener,
        coming: Awaitable[bytes],
        query: Query,
        packet: bytes,
        peer: Peer,
        snapshot: Snapshot | None,
    ) -> None:
        response = await coming
        self._send(listener, response, peer)
        if snapshot is not None:
            self._store_forwarded(query, packet, response, peer, listener, snapshot)

    def _store_forwarded(
        self,
        query: Query,
        packet: bytes,
        response: bytes,
        peer: Peer,
        listener: Listener,
        absent_in: Snapshot | None = None,
    ) -> None:
        """Caches a response for a second. absent_in: the snapshot that has no such name, where others on a link may
        have it."""
        counted = self._gate.asker(listener.address, peer[0])
        if counted is not None and not counted.own and response[3] & 0xF == SERVFAIL:
            return  # one client's budget was used up: it says nothing of others that are answered alike
        if _is_plain(query, packet):
            snapshot = self._current()
            asker = snapshot.view(listener.address, peer[0]), snapshot.right(listener.address, peer[0])
            key, lowered = _key(query, packet), _lowered(query, response)
            if absent_in is not None and response[3] & 0xF == NXDOMAIN:
                self.answer_cache.store_absent(asker, absent_in, key, lowered)
            else:
                self.answer_cache.store_forwarded(asker, key, lowered)

    def _send(self, listener: Listener, reply: bytes, peer: Peer) -> None:
        passed = self._gate.passes(self._gate.asker(listener.address, peer[0]), reply)
        if passed is None:
            self._counts.silenced += 1
            return
        try:
            listener.udp.sendto(passed, _NEVER_WAIT, peer)
        except OSError:
            self._counts.failed += 1  # a full buffer or a peer that went away: it asks again

    def _post_counted(self, asker: Asker, listener: Listener, peer: Peer, reply: bytes) -> None:
        """The same for who is counted."""
        self._gate.met(asker)
        if asker.own:
            self._post(listener, peer, reply)
        else:
            self._send(listener, reply, peer)

    def _post(self, listener: Listener, peer: Peer, reply: bytes) -> None:
        """Sends it, together with others where a thread that receives says it."""
        door = self._doors.get(listener)
        if door is None or not door.outbox.put(reply, peer):
            self._send(listener, reply, peer)


def _is_plain(query: Query, packet: bytes) -> bool:
    """Whether the packet is a question and at most an OPT record without options: of those there are few kinds."""
    length = 12 + len(query.question)
    if query.edns is None:
        return len(packet) == length
    return len(packet) == length + 11 and not query.edns.options and packet[length] == 0


def _cookie(packet: bytes) -> bytes:
    """The data of the COOKIE option of a query, where it is as long as ours; nothing where there is none such, or the
    packet cannot be read."""
    if _OUR_COOKIE not in packet:
        return b""
    cookie = take_off(packet)[1]
    if cookie:
        return cookie
    try:
        query = parse_query(packet)
    except Malformed:
        return b""
    return query.edns.cookie if query.edns is not None else b""


def _key(query: Query, packet: bytes) -> bytes:
    return packet[2:12] + query.key + packet[12 + len(query.key) :]


def _lowered(query: Query, response: bytes) -> bytes:
    """The response without its id, as it is to the name in lower case: names after it point to it."""
    return response[2:12] + query.key + response[12 + len(query.key) :]
