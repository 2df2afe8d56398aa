"""The threads that answer datagrams: so nothing that happens in the event loop makes a question wait.

Where the system takes datagrams by the dozen (`batch`) and waits for many sockets at once (Linux), one thread serves
all listeners: several would take the processor and the interpreter's lock from each other. Elsewhere each listener has
a thread, which waits in a plain recvfrom.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
from collections import deque
from collections.abc import Callable

from vmdns.server import recvmmsg as batch
from vmdns.server.answer_cache import AnswerCache
from vmdns.server.counters import Counts
from vmdns.server.first_query import FirstTries
from vmdns.server.listeners import Listener
from vmdns.server.packed_answers import NOTHING
from vmdns.server.poller import POSSIBLE, Waiting
from vmdns.server.recvmmsg import SIZE, Batch
from vmdns.server.scheduling_linux import request_short_slice
from vmdns.server.udp_listener import Ask, Door, FindAnswers

log = logging.getLogger(__name__)

# The tries of a thread that waits in this way; None where nobody else is asked.
Tries = Callable[[Waiting], FirstTries | None]

CALLS = batch.load() if hasattr(select, "epoll") else None

MANY = 4  # datagrams that came together: more are sure to follow
_ROUNDS = 4  # of what came meanwhile, before other listeners have their turn
_PATIENCE = 1.0  # seconds until a thread has done what it is told
_NEVER_WAIT = getattr(socket, "MSG_DONTWAIT", 0)


class Together:
    """One thread for all listeners. counts are of it alone; calls are those of `batch.load`."""

    def __init__(
        self, answer_cache: AnswerCache, find_answers: FindAnswers, ask: Ask, tries: Tries, calls: batch.Calls
    ) -> None:
        self._how = answer_cache, find_answers, ask
        self._answer_cache = answer_cache
        self._calls = calls
        self._batch = Batch(calls)
        self.counts = Counts()
        self._waiting = Waiting()
        self.tries = tries(self._waiting)
        self._doors: dict[int, Door] = {}  # by file number
        # What is to be opened (True) or closed, and who waits for it.
        self._changes: deque[tuple[Door, bool, threading.Event]] = deque()
        self._bell, self._button = socket.socketpair()
        self._waiting.add(self._bell.fileno())
        self._thread = threading.Thread(target=self._run, name="udp", daemon=True)

    def open(self, listener: Listener) -> Door:
        """Answers on it from now on."""
        calls = self._calls if listener.udp.family == socket.AF_INET else None
        door = Door(listener, *self._how, self.counts, calls)
        listener.udp.setblocking(True)  # for who sends: a full buffer is waited for
        self._change(door, True)
        return door

    def close(self, door: Door) -> bool:
        """Answers there no more. Whether it was the last one, and the thread has ended."""
        self._change(door, False)
        door.socket.setblocking(False)
        if self._doors:
            return False
        self._thread.join(_PATIENCE)
        return True

    def _change(self, door: Door, opened: bool) -> None:
        done = threading.Event()
        self._changes.append((door, opened, done))
        self._button.send(b".")
        if not self._thread.ident:
            self._thread.start()
        done.wait(_PATIENCE)

    def _run(self) -> None:
        request_short_slice()
        try:
            while self._changed():
                self._turn()
        finally:
            if self.tries is not None:
                self.tries.end()
            self._waiting.close()
            self._bell.close()
            self._button.close()

    def _changed(self) -> bool:
        """Opens and closes what is to be. Whether anything is open."""
        while self._changes:
            door, opened, done = self._changes.popleft()
            self._bell.recv(1)
            number = door.socket.fileno()
            if opened:
                door.outbox.adopt()
                self._doors[number] = door
                self._waiting.add(number)
            else:
                del self._doors[number]
                self._waiting.remove(number)
            done.set()
        return bool(self._doors)

    def _turn(self) -> None:
        try:
            for door in self._doors.values():
                door.flush()
            numbers = self._waiting.wait() if self.tries is None else self.tries.wait()
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
            self._batch.clear()

    def _take(self, door: Door) -> None:
        """Takes a datagram where few are to be expected, which is the fastest then; without batches some more."""
        try:
            if not door.many:
                door.take(_NEVER_WAIT)
            for _ in range(0 if door.batched else _ROUNDS):
                door.take(_NEVER_WAIT)
        except OSError:
            pass  # nothing more, or an ICMP error of an earlier response; the socket is fine

    def _take_many(self, doors: list[Door]) -> list[Door]:
        """Takes what these listeners have, as far as the batch has room, and answers it. Returns who had no turn,
        and then those where more is sure to follow."""
        batch, parts, found, at = self._batch, [], 0, 0
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
            some, asked = door.held(batch, keys[start:end], start, end)
            held += some
            others += asked
        silent = others > 0 and NOTHING in held
        self.counts.failed += batch.send([(door.socket, start, end) for door, start, end in parts], held, silent=silent)
        return doors[at:] + [door for door, _, _ in parts if door.many]


class Alone:
    """A thread for one listener until it is closed. counts are of it alone."""

    def __init__(
        self, listener: Listener, answer_cache: AnswerCache, find_answers: FindAnswers, ask: Ask, tries: Tries
    ) -> None:
        self.counts = Counts()
        self.door = Door(listener, answer_cache, find_answers, ask, self.counts, None)
        self._waiting = Waiting() if POSSIBLE else None
        self.tries = tries(self._waiting) if self._waiting is not None else None
        if self._waiting is not None and self.tries is not None:
            self._waiting.add(listener.udp.fileno())
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"udp-{listener.address}", daemon=True)
        listener.udp.setblocking(True)
        self._thread.start()

    def close(self, door: Door) -> bool:
        """Ends the thread, which may wait for a datagram: it gets one from itself. Returns True."""
        self._stopping = True
        sock, listener = door.socket, door.listener
        with contextlib.suppress(OSError), socket.socket(sock.family, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", (listener.address, listener.port))
        self._thread.join(_PATIENCE)
        sock.setblocking(False)
        return True

    def _run(self) -> None:
        request_short_slice()
        self.door.outbox.adopt()
        try:
            while not self._stopping:
                if not self._turn():
                    return
        finally:
            if self.tries is not None:
                self.tries.end()
            if self._waiting is not None:
                self._waiting.close()

    def _turn(self) -> bool:
        door, tries = self.door, self.tries
        try:
            door.flush()
            if tries is None or not tries.busy:
                door.take()
            elif tries.wait():
                door.take(_NEVER_WAIT)
        except OSError:
            # An ICMP error of an earlier response (Windows: WSAECONNRESET); the socket is fine.
            return door.socket.fileno() >= 0
        return True
