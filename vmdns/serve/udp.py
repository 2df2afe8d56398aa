"""A thread for each UDP listener: it answers what stands ready, and asks the server for the rest.

It waits in a plain recvfrom, which is the fastest way to one datagram, and takes the rest of a burst at once where the
system can (`batch`). A thread of its own, so that nothing in the event loop makes a question wait.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

from vmdns.serve import batch
from vmdns.serve.batch import ROOM_IN, ROOM_NAME, SIZE, Batch
from vmdns.serve.counts import Counts
from vmdns.serve.first_try import FirstTries
from vmdns.serve.listeners import Listener
from vmdns.serve.memo import Memo, find, now

log = logging.getLogger(__name__)

# The response to a packet (without its id), asked for by an address; None for silence, or where it is sent later.
Ask = Callable[[bytes, tuple[Any, ...], Listener], bytes | None]
# The responses that stand ready for whoever asks from this address (its four bytes, or text) at a listener.
Ready = Callable[[Listener, str], dict[bytes, bytes] | None]

CALLS = batch.load()

_NEVER_WAIT = getattr(socket, "MSG_DONTWAIT", 0)


class Receiver:
    """Serves one listener until it is stopped. counts are of this thread alone; path says how datagrams are taken."""

    def __init__(
        self,
        listener: Listener,
        memo: Memo,
        ready: Ready,
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
        self._batch = Batch(CALLS) if batches and CALLS is not None else None
        self.path = "batches" if self._batch else "one by one"
        self._askers: dict[bytes, dict[bytes, bytes] | None] = {}
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
        try:
            self._serve()
        finally:
            if self._tries is not None:
                self._tries.end()

    def _serve(self) -> None:
        receive, send, tries = self._socket.recvfrom, self._socket.sendto, self._tries
        while not self._stopping:
            try:
                if tries is None or not tries.busy:
                    packet, peer = receive(ROOM_IN)
                elif tries.wait():
                    packet, peer = receive(ROOM_IN, _NEVER_WAIT)
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

    def _of(self, address: str) -> dict[bytes, bytes] | None:
        if self._batch is None:
            return self._ready(self._listener, address)
        raw = socket.inet_aton(address)
        try:
            return self._askers[raw]
        except KeyError:
            return self._learn(raw)

    def _learn(self, raw: bytes) -> dict[bytes, bytes] | None:
        askers = self._askers
        if len(askers) >= 4096:
            askers.clear()
        askers[raw] = found = self._ready(self._listener, socket.inet_ntoa(raw))
        return found

    def _burst(self, batch: Batch) -> None:
        """Takes everything that waits, and answers it, up to SIZE datagrams at a time."""
        number = self._socket.fileno()
        region, names, lengths, step = batch.region, batch.names, batch.lengths, batch.STEP
        memo, respond = self._memo, batch.respond
        while (found := batch.receive(number)) > 0:
            moment = now()
            if moment >= memo.next_second:
                memo.age(moment)
            askers = self._askers
            count = hits = 0
            for at in range(found):
                start = at * ROOM_IN
                key = region[start + 2 : start + lengths[at * step]]
                raw = names[at * ROOM_NAME + 4 : at * ROOM_NAME + 8]
                try:
                    ready = askers[raw]
                except KeyError:
                    ready = self._learn(raw)
                response = ready.get(key) if ready is not None else None
                if response is None:
                    packet = region[start : start + lengths[at * step]]
                    response = self._rest(packet, ready, names, at)
                    if response is None:
                        continue
                else:
                    hits += 1
                respond(at, count, response)
                count += 1
            self.counts.queries += hits
            self.counts.answered += hits
            if count:
                self.counts.failed += batch.send(number, count)
            if found < SIZE:
                return

    def _rest(self, packet: bytes, ready: dict[bytes, bytes] | None, names: Any, at: int) -> bytes | None:
        """The response to a packet that did not stand ready as it was written."""
        response = find(ready, packet) if ready is not None else None
        if response is not None:
            self.counts.queries += 1
            self.counts.answered += 1
            return response
        name = names[at * ROOM_NAME : at * ROOM_NAME + 8]
        peer = socket.inet_ntoa(name[4:8]), int.from_bytes(name[2:4], "big")
        try:
            return self._ask(packet, peer, self._listener)
        except Exception:
            self.counts.failed += 1
            log.exception("a datagram could not be answered")
            return None
