"""Plans that make Windows send queries to vmdns: a rule for single zones (nrpt.py), or the servers of each interface.

Written from Microsoft's documentation and tested with values in its format; never run on Windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmdns.host import elevation
from vmdns.host.loopback_address import RESOLVER_ADDRESS, LoopbackAddress
from vmdns.host.nrpt import NrptSetting, has_group_policy
from vmdns.host.plan import Setting
from vmdns.host.resolver_setup import ListenAddress, Refusal, ResolverPlan
from vmdns.host.upstreams_windows import CONNECTIONS, TCPIP, Registry, in_use, words

_POLICY = (
    "a group policy has rules for names, and with one Windows ignores those of this computer; ask its administrator "
    "for a rule for {}, or use `vmdns hosts --keep`"
)


def split(read: Callable[[], Registry], at: ListenAddress, zones: Sequence[str]) -> ResolverPlan | Refusal:
    """The plan to send queries for these zones to vmdns at `at`. `.local` stays with multicast DNS."""
    named = [zone for zone in zones if zone != "local"]
    if not named:
        return Refusal("a rule for .local would take multicast DNS away; name another zone, like vm.internal")
    if at.port != 53:
        return Refusal(
            f"vmdns listens at port {at.port}, and Windows can only use port 53; see which program holds it with "
            "`vmdns status`"
        )
    if has_group_policy(read()):
        return Refusal(_POLICY.format(" and ".join(named)))
    notes = ["names in local are left to multicast DNS, which such a rule would take away"] if "local" in zones else []
    return ResolverPlan([(NrptSetting(f".{zone}", read), [at.address]) for zone in named], notes)


def whole(read: Callable[[], Registry], assigned: Callable[[str], bool]) -> ResolverPlan | Refusal:
    """The plan to send all queries to vmdns, on the interfaces in use."""
    registry = read()
    names = [name for name in (connection(registry, key) for key in in_use(registry, assigned)) if name]
    if not names:
        return Refusal("no network interface of this computer is in use, so there is nothing to set")
    wanted: list[tuple[Setting, Any]] = [(LoopbackAddress(RESOLVER_ADDRESS), True)]
    wanted += [(InterfaceServers(name, read), [RESOLVER_ADDRESS]) for name in names]
    return ResolverPlan(
        wanted,
        [
            "while vmdns does not run, this computer resolves no names at all; have it started with your session first",
            f"VirtualBox then gives guests on NAT {RESOLVER_ADDRESS} as their DNS server",
        ],
        check=RESOLVER_ADDRESS,
    )


def connection(registry: Registry, key: str) -> str:
    """The user's name of the interface with this GUID; '' if unknown."""
    name = registry.get(rf"{CONNECTIONS}\{key}\Connection", {}).get("Name")
    return name if isinstance(name, str) else ""


@dataclass(frozen=True, slots=True)
class InterfaceServers:
    """A `Setting` (plan.py): the configured IPv4 DNS servers of the interface `name`; none for those of DHCP."""

    name: str
    read_registry: Callable[[], Registry]
    kind: str = field(default="windows-servers", init=False)
    elevated: bool = field(default=True, init=False)

    def read(self) -> list[str]:
        registry = self.read_registry()
        for path, values in registry.items():
            key = path.rpartition("\\")[2]
            if path.startswith(TCPIP + "\\Interfaces\\") and connection(registry, key) == self.name:
                return words(values.get("NameServer"))
        raise OSError(f"there is no network interface {self.name} any more")

    def write(self, value: list[str] | None) -> None:
        for command in self._commands(value):
            elevation.run(command, elevated=True)

    def _commands(self, value: list[str] | None) -> list[list[str]]:
        netsh = ["netsh", "interface", "ipv4"]
        if not value:
            return [[*netsh, "set", "dnsservers", f"name={self.name}", "source=dhcp"]]
        first, *others = value
        lines = [[*netsh, "set", "dnsservers", f"name={self.name}", "source=static", f"address={first}", "validate=no"]]
        return lines + [
            [*netsh, "add", "dnsservers", f"name={self.name}", f"address={one}", "validate=no"] for one in others
        ]

    def describe(self, before: Any, after: Any) -> str:
        return f"set the DNS servers of {self.name} to {', '.join(after or ()) or 'those of the network'}"

    def commands(self, before: Any, after: Any) -> Sequence[str]:
        return [elevation.format_command(one, elevated=True) for one in self._commands(after)]
