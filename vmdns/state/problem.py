"""What keeps a VM from an address or a name, in words, with the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

SAME_MACHINE_ID = (
    "if one VM is a copy of the other, both have one machine-id and so ask DHCP for one address: in the copy, as root, "
    "run `rm /etc/machine-id; systemd-machine-id-setup` and reboot"
)


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


def join_words(parts: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`; each part once."""
    *first, last = dict.fromkeys(parts) or [""]
    return f"{', '.join(first)} and {last}" if first else last
