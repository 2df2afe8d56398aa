"""Windows: its DNS servers, and what is set there, by registry values in the format of Microsoft's documentation."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from tests.unit.host.test_upstreams_linux import at, names
from vmdns.dns.name import to_wire
from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.host import resolver_windows
from vmdns.host.plan import JournalEntry
from vmdns.host.resolver import find_earlier_servers
from vmdns.host.resolver_windows import NrptSetting, find_stale_rules
from vmdns.host.system_settings import ListenAddress

WIFI, VPN, OLD, VBOX = "{AAAA0001}", "{BBBB0002}", "{CCCC0003}", "{DDDD0004}"
HERE = {"192.168.1.20", "10.8.0.6", "192.168.56.1"}


def interface(guid: str, **values: Any) -> dict[str, dict[str, Any]]:
    return {rf"{resolver_windows.TCPIP}\Interfaces\{guid}": values}


def interface6(guid: str, **values: Any) -> dict[str, dict[str, Any]]:
    return {rf"{resolver_windows.TCPIP6}\Interfaces\{guid}": values}


WIFI_DHCP = interface(
    WIFI, EnableDHCP=1, DhcpIPAddress="192.168.1.20", DhcpNameServer="192.168.1.1 192.168.1.2", NameServer="",
    DhcpDomain="home.lan", Domain="", DhcpDefaultGateway=["192.168.1.1"], IPAddress=["0.0.0.0"],
)  # fmt: skip
STALE = interface(OLD, EnableDHCP=1, DhcpIPAddress="172.20.10.3", DhcpNameServer="172.20.10.1", DhcpDomain="phone")
HOST_ONLY = interface(VBOX, EnableDHCP=0, IPAddress=["192.168.56.1"], DefaultGateway=[], NameServer="192.168.56.9")
VPN_LINK = {
    **interface(VPN, EnableDHCP=0, IPAddress=["10.8.0.6"], DefaultGateway=[], NameServer="10.8.0.1",
                Domain="corp.example"),
    **interface6(VPN, NameServer="2001:db8::54"),
}  # fmt: skip
NEVER_UP = interface("{EEEE0005}", EnableDHCP=1, DhcpIPAddress="0.0.0.0", DhcpNameServer="1.2.3.4")


def read_windows(*parts: dict[str, dict[str, Any]]) -> Upstreams:
    registry = {path: values for part in parts for path, values in part.items()}
    return resolver_windows.parse_registry(registry, HERE.__contains__)


@pytest.mark.parametrize(
    ("parts", "servers", "search"),
    [
        ([STALE, NEVER_UP, WIFI_DHCP], at("192.168.1.1", "192.168.1.2"), names("home.lan")),
        # One without a gateway (VirtualBox's host-only adapter) comes after those that lead somewhere.
        ([HOST_ONLY, WIFI_DHCP], at("192.168.1.1", "192.168.1.2", "192.168.56.9"), names("home.lan")),
        # A VPN without a gateway that has servers and a suffix gets queries for that suffix alone.
        ([VPN_LINK, WIFI_DHCP], at("192.168.1.1", "192.168.1.2"), names("home.lan", "corp.example")),
        ([VPN_LINK], at("10.8.0.1", "2001:db8::54"), names("corp.example")),
        # What the user typed counts more than what DHCP gave.
        (
            [interface(WIFI, EnableDHCP=1, DhcpIPAddress="192.168.1.20", NameServer="9.9.9.9,1.1.1.1",
                       DhcpNameServer="192.168.1.1", Domain="typed.test", DhcpDomain="given.test")],
            at("9.9.9.9", "1.1.1.1"), names("typed.test"),
        ),
        (
            [WIFI_DHCP, interface6(WIFI, NameServer="2001:db8::53 fe80::1%12",
                                   Dhcpv6DNSServers=bytes(16)), interface6(OLD, NameServer="2001:db8::99")],
            at("192.168.1.1", "192.168.1.2", "2001:db8::53", "fe80::1%12"), names("home.lan"),
        ),
        (
            [WIFI_DHCP, interface6(WIFI, NameServer="", Dhcpv6DNSServers=ipaddress.ip_address("2001:db8::1").packed
                                   + ipaddress.ip_address("2001:db8::2").packed + b"torn")],
            at("192.168.1.1", "192.168.1.2", "2001:db8::1", "2001:db8::2"), names("home.lan"),
        ),
        ([interface6(WIFI, NameServer="2001:db8::53")], at("2001:db8::53"), names()),
        (
            [WIFI_DHCP, {resolver_windows.TCPIP: {"SearchList": "a.test,b.test", "Domain": "ad.test",
                                                   "NV Domain": "ad.test"},
                         resolver_windows.POLICY: {"SearchList": "gpo.test"}}],
            at("192.168.1.1", "192.168.1.2"), names("home.lan", "a.test", "b.test", "ad.test", "gpo.test"),
        ),
        ([], (), names()),
        ([interface(WIFI, EnableDHCP="?", IPAddress=7, NameServer=b"\1")], (), names()),
    ],
)  # fmt: skip
def test_registry(parts: list[dict[str, Any]], servers: tuple[Upstream, ...], search: frozenset[bytes]) -> None:
    found = read_windows(*parts)
    split = VPN_LINK in parts and WIFI_DHCP in parts
    domains = {to_wire("corp.example"): at("10.8.0.1", "2001:db8::54")} if split else {}
    assert found == Upstreams(servers, domains, search)


def rule(number: int, base: str = resolver_windows.NRPT, **values: Any) -> dict[str, dict[str, Any]]:
    return {rf"{base}\{{{number}}}": {"Version": 2, "ConfigOptions": 8, **values}}


CORP = rule(1, Name=[".corp.example", "host.Other.example"], GenericDNSServers="10.8.0.1;10.8.0.2")
CORP_SERVERS = at("10.8.0.1", "10.8.0.2")


@pytest.mark.parametrize(
    ("parts", "default", "domains"),
    [
        ([CORP], (), {"corp.example": CORP_SERVERS, "host.other.example": CORP_SERVERS}),
        ([rule(1, Name=["."], GenericDNSServers="10.9.0.1")], at("10.9.0.1"), {}),
        ([rule(1, Name=[".x.test"], GenericDNSServers="")], (), {}),
        ([rule(1, Name=[".x.test"], GenericDNSServers="10.9.0.1", ConfigOptions=4)], (), {}),
        ([rule(1, Name=["a..b"], GenericDNSServers="10.9.0.1")], (), {}),
        # With one rule of a group policy, Windows ignores the local ones.
        (
            [CORP, rule(2, resolver_windows.NRPT_POLICY, Name=[".gpo.test"], GenericDNSServers="10.7.0.1")], (),
            {"gpo.test": at("10.7.0.1")},
        ),
    ],
)  # fmt: skip
def test_name_resolution_policy(
    parts: list[dict[str, Any]], default: tuple[Upstream, ...], domains: dict[str, tuple[Upstream, ...]]
) -> None:
    found = read_windows(WIFI_DHCP, *parts)
    assert found.default == (*default, *at("192.168.1.1", "192.168.1.2"))
    assert found.domains == {to_wire(domain): servers for domain, servers in domains.items()}


# -- what is set ------------------------------------------------------------------------------------------------

WIRE = "{FFFF0006}"
OURS = "{22222222-0000-0000-0000-000000000001}"
REGISTRY: dict[str, dict[str, object]] = {
    resolver_windows.TCPIP: {},
    **WIFI_DHCP,
    **interface(WIRE, EnableDHCP=0, IPAddress=["10.1.0.5"], NameServer="10.1.0.1,10.1.0.2"),
    f"{resolver_windows.CONNECTIONS}\\{WIFI}\\Connection": {"Name": "Wi-Fi"},
    f"{resolver_windows.CONNECTIONS}\\{WIRE}\\Connection": {"Name": "Ethernet's"},
}


def tagged(space: str, server: str, comment: str = "vmdns") -> dict[str, object]:
    return {"Name": [space], "GenericDNSServers": server, "ConfigOptions": 8, "Version": 2, "Comment": comment}


def with_rules(*rules: dict[str, object], table: str = resolver_windows.NRPT) -> dict[str, dict[str, object]]:
    numbered = {f"{table}\\{{22222222-0000-0000-0000-00000000000{at}}}": one for at, one in enumerate(rules, 1)}
    return {**REGISTRY, **numbered}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, object]]:
    """A registry that tests may change."""
    found = dict(REGISTRY)
    monkeypatch.setattr(resolver_windows, "read_registry", lambda: found)
    return found


@pytest.mark.parametrize(
    ("rules", "kept", "keys"),
    [
        ([tagged(".vm.internal", "127.0.0.1")], [".vm.internal"], []),
        ([tagged(".vm.internal", "127.0.0.1")], [".VM.internal"], []),
        ([tagged(".vm.internal", "127.0.0.1")], [], [OURS]),
        ([tagged(".old.test", "127.0.0.1")], [".vm.internal"], [OURS]),
        ([tagged(".old.test", "127.0.0.1", "work")], [], []),
    ],
)
def test_stale_rules(rules: list[dict[str, object]], kept: list[str], keys: list[str]) -> None:
    assert list(find_stale_rules(with_rules(*rules), kept)) == keys


def test_windows_asks_for_all_zones_but_local(registry: dict[str, dict[str, object]]) -> None:
    [(setting, value)] = resolver_windows.plan_zones(ListenAddress(), ["vm.internal"])
    assert (setting.kind, setting.name, setting.read(), value) == ("nrpt", ".vm.internal", None, ["127.0.0.1"])
    [line] = setting.command_lines(value)
    assert "Add-DnsClientNrptRule -Namespace '.vm.internal' -NameServers '127.0.0.1' -Comment vmdns" in line


def test_our_rule_is_changed_and_taken_away(registry: dict[str, dict[str, object]]) -> None:
    setting = NrptSetting(".vm.internal")
    registry.update(with_rules(tagged(".vm.internal", "127.0.0.2")))
    assert setting.read() == ["127.0.0.2"]
    removal = f"Remove-DnsClientNrptRule -Name '{OURS}' -Force"
    assert [removal in line for line in setting.command_lines(["127.0.0.1"])] == [True, False]
    assert [removal in line for line in setting.command_lines(None)] == [True]
    registry.update(with_rules(tagged(".vm.internal", "127.0.0.2", "work")))
    assert setting.read() is None
    assert setting.command_lines(None) == []


@pytest.mark.parametrize(
    ("rules", "at", "zones", "words"),
    [
        ({}, ListenAddress(port=5300), ["vm.internal"], "port 5300"),
        ({}, ListenAddress(), [], "take multicast DNS away"),
        (
            with_rules(tagged(".corp.test", "10.1.0.1", ""), table=resolver_windows.NRPT_POLICY), ListenAddress(),
            ["vm.internal"], "group policy",
        ),
    ],
)  # fmt: skip
def test_windows_refused(
    registry: dict[str, dict[str, object]],
    rules: dict[str, dict[str, object]],
    at: ListenAddress,
    zones: list[str],
    words: str,
) -> None:
    registry.update(rules)
    with pytest.raises(OSError, match=words):
        resolver_windows.plan_zones(at, zones)


def test_windows_asks_for_everything(registry: dict[str, dict[str, object]]) -> None:
    wanted = resolver_windows.plan_all(lambda address: True)
    assert [(one.kind, one.name, value) for one, value in wanted] == [
        ("loopback-address", "198.18.53.53", True),
        ("windows-servers", "Wi-Fi", ["198.18.53.53"]),
        ("windows-servers", "Ethernet's", ["198.18.53.53"]),
    ]
    wifi, wire = (one for one, _ in wanted[1:])
    assert (wifi.read(), wire.read()) == ([], ["10.1.0.1", "10.1.0.2"])
    assert wifi.command_lines([])[0].endswith("set dnsservers name=Wi-Fi source=dhcp")
    back = wire.command_lines(["10.1.0.1", "10.1.0.2"])
    assert [("address=10.1.0.1" in line, "address=10.1.0.2" in line) for line in back] == [(True, False), (False, True)]
    with pytest.raises(OSError, match="nothing to set"):
        resolver_windows.plan_all(lambda address: False)


def test_earlier_servers() -> None:
    [(path, values)] = WIFI_DHCP.items()
    found = read_windows({path: {**values, "NameServer": "198.18.53.53"}})
    assert (found.default, found.resolvers) == (at("192.168.1.1", "192.168.1.2"), ("198.18.53.53",))
    entries = [
        JournalEntry("host", "windows-servers", "Wi-Fi", [], ["198.18.53.53"]),
        JournalEntry("host", "windows-servers", "Ethernet's", ["10.1.0.1", "10.1.0.2"], ["198.18.53.53"]),
        JournalEntry("host", "nrpt", ".vm.internal", ["127.0.0.9"], ["127.0.0.1"]),
        JournalEntry("host", "mac-servers", "Wi-Fi", ["10.1.0.2", "10.1.0.3"], ["198.18.53.53"]),
    ]
    assert find_earlier_servers(entries) == ["10.1.0.1", "10.1.0.2", "10.1.0.3"]
