"""No text that goes through `safe` steers a terminal, a log or a file of lines."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from vmdns.daemon.log_limit import MOST_KEYS, MOST_LINES, SECONDS, LogLimit
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


def test_ten_lines_a_minute_and_then_how_many_were_left_out() -> None:
    sparing = LogLimit()
    told = [sparing.lines("VM 'evil'", str(number), number / 100) for number in range(1000)]
    assert told == [[str(number)] if number < MOST_LINES else [] for number in range(1000)]
    assert sparing.lines("VM 'web'", "hello", 10.0) == ["hello"], "others are heard meanwhile"
    assert sparing.lines("VM 'evil'", "again", SECONDS) == ["990 more lines about VM 'evil' were left out", "again"]
    assert sparing.lines("VM 'evil'", "and again", SECONDS + 1) == ["and again"]


def test_a_clock_that_goes_back_begins_a_minute_anew() -> None:
    sparing = LogLimit()
    for _ in range(MOST_LINES + 1):
        sparing.lines("a", "x", 1000.0)
    assert sparing.lines("a", "x", 1000.0) == []
    assert sparing.lines("a", "x", 10.0)[-1] == "x"


def test_keys_are_bounded() -> None:
    sparing = LogLimit()
    for number in range(3 * MOST_KEYS):
        sparing.lines(str(number), "x", 0.0)
    assert len(sparing._counts) <= MOST_KEYS
