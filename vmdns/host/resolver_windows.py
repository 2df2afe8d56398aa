r"""The DNS servers that Windows uses, and plans to make it send queries to vmdns: a rule of the Name Resolution Policy
Table (NRPT) for single zones, the servers of each interface for all queries.

All is read from the registry, which needs no rights: per interface below Tcpip and Tcpip6, and rules ([MS-GPNRPT]
section 2.2.2); it has no servers from IPv6 router advertisements. Rules are written by the cmdlets of the module
DnsClient, servers by netsh. Written from Microsoft's documentation and tested with values in its format; never run on
Windows.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vmdns.dns.name import to_wire
from vmdns.dns.upstreams import Upstream, Upstreams, wire_names
from vmdns.host import elevation
from vmdns.host.plan import Setting
from vmdns.host.system_settings import RESOLVER_ADDRESS, ListenAddress, LoopbackAddress, is_assigned

Values = Mapping[str, object]
Registry = Mapping[str, Values]  # by the path of the key below HKEY_LOCAL_MACHINE

TCPIP = r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters"
TCPIP6 = r"SYSTEM\CurrentControlSet\Services\Tcpip6\Parameters"
POLICY = r"SOFTWARE\Policies\Microsoft\Windows NT\DNSClient"
NRPT = r"SYSTEM\CurrentControlSet\Services\Dnscache\Parameters\DnsPolicyConfig"
# Rules of a group policy: with one of them, Windows ignores the local rules.
NRPT_POLICY = POLICY + r"\DnsPolicyConfig"
# The user's name of each interface, by its GUID (the class of network adapters).
CONNECTIONS = r"SYSTEM\CurrentControlSet\Control\Network\{4D36E972-E325-11CE-BFC1-08002BE10318}"
# The bit of ConfigOptions that says GenericDNSServers is meant.
_GENERIC_SERVERS = 0x8
TAG = "vmdns"


def read_registry() -> Registry:
    """Reads the keys for name servers and interfaces. Raises OSError where the settings of IPv4 cannot be read."""
    if sys.platform != "win32":
        return {}
    import winreg

    registry: dict[str, Values] = {}

    def read_key(path: str, *, subkeys: bool = False) -> None:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
            keys, values, _ = winreg.QueryInfoKey(key)
            registry[path] = {name: value for name, value, _ in (winreg.EnumValue(key, at) for at in range(values))}
            for name in [winreg.EnumKey(key, at) for at in range(keys)] if subkeys else ():
                with contextlib.suppress(OSError):
                    read_key(f"{path}\\{name}")

    try:
        read_key(TCPIP)
    except OSError as error:
        raise OSError(f"the registry cannot be read ({error}): no DNS servers of this host") from error
    for path in (POLICY, TCPIP + r"\Interfaces", TCPIP6 + r"\Interfaces", NRPT, NRPT_POLICY):
        with contextlib.suppress(OSError):  # no such key: no such settings
            read_key(path, subkeys=True)
    for path, _ in list(_below(registry, TCPIP + r"\Interfaces")):
        with contextlib.suppress(OSError):
            read_key(rf"{CONNECTIONS}\{_last(path)}\Connection")
    return registry


def _below(registry: Registry, path: str) -> Iterator[tuple[str, Values]]:
    return (item for item in registry.items() if item[0].startswith(path + "\\"))


def _last(path: str) -> str:
    return path.rpartition("\\")[2]


def _words(value: object) -> list[str]:
    """The items of a REG_MULTI_SZ, or of a REG_SZ that divides them by space, comma or semicolon."""
    texts: Iterable[object] = value if isinstance(value, list) else [value]
    return [word for text in texts if isinstance(text, str) for word in re.split(r"[\s,;\0]+", text) if word]


def read_upstreams() -> Upstreams:
    """The servers in use. Raises OSError."""
    return parse_registry(read_registry(), is_assigned)


def watched_folders() -> list[Path]:
    """None: changes of the registry cannot be awaited in a selector loop."""
    return []


def parse_registry(registry: Registry, assigned: Callable[[str], bool]) -> Upstreams:
    """The upstreams in the registry. assigned: whether the host has an address; unplugged interfaces keep theirs."""
    default: dict[Upstream, None] = {}
    search: list[str] = []
    split: dict[bytes, tuple[Upstream, ...]] = {}
    paths = [rf"{TCPIP}\Interfaces\{key}" for key in interfaces_in_use(registry, assigned)]
    found = [(registry[path], registry.get(path.replace(TCPIP, TCPIP6, 1), {})) for path in paths]
    # On a host without IPv4, the registry does not tell which interfaces are up.
    for values, values6 in found or [({}, values) for _, values in _below(registry, TCPIP6 + r"\Interfaces")]:
        servers = tuple(dict.fromkeys(_servers(values, values6)))
        suffix = _words(values.get("Domain")) or _words(values.get("DhcpDomain"))
        search += suffix
        if default and servers and suffix and not _gateways(values):
            # An interface without a gateway, such as a VPN, is used for its own names only.
            split |= dict.fromkeys(wire_names(suffix), servers)
        else:
            default |= dict.fromkeys(servers)
    for path in (POLICY, TCPIP):
        search += _words(registry.get(path, {}).get("SearchList")) + _words(registry.get(path, {}).get("Domain"))
    everywhere, domains = _rule_servers(registry)
    ours = any(RESOLVER_ADDRESS in _words(values.get("NameServer")) for values in registry.values())
    stub = (RESOLVER_ADDRESS,) if ours else ()
    return Upstreams(tuple(dict.fromkeys((*everywhere, *default))), {**split, **domains}, wire_names(search), stub)


def interfaces_in_use(registry: Registry, assigned: Callable[[str], bool]) -> list[str]:
    """The keys (GUIDs) of the interfaces that have an IPv4 address now, those with a gateway first."""
    found = []
    for path, values in _below(registry, TCPIP + r"\Interfaces"):
        addresses = _words(values.get("DhcpIPAddress") if values.get("EnableDHCP") else values.get("IPAddress"))
        if any(address != "0.0.0.0" and assigned(address) for address in addresses):
            found.append(path)
    return [_last(path) for path in sorted(found, key=lambda path: not _gateways(registry[path]))]


def _gateways(values: Values) -> list[str]:
    both = _words(values.get("DefaultGateway")) + _words(values.get("DhcpDefaultGateway"))
    return [gateway for gateway in both if gateway != "0.0.0.0"]


def _servers(values: Values, values6: Values) -> Iterator[Upstream]:
    """Configured servers replace those from DHCP; vmdns itself is not an upstream."""
    configured = [one for one in _words(values.get("NameServer")) if one != RESOLVER_ADDRESS]
    yield from map(Upstream, configured or _words(values.get("DhcpNameServer")))
    configured6, packed = _words(values6.get("NameServer")), values6.get("Dhcpv6DNSServers")
    yield from map(Upstream, configured6)
    if not configured6 and isinstance(packed, bytes):
        for at in range(0, len(packed) - 15, 16):
            yield Upstream(str(ipaddress.IPv6Address(packed[at : at + 16])))


def _rule_servers(registry: Registry) -> tuple[tuple[Upstream, ...], dict[bytes, tuple[Upstream, ...]]]:
    """The servers of the rules that name plain ones: for every name (.), and for single domains."""
    domains: dict[bytes, tuple[Upstream, ...]] = {}
    for _, rule in list(_below(registry, NRPT_POLICY)) or _below(registry, NRPT):
        options = rule.get("ConfigOptions")
        servers = tuple(map(Upstream, _words(rule.get("GenericDNSServers"))))
        if not servers or not isinstance(options, int) or not options & _GENERIC_SERVERS:
            continue
        for name in _words(rule.get("Name")):
            with contextlib.suppress(ValueError):
                domain = to_wire(name.removeprefix("."))
                domains[domain] = domains.get(domain, ()) + servers
    return domains.pop(b"\0", ()), domains


def powershell_command(line: str) -> list[str]:
    """One line of PowerShell as a command."""
    return ["powershell", "-NoProfile", "-Command", line]


def quote_powershell(text: str) -> str:
    """The text as a literal of PowerShell."""
    return "'" + text.replace("'", "''") + "'"


class NrptSetting(Setting):
    """The servers of vmdns' rule for the namespace `name`, like .vm.internal; None without a rule."""

    kind = "nrpt"

    def read(self) -> list[str] | None:
        return next((servers for names, servers in _own_rules(read_registry()).values() if names == [self.name]), None)

    def commands(self, value: list[str] | None) -> Sequence[Sequence[str]]:
        rules = _own_rules(read_registry())
        lines = [removal_command(key) for key, (names, _) in rules.items() if names == [self.name]]
        if value is not None:
            name, servers = quote_powershell(self.name), ",".join(map(quote_powershell, value))
            options = f"-NameServers {servers} -Comment {TAG} -DisplayName {TAG}"
            lines.append(powershell_command(f"Add-DnsClientNrptRule -Namespace {name} {options}; Clear-DnsClientCache"))
        return lines

    def describe(self, before: Any, after: list[str] | None) -> str:
        if after is None:
            return f"remove the rule that sends names below {self.name} to vmdns"
        servers = ", ".join(after)
        return f"send queries for names below {self.name} to {servers} (a rule of the Name Resolution Policy Table)"


