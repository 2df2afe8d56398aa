"""TOML as text: on which line a key stands, and how a value is written (TOML 1.0).

`tomllib` reads values but forgets where they were, and the standard library writes no TOML.
"""

from __future__ import annotations

import json
import re
import tomllib

_TEXT = r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\''
_PART = rf"(?:[A-Za-z0-9_-]+|{_TEXT})"
_DOTTED = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_TABLE = re.compile(rf"[ \t]*\[\[?[ \t]*({_DOTTED})[ \t]*\]\]?")
_KEY = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=")
# What a value consists of, as far as its end matters: texts, comments and brackets; a newline ends it at depth 0.
# Without possessive quantifiers, which Python 3.11.2 (Debian 12) still gets wrong.
_PIECE = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}|\'\'\'(?:[^\']|\'(?!\'\'))*\'{3,5}'
    rf"|{_TEXT}|#[^\n]*|[\[{{]|[\]}}]|\n|[^\"'#\[\]{{}}\n]+",
    re.DOTALL,
)


# tomllib keeps each beginning of a dotted key: its memory grows with the square of the parts. A domain name as a key
# without quotes has 18 parts where it is of an IPv6 network (/64, below ip6.arpa).
MAX_DOTS_IN_LINE = 64
MAX_DOTS = 2048


def too_nested(text: str) -> int:
    """The line, from 1, whose dotted keys are more than tomllib may be asked to read; 0 where there is none.

    Dots in texts and comments do not count. Takes time in proportion to the text, and need not be right behind an error
    of syntax, where tomllib stops as well.
    """
    at, line, here, dots = 0, 1, 0, 0
    while piece := _PIECE.match(text, at):
        at = piece.end()
        first = piece[0][0]
        if first == "\n":
            here = 0
        elif first not in "\"'#":
            found = piece[0].count(".")
            here += found
            dots += found
            if here > MAX_DOTS_IN_LINE or dots > MAX_DOTS:
                return line
        line += piece[0].count("\n")
    return 0


def key_lines(text: str) -> dict[str, int]:
    """The line, from 1, of each key and table header of valid TOML, by its dotted name without quotes."""
    lines: dict[str, int] = {}
    table: tuple[str, ...] = ()
    at, line = 0, 1
    while at < len(text):
        if head := _TABLE.match(text, at):
            table = _parts(head[1])
            lines.setdefault(".".join(table), line)
            at = head.end()
        elif key := _KEY.match(text, at):
            lines.setdefault(".".join(table + _parts(key[1])), line)
            at = key.end()
        end = _end_of_line(text, at)
        line += text.count("\n", at, end)
        at = end
    return lines


def _end_of_line(text: str, at: int) -> int:
    """Behind the newline that ends the value or comment at `at`."""
    depth = 0
    while at < len(text):
        piece = _PIECE.match(text, at)
        if piece is None:
            return len(text)
        at = piece.end()
        if piece[0] == "\n" and depth <= 0:
            return at
        depth += (piece[0] in "[{") - (piece[0] in "]}")
    return at


def _parts(dotted: str) -> tuple[str, ...]:
    """The keys of a dotted key, unquoted: tomllib reads it as the way to a value."""
    value = tomllib.loads(f"{dotted} = 0")
    out = []
    while isinstance(value, dict):
        name, value = next(iter(value.items()))
        out.append(name)
    return tuple(out)


def quoted(text: str) -> str:
    """The text as a TOML basic string. JSON's escapes are all TOML's too, but TOML also escapes DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def quoted_lines(text: str) -> str:
    """The text as a literal string over several lines where that can hold it, else as `quoted`."""
    plain = all(char in "\n\t" or char >= " " for char in text) and "\x7f" not in text
    if "\n" not in text or not plain or "'''" in text or text.endswith("'"):
        return quoted(text)
    return f"'''\n{text}'''"
