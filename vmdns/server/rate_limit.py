"""What one asker may cost: questions by work, and bytes to an address that nobody has proven to be the asker's.

The sums of `Account` hold whatever the caller's clock does: time that goes back counts as none.
"""

from __future__ import annotations

from enum import Enum

# A question that stands ready costs 1, one that must be made costs MAKING more: it takes five to twenty times as long.
READY, MAKING = 1.0, 4.0
SLIP = (
    3  # of the questions beyond the rate, one of so many is answered empty with TC: an honest client asks by TCP then
)
IN_VAIN = 20.0  # besides, for one that would have to be asked of others and is not: SERVFAIL with its reason is dear
BURST_SECONDS = 1.0  # of a rate that may be used up at once: a page of a browser, the start of a crawler

# To an address that is not proven, beside three bytes for each that came (issue of amplification: an attacker gains
# nothing by 3 x). Old musl knows no TCP, so a guest that never proves itself gets some four long answers a second.
FACTOR = 3
ALLOWANCE = 2_000.0  # bytes a second
ALLOWANCE_BURST = 65_536.0  # bytes


class Verdict(Enum):
    """What becomes of a response: sent, cut to an empty one with TC, or not sent."""

    SEND, CUT, SILENCE = range(3)


class Bucket:
    """A number of tokens that refills: `rate` a second, up to `burst`. Times are in seconds."""

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._at = now

    def level(self, now: float) -> float:
        """How many tokens there are."""
        if now > self._at:
            self._level = min(self.burst, self._level + (now - self._at) * self.rate)
        self._at = now
        return self._level

    def take(self, now: float, amount: float) -> bool:
        """Takes that many tokens where there are so many."""
        if self.level(now) < amount:
            return False
        self._level -= amount
        return True

    def charge(self, amount: float) -> None:
        """Takes tokens for what has been done already; the level may fall below zero."""
        self._level -= amount

    def add(self, amount: float) -> None:
        """Gives tokens, as far as there is room."""
        self._level = min(self.burst, self._level + amount)


class Account:
    """What one asker, or all strangers of one network, may still cost.

    rate is in questions a second that stand ready. The law: to an address that is not proven, at most 3 bytes go for
    each that came from it, and ALLOWANCE_BURST + ALLOWANCE * t in t seconds besides.
    """

    __slots__ = ("_bytes", "_cut", "_refused", "work")

    def __init__(self, rate: float, now: float) -> None:
        self.work = Bucket(rate, rate * BURST_SECONDS, now)
        self._bytes = Bucket(ALLOWANCE, ALLOWANCE_BURST, now)
        self._cut = False
        self._refused = 0

    def admit(self, now: float) -> Verdict:
        """Whether one more question is answered: SEND; else CUT for one in SLIP, and SILENCE."""
        if self.work.take(now, READY):
            return Verdict.SEND
        self._refused += 1
        return Verdict.SILENCE if self._refused % SLIP else Verdict.CUT

    def release(self, now: float, received: int, sent: int) -> Verdict:
        """What becomes of a response of `sent` bytes to a query of `received`, for an address that is not proven.

        Of those that are too much each second one is cut, the first of them too: whoever knows TCP asks by that at
        once, and is proven then.
        """
        self._bytes.level(now)
        self._bytes.add(FACTOR * received)
        if self._bytes.take(now, sent):
            self._cut = False
            return Verdict.SEND
        self._cut = not self._cut
        if self._cut:
            self._bytes.charge(received)  # what is cut is about as long as its query
            return Verdict.CUT
        return Verdict.SILENCE


def to_stranger(received: int, sent: int) -> Verdict:
    """The same for a stranger of a LAN, who has no allowance."""
    return Verdict.SEND if sent <= FACTOR * received else Verdict.CUT
