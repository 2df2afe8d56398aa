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
from vmdns.server.counters import Counts
from vmdns.server.first_query import FirstTries
from vmdns.server.listeners import Listener
from vmdns.server.packed_answers import NOTHING
from vmdns.server.recvmmsg import SIZE, Batch
from vmdns.server.scheduling_linux import request_short_slice
from vmdns.server.udp_listener import Ask, Door, FindAnswers

log = logging.getLogger(__name__)

# Makes the first queries that share a thread's selector; None where the event loop sends all upstream queries.
Tries = Callable[[BaseSelector], FirstTries | None]

CALLS = batch.load()

MANY = 4  # datagrams read at once: more are likely to follow
_ROUNDS = 4  # reads of one listener before other listeners have their turn
_TIMEOUT = 1.0  # seconds for the thread to open or close a listener
_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)


class UdpThread:
    """Serves all listeners. counts are those of this thread."""

    def __init__(self, answer_cache: AnswerCache, find_answers: FindAnswers, ask: Ask, tries: Tries) -> None:
        self._how = answer_cache, find_answers, ask
        self._answer_cache = answer_cache
        self._batch = Batch(CALLS) if CALLS is not None else None
        self.counts = Counts()
        self._selector = DefaultSelector()
        self.tries = tries(self._selector)
        self._doors: dict[int, Door] = {}  # by file number
        # Listeners to open (True) or close, each with the event that reports that it is done.
        self._changes: deque[tuple[Door, bool, threading.Event]] = deque()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._selector.register(self._wake_receiver, EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="udp", daemon=True)

    def open(self, listener: Listener, *, batches: bool) -> Door:
        """Starts answering on a listener. batches: whether recvmmsg is used where the system has it."""
        calls = CALLS if batches and listener.udp.family == socket.AF_INET else None
        door = Door(listener, *self._how, self.counts, calls)
        # Sending waits while the buffer is full, where reading can be told not to wait.
        listener.udp.setblocking(_DONT_WAIT != 0)
        self._change(door, True)
        return door

    def close(self, door: Door) -> bool:
        """Stops answering there. Returns whether it was the last listener, so that the thread has ended."""
        self._change(door, False)
        door.socket.setblocking(False)
        if self._doors:
            return False
        self._thread.join(_TIMEOUT)
        return True

    def _change(self, door: Door, opened: bool) -> None:
        done = threading.Event()
        self._changes.append((door, opened, done))
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
            if self.tries is not None:
                self.tries.end()
            self._selector.close()
            self._wake_receiver.close()
            self._wake_sender.close()

    def _apply_changes(self) -> bool:
        """Opens and closes listeners. Returns whether any is open."""
        while self._changes:
            door, opened, done = self._changes.popleft()
            self._wake_receiver.recv(1)
            number = door.socket.fileno()
            if opened:
                door.outbox.adopt()
                self._doors[number] = door
                self._selector.register(number, EVENT_READ)
            else:
                del self._doors[number]
                self._selector.unregister(number)
            done.set()
        return bool(self._doors)

    def _serve(self) -> None:
        """Waits for datagrams, and answers them."""
        try:
            for door in self._doors.values():
                door.flush()
            if self.tries is None:
                numbers = [key.fd for key, _ in self._selector.select()]
            else:
                numbers = self.tries.wait()
            doors = [self._doors[number] for number in numbers if number in self._doors]
            for door in doors:
                self._take(door)
            doors = [door for door in doors if door.batched]
            for _ in range(_ROUNDS + len(doors)):
                if not doors:
                    break
                doors = self._take_many(doors)
        except Exception:
            self.counts.failed += 1
            log.exception("datagrams could not be answered")
            if self._batch is not None:
                self._batch.clear()

    def _take(self, door: Door) -> None:
        """Reads one datagram where few are expected, which is the fastest then; without batches some more."""
        try:
            if not door.many:
                door.take(_DONT_WAIT)
            for _ in range(0 if door.batched else _ROUNDS):
                door.take(_DONT_WAIT)
        except OSError:
            pass  # no more datagrams, or an ICMP error caused by an earlier response; the socket still works

    def _take_many(self, doors: list[Door]) -> list[Door]:
        """Reads one batch from these listeners and answers it. Returns the listeners that did not fit into the batch,
        then those where more datagrams are likely."""
        batch, parts, found, at = self._batch, [], 0, 0
        assert batch is not None
        while at < len(doors) and found < SIZE:
            door = doors[at]
            at += 1
            got = batch.receive(door.socket.fileno(), found)
            door.many = got >= MANY
            if got > 0:
                parts.append((door, found, found + got))
                found += got
        if not found:
            return doors[at:]
        self._answer_cache.tick()
        keys, held, others = batch.keys(found), [], 0
        for door, start, end in parts:
            some, asked = door.reported(batch, keys[start:end], start, end)
            held += some
            others += asked
        silent = others > 0 and NOTHING in held
        self.counts.failed += batch.send([(door.socket, start, end) for door, start, end in parts], held, silent=silent)
        return doors[at:] + [door for door, _, _ in parts if door.many]
