"""VirtualBox's lease files, `<network>-Dhcpd.leases` (VBoxNetDHCP, Dhcpd/Db.cpp).

The file is a claim from outside: it is parsed with its size and depth bounded and without DTDs or entities. VBoxNetDHCP
writes all of it anew for each lease: so an entry that stands there as before is not parsed again, where the file is
just as VBoxNetDHCP writes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address
from itertools import islice
from pathlib import Path
from xml.parsers import expat

from vmdns.core.model import Lease
from vmdns.regularfile import read_regular

SUFFIX = "-Dhcpd.leases"
MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 16
MAX_LEASES = 20_000

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", re.ASCII)
_KEYS = ("mac", "state", "address", "issued", "expiration")

# Each entry's text, up to its end tag, and the lease that it is.
Entries = dict[bytes, Lease | None]
Rest = Callable[[], object]
# What VBoxNetDHCP writes. An entry is whole elements, and nothing in it means anything else to a parser of XML.
_VALUE, _SPACE = rb'"([ !#-%\'-;=-~]*)"', rb"[ \t\r\n]*"
_HEAD = re.compile(rb'<\?xml version="1\.0"\?>' + _SPACE + rb'<Leases version="1\.0">')
_ENTRY = re.compile(
    _SPACE + b"<Lease mac=%b(?: id=%b)?(?: network=%b)?(?: state=%b)?>" % ((_VALUE,) * 4)
    + _SPACE + b"<Address value=%b/>" % _VALUE
    + _SPACE + b"<Time issued=%b expiration=%b/>" % (_VALUE, _VALUE) + _SPACE
)  # fmt: skip
_TAIL = re.compile(_SPACE + b"</Leases>" + _SPACE)


class Damaged(ValueError):
    """The file is no lease file; what it said before stays in force."""


def parse_leases(
    data: bytes, network: str, known: Entries | None = None, rest: Rest = lambda: None
) -> tuple[Lease, ...]:
    """The acknowledged leases in a lease file, in the file's order; one MAC may have several. Raises `Damaged`.

    `expiration` is a lifetime in seconds from `issued` (Unix seconds). An entry without a state, from old
    versions of VirtualBox, counts as expired, as VirtualBox itself takes it.
    known: the entries that this file had before, which becomes those that it has now. rest: called after each entry
    that was not among them, where the file is just as VBoxNetDHCP writes it, for who lets others go between.
    """
    if len(data) > MAX_BYTES:
        raise Damaged(f"larger than {MAX_BYTES} bytes")
    found = _quickly(data, network, {} if known is None else known, rest)
    return _thoroughly(data, network) if found is None else found


def _quickly(data: bytes, network: str, known: Entries, rest: Rest) -> tuple[Lease, ...] | None:
    """The same; None where the file is not just as VBoxNetDHCP writes it."""
    head = _HEAD.match(data)
    if head is None:
        return None
    *texts, tail = data[head.end() :].split(b"</Lease>")
    if not _TAIL.fullmatch(tail):
        return None
    entries: Entries = {}
    for text in texts:
        if text in known:
            entries[text] = known[text]
            continue
        entry = _ENTRY.fullmatch(text)
        if entry is None:
            return None
        mac, _, _, *others = (one.decode("ascii") for one in entry.groups(b""))
        entries[text] = _lease(network, mac, *others)
        rest()
    known.clear()
    known.update(entries)
    return _bounded(entries[text] for text in texts)


def _thoroughly(data: bytes, network: str) -> tuple[Lease, ...]:
    reader = _Reader(network)
    # VBoxNetDHCP writes UTF-8. Any other declared encoding would be looked up among Python's codecs.
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.buffer_text = True
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise Damaged(str(error)) from None
    if not reader.complete:
        raise Damaged("no Leases element")
    return tuple(reader.found)


def _bounded(leases: Iterable[Lease | None]) -> tuple[Lease, ...]:
    return tuple(islice((lease for lease in leases if lease is not None), MAX_LEASES))


class _Reader:
    def __init__(self, network: str) -> None:
        self.network = network
        self.found: list[Lease] = []
        self.complete = False
        self.depth = 0
        self.entry: dict[str, str] = {}

    def doctype(self, *_: object) -> None:
        raise Damaged("it has a document type declaration")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Damaged("nested too deep")
        if self.depth == 1 and name != "Leases":
            raise Damaged(f"the outermost element is {name[:40]}")
        if name == "Lease":
            self.entry = dict(attributes)
        elif name == "Address":
            self.entry["address"] = attributes.get("value", "")
        elif name == "Time":
            self.entry["issued"] = attributes.get("issued", "")
            self.entry["expiration"] = attributes.get("expiration", "")

    def end(self, name: str) -> None:
        self.depth -= 1
        if self.depth == 0:
            self.complete = True
        if name == "Lease" and len(self.found) < MAX_LEASES:
            lease = _lease(self.network, *(self.entry.get(key, "") for key in _KEYS))
            if lease is not None:
                self.found.append(lease)


def _lease(network: str, mac: str, state: str, address: str, issued: str, expiration: str) -> Lease | None:
    """One entry, None where it is not acknowledged or makes no sense: others of the file still count."""
    mac = mac.lower()
    if state != "acked" or not _MAC.fullmatch(mac):
        return None
    try:
        begin, lifetime = int(issued), int(expiration)
    except ValueError:
        return None
    if not _is_usable(address):
        return None
    if not (0 <= begin < 1 << 40 and 0 <= lifetime < 1 << 32):
        return None
    return Lease(network, mac.replace(":", ""), address, float(begin), float(begin + lifetime))


@lru_cache(maxsize=MAX_LEASES)
def _is_usable(address: str) -> bool:
    try:
        there = IPv4Address(address)  # takes one form only, the one that it prints
    except AddressValueError:
        return False
    return not (there.is_unspecified or there.is_loopback or there.is_multicast)


def read_leases(path: Path, known: Entries | None = None, rest: Rest = lambda: None) -> tuple[Lease, ...]:
    """Reads one lease file. known, rest: see `parse_leases`.

    Only a regular file is read, and never more than its bound: the folder is the user's, its content is not. Raises
    `FileNotFoundError`, another `OSError`, or `Damaged`.
    """
    return parse_leases(read_regular(path, MAX_BYTES), path.name.removesuffix(SUFFIX), known, rest)
