"""Failover between upstreams: the next is queried when one fails, or does not respond in time; the first answer wins.

A query stays open until the end, so a slow server still counts; the next one is queried in addition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from vmdns.dns.forwarded_answer import EDE_NETWORK_ERROR, EDE_NO_REACHABLE_AUTHORITY, Forwarded
from vmdns.dns.limits import Limits
from vmdns.server.upstream_server import Unanswered, UpstreamServer

# A server has this part of limits.upstream_timeout, and this many seconds at most, before the next one is queried too.
_DELAY_PART, _MAX_DELAY = 0.4, 0.8
# Queries to one server, and to all servers together.
_TRIES_EACH = 2
_MOST_TRIES = 6
# Seconds before a server is queried again after an ICMP error, which may be forged.
_PAUSE = 0.2


class AllFailed(Exception):
    """No server had an answer. error is the Extended DNS Error; replied says whether any server responded."""

    def __init__(self, error: tuple[int, str], *, replied: bool) -> None:
        super().__init__(error[1])
        self.error = error
        self.replied = replied


def failover_delay(limits: Limits) -> float:
    """Returns how many seconds a server may take before the next one is queried too."""
    return min(_DELAY_PART * limits.upstream_timeout, _MAX_DELAY)


class Failover:
    """The upstream queries of one question."""

    def __init__(
        self, servers: Sequence[UpstreamServer], ask: Callable[[UpstreamServer], Awaitable[Forwarded]], limits: Limits
    ) -> None:
        self._ask = ask
        self._limits = limits
        self._delay = failover_delay(limits)
        self._left = dict.fromkeys(servers, _TRIES_EACH)
        self._retry_at: dict[UpstreamServer, float] = {}
        self._why: dict[UpstreamServer, str] = {}
        self._tries: dict[asyncio.Future[Forwarded], tuple[UpstreamServer, float]] = {}
        self._started = 0
        self._begun: float | None = None
        self._last = 0.0
        self._replied = False

    def add_pending(self, server: UpstreamServer, asking: Awaitable[Forwarded], begun: float, now: float) -> None:
        """Adds a query that was sent at `begun`; both times are by the clock of the servers. To be called before
        `run`."""
        time = asyncio.get_running_loop().time() - (now - begun)
        self._begun = time
        self._start(server, time, begun, asking)
        self._note_silence(now)

    async def run(self, spare: Callable[[], bool], now: Callable[[], float]) -> Forwarded:
        """Returns the first answer, within limits.query_timeout. Raises `AllFailed`.

        spare: whether servers may be queried again; now: the clock of the servers.
        """
        loop = asyncio.get_running_loop()
        end = (loop.time() if self._begun is None else self._begun) + self._limits.query_timeout
        try:
            while (time := loop.time()) < end:
                server = self._next(time, spare())
                due = self._due(server, time) if server is not None else self._last + self._limits.upstream_timeout
                if due <= time:
                    if server is None:
                        break
                    self._start(server, time, now(), self._ask(server))
                    continue
                if not self._tries and server is None:
                    break
                found = await self._wait(min(due, end) - time)
                if found is not None:
                    return found
                self._note_silence(now())
            raise self._failure()
        finally:
            for task in self._tries:
                task.cancel()
            await asyncio.gather(*self._tries, return_exceptions=True)

    def _next(self, time: float, spare: bool) -> UpstreamServer | None:
        if self._started >= _MOST_TRIES:
            return None
        able = [
            server
            for server, left in self._left.items()
            if left == _TRIES_EACH or (left and (spare or not self._tries))
        ]
        return min(able, key=lambda server: self._due(server, time), default=None)

    def _due(self, server: UpstreamServer, time: float) -> float:
        """Returns when to query this server: after the delay, or at once if no other query is pending."""
        if server in self._retry_at:
            return self._retry_at[server]
        return self._last + self._delay if self._tries else time

    def _start(self, server: UpstreamServer, time: float, begun: float, asking: Awaitable[Forwarded]) -> None:
        self._left[server] -= 1
        self._started += 1
        self._last = time
        self._retry_at[server] = time + self._limits.upstream_timeout
        self._tries[asyncio.ensure_future(asking)] = (server, begun)

    async def _wait(self, seconds: float) -> Forwarded | None:
        if not self._tries:
            await asyncio.sleep(seconds)
            return None
        done, _ = await asyncio.wait(self._tries, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            server, _ = self._tries.pop(task)
            try:
                return task.result()
            except Unanswered as error:
                self._why[server] = str(error)
                if error.final:
                    self._left[server] = 0
                    self._replied = True
                else:
                    self._retry_at[server] = asyncio.get_running_loop().time() + _PAUSE
        return None

    def _note_silence(self, now: float) -> None:
        for server, begun in self._tries.values():
            if now - begun >= self._delay:
                server.note_no_response(begun)

    def _failure(self) -> AllFailed:
        for server, _ in self._tries.values():
            self._why.setdefault(server, "does not answer")
        text = "; ".join(f"{server} {why}" for server, why in self._why.items())
        code = EDE_NO_REACHABLE_AUTHORITY if self._replied else EDE_NETWORK_ERROR
        return AllFailed((code, text), replied=self._replied)
