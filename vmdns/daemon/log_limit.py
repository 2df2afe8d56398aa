"""How many lines each one may cause: a guest that changes its mind all the time must not fill the log (T19)."""

from __future__ import annotations

MOST_LINES = 10
SECONDS = 60.0
MOST_KEYS = 1024  # of more, all are forgotten: that lets a few lines through that were to be left out


class Sparing:
    """At most 10 lines a minute for each key."""

    def __init__(self) -> None:
        self._told: dict[str, list[float]] = {}  # when the minute began, how many lines came

    def lines(self, key: str, line: str, now: float) -> list[str]:
        """What is to be said: the line, or nothing, or the line behind one about those left out. now in seconds."""
        begun, count = self._told.get(key) or (now, 0)
        if not 0 <= now - begun < SECONDS:
            left_out = int(count) - MOST_LINES
            begun, count = now, 0
        else:
            left_out = 0
        if len(self._told) >= MOST_KEYS and key not in self._told:
            self._told.clear()
        self._told[key] = [begun, count + 1]
        if count >= MOST_LINES:
            return []
        more = [f"{left_out} more lines about {key} were left out"] if left_out > 0 else []
        return [*more, line]
