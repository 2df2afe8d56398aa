"""VirtualBox's lease files, `<network>-Dhcpd.leases` (VBoxNetDHCP, Dhcpd/Db.cpp). They are untrusted input.

VBoxNetDHCP writes `-Dhcpd.leases-tmp`, renames the old file to `-prev`, and the new one over its place.

On macOS the system's DHCP server, bootpd(8), serves host-only networks, and has one lease file for all networks that it
serves, those of other programs among them (apple-oss-distributions/bootp, bootpd.tproj/dhcpd.c: DHCPLeases).
"""

from __future__ import annotations

import os
import re
import sys
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from xml.etree import ElementTree as xml

from vmdns.files import read_regular
from vmdns.state.external_data import parse_xml
from vmdns.state.facts import Lease

SUFFIX = "-Dhcpd.leases"
BOOTPD_FILES = ("/var/db/dhcpd_leases",) if sys.platform == "darwin" else ()
MAX_BYTES = 4 * 1024 * 1024
MAX_LEASES = 20_000

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", re.ASCII)
# The type of the hardware, 1 for Ethernet, and the address without leading zeros.
_ETHERNET = re.compile(r"1,((?:[0-9a-f]{1,2}:){5}[0-9a-f]{1,2})", re.ASCII)


class InvalidLeaseFile(ValueError):
    """The file is not a lease file; its last valid content stays in use."""


def parse_leases(data: bytes, network: str) -> tuple[Lease, ...]:
    """The acknowledged leases of a lease file, in its order; one MAC may have several. Raises `InvalidLeaseFile`.

    An entry without a state, from old versions of VirtualBox, counts as expired, as in VirtualBox itself.
    """
    if len(data) > MAX_BYTES:
        raise InvalidLeaseFile(f"larger than {MAX_BYTES} bytes")
    try:
        root = parse_xml(data)
    except ValueError as error:
        raise InvalidLeaseFile(str(error)) from None
    if root.tag != "Leases":
        raise InvalidLeaseFile("no Leases element")
    leases = (_parse_lease(entry, network) for entry in root.iterfind("Lease"))
    return tuple(lease for lease in leases if lease is not None)[:MAX_LEASES]


def _parse_lease(entry: xml.Element, network: str) -> Lease | None:
    """One lease, None where it is not acknowledged or invalid: the other leases of the file still count."""
    mac = entry.get("mac", "").lower()
    address, time = entry.find("Address"), entry.find("Time")
    if entry.get("state") != "acked" or not _MAC.fullmatch(mac) or address is None or time is None:
        return None
    try:
        issued, lifetime = int(time.get("issued", "")), int(time.get("expiration", ""))  # seconds
    except ValueError:
        return None
    if not (0 <= issued < 1 << 40 and 0 <= lifetime < 1 << 32):
        return None
    return _make_lease(network, mac, address.get("value", ""), issued, issued + lifetime)


def _make_lease(network: str, mac: str, address: str, issued: int, until: int) -> Lease | None:
    """The lease; None where no machine can have the address. mac: with colons, leading zeros may be missing."""
    try:
        there = IPv4Address(address)  # accepts canonical form only
    except AddressValueError:
        return None
    if there.is_unspecified or there.is_loopback or there.is_multicast:
        return None
    return Lease(network, "".join(part.zfill(2) for part in mac.split(":")), str(there), float(issued), float(until))


def parse_bootpd_leases(data: bytes) -> tuple[Lease, ...]:
    """The leases in bootpd's file, in its order, without their network; those that are over among them.

    An entry that names a DHCP unique identifier instead of a MAC (type ff, macOS 15 and newer) is left out: it does not
    tell whose it is.
    """
    entries: list[dict[str, str]] = []
    for line in data.decode("utf-8", "replace").splitlines():
        key, _, value = line.strip().partition("=")
        if key == "{":
            entries.append({})
        elif entries:
            entries[-1].setdefault(key, value)
    return tuple(lease for entry in entries if (lease := _parse_bootpd_lease(entry)))[:MAX_LEASES]


def _parse_bootpd_lease(entry: dict[str, str]) -> Lease | None:
    mac = _ETHERNET.fullmatch(entry.get("hw_address", ""))
    end = re.fullmatch("0x([0-9a-f]{1,10})", entry.get("lease", ""), re.ASCII)
    return _make_lease("", mac[1], entry.get("ip_address", ""), 0, int(end[1], 16)) if mac and end else None


def read_leases(path: Path) -> tuple[Lease, ...]:
    """Reads one lease file. Raises `FileNotFoundError`, another `OSError`, or `InvalidLeaseFile`."""
    data = read_regular(path, MAX_BYTES)
    if not path.name.endswith(SUFFIX):
        return parse_bootpd_leases(data)
    return parse_leases(data, path.name.removesuffix(SUFFIX))


class LeaseFolder:
    """Reads the lease files of a folder, and keeps the last valid content of those that cannot be read now."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[Lease, ...]] = {}
        self._missing: set[str] = set()

    def read(self, folder: Path) -> tuple[dict[str, Lease], str, bool]:
        """All leases by their keys, a sentence about what cannot be read, '' if everything can, and whether to read
        again soon: no event follows where rights change, and a missing file may be between its two renames."""
        trouble = ""
        if folder.is_dir():
            names = {*(path.name for path in folder.glob("*" + SUFFIX)), *self._files}
            names |= {one for one in BOOTPD_FILES if os.access(one, os.R_OK)}
            trouble = "; ".join(filter(None, (self._read_file(folder, name) for name in sorted(names))))
        elif self._files:
            trouble = f"{folder} is gone; the last leases stay in force"
        leases = sorted((lease for file in self._files.values() for lease in file), key=lambda one: one.issued)
        facts = {f"lease:{one.network} {one.mac} {one.address}": one for one in leases}
        return facts, trouble, bool(trouble or self._missing)

    def _read_file(self, folder: Path, name: str) -> str:
        try:
            self._files[name] = read_leases(folder / name)
        except FileNotFoundError:
            if name in self._missing:
                self._missing.remove(name)
                del self._files[name]
            elif name in self._files:
                self._missing.add(name)
            return ""
        except (OSError, InvalidLeaseFile) as error:
            return f"{name} cannot be read ({error}); its last good content stays in force"
        self._missing.discard(name)
        return ""
