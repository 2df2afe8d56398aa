"""What systems share: a file that only vmdns writes, an address on the loopback interface, a query to a DNS server."""

from __future__ import annotations

import errno
import ipaddress
import os
import shlex
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from vmdns.dns.query import encode_query
from vmdns.files import read_whole
from vmdns.host import elevation
from vmdns.host.plan import Setting

# The name server of a host that sends all queries to vmdns. VirtualBox passes it on to guests behind NAT.
RESOLVER_ADDRESS = "198.18.53.53"
DNS_PORT = 53

_MAX_BYTES = 1_048_576
_WRITE = """set -e
umask 022
mkdir -p "$(dirname "$1")"
cat >"$1.vmdns"
mv -f "$1.vmdns" "$1"
"""
_REMOVE = 'rm -f "$1"\n'
_REMOVE_FOLDER = 'rmdir "$(dirname "$1")" 2>/dev/null || true\n'

Commands = tuple[tuple[str, ...], ...]


class SystemFile(Setting):
    """The text of the file `name` (Linux, macOS); None where there is none.

    `after` are commands to run after writing it, so that its reader loads it; `before_end` and `after_end` those around
    its removal. alone: its folder is removed too if empty. All is one command: the password is asked for once.
    """

    after: ClassVar[Commands] = ()
    before_end: ClassVar[Commands] = ()
    after_end: ClassVar[Commands] = ()
    alone: ClassVar[bool] = False

    def read(self) -> str | None:
        try:
            return read_whole(Path(self.name), _MAX_BYTES).decode("utf-8", "surrogateescape")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def commands(self, value: str | None) -> Sequence[Sequence[str]]:
        if value is None:
            return [*self.before_end, ("rm", self.name), *self.after_end]
        return self.after

    def write(self, value: str | None) -> None:
        if value is not None:
            script = _WRITE + _lines(self.after)
        else:
            script = _lines(self.before_end) + _REMOVE + (_REMOVE_FOLDER if self.alone else "") + _lines(self.after_end)
        elevation.run(["sh", "-c", script, "sh", self.name], elevated=self.elevated, text=value or "")

    def describe(self, before: str | None, after: str | None) -> str:
        if after is None:
            return f"remove {self.name}"
        first = after.partition("\n")[0]  # a comment in the first line is for the user
        purpose = f": {first.removeprefix('# ')}" if first.startswith("# ") else ""
        return f"{'write' if before is None else 'change'} {self.name}{purpose}"

    def command_lines(self, value: str | None) -> list[str]:
        lines = super().command_lines(value)
        if value is None:
            return lines
        return [f"{elevation.format_command(['tee', self.name], elevated=self.elevated)} <<'END'\n{value}END", *lines]


def _lines(commands: Commands) -> str:
    return "".join(shlex.join(one) + "\n" for one in commands)


class ListenAddress(NamedTuple):
    """Where vmdns listens: a literal address of this host (with its zone id) and a port; port 0 is any free one."""

    address: str = "127.0.0.1"
    port: int = 53

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def short(self) -> str:
        """Without the port where it is that of DNS."""
        return str(self).removesuffix(":53")


def address_command(address: str, present: bool, system: str = sys.platform) -> list[str]:
    """The command that adds or removes an address on the loopback interface (ip-address(8), ifconfig(8), netsh)."""
    if system == "win32":
        netsh = ["netsh", "interface", "ipv4"]
        if present:
            return [
                *netsh,
                "add",
                "address",
                "name=1",
                f"address={address}",
                "mask=255.255.255.255",
                "store=persistent",
            ]
        return [*netsh, "delete", "address", "name=1", f"address={address}"]
    if system == "darwin":
        end = ["netmask", "255.255.255.255"] if present else []
        return ["ifconfig", "lo0", "alias" if present else "-alias", address, *end]
    return ["ip", "address", "add" if present else "del", f"{address}/32", "dev", "lo"]


def is_assigned(address: str) -> bool:
    """Whether an interface of this host has the IPv4 address. Raises OSError if that cannot be read or tried."""
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        return False
    if sys.platform == "win32":
        from vmdns.windows.ip_helper import read_adapters

        return any(one.address == address for adapter in read_adapters() for one in adapter.addresses)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return False
            raise
    return True


def query_udp(address: str, name: bytes, kind: int, seconds: float) -> bytes | None:
    """The response of the DNS server at port 53 of an IPv4 address to a query for a wire name; None without one."""
    query = encode_query(int.from_bytes(os.urandom(2)), name, kind, edns=False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(seconds)
        try:
            one.connect((address, DNS_PORT))
            one.send(query)
            response = one.recv(4096)
        except OSError:
            return None
    return response if response[:2] == query[:2] and len(response) > 12 else None


@dataclass(frozen=True)  # for __post_init__
class LoopbackAddress(Setting):
    """The IPv4 address `name` on the loopback interface, True or None. Guests behind NAT can reach it, others cannot.

    198.18.53.N is in the range for benchmarks (RFC 2544), which no real network uses. Linux and macOS lose such an
    address on reboot, Windows keeps it. The commands for macOS and Windows were never run.
    """

    kind = "loopback-address"

    def __post_init__(self) -> None:
        ipaddress.IPv4Address(self.name)

    def read(self) -> bool | None:
        return True if is_assigned(self.name) else None

    def commands(self, value: bool | None) -> Sequence[Sequence[str]]:
        return [address_command(self.name, bool(value))]

    def describe(self, before: bool | None, after: bool | None) -> str:
        verb = "give this computer the address" if after else "take away the address"
        return f"{verb} {self.name} on its loopback interface"
