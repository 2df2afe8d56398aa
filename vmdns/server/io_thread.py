"""The thread of all UDP listeners and upstream queries, so that the event loop never delays them.

It waits with one selector and calls what was registered for a socket or a time. What only this thread uses needs no
lock; other threads pass it functions with `submit`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from selectors import EVENT_READ, BaseSelector, DefaultSelector, SelectorKey

from vmdns.server.udp_linux import request_short_slice

_log = logging.getLogger(__name__)

_MAX_CALLS = 16  # submitted calls before the sockets have their turn: queries by TCP must not delay datagrams
_WAIT_SECONDS = 1.0  # for the thread to do what `run` passes it
_FAILED_WAIT_SECONDS = 0.1  # until the next wait after one that failed


def new_selector() -> BaseSelector:
    """Returns the system's best selector: it takes thousands of sockets, where Windows' select() takes 512."""
    if sys.platform == "win32":
        from vmdns.windows.wsapoll import WsaPollSelector, wsa_poll

        return WsaPollSelector(wsa_poll)
    return DefaultSelector()


class Timer:
    """A call at a later time. Setting `call` to None cancels it."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None] | None) -> None:
        self.call = call


class IoThread:
    """Runs while it has sockets, timers or submitted calls; `submit` starts it again."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._watched = 0
        self._lock = threading.Lock()  # for starting and ending
        self._running = False
        self._wait_error = ""
        self._wake_sender: socket.socket
        self._wake_receiver: socket.socket
        self._selector: BaseSelector

    # -- for any thread -----------------------------------------------------------------------------------------

    def submit(self, call: Callable[[], None]) -> None:
        """Has the thread call this."""
        self._calls.append(call)
        with self._lock:
            if not self._running:
                self._running = True
                self._wake_sender, self._wake_receiver = socket.socketpair()
                self._wake_sender.setblocking(False)
                self._selector = new_selector()
                self._selector.register(self._wake_receiver, EVENT_READ, self._run_calls)
                threading.Thread(target=self._run, name="udp", daemon=True).start()
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it will wake up anyway
            self._wake_sender.send(b".")

    def run(self, call: Callable[[], None]) -> None:
        """Has the thread call this, and waits until it is done."""
        done = threading.Event()

        def run() -> None:
            try:
                call()
            finally:
                done.set()

        self.submit(run)
        done.wait(_WAIT_SECONDS)

    # -- for this thread ----------------------------------------------------------------------------------------

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        """Calls this at a time of time.monotonic; in the next round if that is past."""
        timer = Timer(call)
        heappush(self._timers, (when, next(self._order), timer))
        return timer

    def watch(self, sock: socket.socket, events: int, call: Callable[[], None]) -> None:
        """Calls this whenever the socket is ready. May still be called in the round in which it is unwatched."""
        self._selector.register(sock, events, call)
        self._watched += 1

    def unwatch(self, sock: socket.socket) -> None:
        """Ends `watch`; to be called before the socket is closed."""
        self._selector.unregister(sock)
        self._watched -= 1

    def _run(self) -> None:
        request_short_slice()
        while True:
            timeout = self._run_timers()
            if timeout is None and not self._watched and self._ended():
                return
            for key, _ in self._wait(timeout):
                _call(key.data)

    def _wait(self, timeout: float | None) -> list[tuple[SelectorKey, int]]:
        """Returns the sockets that are ready; none where the wait failed, which is logged once."""
        try:
            return self._selector.select(timeout)
        except (OSError, ValueError) as error:
            if str(error) != self._wait_error:
                self._wait_error = str(error)
                _log.error("the UDP thread cannot wait for packets (%s); it tries again", error)
            time.sleep(_FAILED_WAIT_SECONDS)
            return []

    def _run_timers(self) -> float | None:
        """Calls what is due. Returns the seconds until the next call, None if there is none."""
        timers, now = self._timers, time.monotonic()
        for _ in range(len(timers)):  # what is added meanwhile runs after the sockets
            if not timers:
                break
            when, _, timer = timers[0]
            if timer.call is not None and when > now:
                return when - now
            heappop(timers)
            if timer.call is not None:
                _call(timer.call)
        return 0.0 if timers else None

    def _run_calls(self) -> None:
        self._wake_receiver.recv(4096)
        for _ in range(min(len(self._calls), _MAX_CALLS)):
            _call(self._calls.popleft())
        if self._calls:
            self._wake()

    def _ended(self) -> bool:
        with self._lock:
            if self._calls:
                return False
            self._running = False
            for one in (self._selector, self._wake_sender, self._wake_receiver):
                one.close()
            return True


def _call(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception:
        _log.exception("the UDP thread met a fault")
