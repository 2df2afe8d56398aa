"""Responses that stand ready as bytes: what was rendered once is sent again until the names in it change.

A key is a query without its id, its name in lower case; the value is the response without its id. What is put in
comes from the slow path, so both give the same bytes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from vmdns.core.snapshot import Right, Snapshot
from vmdns.core.view import View

MOST_ANSWERS = 200_000  # some 250 bytes each: 50 MB at worst, for 10,000 names that are asked from ten networks
MOST_LOOSE = 8_192
MOST_ENVELOPES = 64
PASSING_SECONDS = 1.0  # TTLs of forwarded answers count down in seconds

Asker = tuple[View, Right]


class Memo:
    """Responses for all sorts of askers. Read by the threads that serve without a lock, changed under one.

    Each asker has a dict of its own that stays the same object. Answers about one name are forgotten with that name;
    loose ones (negatives with their SOA, wildcards) with any change; passing ones (forwarded) after a second.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[Asker, dict[bytes, bytes]] = {}
        # What stands around the name in the keys: there are few kinds of queries, so that a name's keys are known.
        self._envelopes: set[tuple[bytes, bytes]] = set()
        self._loose: list[tuple[dict[bytes, bytes], bytes]] = []
        self._passing: list[tuple[dict[bytes, bytes], bytes]] = []
        self._count = 0
        self._snapshot: Snapshot | None = None
        self.next_second = 0.0

    def of(self, asker: Asker) -> dict[bytes, bytes]:
        """The responses for one sort of askers, to look keys up in."""
        found = self._answers.get(asker)
        if found is None:
            with self._lock:
                if len(self._answers) >= 1024:  # strangers' addresses do not make views, but interfaces come and go
                    self._clear()
                    self._answers.clear()
                found = self._answers.setdefault(asker, {})
        return found

    def keep(self, asker: Asker, snapshot: Snapshot, key: bytes, response: bytes, name: bytes | None) -> None:
        """Remembers an answer of this snapshot, about one name (wire, lower case) or a loose one."""
        with self._lock:
            if snapshot is not self._snapshot:
                return
            if self._count >= MOST_ANSWERS:
                self._clear()
            if len(self._loose) >= MOST_LOOSE:
                self._drop_loose()
            among = self._answers.setdefault(asker, {})
            if key in among:
                return
            if name is None:
                self._loose.append((among, key))
            else:
                envelope = key[:10], key[10 + len(name) :]
                if envelope not in self._envelopes:
                    if len(self._envelopes) >= MOST_ENVELOPES:
                        return
                    self._envelopes.add(envelope)
            among[key] = response
            self._count += 1

    def keep_passing(self, asker: Asker, key: bytes, response: bytes) -> None:
        """Remembers a forwarded answer until the second is over."""
        with self._lock:
            if len(self._passing) < MOST_LOOSE:
                among = self._answers.setdefault(asker, {})
                among[key] = response
                self._passing.append((among, key))

    def age(self, now: float) -> None:
        """Forgets the forwarded answers of the second before. now is of time.monotonic."""
        self.next_second = now + PASSING_SECONDS
        if self._passing:
            with self._lock:
                for among, key in self._passing:
                    among.pop(key, None)
                self._passing.clear()

    def publish(self, snapshot: Snapshot, changed: Iterable[bytes] | None) -> None:
        """Another snapshot is in force: these names (wire) are answered otherwise, None for possibly all."""
        with self._lock:
            self._snapshot = snapshot
            if changed is None:
                self._clear()
                return
            for name in changed:
                for before, after in self._envelopes:
                    key = before + name + after
                    for among in self._answers.values():
                        self._count -= among.pop(key, None) is not None
            self._drop_loose()

    def _drop_loose(self) -> None:
        self._count -= len(self._loose)
        for among, key in self._loose:
            among.pop(key, None)
        self._loose.clear()

    def _clear(self) -> None:
        for among in self._answers.values():
            among.clear()
        self._envelopes.clear()
        self._loose.clear()
        self._passing.clear()
        self._count = 0


def find(ready: dict[bytes, bytes], packet: bytes) -> bytes | None:
    """The response (without its id) that stands ready for a packet, however its name is written."""
    key = packet[2:]
    return ready.get(key) or find_respelled(ready.get, key)


def find_respelled(ready: Callable[[bytes], bytes | None], key: bytes) -> bytes | None:
    """The same for a query without its id whose name is not in lower case. The question is echoed as it was asked.

    Only the name is lowered: a type (65, HTTPS) may be a letter as well. A zero byte inside a label ends the name too
    early, which makes no other valid query's key: length bytes are no letters.
    """
    end = key.find(0, 10)
    name = key[10:end]
    lower = name.lower()
    if lower == name:
        return None
    response = ready(key[:10] + lower + key[end:])
    return None if response is None else response[:10] + name + response[end:]


def now() -> float:
    """The clock of `age`."""
    return time.monotonic()
