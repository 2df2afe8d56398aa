"""Windows: the DNS servers that this host uses, from the registry.

Per interface below Tcpip and Tcpip6 (values NameServer, DhcpNameServer, Dhcpv6DNSServers), and by the Name
Resolution Policy Table for single domains ([MS-GPNRPT] section 2.2.2). Written from Microsoft's documentation and
tested with values in its format; never run on Windows. Servers from IPv6 router advertisements are not in the registry.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping

from vmdns.dns.name import to_wire
from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.host.loopback_address import RESOLVER_ADDRESS, is_assigned
from vmdns.host.resolv_conf import wire_names

# Values by key path: what `read_registry` makes of the keys below HKEY_LOCAL_MACHINE that follow.
Registry = Mapping[str, Mapping[str, object]]

TCPIP = r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters"
TCPIP6 = r"SYSTEM\CurrentControlSet\Services\Tcpip6\Parameters"
POLICY = r"SOFTWARE\Policies\Microsoft\Windows NT\DNSClient"
NRPT = r"SYSTEM\CurrentControlSet\Services\Dnscache\Parameters\DnsPolicyConfig"
# Rules of a group policy come first: with one of them, Windows ignores the local rules.
NRPT_POLICY = POLICY + r"\DnsPolicyConfig"
# The user's name of each interface, by its GUID (the class of network adapters).
CONNECTIONS = r"SYSTEM\CurrentControlSet\Control\Network\{4D36E972-E325-11CE-BFC1-08002BE10318}"
# The bit of ConfigOptions that says GenericDNSServers is meant.
_GENERIC_SERVERS = 0x8


def parse_registry(registry: Registry, assigned: Callable[[str], bool]) -> Upstreams:
    """The upstreams in the registry. assigned: whether the host has an address; unplugged interfaces keep theirs."""
    default: dict[Upstream, None] = {}
    search: list[str] = []
    split: dict[bytes, tuple[Upstream, ...]] = {}
    for values, values6 in _interfaces(registry, assigned):
        servers = tuple(dict.fromkeys(_servers(values, values6)))
        suffix = words(values.get("Domain")) or words(values.get("DhcpDomain"))
        search += suffix
        if default and servers and suffix and not _gateways(values):
            # An interface without a gateway, such as a VPN, is used for its own names only.
            split |= dict.fromkeys(wire_names(suffix), servers)
        else:
            default |= dict.fromkeys(servers)
    for path in (POLICY, TCPIP):
        values = registry.get(path, {})
        search += words(values.get("SearchList")) + words(values.get("Domain"))
    everywhere, domains = _policies(registry)
    domains = {**split, **domains}
    stub = (
        (RESOLVER_ADDRESS,)
        if any(RESOLVER_ADDRESS in words(values.get("NameServer")) for values in registry.values())
        else ()
    )
    return Upstreams(tuple(dict.fromkeys((*everywhere, *default))), domains, wire_names(search), stub)


def _interfaces(
    registry: Registry, assigned: Callable[[str], bool]
) -> Iterator[tuple[Mapping[str, object], Mapping[str, object]]]:
    """The interfaces that have an address, those with a gateway first: values of IPv4 and of IPv6."""
    paths = [f"{TCPIP}\\Interfaces\\{key}" for key in in_use(registry, assigned)]
    found = [(registry[path], registry.get(path.replace(TCPIP, TCPIP6, 1), {})) for path in paths]
    if not found:
        # A host without IPv4: the registry does not tell which interfaces are up.
        found = [({}, values) for path, values in registry.items() if path.startswith(TCPIP6 + "\\Interfaces\\")]
    return iter(found)


def in_use(registry: Registry, assigned: Callable[[str], bool]) -> list[str]:
    """The keys (GUIDs) of the interfaces that have an IPv4 address now, those with a gateway first."""
    found = []
    for path, values in registry.items():
        addresses = _addresses(values) if path.startswith(TCPIP + "\\Interfaces\\") else []
        if any(address != "0.0.0.0" and assigned(address) for address in addresses):
            found.append(path)
    found.sort(key=lambda path: not any(_gateways(registry[path])))
    return [path.rpartition("\\")[2] for path in found]


def _addresses(values: Mapping[str, object]) -> list[str]:
    return words(values.get("DhcpIPAddress") if values.get("EnableDHCP") else values.get("IPAddress"))


def _gateways(values: Mapping[str, object]) -> list[str]:
    both = words(values.get("DefaultGateway")) + words(values.get("DhcpDefaultGateway"))
    return [gateway for gateway in both if gateway != "0.0.0.0"]


def _servers(values: Mapping[str, object], values6: Mapping[str, object]) -> Iterator[Upstream]:
    """Configured servers replace those from DHCP; vmdns itself is not an upstream."""
    configured = [one for one in words(values.get("NameServer")) if one != RESOLVER_ADDRESS]
    yield from map(Upstream, configured or words(values.get("DhcpNameServer")))
    configured6 = words(values6.get("NameServer"))
    yield from map(Upstream, configured6)
    packed = values6.get("Dhcpv6DNSServers")
    if not configured6 and isinstance(packed, bytes):
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
        servers = tuple(Upstream(address) for address in words(rule.get("GenericDNSServers")))
        if not servers or not isinstance(options, int) or not options & _GENERIC_SERVERS:
            continue
        for name in words(rule.get("Name")):
            try:
                domain = to_wire(name.removeprefix("."))
            except ValueError:
                continue
            if domain == b"\0":
                everywhere += servers
            else:
                domains[domain] = domains.get(domain, ()) + servers
    return everywhere, domains


def words(value: object) -> list[str]:
    """The items of a REG_MULTI_SZ, or of a REG_SZ that divides them by space, comma or semicolon."""
    texts: Iterable[object] = value if isinstance(value, list) else [value]
    return [word for text in texts if isinstance(text, str) for word in re.split(r"[\s,;\0]+", text) if word]


if sys.platform == "win32":
    import winreg

    def read() -> Upstreams:
        """Reads the registry. Raises OSError where even the settings of IPv4 cannot be read."""
        return parse_registry(read_registry(), is_assigned)

    def read_registry() -> dict[str, dict[str, object]]:
        """Reads the keys for name servers and interfaces. Raises OSError as `read` does."""
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
        for path in [path for path in registry if path.startswith(TCPIP + "\\Interfaces\\")]:
            named = rf"{CONNECTIONS}\{path.rpartition(chr(92))[2]}\Connection"
            with contextlib.suppress(OSError):
                registry[named] = _values(named)
        return registry

    def _values(path: str) -> dict[str, object]:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
            count = winreg.QueryInfoKey(key)[1]
            return {name: value for name, value, _ in (winreg.EnumValue(key, at) for at in range(count))}

    def _subkeys(path: str) -> list[str]:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
            return [winreg.EnumKey(key, at) for at in range(winreg.QueryInfoKey(key)[0])]
