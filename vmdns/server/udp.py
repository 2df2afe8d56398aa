"""The thread that answers UDP queries, so that the event loop never delays them.

One thread serves all listeners: several would compete for the processor and the interpreter lock. It waits with one
selector. On Linux it reads IPv4 datagrams with recvmmsg(2), elsewhere one by one.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from collections.abc import Callable
from selectors import EVENT_READ, BaseSelector, DefaultSelector

from vmdns.server import recvmmsg as batch
from vmdns.server.answer_cache import AnswerCache
from vmdns.server.counters import Counters
from vmdns.server.first_query import FirstQueries
from vmdns.server.listeners import Listener
from vmdns.server.packed_answers import NO_RESPONSE
from vmdns.server.recvmmsg import SIZE, Batch
from vmdns.server.scheduling_linux import request_short_slice
from vmdns.server.udp_listener import Ask, FindAnswers, UdpListener

log = logging.getLogger(__name__)

# Creates the `FirstQueries` that share this selector; None where the event loop sends all upstream queries.
MakeFirstQueries = Callable[[BaseSelector], FirstQueries | None]

CALLS = batch.load()

MANY = 4  # datagrams read at once: more are likely to follow
_ROUNDS = 4  # reads of one listener before other listeners have their turn
_TIMEOUT = 1.0  # seconds for the thread to open or close a listener
_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)


class UdpThread:
    """Serves all listeners. counts are those of this thread."""

    def __init__(
        self, answer_cache: AnswerCache, find_answers: FindAnswers, ask: Ask, first_queries: MakeFirstQueries
    ) -> None:
        self._dependencies = answer_cache, find_answers, ask
        self._answer_cache = answer_cache
        self._batch = Batch(CALLS) if CALLS is not None else None
        self.counts = Counters()
        self._selector = DefaultSelector()
        self.first_queries = first_queries(self._selector)
        self._listeners: dict[int, UdpListener] = {}  # by file number
        # Listeners to open (True) or close, each with the event that reports that it is done.
        self._changes: deque[tuple[UdpListener, bool, threading.Event]] = deque()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._selector.register(self._wake_receiver, EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="udp", daemon=True)

    def open(self, bound: Listener, *, batches: bool) -> UdpListener:
        """Starts answering on a listener. batches: whether recvmmsg is used where the system has it."""
        calls = CALLS if batches and bound.udp.family == socket.AF_INET else None
        listener = UdpListener(bound, *self._dependencies, self.counts, calls)
        # Sending waits while the buffer is full, where a read need not wait.
        bound.udp.setblocking(_DONT_WAIT != 0)
        self._change(listener, True)
        return listener

    def close(self, listener: UdpListener) -> bool:
        """Stops answering there. Returns whether it was the last listener, so that the thread has ended."""
        self._change(listener, False)
        listener.socket.setblocking(False)
        if self._listeners:
            return False
        self._thread.join(_TIMEOUT)
        return True

    def _change(self, listener: UdpListener, opened: bool) -> None:
        done = threading.Event()
        self._changes.append((listener, opened, done))
        self._wake_sender.send(b".")
        if not self._thread.ident:
            self._thread.start()
        done.wait(_TIMEOUT)

    def _run(self) -> None:
        request_short_slice()
        try:
            while self._apply_changes():
                self._serve()
        finally:
            if self.first_queries is not None:
                self.first_queries.end()
            self._selector.close()
            self._wake_receiver.close()
            self._wake_sender.close()

    def _apply_changes(self) -> bool:
        """Opens and closes listeners. Returns whether any is open."""
        while self._changes:
            listener, opened, done = self._changes.popleft()
            self._wake_receiver.recv(1)
            number = listener.socket.fileno()
            if opened:
                self._listeners[number] = listener
                self._selector.register(number, EVENT_READ)
            else:
                del self._listeners[number]
                self._selector.unregister(number)
            done.set()
        return bool(self._listeners)

    def _serve(self) -> None:
        """Waits for datagrams, and answers them."""
        try:
            if self.first_queries is None:
                numbers = [key.fd for key, _ in self._selector.select()]
            else:
                numbers = self.first_queries.wait()
            listeners = [self._listeners[number] for number in numbers if number in self._listeners]
            for listener in listeners:
                self._answer_one(listener)
            listeners = [listener for listener in listeners if listener.batched]
            for _ in range(_ROUNDS + len(listeners)):
                if not listeners:
                    break
                listeners = self._answer_batch(listeners)
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

    def _answer_batch(self, listeners: list[UdpListener]) -> list[UdpListener]:
        """Reads one batch from these listeners and answers it. Returns the listeners that did not fit into the batch,
        then those where more datagrams are likely."""
        batch, parts, found, at = self._batch, [], 0, 0
        assert batch is not None
        while at < len(listeners) and found < SIZE:
            listener = listeners[at]
            at += 1
            got = batch.receive(listener.socket.fileno(), found)
            listener.many = got >= MANY
            if got > 0:
                parts.append((listener, found, found + got))
                found += got
        if not found:
            return listeners[at:]
        self._answer_cache.tick()
        keys, packed, uncached = batch.keys(found), [], 0
        for listener, start, end in parts:
            some, count = listener.answer_batch(batch, keys[start:end], start, end)
            packed += some
            uncached += count
        silent = uncached > 0 and NO_RESPONSE in packed
        self.counts.failed += batch.send(
            [(listener.socket, start, end) for listener, start, end in parts], packed, silent=silent
        )
        return listeners[at:] + [listener for listener, _, _ in parts if listener.many]
