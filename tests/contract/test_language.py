"""Plain technical English: words of the project's former private language do not come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("vmdns/**/*.py")])
# "held by" and "held up" are English, "held_back" is a key of `status --json`; "held" for "kept" is not. A word may be
# part of an identifier: `_told`, `Told`.
BANNED = re.compile(
    r"(?<![A-Za-z])(told|anew|whoever|held(?! (?:by|up)\b|_back\b)|stands ready|of others|as ever|so many"
    r"|goes before|by turns|in vain|there is none such)(?![A-Za-z])",
    re.IGNORECASE,
)


def banned(text: str) -> list[str]:
    """The banned words in a text, also where a line ends within one."""
    return [one[0] for one in BANNED.finditer(re.sub(r"\s+(?:# )?", " ", text))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_banned_word_is_used(file: Path) -> None:
    assert banned(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the names are told to the links", ["told"]),
        ("self._told = Told()", ["told", "Told"]),
        ("it is made\n    # anew", ["anew"]),
        ("an answer that stands\nready", ["stands ready"]),
        ("port 53 is held by dnsmasq", []),
        ("the lease is held for a day", ["held"]),
        ("withheld, renewed, untold", []),
    ],
)
def test_words_are_found(text: str, words: list[str]) -> None:
    assert banned(text) == words
