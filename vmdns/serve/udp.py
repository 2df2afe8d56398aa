"""A thread for each UDP listener: it answers what stands ready, and asks the server for the rest.

It waits in a plain recvfrom, which is the fastest way to one datagram, and takes what comes with it at once where the
system can (`batch`); while much comes, it waits for the next dozen. A thread of its own, so that nothing in the event
loop makes a question wait.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

from vmdns.serve import batch
from vmdns.serve.batch import BODIES, ROOM, STARTS, Batch
from vmdns.serve.counts import Counts
from vmdns.serve.first_try import FirstTries
from vmdns.serve.listeners import Listener
from vmdns.serve.memo import Memo, Ready, find, now
from vmdns.serve.outbox import Outbox
from vmdns.serve.turn import short_turns

log = logging.getLogger(__name__)

# The response to a packet (without its id), asked for by an address; None for silence, or where it is sent later.
Ask = Callable[[bytes, tuple[Any, ...], Listener], bytes | None]
# The responses that stand ready for whoever asks from this address at a listener; None: each is asked for.
Readies = Callable[[Listener, str], Ready | None]

Find = Callable[[bytes], bytes | None]

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
        self._askers: dict[str | int, Ready | None] = {}
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

    def _of(self, asker: str | int) -> Ready | None:
        try:
            return self._askers[asker]
        except KeyError:
            return self._learn(asker)

    def _learn(self, asker: str | int) -> Ready | None:
        askers = self._askers
        if len(askers) >= MOST_ASKERS:
            askers.clear()
        address = asker if isinstance(asker, str) else socket.inet_ntoa(asker.to_bytes(4, sys.byteorder))
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
            self._answer(batch, number, found)
            if self._stopping:
                return
            busy = self._tries is not None and self._tries.busy
            found = batch.receive(number, wait=found >= MANY and not busy)

    def _answer(self, batch: Batch, number: int, found: int) -> None:
        """Answers what was received. Few steps for each datagram, as it is here that a busy server spends its time."""
        moment = now()
        if moment >= self._memo.next_second:
            self._memo.age(moment)
        askers = batch.askers(found)
        known = {asker: self._of(asker) or _NOTHING for asker in set(askers)}
        finds: Iterable[Find]
        besides: Iterable[Find]
        if len(known) == 1:
            ready = known[askers[0]]
            finds, besides = repeat(ready.names.get), repeat(ready.beside)
        else:
            finds = [known[asker].names.get for asker in askers]
            besides = [known[asker].beside for asker in askers]
        region = batch.region
        sizes: list[int] = []
        others = 0
        lengths = batch.lengths(found)
        for start, body, length, find_ready, find_beside in zip(STARTS, BODIES, lengths, finds, besides, strict=False):
            key = region[body : start + length]
            response = find_ready(key)
            if response is None:
                response = find_beside(key)
                if response is None:
                    others += 1
                    response = self._rest(region[start : start + length], batch.peer(len(sizes)))
                    if response is None:
                        sizes.append(0)
                        continue
            size = len(response)
            region[body : body + size] = response
            sizes.append(size + 2)
        self.counts.queries += found - others
        self.counts.answered += found - others
        if others < found or any(sizes):
            self.counts.failed += batch.send(number, sizes)

    def _rest(self, packet: bytes, peer: tuple[str, int]) -> bytes | None:
        """The response to a packet for which none stands ready."""
        try:
            return self._ask(packet, peer, self._listener)
        except Exception:
            self.counts.failed += 1
            log.exception("a datagram could not be answered")
            return None
