"""VirtualBox's lease files, `<network>-Dhcpd.leases` (VBoxNetDHCP, Dhcpd/Db.cpp).

The file is untrusted input: its size and depth are bounded, and DTDs and entities are refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from xml.parsers import expat

from vmdns.regular_file import read_regular
from vmdns.state.facts import Lease

SUFFIX = "-Dhcpd.leases"
MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 16
MAX_LEASES = 20_000

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", re.ASCII)
_KEYS = ("mac", "state", "address", "issued", "expiration")


class InvalidLeaseFile(ValueError):
    """The file is not a lease file; its last valid content stays in use."""


def parse_leases(data: bytes, network: str) -> tuple[Lease, ...]:
    """The acknowledged leases of a lease file, in its order; one MAC may have several. Raises `InvalidLeaseFile`.

    `expiration` is a lifetime in seconds from `issued` (Unix seconds). An entry without a state, from old
    versions of VirtualBox, counts as expired, as in VirtualBox itself.
    """
    if len(data) > MAX_BYTES:
        raise InvalidLeaseFile(f"larger than {MAX_BYTES} bytes")
    reader = _Reader(network)
    # VBoxNetDHCP writes UTF-8. Otherwise a declared encoding would select any of Python's codecs.
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.buffer_text = True
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise InvalidLeaseFile(str(error)) from None
    if not reader.complete:
        raise InvalidLeaseFile("no Leases element")
    return tuple(reader.found)


class _Reader:
    def __init__(self, network: str) -> None:
        self.network = network
        self.found: list[Lease] = []
        self.complete = False
        self.depth = 0
        self.entry: dict[str, str] = {}

    def doctype(self, *_: object) -> None:
        raise InvalidLeaseFile("it has a document type declaration")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise InvalidLeaseFile("nested too deep")
        if self.depth == 1 and name != "Leases":
            raise InvalidLeaseFile(f"the outermost element is {name[:40]}")
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
    """One lease, None where it is not acknowledged or invalid: the other leases of the file still count."""
    mac = mac.lower()
    if state != "acked" or not _MAC.fullmatch(mac):
        return None
    try:
        begin, lifetime = int(issued), int(expiration)
    except ValueError:
        return None
    if not _is_unicast(address):
        return None
    if not (0 <= begin < 1 << 40 and 0 <= lifetime < 1 << 32):
        return None
    return Lease(network, mac.replace(":", ""), address, float(begin), float(begin + lifetime))


@lru_cache(maxsize=MAX_LEASES)
def _is_unicast(address: str) -> bool:
    try:
        there = IPv4Address(address)  # accepts canonical form only
    except AddressValueError:
        return False
    return not (there.is_unspecified or there.is_loopback or there.is_multicast)


def read_leases(path: Path) -> tuple[Lease, ...]:
    """Reads one lease file.

    Raises `FileNotFoundError`, another `OSError`, or `InvalidLeaseFile`.
    """
    return parse_leases(read_regular(path, MAX_BYTES), path.name.removesuffix(SUFFIX))
