"""The user's own records: zone-file text with names relative to our zones (RFC 1035 section 5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.tokenizer
import dns.ttl

from vmdns.dns.message import CNAME, SOA, Record
from vmdns.dns.name import MAX_NAME

# Records that only the zone itself may have, or that promise what vmdns does not do.
_REFUSED = {SOA, dns.rdatatype.DNAME, dns.rdatatype.RRSIG, dns.rdatatype.NSEC, dns.rdatatype.NSEC3}
_EXAMPLES = {
    "A": "web A 192.0.2.1", "AAAA": "web AAAA 2001:db8::1", "CNAME": "www CNAME web", "MX": "@ MX 10 mail",
    "TXT": '@ TXT "a text"', "SRV": "_http._tcp SRV 0 0 8080 web", "PTR": "printer PTR web", "NS": "lab NS ns.example.",
    "CAA": '@ CAA 0 issue "ca.example"',
}  # fmt: skip
# dnspython's words for what people get wrong.
_MEANINGS = {
    "expecting an identifier": "something is missing", "expecting an integer": "a number is missing",
    "expecting a string": "something is missing", "newline in quoted string": "a quotation mark is missing",
}  # fmt: skip


# A record as written: its first line, its owner, its TTL, its data; names are relative unless they end with a dot.
_ZoneEntry = tuple[int, dns.name.Name, int, dns.rdata.Rdata]


@lru_cache(maxsize=1)  # a configuration is checked when it is read, and its records are taken when it is applied
def parse_records(text: str, zones: tuple[str, ...], ttl: int) -> tuple[Record, ...]:
    """The records that the text means in each of the zones; ttl in seconds where a line gives none.

    Takes time in proportion to the text: dnspython's own readers of zone files search all names for each record, or
    know no line numbers. Raises ValueError that begins with `line N:` if a line is wrong.
    """
    entries = list(_parse_entries(text, ttl))
    origins = [dns.name.from_text(zone) for zone in zones]
    return tuple(record for origin in origins for record in _place_in_zone(entries, origin, origins))


def _place_in_zone(
    entries: Iterable[_ZoneEntry], origin: dns.name.Name, origins: Sequence[dns.name.Name]
) -> Iterator[Record]:
    """The records of one zone. Those of one name and type have one TTL, the least (RFC 2181 section 5.2)."""
    types: dict[bytes, set[int]] = {(origin.to_wire() or b"").lower(): {SOA}}
    found: dict[tuple[bytes, int], dict[bytes, None]] = {}
    ttls: dict[tuple[bytes, int], int] = {}
    for line, name, ttl, rdata in entries:
        if name.is_absolute() and not name.is_subdomain(origin):
            if not any(name.is_subdomain(one) for one in origins):
                outside = " and ".join(one.to_text(True) for one in origins)
                raise ValueError(f"line {line}: {name} is outside of {outside}: write names without a final dot")
            continue
        owner, kind = (name.to_wire(origin=origin) or b"").lower(), int(rdata.rdtype)
        try:
            if len(owner) > MAX_NAME:
                raise dns.name.NameTooLong
            wire = rdata.to_wire(origin=origin) or b""
        except dns.name.NameTooLong:
            where = origin.to_text(True)
            raise ValueError(f"line {line}: a name is longer than {MAX_NAME} bytes in {where}") from None
        if len(wire) > 65_535:  # RDLENGTH has 16 bits (RFC 1035 section 3.2.1)
            raise ValueError(f"line {line}: the record is longer than 65535 bytes")
        here = types.setdefault(owner, set())
        if CNAME in here or (here and kind == CNAME):  # RFC 1034 section 3.6.2
            raise ValueError(f"line {line}: a CNAME record must be the only one of its name")
        here.add(kind)
        key = owner, kind
        found.setdefault(key, {})[wire] = None
        ttls[key] = min(ttl, ttls.get(key, ttl))
    for key, wires in found.items():
        yield from (Record(*key, ttls[key], wire) for wire in wires)


def _parse_entries(text: str, ttl: int) -> Iterator[_ZoneEntry]:
    """Each record of the text (RFC 1035 section 5.1). No directive is obeyed. Raises ValueError with the line."""
    tokens = dns.tokenizer.Tokenizer(text, "")
    owner = dns.name.empty
    line = 1
    try:
        while not (first := tokens.get(want_leading=True)).is_eof():
            if first.is_whitespace():  # a record of the same name as the one before
                first = tokens.get()
                tokens.unget(first)
            elif not first.is_eol_or_eof():
                if first.value.startswith("$"):
                    raise ValueError(f"{first.value} is not possible here")
                owner = tokens.as_name(first)
            if not first.is_eol_or_eof():
                yield line, owner, *_parse_rdata(tokens, ttl)
            line = tokens.where()[1]
    except (dns.exception.DNSException, ValueError) as error:
        raise ValueError(f"line {line}: {_explain_error(text.split(chr(10))[line - 1].strip(), error)}") from None


def _explain_error(written: str, error: Exception) -> str:
    """What is wrong with a record as it is written, and a right one of its type."""
    words = written.upper().split()
    kind = next((word for word in words[1:] if word in _EXAMPLES), "A")
    what = str(error).rstrip(".") or type(error).__name__
    if what in _MEANINGS:
        what = _MEANINGS[what]
    elif kind in ("A", "AAAA") and isinstance(error, dns.exception.SyntaxError):
        what = f"that is not an IPv{4 if kind == 'A' else 6} address"
    shown = written if len(written) <= 60 else f"{written[:57]}..."
    return f"{shown!r}: {what}; write it like: {_EXAMPLES[kind]}"


def _parse_rdata(tokens: dns.tokenizer.Tokenizer, ttl: int) -> tuple[int, dns.rdata.Rdata]:
    """What follows the name: TTL and class in either order or not at all, the type, and its data."""
    given: set[str] = set()
    word = tokens.get_identifier()
    while (what := "TTL" if word[:1].isdigit() else "class" if _is_class(word) else "") and what not in given:
        given.add(what)
        if what == "TTL":
            ttl = dns.ttl.from_text(word)
        word = tokens.get_identifier()
    try:
        kind = dns.rdatatype.from_text(word)
    except (dns.exception.DNSException, ValueError):
        raise ValueError(f"{word!r} is no record type") from None
    if kind in _REFUSED:
        raise ValueError(f"{dns.rdatatype.to_text(kind)} records are made by vmdns itself")
    if dns.rdatatype.is_metatype(kind):
        raise ValueError(f"{dns.rdatatype.to_text(kind)} is a type for queries alone")
    return ttl, dns.rdata.from_text(dns.rdataclass.IN, kind, tokens)


def _is_class(word: str) -> bool:
    try:
        found = dns.rdataclass.from_text(word)
    except (dns.rdataclass.UnknownRdataclass, ValueError):
        return False
    if found != dns.rdataclass.IN:
        raise ValueError(f"there is no class but IN here, and {word!r} is another")
    return True
