"""What keeps a VM from an address or a name, in words, with the remedy."""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """text: what is wrong and why, a sentence. remedy: what to do, in words; command: the line to type on this
    computer for it. Both are empty where there is nothing to do."""

    text: str
    remedy: str = ""
    command: str = ""

    @property
    def advice(self) -> str:
        """The remedy, with the command."""
        return ": ".join(part for part in (self.remedy, self.command) if part)

    def __str__(self) -> str:
        return f"{self.text}; {self.advice}" if self.advice else self.text
