"""What keeps a VM from an address or a name, in words, with the remedy."""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """text: what is wrong and why, a sentence. remedy: what to do, in words; command: the line to type on this
    computer for it. Both are empty where there is nothing to do."""

    text: str
    remedy: str = ""
    command: str = ""

    def __str__(self) -> str:
        parts = [part for part in (self.remedy, self.command) if part]
        return f"{self.text}; {': '.join(parts)}" if parts else self.text
