"""Names: VM names to labels, names between text and wire form, and names that are never forwarded.

A domain name in wire form is `bytes` of length-prefixed labels that end with a zero byte
(RFC 1035 section 3.1). Keys of tables are wire names in lower case (RFC 4343).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from ipaddress import ip_address

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
    parts = [part.encode("utf-8") for part in name.removesuffix(".").split(".")] if name not in ("", ".") else []
    if not all(0 < len(part) <= MAX_LABEL for part in parts):
        raise ValueError(f"not a domain name: {name!r}")
    wire = join_labels(parts)
    if len(wire) > MAX_NAME:
        raise ValueError(f"longer than 255 bytes: {name!r}")
    return wire.lower()


@lru_cache(maxsize=4096)
def reverse_name(address: str) -> bytes:
    """The wire name under which an address has its PTR record (RFC 1035 section 3.5, RFC 3596 section 2.5)."""
    return to_wire(ip_address(address.partition("%")[0]).reverse_pointer)


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
    try:
        labels = [part.decode("utf-8") for part in split_labels(wire)]
    except UnicodeDecodeError:
        return None
    parts = [(label if label.isascii() else to_label(label)).encode("ascii") for label in labels]
    wire = join_labels(parts).lower()
    return wire if all(parts) and len(wire) <= MAX_NAME else None


# Reverse zones of addresses that mean something on this host's networks alone (RFC 6303 section 4, RFC 7793 for
# shared address space left out: carriers answer it).
REVERSE = (
    "10.in-addr.arpa", *(f"{n}.172.in-addr.arpa" for n in range(16, 32)), "168.192.in-addr.arpa",
    "0.in-addr.arpa", "127.in-addr.arpa", "254.169.in-addr.arpa", "2.0.192.in-addr.arpa",
    "100.51.198.in-addr.arpa", "113.0.203.in-addr.arpa", "255.255.255.255.in-addr.arpa",
    "0." * 32 + "ip6.arpa", "1." + "0." * 31 + "ip6.arpa", "d.f.ip6.arpa", "8.e.f.ip6.arpa", "9.e.f.ip6.arpa",
    "a.e.f.ip6.arpa", "b.e.f.ip6.arpa", "8.b.d.0.1.0.0.2.ip6.arpa",
)  # fmt: skip

# RFC 6761 (localhost, invalid), RFC 6762 (local), RFC 7686 (onion), RFC 8375 (home.arpa), RFC 9462 (resolver.arpa).
SPECIAL = ("local", "localhost", "invalid", "onion", "home.arpa", "resolver.arpa")

BUILT_IN = frozenset(to_wire(name) for name in (*REVERSE, *SPECIAL))
LOCALHOST = to_wire("localhost")
RESOLVER = to_wire("resolver.arpa")
