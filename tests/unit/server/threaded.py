"""A thread that asks a forwarder as those do that receive datagrams, and the event loop behind it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable
from selectors import EVENT_READ, DefaultSelector

from vmdns.dns.forwarded_answer import Failure, Forwarded, Question, check_forwardable, encode_answer
from vmdns.dns.query import Query
from vmdns.server.forwarder import Forwarder


class Asker:
    """One thread with its first_queries."""

    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder
        self._ours, self._bell = socket.socketpair()
        self._asked: deque[tuple[Query, int, Callable[[bytes | None], None]]] = deque()
        self._stopping = False
        self._selector = DefaultSelector()
        self._selector.register(self._ours, EVENT_READ)
        first_queries = forwarder.first_queries(self._selector)
        assert first_queries is not None
        self.first_queries = first_queries
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    async def ask(self, query: Query, limit: int) -> bytes:
        loop = asyncio.get_running_loop()
        told: asyncio.Future[bytes | None] = loop.create_future()

        def tell(response: bytes | None) -> None:
            loop.call_soon_threadsafe(lambda: told.done() or told.set_result(response))

        self._asked.append((query, limit, tell))
        self._bell.send(b".")
        return await told or await self._forwarder.resolve(query, limit)

    def stop(self) -> None:
        self._stopping = True
        self._bell.send(b".")
        self._thread.join(5)
        assert not self._thread.is_alive()
        self._ours.close()
        self._bell.close()

    def _run(self) -> None:
        while not self._stopping:
            if self.first_queries.wait():
                self._ours.recv(1)
                if self._asked:
                    query, limit, tell = self._asked.popleft()
                    self._answer(query, limit, tell)
        self.first_queries.end()
        self._selector.close()
        for _, _, tell in self._asked:
            tell(None)

    def _answer(self, query: Query, limit: int, tell: Callable[[bytes | None], None]) -> None:
        refused = check_forwardable(query)
        if refused is not None:
            tell(encode_answer(query, refused, limit))
            return

        def told(found: Forwarded | Failure) -> None:
            tell(encode_answer(query, found, limit))

        found = self._forwarder.begin(Question.of(query), told, self.first_queries)
        if not isinstance(found, bool):
            told(found)
        elif not found:
            tell(None)
