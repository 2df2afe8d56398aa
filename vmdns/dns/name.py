"""Names: VM names to labels, and names between text and wire form.

A domain name in wire form is `bytes` of length-prefixed labels that end with a zero byte
(RFC 1035 section 3.1). Keys of tables are wire names in lower case (RFC 4343).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

import idna

MAX_LABEL = 63
MAX_NAME = 255

_LDH = re.compile(r"[a-z0-9-]+\Z")
_LETTERS = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl"})  # categories: also marks and digits
# A run that holds a character which DNS host names cannot carry becomes one hyphen,
# together with the hyphens around it; hyphens that the user typed himself stay.
_BAD_ASCII = re.compile(r"-*(?:[\x00-,./:-@\[-`{-\x7f]-*)+")


# Each byte in presentation form (RFC 1035 section 5.1).
_TEXT = [
    f"\\{chr(byte)}" if byte in b'.\\"();@$' else chr(byte) if 0x21 <= byte <= 0x7E else f"\\{byte:03d}"
    for byte in range(256)
]


@lru_cache(maxsize=8192)
def to_label(name: str) -> str:
    """The one label a VM's name becomes: lower case, LDH or an A-label, at most 63 bytes; '' if nothing is left.

    Other scripts go by IDNA 2008 with the mapping of UTS 46; characters that IDNA does not
    allow (emoji, controls) count as separators. (RFC 952, RFC 1123 section 2.1, RFC 5891.)
    """
    text = unicodedata.normalize("NFKC", name[:1024]).lower()
    text = _BAD_ASCII.sub("-", text).strip("-")
    if not text.isascii():
        return _to_a_label(text)
    if text[2:4] == "--" and not _is_a_label(text):
        text = re.sub("-+", "-", text)
    return text[:MAX_LABEL].strip("-")


def _is_a_label(text: str) -> bool:
    if not text.startswith("xn--") or len(text) > MAX_LABEL:
        return False
    try:
        idna.ulabel(text)
    except (idna.IDNAError, UnicodeError):
        return False
    return True


def _to_a_label(text: str) -> str:
    visible = (char for char in text if unicodedata.category(char) not in ("Cf", "Cc", "Cs"))
    kept = re.sub("-+", "-", "".join(char if _is_allowed(char) else "-" for char in visible)).strip("-")
    for length in range(min(len(kept), MAX_LABEL), 0, -1):
        part = kept[:length].rstrip("-")
        if part.isascii():
            return part
        try:
            made = idna.encode(part, uts46=True).decode("ascii").lower()
        except (idna.IDNAError, UnicodeError):
            continue
        if len(made) <= MAX_LABEL and "." not in made:
            return made
    # A combination that IDNA refuses whatever its length (mixed directions, contextual rules).
    return to_label("".join(char for char in kept if char.isascii()))


@lru_cache(maxsize=4096)
def _is_allowed(char: str) -> bool:
    if char.isascii() or unicodedata.category(char).startswith("M"):
        return True
    try:
        mapped = idna.uts46_remap(char, True, False)
    except (idna.IDNAError, UnicodeError):
        return False
    return bool(mapped) and all(
        _LDH.match(one)
        if one.isascii()
        else unicodedata.category(one)[0] in "LMN" and unicodedata.category(one) != "No"
        for one in mapped
    )


@lru_cache(maxsize=65536)
def to_wire(name: str) -> bytes:
    """Wire form, in lower case, of a dotted name; labels are taken as UTF-8. '' and '.' are the root.

    Raises ValueError where a label is empty or over 63 bytes, or the name over 255.
    """
    stripped = name.removesuffix(".")
    if not stripped:
        return b"\0"
    out = bytearray()
    for part in stripped.split("."):
        raw = part.encode("utf-8")
        if not raw or len(raw) > MAX_LABEL:
            raise ValueError(f"not a domain name: {name!r}")
        out.append(len(raw))
        out += raw
    out.append(0)
    if len(out) > MAX_NAME:
        raise ValueError(f"longer than 255 bytes: {name!r}")
    return bytes(out).lower()


def split_labels(wire: bytes) -> list[bytes]:
    """The labels of a wire name, the root left out."""
    out = []
    at = 0
    while at < len(wire) and wire[at]:
        out.append(wire[at + 1 : at + 1 + wire[at]])
        at += 1 + wire[at]
    return out


def join_labels(parts: list[bytes]) -> bytes:
    """The inverse of `split_labels`."""
    return b"".join(bytes((len(part),)) + part for part in parts) + b"\0"


def to_text(wire: bytes) -> str:
    """Presentation form without the final dot, escaped as in zone files (RFC 1035 section 5.1, RFC 4343)."""
    return ".".join("".join(map(_TEXT.__getitem__, part)) for part in split_labels(wire)) or "."


def display_name(name: str) -> str:
    """A dotted name for people: as it is, with its A-labels in their own script behind it where it has some."""
    parts = name.split(".")
    if not any(part.startswith("xn--") for part in parts):
        return name
    try:
        return f"{name} ({'.'.join(idna.ulabel(part) if part.startswith('xn--') else part for part in parts)})"
    except (idna.IDNAError, UnicodeError):
        return name


def convert_utf8_labels(wire: bytes) -> bytes | None:
    """The wire name with raw UTF-8 labels turned into A-labels, or None where there is nothing to turn.

    Some resolvers and multicast DNS send UTF-8 labels as they are (RFC 6762 section 16).
    """
    if wire.isascii():
        return None
    parts = []
    for part in split_labels(wire):
        if part.isascii():
            parts.append(part)
            continue
        try:
            made = to_label(part.decode("utf-8"))
        except UnicodeDecodeError:
            return None
        if not made:
            return None
        parts.append(made.encode("ascii"))
    wire = join_labels(parts).lower()
    return wire if len(wire) <= MAX_NAME else None
