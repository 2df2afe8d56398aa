"""Addresses whose owner has shown that what is sent there reaches it: by TCP, or by a cookie of ours."""

from __future__ import annotations

PROVEN_SECONDS = 3600.0
MOST_PROVEN = 4096  # some 200 bytes each: 0.8 MB


class Proven:
    """The addresses that are proven, the one proven longest ago first. now is a monotonic clock in seconds."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def add(self, address: str, now: float) -> None:
        """Takes it for proven for an hour; where there are too many, the oldest is forgotten."""
        self._until.pop(address, None)
        while len(self._until) >= MOST_PROVEN:
            self._until.pop(next(iter(self._until), ""), None)
        self._until[address] = now + PROVEN_SECONDS

    def has(self, address: str, now: float) -> bool:
        """Whether it is proven."""
        return self._until.get(address, 0.0) > now

    def __len__(self) -> int:
        return len(self._until)
