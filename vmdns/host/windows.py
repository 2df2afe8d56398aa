"""Windows: which DNS servers this host uses, by the registry.

Per interface below Tcpip and Tcpip6 (values NameServer, DhcpNameServer, Dhcpv6DNSServers), and by the Name
Resolution Policy Table for single domains ([MS-GPNRPT] section 2.2.2). Written after Microsoft's documentation and
tested with values in its format; not yet run on Windows. Servers that came by IPv6 router advertisements alone are
not in the registry.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping

from vmdns.core.name import to_wire
from vmdns.core.upstream import Upstream, Upstreams
from vmdns.host.linux import wire_names

# Values by key path: what `read_registry` makes of the keys below HKEY_LOCAL_MACHINE that follow.
Registry = Mapping[str, Mapping[str, object]]

TCPIP = r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters"
TCPIP6 = r"SYSTEM\CurrentControlSet\Services\Tcpip6\Parameters"
POLICY = r"SOFTWARE\Policies\Microsoft\Windows NT\DNSClient"
NRPT = r"SYSTEM\CurrentControlSet\Services\Dnscache\Parameters\DnsPolicyConfig"
# Rules of a group policy come first: with one of them, Windows ignores the local rules.
NRPT_POLICY = POLICY + r"\DnsPolicyConfig"
# The bit of ConfigOptions that says GenericDNSServers is meant.
_GENERIC_SERVERS = 0x8


def parse_registry(registry: Registry, assigned: Callable[[str], bool]) -> Upstreams:
    """assigned tells whether the host has an IPv4 address now: the registry keeps those of unplugged interfaces."""
    default: dict[Upstream, None] = {}
    search: list[str] = []
    for values, values6 in _interfaces(registry, assigned):
        default |= dict.fromkeys(_servers(values, values6))
        search += _words(values.get("Domain")) or _words(values.get("DhcpDomain"))
    for path in (POLICY, TCPIP):
        values = registry.get(path, {})
        search += _words(values.get("SearchList")) + _words(values.get("Domain"))
    everywhere, domains = _policies(registry)
    return Upstreams(tuple(dict.fromkeys((*everywhere, *default))), domains, wire_names(search))


def _interfaces(
    registry: Registry, assigned: Callable[[str], bool]
) -> Iterator[tuple[Mapping[str, object], Mapping[str, object]]]:
    """The interfaces that have an address, those with a gateway first: values of IPv4 and of IPv6."""
    keys = [path for path in registry if path.startswith(TCPIP + "\\Interfaces\\")]
    found = []
    for path in keys:
        values = registry[path]
        if any(address != "0.0.0.0" and assigned(address) for address in _addresses(values)):
            found.append((values, registry.get(path.replace(TCPIP, TCPIP6, 1), {})))
    found.sort(key=lambda pair: not any(_gateways(pair[0])))
    if not found:
        # A host without IPv4: nothing in the registry says which of its interfaces are up.
        found = [({}, values) for path, values in registry.items() if path.startswith(TCPIP6 + "\\Interfaces\\")]
    return iter(found)


def _addresses(values: Mapping[str, object]) -> list[str]:
    return _words(values.get("DhcpIPAddress") if values.get("EnableDHCP") else values.get("IPAddress"))


def _gateways(values: Mapping[str, object]) -> list[str]:
    both = _words(values.get("DefaultGateway")) + _words(values.get("DhcpDefaultGateway"))
    return [gateway for gateway in both if gateway != "0.0.0.0"]


def _servers(values: Mapping[str, object], values6: Mapping[str, object]) -> Iterator[Upstream]:
    """What the user set comes before what DHCP gave."""
    yield from map(Upstream, _words(values.get("NameServer")) or _words(values.get("DhcpNameServer")))
    typed = _words(values6.get("NameServer"))
    yield from map(Upstream, typed)
    packed = values6.get("Dhcpv6DNSServers")
    if not typed and isinstance(packed, bytes):
        for at in range(0, len(packed) - 15, 16):
            yield Upstream(str(ipaddress.IPv6Address(packed[at : at + 16])))


def _policies(registry: Registry) -> tuple[tuple[Upstream, ...], dict[bytes, tuple[Upstream, ...]]]:
    """The rules that name plain servers: those for every name (.), and those for single domains."""
    everywhere: tuple[Upstream, ...] = ()
    domains: dict[bytes, tuple[Upstream, ...]] = {}
    ruled = [path for path in registry if path.startswith(NRPT_POLICY + "\\")]
    for path in ruled or [path for path in registry if path.startswith(NRPT + "\\")]:
        rule = registry[path]
        options = rule.get("ConfigOptions")
        servers = tuple(Upstream(address) for address in _words(rule.get("GenericDNSServers")))
        if not servers or not isinstance(options, int) or not options & _GENERIC_SERVERS:
            continue
        for name in _words(rule.get("Name")):
            try:
                domain = to_wire(name.removeprefix("."))
            except ValueError:
                continue
            if domain == b"\0":
                everywhere += servers
            else:
                domains[domain] = domains.get(domain, ()) + servers
    return everywhere, domains


def _words(value: object) -> list[str]:
    """The items of a REG_MULTI_SZ, or of a REG_SZ that divides them by space, comma or semicolon."""
    texts: Iterable[object] = value if isinstance(value, list) else [value]
    return [word for text in texts if isinstance(text, str) for word in re.split(r"[\s,;\0]+", text) if word]


def is_assigned(address: str) -> bool:
    """Whether this host has the IPv4 address now: only then can a socket be bound to it."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((str(ipaddress.IPv4Address(address)), 0))
            return True
    except (OSError, ValueError):
        return False


if sys.platform == "win32":
    import winreg

    def read() -> Upstreams:
        """Reads the registry. Raises OSError where even the settings of IPv4 cannot be read."""
        registry: dict[str, dict[str, object]] = {}
        try:
            registry[TCPIP] = _values(TCPIP)
        except OSError as error:
            raise OSError(f"the registry cannot be read ({error}): no DNS servers of this host") from error
        for path in (POLICY, TCPIP + r"\Interfaces", TCPIP6 + r"\Interfaces", NRPT, NRPT_POLICY):
            try:
                registry[path] = _values(path)
                for name in _subkeys(path):
                    registry[f"{path}\\{name}"] = _values(f"{path}\\{name}")
            except OSError:
                continue  # no such key: no such settings
        return parse_registry(registry, is_assigned)

    def _values(path: str) -> dict[str, object]:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
            count = winreg.QueryInfoKey(key)[1]
            return {name: value for name, value, _ in (winreg.EnumValue(key, at) for at in range(count))}

    def _subkeys(path: str) -> list[str]:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
            return [winreg.EnumKey(key, at) for at in range(winreg.QueryInfoKey(key)[0])]
