"""Every number that bounds vmdns, with its default, its least and its most. Times are in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple


class Limit(NamedTuple):
    """What a limit may be, and what it is for."""

    default: float
    least: float
    most: float
    unit: str
    about: str


def _limit(default: float, least: float, most: float, unit: str, about: str) -> Any:
    return field(default=default, metadata={"limit": Limit(default, least, most, unit, about)})


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits in force."""

    ttl: int = _limit(5, 0, 3600, "s", "TTL of VM names, and of their absence")
    cache_entries: int = _limit(10_000, 0, 1_000_000, "entries", "forwarded answers that are kept")
    cache_ttl: int = _limit(86_400, 0, 604_800, "s", "longest time a forwarded answer is kept")
    negative_ttl: int = _limit(3_600, 0, 86_400, "s", "longest time a forwarded negative answer is kept")
    upstream_timeout: float = _limit(
        2.0, 0.1, 30, "s", "wait for one upstream before it is asked again or the next one is"
    )
    query_timeout: float = _limit(5.0, 1, 30, "s", "wait for all upstreams together, then SERVFAIL")
    outstanding: int = _limit(1_000, 10, 20_000, "queries", "queries in flight to upstreams at once")
    tcp_idle: float = _limit(10.0, 1, 300, "s", "time after which an idle TCP connection is closed")
    tcp_connections: int = _limit(
        250, 4, 10_000, "connections", "TCP connections at once; the oldest idle one goes first"
    )
    asker_rate: int = _limit(
        5_000, 100, 10_000_000, "queries/s", "queries a second of one client; beyond that there is no answer"
    )
    source_stale: float = _limit(600.0, 10, 86_400, "s", "how long the last report of a silent source is believed")
    look_interval: float = _limit(30.0, 5, 3600, "s", "time between full looks at VirtualBox")


LIMITS: dict[str, Limit] = {one.name: one.metadata["limit"] for one in fields(Limits)}
