"""Counters of the DNS server since its start."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Counters:
    """Counts queries, and TCP connections. silenced counts the UDP queries beyond the rate limit, which got no response
    or an empty one with TC."""

    queries: int = 0
    answered: int = 0
    forwarded: int = 0
    refused: int = 0
    malformed: int = 0
    failed: int = 0
    silenced: int = 0
    tcp_connections: int = 0

    def __add__(self, other: Counters) -> Counters:
        mine, theirs = asdict(self), asdict(other)
        return Counters(**{name: count + theirs[name] for name, count in mine.items()})

    def as_dict(self) -> dict[str, int]:
        return asdict(self)
