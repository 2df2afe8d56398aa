"""The datagrams of one listener: answered from the cache, else by the query handler. Used by one thread."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

from vmdns.server.answer_cache import AnswerCache, Answers, find
from vmdns.server.counters import Counters
from vmdns.server.listeners import Listener
from vmdns.server.packed_answers import NO_RESPONSE, QUERY, packed
from vmdns.server.recvmmsg import ROOM, Batch, Calls

log = logging.getLogger(__name__)

# Gives the response to a packet (without its id) from a peer; None for no response, or where it is sent later.
Ask = Callable[[bytes, tuple[Any, ...], Listener], bytes | None]
# Gives the cached answers for a peer at a listener; None where each query must be checked.
FindAnswers = Callable[[Listener, str], Answers | None]

MAX_CLIENTS = 4096
_NO_ANSWERS = Answers()


class UdpListener:
    """Answers the datagrams of one listener. counts are those of the thread; calls are those of `recvmmsg.load`, None
    where datagrams are read one by one."""

    def __init__(
        self,
        listener: Listener,
        answer_cache: AnswerCache,
        find_answers: FindAnswers,
        ask: Ask,
        counts: Counters,
        calls: Calls | None,
    ) -> None:
        self.listener = listener
        self.socket = listener.udp
        self.batched = calls is not None
        self.many = False  # whether the last read found many datagrams
        self._answer_cache = answer_cache
        self._find_answers = find_answers
        self._ask = ask
        self._counts = counts
        # By address: as text, or as four bytes.
        self._clients: dict[str | bytes, Answers | None] = {}

    @property
    def path(self) -> str:
        """How datagrams are read."""
        return "in batches" if self.batched else "one by one"

    def forget_clients(self) -> None:
        """Drops what is known of clients, which a new snapshot may change. Any thread may call this."""
        self._clients = {}

    def answer_one(self, flags: int = 0) -> None:
        """Receives one datagram and answers it. Raises OSError where none can be received."""
        packet, peer = self.socket.recvfrom(ROOM, flags)
        try:
            response = self._respond(packet, peer)
            if response is not None:
                self.socket.sendto(packet[:2] + response, peer)
        except OSError:
            self._counts.failed += 1  # a full buffer, or a peer that went away: the client retries
        except Exception:
            self._counts.failed += 1
            log.exception("a datagram could not be answered")

    def _respond(self, packet: bytes, peer: tuple[Any, ...]) -> bytes | None:
        self._answer_cache.tick()
        answers = self._answers_for(peer[0])
        response = find(answers, packet) if answers is not None else None
        if response is not None:
            self._counts.queries += 1
            self._counts.answered += 1
            return response
        return self._ask(packet, peer, self.listener)

    def _answers_for(self, client: str | bytes) -> Answers | None:
        try:
            return self._clients[client]
        except KeyError:
            return self._add_client(client)

    def _add_client(self, client: str | bytes) -> Answers | None:
        clients = self._clients
        if len(clients) >= MAX_CLIENTS:
            clients.clear()
        address = client if isinstance(client, str) else socket.inet_ntoa(client)
        try:
            clients[client] = found = self._find_answers(self.listener, address)
        except Exception:
            return None  # the query itself meets the same fault, and gets SERVFAIL
        return found

    def answer_batch(self, batch: Batch, keys: Sequence[bytes], start: int, end: int) -> tuple[list[bytes], int]:
        """Returns the packed responses to these datagrams of a batch, and how many were not cached. keys are those of
        the datagrams. Takes few steps per datagram, since a busy server spends its time here."""
        client = batch.common_client(start, end)
        if client is not None:
            found = [self._answers_for(client) or _NO_ANSWERS] * (end - start)
            packed_responses: list[Any] = list(map(found[0].by_key.get, keys))
        else:
            found = [self._answers_for(one) or _NO_ANSWERS for one in batch.clients(start, end)]
            packed_responses = [answers.by_key.get(key) for answers, key in zip(found, keys, strict=True)]
        uncached = 0
        if None in packed_responses:
            for at in [at for at, one in enumerate(packed_responses) if one is None]:
                one = None
                if found[at] is not _NO_ANSWERS:
                    one = found[at].find_other_case(keys[at]) or _find_long(batch, start + at, found[at])
                if one is None:
                    one = self._answer_uncached(batch.packet(start + at), batch.peer(start + at))
                    uncached += 1
                packed_responses[at] = one
        self._counts.queries += end - start - uncached
        self._counts.answered += end - start - uncached
        return packed_responses, uncached

    def _answer_uncached(self, packet: bytes, peer: tuple[str, int]) -> bytes:
        """Returns the packed response to a packet that is not in the cache."""
        try:
            response = self._ask(packet, peer, self.listener)
        except Exception:
            self._counts.failed += 1
            log.exception("a datagram could not be answered")
            response = None
        return NO_RESPONSE if response is None else packed(response)


def _find_long(batch: Batch, at: int, answers: Answers) -> bytes | None:
    """Returns the cached answer to a datagram that is longer than a common key."""
    if batch.length(at) <= QUERY:
        return None
    return answers.find(batch.packet(at)[2:])
