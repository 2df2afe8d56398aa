"""Responses that stand ready as bytes: what was rendered once is sent again until the names in it change.

Both are in the forms of `packed`; the name in a key is in lower case. What is put in comes from the slow path, so both
give the same bytes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

from vmdns.core.snapshot import Right, Snapshot
from vmdns.core.view import View
from vmdns.serve.packed import BODY, key_of, packed, unpacked

# Some 330 bytes each: 100 MB, for 10,000 names that six networks ask in 25 ways in all; less where they are answered
# alike, and at most 90 more each where they are not.
MOST_ANSWERS = 300_000
MOST_LOOSE = 150_000  # of them
MOST_PASSING = 8_192
MOST_ENVELOPES = 64
PASSING_SECONDS = 1.0  # TTLs of forwarded answers count down in seconds
# Negative answers to names that others on a link may have. Their absence is known for a minute, and a new name or a
# changed link ends it (core/mdns_lookups.py).
ABSENT_SECONDS = 10.0
# Entries of what was left that are freed when an answer is kept, and each second; all at once would hold all threads.
# As more are freed than kept, both together are never many more than MOST_ANSWERS.
FREED_AT_ONCE, FREED_EACH_SECOND = 4, 2_000

Asker = tuple[View, Right]
_Common = dict[bytes, tuple[bytes, bytes]]  # keys and responses, by the keys


class Ready:
    """The responses that stand ready for one sort of askers, by key: about one name each, and loose ones."""

    __slots__ = ("loose", "names")

    def __init__(self) -> None:
        self.names: dict[bytes, bytes] = {}
        self.loose: dict[bytes, bytes] = {}

    def cased(self, key: bytes) -> bytes | None:
        """What stands ready under the key in lower case, where that is another one. The question is echoed as asked.

        Only the name is lowered: a type (65, HTTPS) may be a letter as well. A zero byte inside a label ends the name
        too early, which makes no other valid query's key: length bytes are no letters.
        """
        end = key.find(0, 10)
        name = key[10:end]
        lower = name.lower()
        if lower == name:
            return None
        lowered = key[:10] + lower + key[end:]
        response = self.names.get(lowered) or self.loose.get(lowered)
        return None if response is None else response[: BODY + 10] + name + response[BODY + end :]

    def held(self, query: bytes) -> bytes | None:
        """The response to a query without its id, as it is held, however the name is written."""
        key = key_of(query)
        return self.names.get(key) or self.loose.get(key) or self.cased(key)


class Memo:
    """Responses for all sorts of askers. Read by the threads that serve without a lock, changed under one.

    Each asker has a `Ready` of its own that stays the same object. Answers about one name are forgotten with that name;
    loose ones (negatives with their SOA, wildcards) with any change; passing ones (forwarded) after a second; names
    that nobody on a link has after ten, or with any change.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[Asker, Ready] = {}
        # What sorts of askers hold alike is in memory once: what is touched for an answer is nearer to the processor.
        self._common: _Common = {}
        self._common_loose: _Common = {}
        # What stands around the name in the keys: there are few kinds of queries, so that a name's keys are known.
        self._envelopes: set[tuple[bytes, bytes]] = set()
        self._passing: list[tuple[dict[bytes, bytes], bytes]] = []
        self._absent: list[tuple[dict[bytes, bytes], bytes]] = []
        self._absent_until = 0.0
        self._left: list[dict[bytes, Any]] = []
        self._names = self._loose = 0
        self._snapshot: Snapshot | None = None
        self.next_second = 0.0

    def of(self, asker: Asker) -> Ready:
        """What stands ready for one sort of askers."""
        found = self._answers.get(asker)
        if found is None:
            with self._lock:
                if len(self._answers) >= 1024:  # strangers' addresses do not make views, but interfaces come and go
                    self._clear()
                    self._answers.clear()
                found = self._answers.setdefault(asker, Ready())
        return found

    def keep(self, asker: Asker, snapshot: Snapshot, query: bytes, response: bytes, name: bytes | None) -> None:
        """Remembers an answer of this snapshot, about one name (wire, lower case) or a loose one. Both without ids, the
        name in the query in lower case."""
        ready, key, held = self.of(asker), key_of(query), packed(response)
        with self._lock:
            if snapshot is not self._snapshot:
                return
            if self._left:
                self._free(FREED_AT_ONCE)
            if self._names + self._loose >= MOST_ANSWERS:
                self._clear()
            if name is None:
                if self._loose >= MOST_LOOSE:
                    self._leave_loose()
                if key not in ready.loose:
                    key, held = self._alike(self._common_loose, key, held)
                    ready.loose[key] = held
                    self._loose += 1
                return
            envelope = query[:10], query[10 + len(name) :]
            if envelope not in self._envelopes:
                if len(self._envelopes) >= MOST_ENVELOPES:
                    return
                self._envelopes.add(envelope)
            if key not in ready.names:
                key, held = self._alike(self._common, key, held)
                ready.names[key] = held
                self._names += 1

    def _alike(self, common: _Common, key: bytes, held: bytes) -> tuple[bytes, bytes]:
        """The key and the response that another sort of askers has, where they are the same."""
        if len(self._answers) == 1:
            return key, held
        alike = common.setdefault(key, (key, held))
        return alike if alike[1] == held else (alike[0], held)

    def keep_passing(self, asker: Asker, query: bytes, response: bytes) -> None:
        """Remembers a forwarded answer until the second is over."""
        ready, key, held = self.of(asker), key_of(query), packed(response)
        with self._lock:
            if len(self._passing) < MOST_PASSING:
                ready.names[key] = held
                self._passing.append((ready.names, key))

    def keep_absent(self, asker: Asker, snapshot: Snapshot, query: bytes, response: bytes) -> None:
        """Remembers that nobody on a link has a name, which no VM has in this snapshot."""
        ready, key, held = self.of(asker), key_of(query), packed(response)
        with self._lock:
            if snapshot is self._snapshot and len(self._absent) < MOST_PASSING:
                ready.names[key] = held
                self._absent.append((ready.names, key))

    def forget_absent(self) -> None:
        """Others on a link may have these names now. Of any thread."""
        with self._lock:
            self._drop(self._absent)

    def tick(self) -> None:
        """To be called before what stands ready is used: it may have aged."""
        moment = now()
        if moment >= self.next_second:
            self.age(moment)

    def age(self, now: float) -> None:
        """Forgets the forwarded answers of the second before, and what is absent each ten seconds. now is of
        time.monotonic."""
        self.next_second = now + PASSING_SECONDS
        if now >= self._absent_until:
            self._absent_until = now + ABSENT_SECONDS
            self.forget_absent()
        if self._passing or self._left:
            with self._lock:
                self._drop(self._passing)
                self._free(FREED_EACH_SECOND)

    @staticmethod
    def _drop(kept: list[tuple[dict[bytes, bytes], bytes]]) -> None:
        for names, key in kept:
            names.pop(key, None)
        kept.clear()

    def publish(self, snapshot: Snapshot, changed: Iterable[bytes] | None) -> None:
        """Another snapshot is in force: these names (wire) are answered otherwise, None for possibly all."""
        with self._lock:
            self._snapshot = snapshot
            self._drop(self._absent)
            if changed is None:
                self._clear()
                return
            for name in changed:
                for before, after in self._envelopes:
                    key = key_of(before + name + after)
                    self._common.pop(key, None)
                    for ready in self._answers.values():
                        self._names -= ready.names.pop(key, None) is not None
            self._leave_loose()

    def _leave_loose(self) -> None:
        if self._loose:
            for ready in self._answers.values():
                self._left.append(ready.loose)
                ready.loose = {}
            self._left.append(self._common_loose)
            self._common_loose = {}
            self._loose = 0

    def _clear(self) -> None:
        self._leave_loose()
        for ready in self._answers.values():
            self._left.append(ready.names)
            ready.names = {}
        self._left.append(self._common)
        self._common = {}
        self._envelopes.clear()
        self._passing.clear()
        self._names = 0

    def _free(self, count: int) -> None:
        """Lets go of so many entries of what was left."""
        while self._left and count > 0:
            last = self._left[-1]
            while last and count > 0:
                last.popitem()
                count -= 1
            if not last:
                self._left.pop()


def find(ready: Ready, packet: bytes) -> bytes | None:
    """The response (without its id) that stands ready for a packet, however its name is written."""
    held = ready.held(packet[2:])
    return None if held is None else unpacked(held)


def now() -> float:
    """The clock of `age`."""
    return time.monotonic()
