"""The names that all servers of a benchmark know, and the queries that they get.

VM n is vmNNNNN.local with an address of 10.77.0.0/16 and its reverse record.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

A, PTR, AAAA = 1, 12, 28
NOERROR, NXDOMAIN = 0, 3
TTL = 5
HOST, DHCP, PREFIX, LINK = "10.77.0.1", "10.77.0.2", "10.77.0.1/16", "vboxnet0"
LAN_PREFIX, LAN = "192.168.77.1/24", "lan0"  # a network on which no VM is: vmdns may ask it for unknown names
REVERSE_ZONE = "77.10.in-addr.arpa"
UPSTREAM_ADDRESS = "93.184.215.14"  # what upstream.c answers
ANY = 255  # any answer will do, as long as there is one (load.c)
NEGATIVE = 255  # any RCODE but NOERROR will do (load.c)
_OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"  # EDNS, 1232 bytes, no options (RFC 6891 section 6.1)

Query = tuple[bytes, int, int | bytes]  # a packet, the right RCODE, and what its answer must hold


def name(number: int) -> str:
    return f"vm{number:05d}.local"


def address(number: int) -> str:
    return f"10.77.{1 + number // 200}.{10 + number % 200}"


def reverse_name(address: str) -> str:
    return ".".join(reversed(address.split("."))) + ".in-addr.arpa"


def reverse(number: int) -> str:
    return reverse_name(address(number))


def to_wire(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\0"


def packet(text: str, kind: int, edns: bool = False) -> bytes:
    """A query with RD; load.c draws the id."""
    header, question = struct.pack("!6H", 0, 0x0100, 1, 0, 0, int(edns)), struct.pack("!2H", kind, 1)
    return header + to_wire(text) + question + (_OPT if edns else b"")


def query_a(number: int, edns: bool = False) -> Query:
    return packet(name(number), A, edns), NOERROR, socket.inet_aton(address(number))


def query_aaaa(number: int, edns: bool = False) -> Query:
    """No data."""
    return packet(name(number), AAAA, edns), NOERROR, 0


def query_ptr(number: int, edns: bool = False) -> Query:
    label = name(number).partition(".")[0].encode()
    return packet(reverse(number), PTR, edns), NOERROR, bytes([len(label)]) + label


def query_unknown(number: int, edns: bool = False) -> Query:
    """Of two labels: vmdns may ask the LAN for it by multicast DNS. NXDOMAIN, or SERVFAIL beyond its budget."""
    return packet(f"no{number:05d}.local", A, edns), NEGATIVE, 0


def query_forwarded(number: int, edns: bool = False) -> Query:
    return packet(f"w{number:011x}.example", A, edns), NOERROR, socket.inet_aton(UPSTREAM_ADDRESS)


def addresses_only(count: int) -> list[Query]:
    """Each name once, in any order."""
    return _shuffled([query_a(number) for number in range(count)])


def mix(count: int) -> list[Query]:
    """70 % A, 15 % AAAA without data, 10 % PTR, 5 % of unknown names, half of each with EDNS; ten for each name.

    Unknown names repeat as known ones do.
    """
    kinds: list[tuple[Callable[[int, bool], Query], int]] = [
        (query_a, 14),
        (query_aaaa, 3),
        (query_ptr, 2),
        (query_unknown, 1),
    ]
    choice = random.Random(7)
    makers = [maker for maker, share in kinds for _ in range(share)]
    queries = [makers[at % 20](choice.randrange(count), at // 20 % 2 == 1) for at in range(10 * count)]
    return _shuffled(queries)


def forwarded(count: int) -> list[Query]:
    """Names that an upstream knows; with load.c's -m their first label is random each time."""
    return _shuffled([query_forwarded(number, number % 2 == 1) for number in range(count)])


def _shuffled(queries: list[Query]) -> list[Query]:
    random.Random(1).shuffle(queries)
    return queries


def write(path: Path, queries: Iterable[Query]) -> Path:
    """The file of queries for load.c."""
    with path.open("wb") as file:
        for wire, rcode, content in queries:
            holds = content if isinstance(content, bytes) else b""
            wanted = len(holds) if isinstance(content, bytes) else content
            file.write(struct.pack("!HBB", len(wire), rcode, wanted) + wire + holds)
    return path
