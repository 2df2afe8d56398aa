"""Whatever the system says of its DNS servers, only literal unicast addresses are asked, and domains are sound names.

The first byte of the data says which system: a resolv.conf and that of systemd-resolved, scutil, or a registry, whose
keys and values are divided by zero bytes.
"""

from __future__ import annotations

from ipaddress import ip_address

from vmdns.dns.upstreams import Upstreams
from vmdns.host import resolver_windows
from vmdns.host.resolver_macos import parse_scutil
from vmdns.host.upstreams_linux import behind_stub, parse_link, parse_resolv_conf
from vmdns.server.forward_routes import usable_upstreams
from vmdns.windows.ip_helper import UP, Adapter, AdapterAddress

OWN = frozenset({("127.0.0.1", 53), ("198.18.53.1", 53)})
PATHS = (
    resolver_windows.TCPIP, resolver_windows.POLICY, resolver_windows.TCPIP + "\\Interfaces\\{A}",
    resolver_windows.NRPT + "\\{B}", resolver_windows.NRPT_POLICY + "\\{C}",
)  # fmt: skip
VALUES = (
    "NameServer", "DhcpNameServer", "Dhcpv6DNSServers", "Domain", "DhcpDomain", "SearchList", "IPAddress",
    "DhcpIPAddress", "EnableDHCP", "DefaultGateway", "ConfigOptions", "GenericDNSServers", "Name",
)  # fmt: skip
# Its server is vmdns, so those that DHCP gave come from the registry.
_ADAPTER = Adapter(
    1, 1, "{A}", "x", "x", "", 6, UP, 1, (AdapterAddress("192.0.2.5", 24, 4),), (), ("198.18.53.53", "fe80::1%1"), "lan"
)


def check(data: bytes) -> None:
    text = data[1:].decode("utf-8", "replace")
    match (data[0] if data else 0) % 3:
        case 0:
            first, second, link, *_ = (*text.split("\0", 2), "", "")
            found = behind_stub(parse_resolv_conf(first), second, parse_link(link, "2"))
        case 1:
            found = parse_scutil(text)
        case _:
            found = resolver_windows.find_upstreams([_ADAPTER], _registry(data[1:]))
    _sound(found)


def _registry(data: bytes) -> dict[str, dict[str, object]]:
    registry: dict[str, dict[str, object]] = {}
    for part in data.split(b"\0")[:100]:
        if len(part) < 3:
            continue
        text = part[3:].decode("utf-8", "replace")
        value: object = (text, text.split("|"), len(part), part[3:])[part[2] % 4]
        registry.setdefault(PATHS[part[0] % len(PATHS)], {})[VALUES[part[1] % len(VALUES)]] = value
    return registry


def _sound(found: Upstreams) -> None:
    usable = usable_upstreams(found, OWN)[0]
    for servers in (usable.default, *usable.domains.values()):
        for one in servers:
            address = ip_address(one.address)
            assert not address.is_multicast
            assert 0 < one.port < 65536
            assert (str(address), one.port) not in OWN
    for name in (*found.domains, *found.search):
        assert len(name) <= 255
        assert name == name.lower()
        assert name != b"\0"