def _own_rules(registry: Registry) -> dict[str, tuple[list[str], list[str]]]:
    """The namespaces and servers of the rules with the tag of vmdns, by their keys (GUIDs)."""
    rules = [(_last(path), rule) for path, rule in sorted(_below(registry, NRPT)) if rule.get("Comment") == TAG]
    return {key: (_words(rule.get("Name")), _words(rule.get("GenericDNSServers"))) for key, rule in rules}


def find_stale_rules(registry: Registry, kept: Iterable[str]) -> dict[str, str]:
    """Keys and namespaces of rules of vmdns that are not in the journal: left by another installation of vmdns."""
    known = {one.lower() for one in kept}
    rules = _own_rules(registry).items()
    return {key: ", ".join(names) for key, (names, _) in rules if known.isdisjoint(map(str.lower, names))}


def remove_stale_rules(kept: Iterable[str]) -> list[str]:
    """Removes the rules of `find_stale_rules`. Returns what was done, or the command for an administrator."""
    lines = []
    for key, names in find_stale_rules(read_registry(), kept).items():
        command = removal_command(key)
        if elevation.is_elevated():
            elevation.run(command)
            lines.append(f"a rule for {names} that an earlier vmdns left is taken away")
        else:
            lines.append(f"an earlier vmdns left a rule for {names}; as administrator: {' '.join(command)}")
    return lines


