"""Every number that bounds vmdns, with its default, its least and its most. Times are in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Limit(NamedTuple):
    """What a limit may be, and what it is for."""

    default: float
    least: float
    most: float
    unit: str
    about: str


LIMITS: dict[str, Limit] = {
    "ttl": Limit(5, 0, 3600, "s", "TTL of VM names, and of their absence"),
    "cache_entries": Limit(10_000, 0, 1_000_000, "entries", "forwarded answers that are kept"),
    "cache_ttl": Limit(86_400, 0, 604_800, "s", "longest time a forwarded answer is kept"),
    "negative_ttl": Limit(3_600, 0, 86_400, "s", "longest time a forwarded negative answer is kept"),
    "upstream_timeout": Limit(2, 0.1, 30, "s", "wait for one upstream before it is asked again or the next one is"),
    "query_timeout": Limit(5, 1, 30, "s", "wait for all upstreams together, then SERVFAIL"),
    "outstanding": Limit(1_000, 10, 20_000, "queries", "queries in flight to upstreams at once"),
    "tcp_idle": Limit(10, 1, 300, "s", "time after which an idle TCP connection is closed"),
    "tcp_connections": Limit(250, 4, 10_000, "connections", "TCP connections at once; the oldest idle one goes first"),
    "asker_rate": Limit(
        5_000, 100, 10_000_000, "queries/s", "queries a second of one client; beyond that there is no answer"
    ),
    "source_stale": Limit(600, 10, 86_400, "s", "how long the last report of a silent source is believed"),
    "look_interval": Limit(30, 5, 3600, "s", "time between full looks at VirtualBox"),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits in force, by the names of `LIMITS`."""

    ttl: int = 5
    cache_entries: int = 10_000
    cache_ttl: int = 86_400
    negative_ttl: int = 3_600
    upstream_timeout: float = 2.0
    query_timeout: float = 5.0
    outstanding: int = 1_000
    tcp_idle: float = 10.0
    tcp_connections: int = 250
    asker_rate: int = 5_000
    source_stale: float = 600.0
    look_interval: float = 30.0
