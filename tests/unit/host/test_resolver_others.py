"""What is set on macOS and Windows, by output and registry values in the format that their documentation shows."""

from __future__ import annotations

import plistlib

import pytest

from vmdns.host import resolver_macos, resolver_windows
from vmdns.host.plan import JournalEntry
from vmdns.host.resolver import find_earlier_servers
from vmdns.host.resolver_windows import NrptSetting, find_stale_rules
from vmdns.host.system_settings import ListenAddress

# -- macOS -------------------------------------------------------------------------------------------------------

ORDER = """\
An asterisk (*) denotes that a network service is disabled.
(1) USB 10/100/1000 LAN
(Hardware Port: USB 10/100/1000 LAN, Device: en7)

(2) Wi-Fi
(Hardware Port: Wi-Fi, Device: en0)

(*) Thunderbolt Bridge
(Hardware Port: Thunderbolt Bridge, Device: bridge0)

(3) Work VPN
(Hardware Port: com.wireguard.macos, Device: )
"""
SCUTIL = """\
DNS configuration

resolver #1
  search domain[0] : lan
  nameserver[0] : 192.168.1.1
  if_index : 12 (en0)
  flags    : Request A records

DNS configuration (for scoped queries)

resolver #1
  search domain[0] : lan
  nameserver[0] : 192.168.1.1
  if_index : 12 (en0)
  flags    : Scoped, Request A records

resolver #2
  nameserver[0] : 192.168.1.1
  if_index : 19 (en7)
  flags    : Scoped, Request A records
"""
PACKET = """\
op = BOOTREPLY
options:
Options count is 7
dhcp_message_type (uint8): ACK 0x5
server_identifier (ip): 192.168.1.1
domain_name_server (ip_mult): {192.168.1.1, 192.168.1.2}
end (none):
"""


def test_services_in_use() -> None:
    order = resolver_macos.parse_order(ORDER)
    assert order == {"en7": "USB 10/100/1000 LAN", "en0": "Wi-Fi"}
    assert resolver_macos.parse_devices(SCUTIL) == ["en0", "en7"]
    assert resolver_macos.parse_packet(PACKET) == ["192.168.1.1", "192.168.1.2"]
    assert resolver_macos.parse_packet("") == []


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("There aren't any DNS Servers set on Wi-Fi.\n", []),
        ("192.0.2.1\n2001:db8::1\n", ["192.0.2.1", "2001:db8::1"]),
        ("fe80::1%en0\n", ["fe80::1%en0"]),
        ("", []),
    ],
)
def test_servers_typed_in_on_a_mac(text: str, servers: list[str]) -> None:
    assert resolver_macos.parse_servers(text) == servers


def test_a_mac_asks_for_all_zones_but_local() -> None:
    [(setting, text)] = resolver_macos.plan_zones(ListenAddress(port=5300), ["vm.internal"])
    assert (setting.kind, setting.name) == ("resolver-file", "/etc/resolver/vm.internal")
    assert text.splitlines()[1:] == ["nameserver 127.0.0.1", "port 5300"]
    with pytest.raises(OSError, match=r"keeps \.local"):
        resolver_macos.plan_zones(ListenAddress(), [])


def test_a_mac_asks_for_everything() -> None:
    wanted = resolver_macos.plan_all(["Wi-Fi"])
    assert [(one.kind, one.name) for one, _ in wanted] == [
        ("address-daemon", "/Library/LaunchDaemons/vmdns.address.plist"), ("mac-servers", "Wi-Fi"),
    ]  # fmt: skip
    (daemon, text), (servers, _) = wanted
    assert plistlib.loads(text.encode())["ProgramArguments"][:3] == ["/sbin/ifconfig", "lo0", "alias"]
    assert any("launchctl bootstrap system" in line for line in daemon.command_lines(text))
    assert servers.command_lines(["198.18.53.53"])[0].endswith("networksetup -setdnsservers Wi-Fi 198.18.53.53")
    assert servers.command_lines([])[0].endswith("networksetup -setdnsservers Wi-Fi Empty")
    with pytest.raises(OSError, match="nothing to set"):
        resolver_macos.plan_all([])