def removal_command(key: str) -> list[str]:
    """The command that removes a rule."""
    return powershell_command(f"Remove-DnsClientNrptRule -Name {quote_powershell(key)} -Force")


class InterfaceServers(Setting):
    """The configured IPv4 DNS servers of the interface `name`; none for those of DHCP."""

    kind = "windows-servers"

    def read(self) -> list[str]:
        registry = read_registry()
        for path, values in _below(registry, TCPIP + r"\Interfaces"):
            if _connection(registry, _last(path)) == self.name:
                return _words(values.get("NameServer"))
        raise OSError(f"there is no network interface {self.name} any more")

    def commands(self, value: list[str] | None) -> Sequence[Sequence[str]]:
        netsh, name = ["netsh", "interface", "ipv4"], f"name={self.name}"
        if not value:
            return [[*netsh, "set", "dnsservers", name, "source=dhcp"]]
        first, *others = value
        more = [[*netsh, "add", "dnsservers", name, f"address={one}", "validate=no"] for one in others]
        return [[*netsh, "set", "dnsservers", name, "source=static", f"address={first}", "validate=no"], *more]

    def describe(self, before: list[str] | None, after: list[str] | None) -> str:
        return f"set the DNS servers of {self.name} to {', '.join(after or ()) or 'those of the network'}"


def _connection(registry: Registry, key: str) -> str:
    """The user's name of the interface with this GUID; '' if unknown."""
    name = registry.get(rf"{CONNECTIONS}\{key}\Connection", {}).get("Name")
    return name if isinstance(name, str) else ""


SETTINGS = {one.kind: one for one in (NrptSetting, InterfaceServers, LoopbackAddress)}


def plan_zones(at: ListenAddress, zones: Sequence[str]) -> list[tuple[Setting, Any]]:
    """What to set so that queries for these zones go to vmdns at `at`. Raises OSError where there is no way."""
    if not zones:
        raise OSError("a rule for .local would take multicast DNS away; name another zone, like vm.internal")
    if at.port != 53:
        raise OSError(
            f"vmdns listens at port {at.port}, and Windows can only use port 53; see which program holds it with "
            "`vmdns status`"
        )
    if any(_below(read_registry(), NRPT_POLICY)):
        raise OSError(
            "a group policy has rules for names, and with one Windows ignores those of this computer; ask its "
            f"administrator for a rule for {' and '.join(zones)}, or use `vmdns hosts --keep`"
        )
    return [(NrptSetting(f".{zone}"), [at.address]) for zone in zones]


def plan_all(assigned: Callable[[str], bool] = is_assigned) -> list[tuple[Setting, Any]]:
    """What to set so that all queries go to vmdns, on the interfaces in use. Raises OSError where there is no way."""
    registry = read_registry()
    names = [_connection(registry, key) for key in interfaces_in_use(registry, assigned)]
    if not any(names):
        raise OSError("no network interface of this computer is in use, so there is nothing to set")
    address: tuple[Setting, Any] = LoopbackAddress(RESOLVER_ADDRESS), True
    return [address, *((InterfaceServers(name), [RESOLVER_ADDRESS]) for name in names if name)]
