"""What is at a name: its record sets by type."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from vmdns.dns.message import AAAA, A


class RRset(NamedTuple):
    """Records of one type at one name: their TTL in seconds and rdata in wire form (RFC 9499 section 5)."""

    ttl: int
    rdatas: tuple[bytes, ...]


Node = Mapping[int, RRset]


@lru_cache(maxsize=4096)  # some 350 bytes each: of addresses that come and go few are worth it
def address_record(text: str) -> tuple[int, bytes]:
    """The type (A or AAAA) and rdata of an address; a zone id is left out. Raises ValueError."""
    with suppress(ValueError):  # no address of IPv4, or not as it is written
        four = bytes(map(int, text.split(".")))
        if len(four) == 4 and text == ".".join(map(str, four)):
            return A, four
    packed = ip_address(text.partition("%")[0]).packed
    return (A if len(packed) == 4 else AAAA), packed
