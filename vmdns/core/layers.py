"""A mapping that changes while others keep what it was: a copy costs as much as what changed lately.

A dict of 40,000 names takes milliseconds to copy. So what changed lets the large dict alone and lies over it; the two
are made one when that is worth it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_LEAST = 256  # so many changes lie over a dict at least before the two are made one
_SHARE = 16  # else as many as this part of it


class Layered(Mapping[K, V]):
    """What a `Layers` was. Never changes. under is shared with others; over says of some keys what is instead."""

    __slots__ = ("_over", "_under")

    def __init__(self, under: dict[K, V], over: dict[K, V | None]) -> None:
        self._under = under
        self._over = over

    def __getitem__(self, key: K) -> V:
        value = self._over[key] if key in self._over else self._under[key]
        if value is None:
            raise KeyError(key)
        return value

    def get(self, key: K, default: object = None) -> V | None:  # type: ignore[override]
        value = self._over[key] if key in self._over else self._under.get(key)
        return default if value is None else value  # type: ignore[return-value]

    def __contains__(self, key: object) -> bool:
        if key in self._over:
            return self._over[key] is not None
        return key in self._under

    def __iter__(self) -> Iterator[K]:
        for key in self._under:
            if key not in self._over:
                yield key
        for key, value in self._over.items():
            if value is not None:
                yield key

    def __len__(self) -> int:
        gone = sum(1 for key, value in self._over.items() if value is None and key in self._under)
        new = sum(1 for key, value in self._over.items() if value is not None and key not in self._under)
        return len(self._under) + new - gone

    def __repr__(self) -> str:
        return f"Layered({dict(self)!r})"


class Layers(Generic[K, V]):
    """Changes, and gives away what it is. No value is None."""

    __slots__ = ("_first", "_over", "_under")

    def __init__(self) -> None:
        self._first: dict[K, V] = {}  # all of it, until it is given away for the first time
        self._under: dict[K, V] | None = None
        self._over: dict[K, V | None] = {}

    def get(self, key: K) -> V | None:
        if self._under is None:
            return self._first.get(key)
        return self._over[key] if key in self._over else self._under.get(key)

    def put(self, key: K, value: V) -> None:
        if self._under is None:
            self._first[key] = value
        else:
            self._over[key] = value

    def drop(self, key: K) -> None:
        """Takes a key away, if it is there."""
        if self._under is None:
            self._first.pop(key, None)
        elif key in self._under:
            self._over[key] = None
        else:
            self._over.pop(key, None)

    def values(self) -> list[V | None]:
        """All that is held in whatever layer."""
        return [*self._first.values(), *(self._under or {}).values(), *self._over.values()]

    def merge(self) -> None:
        """Makes the two one, where that is worth it."""
        if self._under is None or len(self._over) <= max(_LEAST, len(self._under) // _SHARE):
            return
        whole = self._under.copy()
        for key, value in self._over.items():
            if value is None:
                whole.pop(key, None)
            else:
                whole[key] = value
        self._under, self._over = whole, {}

    def given(self) -> Mapping[K, V]:
        """What it is now; further changes do not show there."""
        self.merge()
        if self._under is None:
            self._under, self._first = self._first, {}
        return Layered(self._under, self._over.copy()) if self._over else self._under
