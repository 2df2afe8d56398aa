"""One listener's datagrams: answered from the cache; the server is asked for the rest. For one thread."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

from vmdns.server.answer_cache import AnswerCache, Answers, find
from vmdns.server.counters import Counts
from vmdns.server.listeners import Listener
from vmdns.server.packed_answers import NOTHING, QUERY, packed
from vmdns.server.recvmmsg import ROOM, Batch, Calls
from vmdns.server.send_queue import Outbox

log = logging.getLogger(__name__)

# The response to a packet (without its id), asked for by an address; None for silence, or where it is sent later.
Ask = Callable[[bytes, tuple[Any, ...], Listener], bytes | None]
# The cached answers for a peer at a listener; None: each query is looked at.
FindAnswers = Callable[[Listener, str], Answers | None]

MOST_ASKERS = 4096
_NO_ANSWERS = Answers()


class Door:
    """Where the datagrams of a listener come in. counts are of the thread; calls are those of `batch.load`, None where
    datagrams are taken one by one."""

    def __init__(
        self,
        listener: Listener,
        answer_cache: AnswerCache,
        find_answers: FindAnswers,
        ask: Ask,
        counts: Counts,
        calls: Calls | None,
    ) -> None:
        self.listener = listener
        self.socket = listener.udp
        self.batched = calls is not None
        self.many = False  # whether much came the last time
        self._answer_cache = answer_cache
        self._find_answers = find_answers
        self._ask = ask
        self._counts = counts
        self.outbox = Outbox(listener.udp, calls)
        # By the address: as text, or as `Batch` has it.
        self._askers: dict[str | bytes, Answers | None] = {}

    @property
    def path(self) -> str:
        """How datagrams are taken."""
        return "in batches" if self.batched else "one by one"

    def forget_askers(self) -> None:
        """What is known of who asks may be wrong from now on. Of any thread."""
        self._askers = {}

    def flush(self) -> None:
        """Sends what was left to be sent together."""
        self._counts.failed += self.outbox.flush()

    def take(self, flags: int = 0) -> None:
        """Receives one datagram and answers it. Raises OSError where none can be received."""
        packet, peer = self.socket.recvfrom(ROOM, flags)
        try:
            response = self._one(packet, peer)
            if response is not None:
                self.socket.sendto(packet[:2] + response, peer)
        except OSError:
            self._counts.failed += 1  # a full buffer or a peer that went away: it asks again
        except Exception:
            self._counts.failed += 1
            log.exception("a datagram could not be answered")

    def _one(self, packet: bytes, peer: tuple[Any, ...]) -> bytes | None:
        self._answer_cache.tick()
        answers = self._of(peer[0])
        response = find(answers, packet) if answers is not None else None
        if response is not None:
            self._counts.queries += 1
            self._counts.answered += 1
            return response
        return self._ask(packet, peer, self.listener)

    def _of(self, asker: str | bytes) -> Answers | None:
        try:
            return self._askers[asker]
        except KeyError:
            return self._learn(asker)

    def _learn(self, asker: str | bytes) -> Answers | None:
        askers = self._askers
        if len(askers) >= MOST_ASKERS:
            askers.clear()
        address = asker if isinstance(asker, str) else socket.inet_ntoa(asker)
        try:
            askers[asker] = found = self._find_answers(self.listener, address)
        except Exception:
            return None  # then the question itself meets the same fault, and is answered by SERVFAIL
        return found

    def reported(self, batch: Batch, keys: Sequence[bytes], start: int, end: int) -> tuple[list[bytes], int]:
        """The responses to these datagrams of a batch in packed form, and how many were not cached. keys: theirs.
        Few steps for each datagram, as it is here that a busy server spends its time."""
        asker = batch.asker(start, end)
        if asker is not None:
            found = [self._of(asker) or _NO_ANSWERS] * (end - start)
            held: list[Any] = list(map(found[0].by_key.get, keys))
        else:
            found = [self._of(one) or _NO_ANSWERS for one in batch.askers(start, end)]
            held = [answers.by_key.get(key) for answers, key in zip(found, keys, strict=True)]
        others = 0
        if None in held:
            for at in [at for at, one in enumerate(held) if one is None]:
                one = None
                if found[at] is not _NO_ANSWERS:
                    one = found[at].find_other_case(keys[at]) or _find_long(batch, start + at, found[at])
                if one is None:
                    one = self._rest(batch.packet(start + at), batch.peer(start + at))
                    others += 1
                held[at] = one
        self._counts.queries += end - start - others
        self._counts.answered += end - start - others
        return held, others

    def _rest(self, packet: bytes, peer: tuple[str, int]) -> bytes:
        """The response to a packet for which none stands ready."""
        try:
            response = self._ask(packet, peer, self.listener)
        except Exception:
            self._counts.failed += 1
            log.exception("a datagram could not be answered")
            response = None
        return NOTHING if response is None else packed(response)


def _find_long(batch: Batch, at: int, answers: Answers) -> bytes | None:
    """The cached answer to a datagram that is too long for a common key."""
    if batch.length(at) <= QUERY:
        return None
    return answers.find(batch.packet(at)[2:])
