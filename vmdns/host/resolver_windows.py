r"""The DNS servers that Windows uses, and plans to make it send queries to vmdns: a rule of the Name Resolution Policy
Table (NRPT) for single zones; for all queries, a rule, and the servers of adapters, which VirtualBox gives to guests.

Servers come from GetAdaptersAddresses, which has those of DHCP and router advertisements too; rules, search lists and
what is configured from the registry, which needs no rights. A rule is a key with values ([MS-GPNRPT] section 2.2.2);
vmdns changes only rules whose Comment is its own tag. Never run on Windows.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmdns.dns.name import to_wire
from vmdns.dns.upstreams import Upstream, Upstreams, wire_names
from vmdns.host import elevation
from vmdns.host.plan import Setting
from vmdns.host.system_settings import RESOLVER_ADDRESS, ListenAddress, LoopbackAddress

if TYPE_CHECKING:
    from vmdns.windows.ip_helper import Adapter
    from vmdns.windows.registry import Registry

TCPIP = r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters"
POLICY = r"SOFTWARE\Policies\Microsoft\Windows NT\DNSClient"
NRPT = r"SYSTEM\CurrentControlSet\Services\Dnscache\Parameters\DnsPolicyConfig"
# Rules of a group policy: with one of them, Windows ignores the local rules.
NRPT_POLICY = POLICY + r"\DnsPolicyConfig"
# Each with all keys below it; that of rules is there only while there are some.
WATCHED_KEYS = (TCPIP, NRPT.rpartition("\\")[0], POLICY)
# The bit of ConfigOptions that says GenericDNSServers is meant.
_GENERIC_SERVERS = 0x8
_EVERYTHING = "."  # the namespace of a rule for all names
_LOOPBACK = 24  # IfType of IANA
# What Windows lists for an adapter without IPv6 name servers (RFC 3879 deprecated the addresses).
_PLACEHOLDERS = ipaddress.IPv6Network("fec0:0:0:ffff::/64")
TAG = "vmdns"


def read_registry() -> Registry:
    """Reads the keys for name servers and rules. Raises OSError where the settings of IPv4 cannot be read."""
    from vmdns.windows.registry import read_key, read_tree

    try:
        registry: dict[str, Mapping[str, object]] = {TCPIP: read_key(TCPIP)}
    except OSError as error:
        raise OSError(f"the registry cannot be read ({error}): no DNS servers of this host") from error
    for path in (POLICY, TCPIP + r"\Interfaces", NRPT):
        registry |= read_tree(path)
    return registry


def _below(registry: Registry, path: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    return (item for item in registry.items() if item[0].startswith(path + "\\"))


def _last(path: str) -> str:
    return path.rpartition("\\")[2]


def _words(value: object) -> list[str]:
    """The items of a REG_MULTI_SZ, or of a REG_SZ that divides them by space, comma or semicolon."""
    texts: Iterable[object] = value if isinstance(value, list) else [value]
    return [word for text in texts if isinstance(text, str) for word in re.split(r"[\s,;\0]+", text) if word]


def read_adapters() -> list[Adapter]:
    """The adapters of this computer. Raises OSError."""
    from vmdns.windows.ip_helper import read_adapters

    return read_adapters()


def read_upstreams() -> Upstreams:
    """The servers in use. Raises OSError."""
    return find_upstreams(read_adapters(), read_registry())


def watched_folders() -> list[Path]:
    """None: the registry is no folder."""
    return []


def find_upstreams(adapters: Iterable[Adapter], registry: Registry) -> Upstreams:
    """The upstreams of these adapters, in Windows' order, and of the rules in the registry."""
    default: dict[Upstream, None] = {}
    search: list[str] = []
    split: dict[bytes, tuple[Upstream, ...]] = {}
    ours = False
    for adapter in in_use(adapters):
        servers = tuple(map(Upstream, _servers(adapter, registry)))
        ours = ours or RESOLVER_ADDRESS in adapter.dns_servers
        suffix = _words(adapter.dns_suffix)
        search += suffix
        if default and servers and suffix and not adapter.gateways:
            # An adapter without a gateway, such as a VPN, is used for its own names only.
            split |= dict.fromkeys(wire_names(suffix), servers)
        else:
            default |= dict.fromkeys(servers)
    for path in (POLICY, TCPIP):
        search += _words(registry.get(path, {}).get("SearchList")) + _words(registry.get(path, {}).get("Domain"))
    everywhere, domains = _rule_servers(registry)
    stub = (RESOLVER_ADDRESS,) if ours else ()
    return Upstreams(tuple(dict.fromkeys((*everywhere, *default))), {**split, **domains}, wire_names(search), stub)


