"""One wait for many sockets: by epoll(7), or by poll(2) where there is none (macOS). Windows has neither."""

from __future__ import annotations

import contextlib
import select
from typing import Any

POSSIBLE = hasattr(select, "epoll") or hasattr(select, "poll")
_READABLE = 1  # EPOLLIN and POLLIN alike


class Waiting:
    """The sockets that a thread waits for, by their file numbers. Used in that thread alone."""

    def __init__(self) -> None:
        self._poll: Any = select.epoll() if hasattr(select, "epoll") else select.poll()
        self._unit = 1 if hasattr(select, "epoll") else 1000  # poll() counts in milliseconds

    def add(self, number: int) -> None:
        """This one from now on. Raises OSError."""
        self._poll.register(number, _READABLE)

    def remove(self, number: int) -> None:
        """This one no more, if it was one."""
        with contextlib.suppress(OSError, KeyError):
            self._poll.unregister(number)

    def wait(self, seconds: float | None = None) -> list[int]:
        """Those that have something, as soon as one has; none once the time is over, which None never is."""
        return [number for number, _ in self._poll.poll(None if seconds is None else max(seconds, 0) * self._unit)]

    def close(self) -> None:
        """Waits no more."""
        if hasattr(self._poll, "close"):
            self._poll.close()
