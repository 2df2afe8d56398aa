"""The user's own records: zone-file text with names relative to our zones (RFC 1035 section 5)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import dns.exception
import dns.name
import dns.rdatatype
import dns.rrset
import dns.tokenizer
import dns.zonefile

from vmdns.core.name import lower
from vmdns.core.wire import SOA, Record

# Records that only the zone itself may have, or that promise what vmdns does not do.
_REFUSED = {SOA, dns.rdatatype.DNAME, dns.rdatatype.RRSIG, dns.rdatatype.NSEC, dns.rdatatype.NSEC3}
_ALONE = "a CNAME record must be the only one of its name"


def parse_records(text: str, zones: Sequence[str], ttl: int) -> tuple[Record, ...]:
    """The records that the text means in each of the zones; ttl in seconds where a line gives none.

    Raises ValueError that begins with `line N:` where a line is at fault.
    """
    found: dict[Record, None] = {}
    origins = [dns.name.from_text(zone) for zone in zones]
    for origin in origins:
        try:
            rrsets = _read(text, origin, ttl)
        except dns.exception.DNSException as error:
            raise ValueError(f"line {_line_at_fault(text, origin)}: {_what(error)}") from None
        _check(text, origin, origins, rrsets)
        for rrset in rrsets:
            owner = lower(rrset.name.to_wire() or b"")
            for rdata in rrset:
                found[Record(owner, int(rrset.rdtype), int(rrset.ttl), rdata.to_wire(origin=origin) or b"")] = None
    return tuple(found)


def check_records(text: str, zones: Sequence[str]) -> None:
    """Raises ValueError, as `parse_records` does, where the text is at fault."""
    parse_records(text, zones, 5)


def _read(text: str, origin: dns.name.Name, ttl: int) -> list[dns.rrset.RRset]:
    """Names outside of the origin are passed over; no directive but $TTL is obeyed."""
    return dns.zonefile.read_rrsets(text, origin=origin, rdclass=None, default_ttl=ttl)


def _check(
    text: str, origin: dns.name.Name, origins: Sequence[dns.name.Name], rrsets: Iterable[dns.rrset.RRset]
) -> None:
    """Raises ValueError for what dnspython lets pass: foreign names, a second CNAME, records that are not served."""
    types: dict[dns.name.Name, set[dns.rdatatype.RdataType]] = {}
    for rrset in rrsets:
        types.setdefault(rrset.name, set()).add(rrset.rdtype)
    seen = {origin}
    for line, owner in _entries(text, origin):
        if not any(owner.is_subdomain(one) for one in origins):
            outside = f"{owner} is outside of {' and '.join(one.to_text(True) for one in origins)}"
            raise ValueError(f"line {line}: {outside}: write names without a final dot")
        here = types.get(owner, set())
        for refused in sorted(here & _REFUSED):
            raise ValueError(f"line {line}: {dns.rdatatype.to_text(refused)} records are made by vmdns itself")
        if dns.rdatatype.CNAME in here and owner in seen:
            raise ValueError(f"line {line}: {_ALONE}")
        seen.add(owner)


def _entries(text: str, origin: dns.name.Name) -> Iterator[tuple[int, dns.name.Name]]:
    """The first line of each entry and the name it is for, which may be that of the entry before.

    Raises DNSException where the text cannot be split into entries.
    """
    tokens = dns.tokenizer.Tokenizer(text, "<input>")
    owner = origin
    while not (first := tokens.get(want_leading=True)).is_eof():
        line = tokens.where()[1]
        if first.is_whitespace():
            first = tokens.get()
        elif first.is_identifier() and not first.value.startswith("$"):
            owner = tokens.as_name(first, origin)
        if first.is_eol_or_eof():
            continue
        yield line, owner
        while not tokens.get().is_eol_or_eof():
            pass


def _line_at_fault(text: str, origin: dns.name.Name) -> int:
    """The first line of the first entry with which the text cannot be read any more."""
    starts: list[int] = []
    with suppress(dns.exception.DNSException):
        for line, _ in _entries(text, origin):
            starts.append(line)
    lines = text.split("\n")
    ends = [*(start - 1 for start in starts[1:]), len(lines)]

    def fails(end: int) -> bool:
        try:
            _read("\n".join(lines[:end]), origin, 0)
        except dns.exception.DNSException:
            return True
        return False

    return starts[bisect_left(ends, True, key=fails)] if starts else 1


def _what(error: dns.exception.DNSException) -> str:
    if isinstance(error, dns.zonefile.CNAMEAndOtherData):
        return _ALONE
    text = str(error) or type(error).__name__
    where, _, what = text.partition(": ")
    return what if where.startswith("<input>") else text


def owners(records: Iterable[Record], types: frozenset[int]) -> frozenset[bytes]:
    """The names (wire form) that have a record of one of these types."""
    return frozenset(record.owner for record in records if record.type in types)
