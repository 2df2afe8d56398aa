"""The times that VirtualBox prints and writes into files."""

from __future__ import annotations

from datetime import UTC, datetime


def parse_timestamp(text: str) -> float:
    """Unix seconds of `2026-11-22T22:13:02.687000000` or `2026-11-22T22:13:02Z`, in whole seconds; 0.0 for other texts.

    VirtualBox writes UTC, with a fraction (`VMStateChangeTime`) or without (`lastStateChange` in a settings file).
    The fraction is dropped, so that both give the same value.
    """
    try:
        return datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0
