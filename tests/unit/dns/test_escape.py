"""No text that goes through `safe` steers a terminal, a log or a file of lines."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from vmdns.dns.escape import escape_text

# What each of them does to somebody: a colour, the 8-bit form of ESC [, a window's title, a forged line, a line as
# others see it, a reversed name, an invisible letter, an end of a C string, a mark of another byte order.
HOSTILE = ("\x1b[31m", "\x9b2J", "\x1b]0;title\x07", "\n", "\r", "\u2028", "\u2029", "\x85", "\u202e", "\u2066",
           "\u200b", "\x00", "\x7f", "\ufeff", "\ud800", "\x0b", "\x0c", "\x1c", "\x08", "\U000e0001")  # fmt: skip


@given(st.text(st.one_of(st.characters(), st.characters(categories=["Cs"]), st.sampled_from("".join(HOSTILE)))))
def test_nothing_that_steers_is_left(text: str) -> None:
    shown = escape_text(text)
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert len(shown.splitlines()) <= 1
    assert escape_text(shown) == shown
    shown.encode("utf-8")


@given(st.text(st.characters(categories=["L", "N", "P", "S", "M", "Zs"])))
def test_what_people_write_is_left(text: str) -> None:
    assert escape_text(text) == text


def test_each_hostile_one_is_escaped() -> None:
    for one in HOSTILE:
        assert escape_text(f"web{one}db") not in (f"web{one}db", "webdb"), f"{one!r} is neither left nor lost"
