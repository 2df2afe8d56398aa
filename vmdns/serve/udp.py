"""A thread for each UDP listener: it answers what stands ready, and asks the server for the rest.

It waits in a plain recvfrom, which is the fastest way to one datagram, and takes what comes with it at once where the
system can (`batch`); while much comes, it waits for the next dozen. A thread of its own, so that nothing in the event
loop makes a question wait.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

from vmdns.serve import batch
from vmdns.serve.batch import ROOM, Batch
from vmdns.serve.counts import Counts
from vmdns.serve.first_try import FirstTries
from vmdns.serve.listeners import Listener
from vmdns.serve.memo import Memo, Ready, find, now
from vmdns.serve.outbox import Outbox
from vmdns.serve.packed import NOTHING, QUERY, key_of, packed
from vmdns.serve.turn import short_turns

log = logging.getLogger(__name__)

# The response to a packet (without its id), asked for by an address; None for silence, or where it is sent later.
Ask = Callable[[bytes, tuple[Any, ...], Listener], bytes | None]
# The responses that stand ready for whoever asks from this address at a listener; None: each is asked for.
Readies = Callable[[Listener, str], Ready | None]

CALLS = batch.load()

MOST_ASKERS = 4096
MANY = 4  # datagrams that came together: more are sure to follow
_NOTHING = Ready()
_NEVER_WAIT = getattr(socket, "MSG_DONTWAIT", 0)


class Receiver:
    """Serves one listener until it is stopped. counts are of this thread alone; path says how datagrams are taken."""

    def __init__(
        self,
        listener: Listener,
        memo: Memo,
        ready: Readies,
        ask: Ask,
        tries: FirstTries | None = None,
        *,
        batches: bool = True,
    ) -> None:
        self._listener = listener
        self._socket = listener.udp
        self._memo = memo
        self._ready = ready
        self._ask = ask
        self._tries = tries  # questions that this thread has put to upstreams itself
        self._stopping = False
        self.counts = Counts()
        batches = batches and CALLS is not None and listener.udp.family == socket.AF_INET
        calls = CALLS if batches else None
        self._batch = Batch(calls) if calls is not None else None
        self.outbox = Outbox(listener.udp, calls)
        self.path = "in batches" if self._batch else "one by one"
        # By the address: as text, or as `Batch` has it.
        self._askers: dict[str | bytes, Ready | None] = {}
        self._thread = threading.Thread(target=self._run, name=f"udp-{listener.address}", daemon=True)
        listener.udp.setblocking(True)
        self._thread.start()

    def forget_askers(self) -> None:
        """What is known of who asks may be wrong from now on."""
        self._askers = {}

    def stop(self) -> None:
        """Ends the thread, which may wait for a datagram: it gets one from itself."""
        self._stopping = True
        family = self._socket.family
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", (self._listener.address, self._listener.port))
        self._thread.join(1.0)
        self._socket.setblocking(False)

    def _run(self) -> None:
        short_turns()
        try:
            self._serve()
        finally:
            if self._tries is not None:
                self._tries.end()

    def _serve(self) -> None:
        receive, send, tries = self._socket.recvfrom, self._socket.sendto, self._tries
        self.outbox.adopt()
        while not self._stopping:
            try:
                self.counts.failed += self.outbox.flush()
                if tries is None or not tries.busy:
                    packet, peer = receive(ROOM)
                elif tries.wait():
                    packet, peer = receive(ROOM, _NEVER_WAIT)
                else:
                    continue
            except OSError:
                # An ICMP error of an earlier response (Windows: WSAECONNRESET); the socket is fine.
                if self._socket.fileno() < 0:
                    return
                continue
            try:
                response = self._one(packet, peer)
                if response is not None:
                    send(packet[:2] + response, peer)
                if self._batch is not None:
                    self._burst(self._batch)
            except OSError:
                self.counts.failed += 1  # a full buffer or a peer that went away: it asks again
            except Exception:
                self.counts.failed += 1
                log.exception("a datagram could not be answered")

    def _one(self, packet: bytes, peer: tuple[Any, ...]) -> bytes | None:
        moment = now()
        if moment >= self._memo.next_second:
            self._memo.age(moment)
        ready = self._of(peer[0])
        response = find(ready, packet) if ready is not None else None
        if response is not None:
            self.counts.queries += 1
            self.counts.answered += 1
            return response
        return self._ask(packet, peer, self._listener)

    def _of(self, asker: str | bytes) -> Ready | None:
        try:
            return self._askers[asker]
        except KeyError:
            return self._learn(asker)

    def _learn(self, asker: str | bytes) -> Ready | None:
        askers = self._askers
        if len(askers) >= MOST_ASKERS:
            askers.clear()
        address = asker if isinstance(asker, str) else socket.inet_ntoa(asker)
        try:
            askers[asker] = found = self._ready(self._listener, address)
        except Exception:
            return None  # then the question itself meets the same fault, and is answered by SERVFAIL
        return found

    def _burst(self, batch: Batch) -> None:
        """Takes everything that waits, and answers it; goes on for as long as much comes."""
        number = self._socket.fileno()
        found = batch.receive(number)
        while found > 0:
            self._answer(batch, found)
            if self._stopping:
                return
            busy = self._tries is not None and self._tries.busy
            found = batch.receive(number, wait=found >= MANY and not busy)

    def _answer(self, batch: Batch, found: int) -> None:
        """Answers what was received. Few steps for each datagram, as it is here that a busy server spends its time."""
        moment = now()
        if moment >= self._memo.next_second:
            self._memo.age(moment)
        keys, asker = batch.keys(found), batch.asker(found)
        if asker is not None:
            readies = [self._of(asker) or _NOTHING] * found
            held: list[Any] = list(map(readies[0].names.get, keys))
        else:
            readies = [self._of(one) or _NOTHING for one in batch.askers(found)]
            held = [ready.names.get(key) for ready, key in zip(readies, keys, strict=True)]
        others = silent = 0
        if None in held:
            for at, one in enumerate(held):
                if one is None:
                    held[at] = readies[at].beside(keys[at]) or _long(batch, at, readies[at])
            rest = [at for at, one in enumerate(held) if one is None]
            for at in rest:
                held[at] = self._rest(batch.packet(at), batch.peer(at))
            others, silent = len(rest), held.count(NOTHING)
        self.counts.queries += found - others
        self.counts.answered += found - others
        if silent < found:
            self.counts.failed += batch.send(self._socket, held, silent=silent > 0)

    def _rest(self, packet: bytes, peer: tuple[str, int]) -> bytes:
        """The response to a packet for which none stands ready."""
        try:
            response = self._ask(packet, peer, self._listener)
        except Exception:
            self.counts.failed += 1
            log.exception("a datagram could not be answered")
            response = None
        return NOTHING if response is None else packed(response)


def _long(batch: Batch, at: int, ready: Ready) -> bytes | None:
    """What stands ready for a datagram that is too long for a common key."""
    if batch.length(at) <= QUERY:
        return None
    key = key_of(batch.packet(at)[2:])
    return ready.names.get(key) or ready.beside(key)
