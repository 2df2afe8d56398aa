"""Escapes control characters in texts that come from guests, upstreams and files.

Names of VMs, values of guest properties, names of networks and texts of upstreams may hold controls that a terminal, a
log or a file of lines would obey (T19 of the threats in docs/security.md).
"""

from __future__ import annotations

import unicodedata

# Controls (C0, C1, DEL: escape sequences and ends of lines among them), format characters (U+202E and its like, which
# turn around what is read), surrogates, private and unassigned characters, separators of lines and paragraphs.
_STEERING = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def escape_text(text: object) -> str:
    """The text on one line, with everything that steers written as Python writes it in a literal."""
    shown = str(text)
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(_escape_character(char) if unicodedata.category(char) in _STEERING else char for char in shown)


def _escape_character(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
