"""What one source has told so far: everything at first, then only what changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vmdns.core.model import Fact

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
        changes: dict[str, Fact | None] = {key: None for key in before if key not in facts}
        # Thousands of leases stand there as before, and are the very same.
        changes.update(
            (key, fact) for key, fact in facts.items() if (held := before.get(key)) is not fact and held != fact
        )
        if changes:
            self._tell("patch", self._source, changes)
