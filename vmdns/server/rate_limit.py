"""Rate limits of one client: queries by the work they take, and bytes to addresses that are not verified.

The sums of `ClientAccount` hold whatever the clock does: time that goes back counts as none.
"""

from __future__ import annotations

from enum import Enum

# A cached answer costs 1, an uncached one MAKING more: it takes five to twenty times as long.
READY, MAKING = 1.0, 4.0
SLIP = 3  # one in SLIP queries beyond the rate gets an empty response with TC: a real client retries by TCP
REFUSED_FORWARD = 20.0  # besides, for a query beyond the limit of forwards: SERVFAIL with its reason is expensive
BURST_SECONDS = 1.0  # of a rate that may be used at once: a web page, the start of a crawler

# To an address that is not verified, beside three bytes for each received one (amplification by 3 gains an attacker
# nothing). Old musl knows no TCP, so a guest that is never verified gets some four long answers a second.
FACTOR = 3
ALLOWANCE = 2_000.0  # bytes a second
ALLOWANCE_BURST = 65_536.0  # bytes


class SendDecision(Enum):
    """What becomes of a response: sent whole, sent empty with TC, or dropped."""

    SEND, TRUNCATE, DROP = range(3)


class Bucket:
    """A number of tokens that refills: `rate` a second, up to `burst`. Times are in seconds."""

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._at = now

    def level(self, now: float) -> float:
        """Returns how many tokens there are."""
        if now > self._at:
            self._level = min(self.burst, self._level + (now - self._at) * self.rate)
        self._at = now
        return self._level

    def take(self, now: float, amount: float) -> bool:
        """Takes that many tokens if there are enough. Returns whether it did."""
        if self.level(now) < amount:
            return False
        self._level -= amount
        return True

    def charge(self, amount: float) -> None:
        """Takes tokens for work that is done already; the level may fall below zero."""
        self._level -= amount

    def add(self, amount: float) -> None:
        """Adds tokens, up to `burst`."""
        self._level = min(self.burst, self._level + amount)


class ClientAccount:
    """What one client, or all strangers of one network, may still use.

    rate is in cached answers a second. The law: an address that is not verified gets at most 3 bytes for each byte that
    came from it, and ALLOWANCE_BURST + ALLOWANCE * t in t seconds besides.
    """

    __slots__ = ("_bytes", "_cut", "_refused", "work")

    def __init__(self, rate: float, now: float) -> None:
        self.work = Bucket(rate, rate * BURST_SECONDS, now)
        self._bytes = Bucket(ALLOWANCE, ALLOWANCE_BURST, now)
        self._cut = False
        self._refused = 0

    def admit(self, now: float) -> SendDecision:
        """Returns whether one more query is answered: SEND; else TRUNCATE for one in SLIP, and DROP."""
        if self.work.take(now, READY):
            return SendDecision.SEND
        self._refused += 1
        return SendDecision.DROP if self._refused % SLIP else SendDecision.TRUNCATE

    def release(self, now: float, received: int, sent: int) -> SendDecision:
        """Returns what becomes of a response of `sent` bytes to a query of `received`, for an address that is not
        verified.

        Beyond the allowance each second response is truncated, the first of them too: a client that knows TCP retries
        by TCP, and is verified then.
        """
        self._bytes.level(now)
        self._bytes.add(FACTOR * received)
        if self._bytes.take(now, sent):
            self._cut = False
            return SendDecision.SEND
        self._cut = not self._cut
        if self._cut:
            self._bytes.charge(received)  # a truncated response is about as long as its query
            return SendDecision.TRUNCATE
        return SendDecision.DROP


def to_stranger(received: int, sent: int) -> SendDecision:
    """The same for a stranger on a LAN, which has no allowance."""
    return SendDecision.SEND if sent <= FACTOR * received else SendDecision.TRUNCATE
