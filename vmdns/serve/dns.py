"""The DNS server: UDP and TCP on every listener (RFC 1035 section 4.2, RFC 7766).

Datagrams are taken by a thread for each listener (`udp`), which sends what stands ready (`memo`) and makes what our own
zones answer; all that waits for somebody goes on in the event loop. A packet can never raise past this file: what
cannot be read gets FORMERR or silence, what fails gets SERVFAIL.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from vmdns.core.answer import Reply, answer
from vmdns.core.cut import put_on, take_off, udp_room
from vmdns.core.forwarded import EDE_OTHER, Failure, Forwarded, Question, refusal, render
from vmdns.core.limits import Limits
from vmdns.core.mdns_links import may_ask
from vmdns.core.node import address_record
from vmdns.core.quick import quick
from vmdns.core.quick_foreign import Foreign, foreign
from vmdns.core.snapshot import Right, Snapshot
from vmdns.core.view import View
from vmdns.core.wire import (
    AAAA,
    NOERROR,
    NXDOMAIN,
    REFUSED,
    SERVFAIL,
    A,
    Malformed,
    Query,
    Record,
    bare_reply,
    parse_query,
    respond,
    udp_limit,
    with_keepalive,
)
from vmdns.serve.asked import Asked, Make, response
from vmdns.serve.cookies import Cookies
from vmdns.serve.counts import Counts
from vmdns.serve.first_try import FirstTries
from vmdns.serve.flights import Waiter
from vmdns.serve.gate import Asker, Gate
from vmdns.serve.listeners import Listener
from vmdns.serve.memo import Memo, find
from vmdns.serve.mute import MUTE_SECONDS, Mute
from vmdns.serve.tcp import Connections
from vmdns.serve.udp import Receiver

log = logging.getLogger(__name__)

TCP_LIMIT = 65_535
EDE_PROHIBITED = 18
MOST_ASKERS = 4096
MOST_PENDING = 10_000  # datagrams that wait for the event loop; more are not answered, and asked again

_NEVER_WAIT = getattr(socket, "MSG_DONTWAIT", 0)

Forward = Callable[[Query, int], Awaitable[bytes]]
Cached = Callable[[Query, int], bytes | None]
# What is known; else whether it was asked by the tries of the calling thread, and the waiter will be told.
Begin = Callable[[Question, Waiter, FirstTries], Forwarded | Failure | bool]
Chase = Callable[[Query, Reply, bytes, int], Awaitable[bytes]]
# The addresses that others on the host's links have for a name, None where nobody has the name.
Relay = Callable[[bytes, int], Awaitable[tuple[str, ...] | None]]
# Waits until the peer with this address is known to be a guest, or for long enough.
Admit = Callable[[str], Awaitable[None]]
Peer = tuple[Any, ...]


class DnsServer:
    """Answers on its listeners from the current snapshot, and hands on what is not ours."""

    def __init__(
        self,
        current: Callable[[], Snapshot],
        cached: Cached,
        forward: Forward,
        chase: Chase,
        admit: Admit,
        limits: Limits,
    ) -> None:
        self._current = current
        self._cached = cached
        self._forward = forward
        self._chase = chase
        self._admit = admit
        self.limits = limits
        # Who asks others on the links for X.local, and whether that is worth it; None where nobody is asked.
        self.relay: Relay | None = None
        self.worth: Callable[[bytes], bool] = lambda name: True
        # Asking upstreams in the threads that receive datagrams; None where the event loop does it all.
        self.begin: Begin | None = None
        self.tries: Callable[[int], FirstTries | None] | None = None
        self.settle: Callable[[float], Awaitable[None]] | None = None
        self._tries: dict[Listener, FirstTries] = {}
        self._mutes: dict[Listener, Mute] = {}
        self._counts = Counts()
        self._memo = Memo()
        self._listeners: dict[Listener, tuple[Receiver, asyncio.Task[None]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: deque[tuple[Query, bytes, Peer, Listener]] = deque()
        self._woken = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._cookies = Cookies()
        self._gate = Gate(current, lambda: self.limits)
        self._connections = Connections(self.handle, self._spawn, lambda: self.limits, self._counts)
        self._connections.met, self._connections.key = self._gate.prove, self._gate.key
        # Who asked lately: (peer, the host's address that it asked at) -> when, in seconds of time.monotonic.
        self.askers: dict[tuple[str, str], float] = {}

    # -- listeners --------------------------------------------------------------------------------------------

    @property
    def listeners(self) -> list[Listener]:
        return list(self._listeners)

    @property
    def connections(self) -> int:
        """How many TCP connections are open."""
        return len(self._connections)

    @property
    def counts(self) -> Counts:
        """What was done since the start, by all listeners that are open."""
        return sum((receiver.counts for receiver, _ in self._listeners.values()), self._counts)

    @property
    def path(self) -> str:
        """How datagrams are taken: in batches, one by one, or both."""
        return " and ".join(sorted({receiver.path for receiver, _ in self._listeners.values()}))

    def open(self, listener: Listener, *, batches: bool = True) -> None:
        """Answers on it from now on. batches: whether datagrams are taken by the dozen where the system can."""
        self._loop = asyncio.get_running_loop()
        if not self._listeners:
            self._memo.publish(self._current(), None)
        tries = self.tries(listener.udp.fileno()) if self.tries is not None else None
        if tries is not None:
            self._tries[listener] = tries
        self._mutes[listener] = Mute(listener.udp)
        receiver = Receiver(listener, self._memo, self._ready, self._ask, tries, batches=batches)
        self._listeners[listener] = receiver, self._loop.create_task(self._connections.accept(listener))

    def close(self, listener: Listener) -> None:
        """Answers on it no more; connections that are open stay."""
        self._deafen(listener)
        listener.close()

    def _deafen(self, listener: Listener) -> None:
        receiver, accepting = self._listeners.pop(listener)
        self._mutes[listener].lift(math.inf)  # also for the datagram that ends the thread
        receiver.stop()
        del self._mutes[listener]
        self._tries.pop(listener, None)
        self._counts += receiver.counts
        accepting.cancel()
        # Before it is closed: its number may belong to another socket the next moment.
        asyncio.get_running_loop().remove_reader(listener.tcp)

    def _lift(self, listener: Listener) -> None:
        if listener in self._mutes:
            self._gate.lift(self._mutes[listener])

    async def stop(self, grace: float = 1.0) -> None:
        """Closes everything; questions under way have `grace` seconds to be answered."""
        listeners = self.listeners
        for listener in listeners:
            self._deafen(listener)
        self._go_on()
        if self.settle is not None:
            self._spawn(self.settle(grace))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for listener in listeners:
            listener.close()
        for task in self._tasks:
            task.cancel()
        await self._connections.close(grace)

    def publish(self, snapshot: Snapshot, changed: Iterable[bytes] | None) -> None:
        """This snapshot is in force, in which these names (wire, lower case) are answered otherwise; None for all."""
        self._memo.publish(snapshot, changed)
        self._gate.forget_askers()
        for receiver, _ in self._listeners.values():
            receiver.forget_askers()

    # -- one question -----------------------------------------------------------------------------------------

    def handle(self, packet: bytes, peer: str, local: str, tcp: bool) -> bytes | Awaitable[bytes] | None:
        """The response, one that is still to come, or None for silence. Never raises. Runs in the event loop."""
        self._counts.queries += 1
        try:
            query = parse_query(packet)
        except Malformed as malformed:
            self._counts.malformed += 1
            return malformed.reply
        query, _ = self._cookies.told(query, peer)
        if tcp:
            query = with_keepalive(query, self.limits.tcp_idle)
        limit = TCP_LIMIT if tcp else udp_limit(query)
        try:
            response, reply = self._decide(query, peer, local, limit)
            return self._onward(query, reply, peer, local, limit) if response is None else response
        except Exception:
            log.exception("a question could not be answered")
            self._counts.failed += 1
            return bare_reply(packet, SERVFAIL)

    def _decide(self, query: Query, peer: str, local: str, limit: int) -> tuple[bytes | None, Reply | None]:
        """The response where it takes nobody else, else None; and what our zones say."""
        snapshot = self._current()
        right = snapshot.right(local, peer)
        if right is Right.UNKNOWN:
            return None, None
        if right is Right.NOTHING:
            return self._refuse(query, limit, f"{peer} is no guest of this host"), None
        reply = answer(query, snapshot, snapshot.view(local, peer))
        may = right is Right.ALL
        if may and reply is not None and self._may_relay(query, reply, snapshot):
            return None, reply
        if reply is not None and (reply.chase is None or not may or not query.recursion_desired):
            self._counts.answered += 1
            return self._render(query, reply, limit, may), reply
        if not may:
            return self._refuse(query, limit, f"{peer} may ask for local names only"), None
        return None, reply

    def _onward(self, query: Query, reply: Reply | None, peer: str, local: str, limit: int) -> bytes | Awaitable[bytes]:
        """What takes others: an upstream, or to find out who asks."""
        if self._current().right(local, peer) is not Right.ALL:
            return self._surely(query, limit, self._later(query, peer, local, limit))
        asker = self._gate.asker(local, peer)
        if reply is not None and reply.chase is None:
            if not self._gate.may_miss(asker):
                return self._render(query, reply, limit, recursion_available=True)
            return self._surely(query, limit, self._others(asker, self._relayed(query, reply, limit)))
        self._counts.forwarded += 1
        if reply is None:
            cached = self._cached(query, limit)
            if cached is not None:
                return cached
        if not self._gate.may_miss(asker):
            return self._too_many(query, limit, asker)
        if reply is not None and reply.chase is not None:
            return self._surely(query, limit, self._others(asker, self._chase(query, reply, reply.chase, limit)))
        return self._surely(query, limit, self._others(asker, self._forward(query, limit)))

    async def _others(self, asker: Asker | None, response: Awaitable[bytes]) -> bytes:
        """What others say, counted for the asker."""
        self._gate.missed(asker)
        try:
            return await response
        finally:
            self._gate.met(asker)

    def _too_many(self, query: Query, limit: int, asker: Asker | None) -> bytes:
        if asker is not None:
            asker.charge_in_vain()
        self._counts.failed += 1
        return respond(query, SERVFAIL, limit=limit, extended_error=(EDE_OTHER, "too many questions for others"))

    async def _later(self, query: Query, peer: str, local: str, limit: int) -> bytes:
        """A neighbour on a LAN that nothing is known of: its question itself may tell which VM it is."""
        await self._admit(peer)
        response, reply = self._decide(query, peer, local, limit)
        if response is not None:
            return response
        if self._current().right(local, peer) is not Right.ALL:
            return self._refuse(query, limit, f"{peer} is no guest of this host")
        onward = self._onward(query, reply, peer, local, limit)
        return onward if isinstance(onward, bytes) else await onward

    def _may_relay(self, query: Query, reply: Reply, snapshot: Snapshot) -> bool:
        """Whether others may have a name that no VM has: also one that is off has its name."""
        return self._may_be_elsewhere(query, reply, snapshot) and self.worth(query.key)

    def _may_be_elsewhere(self, query: Query, reply: Reply, snapshot: Snapshot) -> bool:
        absent = reply.rcode == NXDOMAIN and not reply.answer and query.key not in snapshot.absent
        return absent and self.relay is not None and query.type in (A, AAAA) and may_ask(query.key)

    async def _relayed(self, query: Query, reply: Reply, limit: int) -> bytes:
        """What others on the host's links say of a name in `local` (left to the server by RFC 6762 section 22.1)."""
        found = await self.relay(query.key, query.type) if self.relay is not None else None
        self._counts.answered += 1
        if found is not None:
            records = [Record(query.name, query.type, self.limits.ttl, address_record(one)[1]) for one in found]
            authority = () if records else reply.authority
            reply = Reply(answer=tuple(records), authority=authority, authoritative=False)
        return self._render(query, reply, limit, recursion_available=True)

    def _refuse(self, query: Query, limit: int, why: str) -> bytes:
        self._counts.refused += 1
        return respond(query, REFUSED, limit=limit, recursion_available=False, extended_error=(EDE_PROHIBITED, why))

    async def _surely(self, query: Query, limit: int, response: Awaitable[bytes]) -> bytes:
        try:
            return await response
        except Exception:
            log.exception("a question could not be forwarded")
            self._counts.failed += 1
            return respond(query, SERVFAIL, limit=limit)

    def _render(self, query: Query, reply: Reply, limit: int, recursion_available: bool) -> bytes:
        return respond(
            query,
            reply.rcode,
            limit=limit,
            authoritative=reply.authoritative,
            recursion_available=recursion_available,
            answer=reply.answer,
            authority=reply.authority,
            extended_error=reply.extended_error,
        )

    # -- UDP: in the threads of the listeners ------------------------------------------------------------------

    def _ready(self, listener: Listener, peer: str) -> dict[bytes, bytes] | None:
        """The responses that stand ready for this peer; None where every question must be looked at."""
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
        return self._memo.of((snapshot.view(listener.address, peer), right))

    def _ask(self, packet: bytes, peer: Peer, listener: Listener) -> bytes | None:
        """The response without its id; None for silence, or for later. For who is counted, and for what does not stand
        ready as it was written."""
        asker = self._gate.asker(listener.address, peer[0])
        if asker is not None and not self._gate.admit(asker, peer[1]):
            self._counts.silenced += 1
            if self._gate.floods(asker, self._mutes[listener]) and self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.call_later, MUTE_SECONDS + 0.01, self._lift, listener)
            return None
        made = self._stored(packet, peer, listener, asker)
        if made is None:
            if asker is not None:
                asker.charge()
            made = self._quick(packet, peer, listener)
        if made is None or asker is None or asker.own:
            return made
        passed = self._gate.passes(asker, packet[:2] + made, len(packet))
        return passed[2:] if passed is not None else None

    def _stored(self, packet: bytes, peer: Peer, listener: Listener, asker: Asker | None) -> bytes | None:
        """What stands ready for who is counted, and for what has a cookie, which is different each time."""
        plain, cookie = take_off(packet)
        if asker is None and not cookie:
            return None
        snapshot = self._current()
        sort = snapshot.view(listener.address, peer[0]), snapshot.right(listener.address, peer[0])
        if sort[1] not in (Right.ALL, Right.NAMES):
            return None
        found = find(self._memo.of(sort), plain)
        if found is None and cookie:
            found = self._made(plain, snapshot, sort)
        if found is not None and cookie:
            told, proves = self._cookies.meet(cookie, peer[0])
            if proves:
                self._gate.prove(peer[0])
            found = put_on(found, told, udp_room(plain))
        if found is not None:
            self._counts.queries += 1
            self._counts.answered += 1
        return found

    def _made(self, packet: bytes, snapshot: Snapshot, sort: tuple[View, Right]) -> bytes | None:
        """The response without its id that the quick path makes, kept for others."""
        if len(packet) <= 12 or sort[1] not in (Right.ALL, Right.NAMES):
            return None
        found = quick(packet, snapshot, sort[0], sort[1] is Right.ALL)
        if found is None:
            return None
        response, name, about = found
        end = 12 + len(name)
        self._memo.keep(sort, snapshot, packet[2:12] + name + packet[end:], response, about)
        return response[:10] + packet[12:end] + response[end - 2 :]

    def _quick(self, packet: bytes, peer: Peer, listener: Listener) -> bytes | None:
        """The response without its id, where our own zones make it at once; None for silence or for later."""
        self._counts.queries += 1
        try:
            snapshot = self._current()
            asker = snapshot.view(listener.address, peer[0]), snapshot.right(listener.address, peer[0])
            made = self._made(packet, snapshot, asker)
            if made is None:
                asked = foreign(packet, snapshot) if asker[1] is Right.ALL else None
                if asked is not None and self._gate.may_miss(self._gate.asker(listener.address, peer[0])):
                    return self._abroad(asked, peer, listener, asker)
                return self._slow(packet, peer, listener, snapshot, asker)
        except Exception:
            log.exception("a question could not be answered")
            self._counts.failed += 1
            return bare_reply(packet, SERVFAIL)[2:] if len(packet) >= 12 else None
        self._counts.answered += 1
        return made

    def _slow(
        self, packet: bytes, peer: Peer, listener: Listener, snapshot: Snapshot, asker: tuple[View, Right]
    ) -> bytes | None:
        """The same for any packet."""
        try:
            query = parse_query(packet)
        except Malformed as malformed:
            self._counts.malformed += 1
            return malformed.reply[2:] if malformed.reply is not None else None
        query, proves = self._cookies.told(query, peer[0])
        if proves:
            self._gate.prove(peer[0])
        limit = udp_limit(query)
        response, reply = self._decide(query, peer[0], listener.address, limit)
        if response is None:
            if reply is None and asker[1] is Right.ALL and refusal(query) is None:
                counted = self._gate.asker(listener.address, peer[0])
                if not self._gate.may_miss(counted):
                    return (self._cached(query, limit) or self._too_many(query, limit, counted))[2:]
                made = self._miss(Question.of(query), partial(render, query, limit=limit), peer, listener)
                if not isinstance(made, bool):
                    self._keep_passing(query, packet, made, peer, listener)
                    return made[2:]
                if made:
                    return None
            self._hand_over(query, packet, peer, listener)
            return None
        if reply is not None and self._may_be_elsewhere(query, reply, snapshot):
            self._keep_passing(query, packet, response, peer, listener)
        elif reply is not None and _is_plain(query, packet):
            about = _about(query, reply, snapshot)
            self._memo.keep(asker, snapshot, _key(query, packet), _lowered(query, response), about)
        return response[2:]

    def _abroad(self, asked: Foreign, peer: Peer, listener: Listener, asker: tuple[View, Right]) -> bytes | None:
        """The response without its id to a common question for others, where one is known."""
        packet, end, key = asked.packet, asked.end, asked.question.name
        made = self._miss(asked.question, partial(response, asked), peer, listener)
        if made is False:
            self._hand_over(parse_query(packet), packet, peer, listener)
        if isinstance(made, bool):
            return None
        self._memo.keep_passing(asker, packet[2:12] + key + packet[end:], made[2:12] + key + made[end:])
        return made[2:]

    def _miss(self, question: Question, make: Make, peer: Peer, listener: Listener) -> bytes | bool:
        """The response that `make` makes of what is known; else whether it was asked for, and will be sent."""
        tries = self._tries.get(listener)
        if self.begin is None or tries is None:
            return False
        asker = self._gate.asker(listener.address, peer[0])
        post = self._post if asker is None else partial(self._post_counted, asker)
        found = self.begin(question, Asked(make, listener, peer, post), tries)
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
                self._loop.call_soon_threadsafe(self._go_on)
            except RuntimeError:  # the loop is closed: this is the end
                self._pending.clear()

    # -- UDP: in the event loop -------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Goes on with the questions that the threads handed over."""
        self._woken = False  # first: what is put in from now on wakes the loop again
        for _ in range(len(self._pending)):
            try:
                self._take(*self._pending.popleft())
            except Exception:
                log.exception("a question could not be answered")
                self._counts.failed += 1

    def _take(self, query: Query, packet: bytes, peer: Peer, listener: Listener) -> None:
        limit = udp_limit(query)
        response, reply = self._decide(query, peer[0], listener.address, limit)
        onward = response or self._onward(query, reply, peer[0], listener.address, limit)
        if not isinstance(onward, bytes):
            # What others on the links say of a name stays known for a moment, above all that nobody has it.
            relayed = reply is not None and reply.chase is None
            self._spawn(self._finish_udp(listener, onward, query, packet, peer, keep=relayed))
            return
        self._send(listener, onward, peer)
        if response is None and reply is None:
            self._keep_passing(query, packet, onward, peer, listener)

    async def _finish_udp(
        self, listener: Listener, coming: Awaitable[bytes], query: Query, packet: bytes, peer: Peer, *, keep: bool
    ) -> None:
        response = await coming
        self._send(listener, response, peer)
        if keep:
            self._keep_passing(query, packet, response, peer, listener)

    def _keep_passing(self, query: Query, packet: bytes, response: bytes, peer: Peer, listener: Listener) -> None:
        if _is_plain(query, packet):
            snapshot = self._current()
            asker = snapshot.view(listener.address, peer[0]), snapshot.right(listener.address, peer[0])
            self._memo.keep_passing(asker, _key(query, packet), _lowered(query, response))

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
        found = self._listeners.get(listener)
        if found is None or not found[0].outbox.put(reply, peer):
            self._send(listener, reply, peer)

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        async def guarded() -> None:
            try:
                await work
            except OSError:
                self._counts.failed += 1  # a peer that went away, or does not read
            except Exception:
                log.exception("a response could not be sent")
                self._counts.failed += 1

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _is_plain(query: Query, packet: bytes) -> bool:
    """Whether the packet is a question and at most an OPT record without options: of those there are few kinds."""
    length = 12 + len(query.question)
    if query.edns is None:
        return len(packet) == length
    return len(packet) == length + 11 and not query.edns.options and packet[length] == 0


def _key(query: Query, packet: bytes) -> bytes:
    return packet[2:12] + query.key + packet[12 + len(query.key) :]


def _lowered(query: Query, response: bytes) -> bytes:
    """The response without its id, as it is to the name in lower case: names after it point to it."""
    return response[2:12] + query.key + response[12 + len(query.key) :]


def _about(query: Query, reply: Reply, snapshot: Snapshot) -> bytes | None:
    """The one name that an answer is about; None for one that anything may change."""
    key = query.key
    alone = reply.rcode == NOERROR and not reply.authority and all(one.owner == query.name for one in reply.answer)
    if not alone or key in snapshot.zones:
        return None
    return key if key in snapshot.owned or key in snapshot.pointers or key in snapshot.nodes else None
