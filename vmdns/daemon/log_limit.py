"""Limits how many lines each VM or peer may cause: a guest that changes all the time must not fill the log (T19)."""

from __future__ import annotations

MOST_LINES = 10
SECONDS = 60.0
MOST_KEYS = 1024  # beyond that all counts are dropped, which lets a few more lines through


class LogLimit:
    """At most 10 lines a minute for each key."""

    def __init__(self) -> None:
        self._counts: dict[str, list[float]] = {}  # by key: when the minute began, how many lines came

    def lines(self, key: str, line: str, now: float) -> list[str]:
        """What to log: the line, nothing, or the line after one that counts those left out. now in seconds."""
        begun, count = self._counts.get(key) or (now, 0)
        if not 0 <= now - begun < SECONDS:
            left_out = int(count) - MOST_LINES
            begun, count = now, 0
        else:
            left_out = 0
        if len(self._counts) >= MOST_KEYS and key not in self._counts:
            self._counts.clear()
        self._counts[key] = [begun, count + 1]
        if count >= MOST_LINES:
            return []
        more = [f"{left_out} more lines about {key} were left out"] if left_out > 0 else []
        return [*more, line]
