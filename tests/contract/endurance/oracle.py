"""What is true at each moment of an endurance run: every query's answer, and since when.

A server learns of a change a moment after it was made. So an answer is right if it was true at any time from `GRACE`
seconds before its query was sent until it came back; times are seconds of one monotonic clock.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

# vmdns promises 0.1 s after an event of VirtualBox and 0.25 s after a lease file; the rest is for a machine that does
# other things too. How late answers really were is measured and printed.
GRACE = 2.0
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3


class Truth(NamedTuple):
    """An answer: its RCODE, and the addresses or names in it as text; no data is NOERROR with nothing."""

    rcode: int
    data: frozenset[str] = frozenset()


NOTHING, ABSENT = Truth(NOERROR), Truth(NXDOMAIN)


class Oracle:
    """The answers to (name, type), as they were and are; `ABSENT` if nothing was added.

    One thread adds, any may look up.
    """

    def __init__(self) -> None:
        # Of each question the answers with the time of their end, oldest first; the last one has none.
        self._past: dict[tuple[str, str], deque[tuple[float, Truth]]] = {}
        self._now: dict[tuple[str, str], Truth] = {}

    def add(self, now: float, changes: dict[tuple[str, str], Truth]) -> None:
        """From now on these are the answers."""
        for question, truth in changes.items():
            before = self._now.get(question, ABSENT)
            if before != truth:
                past = self._past.setdefault(question, deque(maxlen=64))
                past.append((now, before))
                self._now[question] = truth

    def lateness(self, question: tuple[str, str], answer: Truth, sent: float) -> float | None:
        """How many seconds before the query was sent the answer was true last; 0 where it is not late.

        None where it was never true: the answer is wrong, as one is that is later than `GRACE`. An unknown name of two
        labels in local gets SERVFAIL where the budget of multicast lookups is spent (docs/security.md).
        """
        if answer == Truth(SERVFAIL) and question[0].endswith(".local") and question[0].count(".") == 1:
            answer = ABSENT
        # The past before the present: a change meanwhile must not hide what was true a moment ago.
        past = list(self._past.get(question, ()))
        if answer == self._now.get(question, ABSENT) or any(e >= sent and t == answer for e, t in past):
            return 0.0
        ends = [end for end, truth in past + list(self._past.get(question, ())) if truth == answer]
        return max(0.0, sent - max(ends)) if ends else None
