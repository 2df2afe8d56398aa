"""Names whose answers were withheld because of private addresses from outside (DNS rebinding)."""

from __future__ import annotations

from collections import OrderedDict

from vmdns.dns.name import to_text

MOST_NAMES = 64
SECONDS = 3600.0  # after that, a name that nobody asks for any more is forgotten
# Names that networks use for themselves: below these, the domain is a single label.
_LOCAL = frozenset({"lan", "test", "home", "corp", "internal", "intranet", "private", "localdomain", "localnet"})
# Below these, countries with a domain of two letters register names for anybody (co.uk, com.au).
_REGISTRIES = frozenset({"ac", "co", "com", "edu", "go", "gob", "gov", "ltd", "mil", "ne", "net", "or", "org"})


class WithheldNames:
    """The names, with when they were last asked for; the one that was asked for longest ago is forgotten first.

    Times are of a monotonic clock, in seconds.
    """

    def __init__(self) -> None:
        self._names: OrderedDict[bytes, float] = OrderedDict()

    def add(self, name: bytes, now: float) -> bool:
        """Notes a wire name. Returns whether it was not there."""
        new = name not in self._names or now - self._names[name] >= SECONDS
        self._names[name] = now
        self._names.move_to_end(name)
        if len(self._names) > MOST_NAMES:
            self._names.popitem(last=False)
        return new

    def names(self, now: float) -> list[str]:
        """The names of the last hour, the newest last."""
        return [to_text(name) for name, last in self._names.items() if now - last < SECONDS]

    def clear(self) -> None:
        """Forgets all: what is allowed has changed."""
        self._names.clear()


def domain_to_allow(name: str) -> str:
    """The domain that a user would name to allow private addresses for this name, in `private_domains`."""
    parts = name.rstrip(".").split(".")
    if len(parts) > 2 or parts[-1] in _LOCAL:
        parts = parts[1:] or parts
        while len(parts) > 2 and parts[0].isdigit():  # 10.0.0.1.nip.io
            parts = parts[1:]
    if len(parts) == 2 and parts[0] in _REGISTRIES and len(parts[1]) == 2:
        return name.rstrip(".")  # not the names of everybody there
    return ".".join(parts)