def in_use(adapters: Iterable[Adapter]) -> list[Adapter]:
    """The adapters that are up and have an address, those with a gateway first, then by their metric."""
    from vmdns.windows.ip_helper import UP

    up = (one for one in adapters if one.status == UP and one.kind != _LOOPBACK and one.addresses)
    return sorted(up, key=lambda one: (not one.gateways, one.metric))


def _servers(adapter: Adapter, registry: Registry) -> Iterator[str]:
    """The DNS servers of an adapter; for vmdns itself, which is no upstream, those that DHCP gave."""
    for address in adapter.dns_servers:
        found = ipaddress.ip_address(address)
        if address == RESOLVER_ADDRESS:
            yield from _words(registry.get(_interface_path(adapter.guid), {}).get("DhcpNameServer"))
        elif found.version == 4 or ipaddress.IPv6Address(int(found)) not in _PLACEHOLDERS:
            yield address


def _interface_path(guid: str) -> str:
    return rf"{TCPIP}\Interfaces\{guid}"


def _rule_servers(registry: Registry) -> tuple[tuple[Upstream, ...], dict[bytes, tuple[Upstream, ...]]]:
    """The servers of the rules that name plain ones: for every name (.), and for single domains."""
    domains: dict[bytes, tuple[Upstream, ...]] = {}
    for _, rule in list(_below(registry, NRPT_POLICY)) or _below(registry, NRPT):
        options = rule.get("ConfigOptions")
        addresses = [one for one in _words(rule.get("GenericDNSServers")) if one != RESOLVER_ADDRESS]
        servers = tuple(map(Upstream, addresses))
        if not servers or not isinstance(options, int) or not options & _GENERIC_SERVERS:
            continue
        for name in _words(rule.get("Name")):
            with contextlib.suppress(ValueError):
                domain = to_wire(name.removeprefix("."))
                domains[domain] = domains.get(domain, ()) + servers
    return domains.pop(b"\0", ()), domains


class NrptSetting(Setting):
    """The servers of vmdns' rule for the namespace `name`, like .vm.internal; None without a rule."""

    kind = "nrpt"

    def read(self) -> list[str] | None:
        return next((servers for names, servers in _own_rules(read_registry()).values() if names == [self.name]), None)

    def write(self, value: list[str] | None) -> None:
        keys = [key for key, (names, _) in _own_rules(read_registry()).items() if names == [self.name]]
        if value is None:
            remove_rules(keys)
        else:
            write_rule(keys[0] if keys else f"{{{uuid.uuid4()}}}".upper(), rule_values(self.name, value))
            if keys[1:]:
                remove_rules(keys[1:])

    def describe(self, before: Any, after: list[str] | None) -> str:
        if after is None:
            return f"remove the rule that sends names below {self.name} to vmdns"
        what = "all names" if self.name == _EVERYTHING else f"names below {self.name}"
        return f"send queries for {what} to {', '.join(after)} (a rule of the Name Resolution Policy Table)"


def rule_values(namespace: str, servers: Sequence[str]) -> dict[str, int | str | list[str]]:
    """The values of a rule ([MS-GPNRPT] section 2.2.2)."""
    return {
        "Version": 2,
        "Name": [namespace],
        "ConfigOptions": _GENERIC_SERVERS,
        "GenericDNSServers": ";".join(servers),
        "IPSECCARestriction": "",
        "Comment": TAG,
        "DisplayName": TAG,
    }


