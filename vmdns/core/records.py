"""The user's own records: zone-file text with names relative to our zones (RFC 1035 section 5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import dns.exception
import dns.name
import dns.rdatatype
import dns.zonefile

from vmdns.core.name import lower
from vmdns.core.wire import SOA, Record

# Records that only the zone itself may have, or that promise what vmdns does not do.
_REFUSED = {SOA, dns.rdatatype.DNAME, dns.rdatatype.RRSIG, dns.rdatatype.NSEC, dns.rdatatype.NSEC3}


def parse_records(text: str, zones: Sequence[str], ttl: int) -> tuple[Record, ...]:
    """The records that the text means in each of the zones; ttl in seconds where a line gives none.

    Raises ValueError that begins with `line N:` where a line is at fault.
    """
    found: dict[Record, None] = {}
    origins = [dns.name.from_text(zone) for zone in zones]
    for origin in origins:
        try:
            rrsets = dns.zonefile.read_rrsets(text, origin=origin, rdclass=None, default_ttl=ttl)
        except dns.exception.DNSException as error:
            raise ValueError(_explain(error)) from None
        for rrset in rrsets:
            if rrset.rdclass != dns.rdataclass.IN:
                raise ValueError(f"{rrset.name}: only records of class IN are served")
            if rrset.rdtype in _REFUSED:
                raise ValueError(
                    f"{rrset.name}: {dns.rdatatype.to_text(rrset.rdtype)} records are made by vmdns itself"
                )
            if not any(rrset.name.is_subdomain(one) for one in origins):
                raise ValueError(f"{rrset.name} is outside of {' and '.join(zones)}: write names without a final dot")
            owner = lower(rrset.name.to_wire() or b"")
            for rdata in rrset:
                found[Record(owner, int(rrset.rdtype), int(rrset.ttl), rdata.to_wire(origin=origin) or b"")] = None
    return tuple(found)


def check_records(text: str, zones: Sequence[str]) -> None:
    """Raises ValueError, as `parse_records` does, where the text is at fault."""
    parse_records(text, zones, 5)


def _explain(error: dns.exception.DNSException) -> str:
    text = str(error) or type(error).__name__
    where, _, what = text.partition(": ")
    number = where.rpartition(":")[2]
    return f"line {number}: {what}" if where.startswith("<input>") and number.isdigit() else text


def owners(records: Iterable[Record], types: frozenset[int]) -> frozenset[bytes]:
    """The names (wire form) that have a record of one of these types."""
    return frozenset(record.owner for record in records if record.type in types)
