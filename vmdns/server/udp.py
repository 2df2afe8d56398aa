"""Reads and answers the datagrams of all listeners, in the UDP thread.

On Linux it reads IPv4 datagrams with recvmmsg(2), elsewhere one by one.
"""

from __future__ import annotations

import logging
import socket
from functools import partial
from selectors import EVENT_READ

from vmdns.server import recvmmsg as batch
from vmdns.server.answer_cache import AnswerCache
from vmdns.server.counters import Counters
from vmdns.server.io_thread import IoThread
from vmdns.server.listeners import Listener
from vmdns.server.packed_answers import NO_RESPONSE
from vmdns.server.recvmmsg import Batch
from vmdns.server.udp_listener import Ask, FindAnswers, UdpListener

log = logging.getLogger(__name__)

CALLS = batch.load()

MANY = 4  # datagrams read at once: more are likely to follow
_ROUNDS = 4  # reads of one listener before other listeners have their turn
_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)


class UdpReader:
    """Serves all listeners. counts are those of the UDP thread."""

    def __init__(self, thread: IoThread, answer_cache: AnswerCache, find_answers: FindAnswers, ask: Ask) -> None:
        self._thread = thread
        self._dependencies = answer_cache, find_answers, ask
        self._answer_cache = answer_cache
        self._batch = Batch(CALLS) if CALLS is not None else None
        self.counts = Counters()

    def open(self, bound: Listener, *, batches: bool) -> UdpListener:
        """Starts answering on a listener. batches: whether recvmmsg is used where the system has it."""
        calls = CALLS if batches and bound.udp.family == socket.AF_INET else None
        listener = UdpListener(bound, *self._dependencies, self.counts, calls)
        # Sending waits while the buffer is full, where a read need not wait.
        bound.udp.setblocking(_DONT_WAIT != 0)
        self._thread.submit(partial(self._thread.watch, bound.udp, EVENT_READ, partial(self._answer, listener)))
        return listener

    def close(self, listener: UdpListener) -> None:
        """Stops answering there."""
        self._thread.run(partial(self._thread.unwatch, listener.socket))
        listener.socket.setblocking(False)

    def _answer(self, listener: UdpListener) -> None:
        """Answers the datagrams of a listener."""
        try:
            self._answer_one(listener)
            for _ in range(_ROUNDS if listener.batched else 0):
                if not self._answer_batch(listener):
                    break
        except Exception:
            self.counts.failed += 1
            log.exception("datagrams could not be answered")
            if self._batch is not None:
                self._batch.clear()

    def _answer_one(self, listener: UdpListener) -> None:
        """Reads one datagram where few are expected, which is the fastest then; without batches some more."""
        try:
            if not listener.many:
                listener.answer_one(_DONT_WAIT)
            for _ in range(0 if listener.batched else _ROUNDS):
                listener.answer_one(_DONT_WAIT)
        except OSError:
            pass  # no more datagrams, or an ICMP error caused by an earlier response; the socket still works

    def _answer_batch(self, listener: UdpListener) -> bool:
        """Reads one batch and answers it. Returns whether more datagrams are likely."""
        batch = self._batch
        assert batch is not None
        found = batch.receive(listener.socket.fileno(), 0)
        listener.many = found >= MANY
        if found <= 0:
            return False
        self._answer_cache.tick()
        packed, uncached = listener.answer_batch(batch, batch.keys(found), 0, found)
        silent = uncached > 0 and NO_RESPONSE in packed
        self.counts.failed += batch.send([(listener.socket, 0, found)], packed, silent=silent)
        return listener.many