def write_rule(key: str, values: Mapping[str, int | str | list[str]]) -> None:
    """Writes a rule of this key (a GUID in braces). Raises OSError."""
    if sys.platform != "win32":
        raise NotImplementedError
    import winreg

    from vmdns.windows.dns_client import reload_settings

    kinds = {int: winreg.REG_DWORD, str: winreg.REG_SZ, list: winreg.REG_MULTI_SZ}
    with winreg.CreateKey(winreg.HKEY_LOCAL_MACHINE, rf"{NRPT}\{key}") as opened:
        for name, value in values.items():
            winreg.SetValueEx(opened, name, 0, kinds[type(value)], value)
    reload_settings()


def remove_rules(keys: Iterable[str]) -> None:
    """Removes rules. Raises OSError."""
    if sys.platform != "win32":
        raise NotImplementedError
    import winreg

    from vmdns.windows.dns_client import reload_settings

    for key in keys:
        winreg.DeleteKey(winreg.HKEY_LOCAL_MACHINE, rf"{NRPT}\{key}")
    reload_settings()


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
    """Removes the rules of `find_stale_rules`, if this is an administrator. Returns sentences on them."""
    stale = find_stale_rules(read_registry(), kept)
    names = " and ".join(stale.values())
    if stale and elevation.is_elevated():
        remove_rules(stale)
        return [f"a rule for {names} that an earlier vmdns left is taken away"]
    if stale:
        return [f"an earlier vmdns left a rule for {names}; start vmdns once as administrator, which takes it away"]
    return []


class AdapterServers(Setting):
    """The configured IPv4 DNS servers of the adapter with the GUID `name`; none for those of DHCP."""

    kind = "windows-servers"

    def read(self) -> list[str]:
        return _words(read_registry().get(_interface_path(self.name), {}).get("NameServer"))

    def write(self, value: list[str] | None) -> None:
        from vmdns.windows.dns_client import reload_settings, set_name_servers

        set_name_servers(self.name, value or [])
        reload_settings()

    def describe(self, before: list[str] | None, after: list[str] | None) -> str:
        name = next((one.name for one in read_adapters() if one.guid == self.name), self.name)
        return f"set the DNS servers of {name} to {', '.join(after or ()) or 'those of the network'}"


SETTINGS = {one.kind: one for one in (NrptSetting, AdapterServers, LoopbackAddress)}


def plan_zones(at: ListenAddress, zones: Sequence[str]) -> list[tuple[Setting, Any]]:
    """What to set so that queries for these zones go to vmdns at `at`. Raises OSError where there is no way."""
    if not zones:
        raise OSError("a rule for .local would take multicast DNS away; name another zone, like vm.internal")
    if at.port != 53:
        raise OSError(
            f"vmdns listens at port {at.port}, and Windows can only use port 53; see which program holds it with "
            "`vmdns status`"
        )
    if _has_policy():
        raise OSError(
            "a group policy has rules for names, and with one Windows ignores those of this computer; ask its "
            f"administrator for a rule for {' and '.join(zones)}, or use `vmdns hosts --keep`"
        )
    return [(NrptSetting(f".{zone}"), [at.address]) for zone in zones]


def plan_all() -> list[tuple[Setting, Any]]:
    """What to set so that all queries go to vmdns. Raises OSError where there is no way.

    The rule is for the DNS servers of IPv6, which Windows would ask as well, and for adapters that come later.
    """
    servers: list[tuple[Setting, Any]] = [
        (AdapterServers(one.guid), [RESOLVER_ADDRESS])
        for one in in_use(read_adapters())
        if any(":" not in address.address for address in one.addresses) and list(_servers(one, read_registry()))
    ]
    if not servers:
        raise OSError("no network adapter of this computer has a DNS server, so there is nothing to set")
    rules: list[tuple[Setting, Any]] = [(NrptSetting(_EVERYTHING), [RESOLVER_ADDRESS])]
    return [(LoopbackAddress(RESOLVER_ADDRESS), True), *servers, *([] if _has_policy() else rules)]


def _has_policy() -> bool:
    return any(_below(read_registry(), NRPT_POLICY))
