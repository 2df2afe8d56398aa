"""Additional addresses on the loopback interface, which guests behind NAT can reach and other machines cannot.

198.18.53.N is in the range for benchmarks (RFC 2544), which no real network uses. Linux and macOS lose such an address
on reboot, Windows keeps it. The commands for macOS and Windows are from their documentation (ifconfig(8), `netsh
interface ipv4 add address`) and were never run.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from vmdns.host import elevation

# The name server of a host that sends all queries to vmdns. VirtualBox passes it on to guests behind NAT.
RESOLVER_ADDRESS = "198.18.53.53"

_MASK = "255.255.255.255"


def address_commands(address: str, present: bool, system: str = sys.platform) -> list[list[str]]:
    """The command that adds or removes the address."""
    if system == "win32":
        verb = ["add", "address"] if present else ["delete", "address"]
        end = [f"mask={_MASK}", "store=persistent"] if present else []
        return [["netsh", "interface", "ipv4", *verb, "name=1", f"address={address}", *end]]
    if system == "darwin":
        end = ["netmask", _MASK] if present else []
        return [["ifconfig", "lo0", "alias" if present else "-alias", address, *end]]
    return [["ip", "address", "add" if present else "del", f"{address}/32", "dev", "lo"]]


def is_assigned(address: str) -> bool:
    """Whether an interface of this host has the IPv4 address. Raises OSError if that cannot be tried."""
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL or getattr(error, "winerror", 0) == 10049:
                return False
            raise
    return True


@dataclass(frozen=True, slots=True)
class LoopbackAddress:
    """A `Setting` (plan.py): the IPv4 address `name` on the loopback interface. Its value is True, or None."""

    name: str
    kind: str = "loopback-address"
    elevated: bool = True

    def __post_init__(self) -> None:
        ipaddress.IPv4Address(self.name)

    def read(self) -> bool | None:
        return True if is_assigned(self.name) else None

    def write(self, value: bool | None) -> None:
        for command in address_commands(self.name, bool(value)):
            elevation.run(command, elevated=True)

    def describe(self, before: bool | None, after: bool | None) -> str:
        verb = "give this computer the address" if after else "take away the address"
        return f"{verb} {self.name} on its loopback interface"

    def commands(self, before: bool | None, after: bool | None) -> Sequence[str]:
        return [elevation.format_command(one, elevated=True) for one in address_commands(self.name, bool(after))]
