"""What one source has told so far: everything at first, then only what changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vmdns.state.facts import Fact

Tell = Callable[[str, str, Mapping[str, Fact | None]], None]


class Told:
    """Tells the facts of a source. tell is called with `put` or `patch`, the source and the facts by their keys."""

    def __init__(self, source: str, tell: Tell) -> None:
        self._source = source
        self._tell = tell
        self._facts: Mapping[str, Fact] | None = None

    def tell(self, facts: Mapping[str, Fact]) -> None:
        """These are all there are now."""
        before, self._facts = self._facts, facts
        if before is None:
            self._tell("put", self._source, facts)
            return
        # Thousands of leases stand there as before, and are the very same.
        changes: dict[str, Fact | None] = {
            key: fact for key, fact in facts.items() if (held := before.get(key)) is not fact and held != fact
        }
        # What is gone comes last: much is put in force bit by bit, and a VM whose lease gave way to another one would
        # be without an address meanwhile.
        changes.update((key, None) for key in before if key not in facts)
        if changes:
            self._tell("patch", self._source, changes)
