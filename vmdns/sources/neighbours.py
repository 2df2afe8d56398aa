"""The host's neighbour table: which entries are facts, and the commands that show it on macOS.

Multicast and link-local addresses are left out, and temporary IPv6 addresses (RFC 8981) as far as possible. Nothing in
a neighbour table marks those. So of several addresses of one MAC in one /64, only stable ones count: the one made from
the MAC (RFC 4291 appendix A), and those whose upper 32 bits of the interface identifier are zero, as people and DHCPv6
assign them. Without any of these, the address that was seen first counts: a temporary one disappears after days, and
the next takes its place.

arp(8) and ndp(8) of macOS omit leading zeros in a MAC. Never run on macOS.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, NamedTuple

from vmdns.state.facts import Neighbour

if TYPE_CHECKING:
    from vmdns.windows.ip_helper import NeighbourRow

TIMEOUT_SECONDS = 5.0  # of a command
MAX_ENTRIES = 4096  # of more, the newest are kept

_MAC = re.compile("[0-9a-f]{12}")
_ARP = re.compile(r"\S+ \(([0-9.]+)\) at ([0-9A-Fa-f:]+) on (\S+)")
_NDP = re.compile(r"([0-9A-Fa-f:.]+)(?:%\S+)?\s+([0-9A-Fa-f:]+)\s+(\S+)\s")


class NeighbourEntry(NamedTuple):
    """An entry of the table: the name of the interface, the MAC as 12 hex digits, and the address."""

    interface: str
    mac: str
    address: str


class NeighbourHistory:
    """Remembers when each entry was first seen."""

    def __init__(self) -> None:
        self._since: dict[NeighbourEntry, float] = {}

    def facts(self, entries: Iterable[NeighbourEntry], now: float) -> dict[str, Neighbour]:
        """Facts for all entries of the table, by their keys `neighbour:<interface> <address>`. now in Unix seconds."""
        before = self._since
        self._since = {entry: before.get(entry, now) for entry in entries if is_unicast_neighbour(entry)}
        stable = _stable(self._since)
        if len(stable) > MAX_ENTRIES:
            stable = sorted(stable, key=lambda entry: (-self._since[entry], entry))[:MAX_ENTRIES]
        return {
            f"neighbour:{entry.interface} {entry.address}": Neighbour(*entry, since=self._since[entry])
            for entry in sorted(stable)
        }


def is_unicast_neighbour(entry: NeighbourEntry) -> bool:
    """Whether the entry is a unicast MAC with a unicast address that is not link-local."""
    if not _MAC.fullmatch(entry.mac) or int(entry.mac[:2], 16) & 1 or not int(entry.mac, 16):
        return False
    try:
        at = ip_address(entry.address)
    except ValueError:
        return False
    return not (at.is_link_local or at.is_multicast or at.is_unspecified or at.is_loopback)


def _stable(since: dict[NeighbourEntry, float]) -> list[NeighbourEntry]:
    found = []
    links: dict[tuple[str, str, int], list[tuple[NeighbourEntry, int]]] = {}
    for entry in since:
        at = ip_address(entry.address)
        if isinstance(at, IPv6Address):
            network, host = divmod(int(at), 1 << 64)
            links.setdefault((entry.interface, entry.mac, network), []).append((entry, host))
        else:
            found.append(entry)
    for (_, mac, _), among in links.items():
        stay = [entry for entry, host in among if host == _interface_identifier(mac) or not host >> 32]
        found += stay or [min((entry for entry, _ in among), key=lambda entry: (since[entry], entry))]
    return found


def _interface_identifier(mac: str) -> int:
    """The interface identifier made from a MAC (modified EUI-64)."""
    return int(f"{int(mac[:2], 16) ^ 2:02x}{mac[2:6]}fffe{mac[6:]}", 16)


def read_neighbours() -> list[NeighbourEntry]:
    """Reads the whole table of macOS. Raises OSError or subprocess.SubprocessError where a command fails."""
    return [entry for name in ("arp", "ndp") for entry in parse_macos(_run_command(f"/usr/sbin/{name}", "-an"))]


def _run_command(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_SECONDS, check=True)
    return done.stdout.decode("utf-8", "replace")


def parse_macos(text: str) -> Iterator[NeighbourEntry]:
    """`arp -an` and `ndp -an` of macOS."""
    for line in text.splitlines():
        if match := _ARP.match(line) or _NDP.match(line):
            yield NeighbourEntry(match[3], "".join(part.zfill(2) for part in match[2].lower().split(":")), match[1])


def adapter_neighbours(rows: Iterable[NeighbourRow], names: Mapping[int, str]) -> list[NeighbourEntry]:
    """The entries of Windows' neighbour table that have a MAC. names: those of adapters by their index."""
    from vmdns.windows.ip_helper import INCOMPLETE

    found = (row for row in rows if row.state > INCOMPLETE and row.interface_index in names)
    return [NeighbourEntry(names[row.interface_index], row.mac, row.address.partition("%")[0]) for row in found]