# -- Windows -----------------------------------------------------------------------------------------------------

WIFI, WIRE = "{11111111-0000-0000-0000-000000000001}", "{11111111-0000-0000-0000-000000000002}"
INTERFACES = resolver_windows.TCPIP + "\\Interfaces\\"
OURS = "{22222222-0000-0000-0000-000000000001}"
REGISTRY: dict[str, dict[str, object]] = {
    resolver_windows.TCPIP: {},
    INTERFACES + WIFI: {
        "EnableDHCP": 1, "DhcpIPAddress": "192.168.1.20", "DhcpNameServer": "192.168.1.1", "NameServer": "",
        "DhcpDefaultGateway": ["192.168.1.1"],
    },
    INTERFACES + WIRE: {"EnableDHCP": 0, "IPAddress": ["10.1.0.5"], "NameServer": "10.1.0.1,10.1.0.2"},
    f"{resolver_windows.CONNECTIONS}\\{WIFI}\\Connection": {"Name": "Wi-Fi"},
    f"{resolver_windows.CONNECTIONS}\\{WIRE}\\Connection": {"Name": "Ethernet's"},
}  # fmt: skip


def rule(space: str, server: str, comment: str = "vmdns") -> dict[str, object]:
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
        ([rule(".vm.internal", "127.0.0.1")], [".vm.internal"], []),
        ([rule(".vm.internal", "127.0.0.1")], [".VM.internal"], []),
        ([rule(".vm.internal", "127.0.0.1")], [], [OURS]),
        ([rule(".old.test", "127.0.0.1")], [".vm.internal"], [OURS]),
        ([rule(".old.test", "127.0.0.1", "work")], [], []),
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
    registry.update(with_rules(rule(".vm.internal", "127.0.0.2")))
    assert setting.read() == ["127.0.0.2"]
    removal = f"Remove-DnsClientNrptRule -Name '{OURS}' -Force"
    assert [removal in line for line in setting.command_lines(["127.0.0.1"])] == [True, False]
    assert [removal in line for line in setting.command_lines(None)] == [True]
    registry.update(with_rules(rule(".vm.internal", "127.0.0.2", "work")))
    assert setting.read() is None
    assert setting.command_lines(None) == []


@pytest.mark.parametrize(
    ("rules", "at", "zones", "words"),
    [
        ({}, ListenAddress(port=5300), ["vm.internal"], "port 5300"),
        ({}, ListenAddress(), [], "take multicast DNS away"),
        (
            with_rules(rule(".corp.test", "10.1.0.1", ""), table=resolver_windows.NRPT_POLICY), ListenAddress(),
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


def test_the_servers_before_us_on_windows() -> None:
    told = {**REGISTRY[INTERFACES + WIFI], "NameServer": "198.18.53.53"}
    found = resolver_windows.parse_registry(
        {**REGISTRY, INTERFACES + WIFI: told}, lambda address: address == "192.168.1.20"
    )
    assert [one.address for one in found.default] == ["192.168.1.1"]
    assert found.resolvers == ("198.18.53.53",)


def test_the_servers_that_were_typed_in() -> None:
    entries = [
        JournalEntry("host", "windows-servers", "Wi-Fi", [], ["198.18.53.53"]),
        JournalEntry("host", "windows-servers", "Ethernet's", ["10.1.0.1", "10.1.0.2"], ["198.18.53.53"]),
        JournalEntry("host", "nrpt", ".vm.internal", ["127.0.0.9"], ["127.0.0.1"]),
        JournalEntry("host", "mac-servers", "Wi-Fi", ["10.1.0.2", "10.1.0.3"], ["198.18.53.53"]),
    ]
    assert find_earlier_servers(entries) == ["10.1.0.1", "10.1.0.2", "10.1.0.3"]
