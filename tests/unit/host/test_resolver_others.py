"""What is set on macOS and Windows, by output and registry values in the format that their documentation shows."""

from __future__ import annotations

import pytest

from vmdns.host import nrpt, resolver_macos, resolver_windows, upstreams_windows
from vmdns.host.journal import JournalEntry
from vmdns.host.nrpt import NrptRule, NrptSetting, find_stale_rules, parse_rules
from vmdns.host.resolver_setup import ListenAddress, Refusal, ResolverPlan
from vmdns.host.upstreams import servers_before

ZONES = ("local", "vm.internal")

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


def test_what_dhcp_gave() -> None:
    assert resolver_macos.parse_packet(PACKET) == ["192.168.1.1", "192.168.1.2"]
    assert resolver_macos.parse_packet("") == []


def test_a_mac_asks_for_all_zones_but_local() -> None:
    asked = resolver_macos.split(ListenAddress(port=5300), ZONES)
    assert isinstance(asked, ResolverPlan)
    [(setting, text)] = asked.wanted
    assert (setting.kind, setting.name) == ("resolver-file", "/etc/resolver/vm.internal")
    assert text.splitlines()[1:] == ["nameserver 127.0.0.1", "port 5300"]
    assert isinstance(resolver_macos.split(ListenAddress(), ("local",)), Refusal)


def test_a_mac_asks_for_everything() -> None:
    asked = resolver_macos.whole(["Wi-Fi"])
    assert isinstance(asked, ResolverPlan)
    assert [(one.kind, one.name) for one, _ in asked.wanted] == [
        ("address-daemon", "/Library/LaunchDaemons/vmdns.address.plist"), ("mac-servers", "Wi-Fi"),
    ]  # fmt: skip
    daemon, servers = (one for one, _ in asked.wanted)
    assert "<string>/sbin/ifconfig</string><string>lo0</string>" in asked.wanted[0][1]
    assert any("launchctl bootstrap system" in line for line in daemon.commands(None, asked.wanted[0][1]))
    assert servers.commands([], ["198.18.53.53"])[0].endswith("networksetup -setdnsservers Wi-Fi 198.18.53.53")
    assert servers.commands(["198.18.53.53"], [])[0].endswith("networksetup -setdnsservers Wi-Fi Empty")
    assert isinstance(resolver_macos.whole([]), Refusal)


# -- Windows -----------------------------------------------------------------------------------------------------

WIFI, WIRE = "{11111111-0000-0000-0000-000000000001}", "{11111111-0000-0000-0000-000000000002}"
INTERFACES = upstreams_windows.TCPIP + "\\Interfaces\\"
OURS = "{22222222-0000-0000-0000-000000000001}"
REGISTRY: dict[str, dict[str, object]] = {
    upstreams_windows.TCPIP: {},
    INTERFACES + WIFI: {
        "EnableDHCP": 1, "DhcpIPAddress": "192.168.1.20", "DhcpNameServer": "192.168.1.1", "NameServer": "",
        "DhcpDefaultGateway": ["192.168.1.1"],
    },
    INTERFACES + WIRE: {"EnableDHCP": 0, "IPAddress": ["10.1.0.5"], "NameServer": "10.1.0.1,10.1.0.2"},
    f"{upstreams_windows.CONNECTIONS}\\{WIFI}\\Connection": {"Name": "Wi-Fi"},
    f"{upstreams_windows.CONNECTIONS}\\{WIRE}\\Connection": {"Name": "Ethernet's"},
}  # fmt: skip


def rule(space: str, server: str, comment: str = "vmdns") -> dict[str, object]:
    return {"Name": [space], "GenericDNSServers": server, "ConfigOptions": 8, "Version": 2, "Comment": comment}


def with_rules(*rules: dict[str, object], table: str = upstreams_windows.NRPT) -> dict[str, dict[str, object]]:
    numbered = {f"{table}\\{{22222222-0000-0000-0000-00000000000{at}}}": one for at, one in enumerate(rules, 1)}
    return {**REGISTRY, **numbered}


def test_rules_are_read() -> None:
    registry = with_rules(rule(".vm.internal", "127.0.0.1"), rule(".corp.test", "10.1.0.1; 10.1.0.2", "work"))
    assert parse_rules(registry) == [
        NrptRule(OURS, (".vm.internal",), ("127.0.0.1",), True),
        NrptRule("{22222222-0000-0000-0000-000000000002}", (".corp.test",), ("10.1.0.1", "10.1.0.2"), False),
    ]


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
    assert [one.key for one in find_stale_rules(with_rules(*rules), kept)] == keys


def test_windows_asks_for_all_zones_but_local() -> None:
    asked = resolver_windows.split(lambda: REGISTRY, ListenAddress(), ZONES)
    assert isinstance(asked, ResolverPlan)
    [(setting, value)] = asked.wanted
    assert (setting.kind, setting.name, setting.read(), value) == ("nrpt", ".vm.internal", None, ["127.0.0.1"])
    [line] = setting.commands(None, value)
    assert "Add-DnsClientNrptRule -Namespace '.vm.internal' -NameServers '127.0.0.1' -Comment vmdns" in line


def test_our_rule_is_changed_and_taken_away() -> None:
    setting = NrptSetting(".vm.internal", lambda: with_rules(rule(".vm.internal", "127.0.0.2")))
    assert setting.read() == ["127.0.0.2"]
    removal = f"Remove-DnsClientNrptRule -Name '{OURS}' -Force"
    assert [removal in line for line in setting.commands(["127.0.0.2"], ["127.0.0.1"])] == [True, False]
    assert [removal in line for line in setting.commands(["127.0.0.2"], None)] == [True]
    theirs = NrptSetting(".vm.internal", lambda: with_rules(rule(".vm.internal", "127.0.0.2", "work")))
    assert theirs.read() is None
    assert list(theirs.commands(None, None)) == []


@pytest.mark.parametrize(
    ("registry", "at", "zones", "words"),
    [
        (REGISTRY, ListenAddress(port=5300), ZONES, "port 5300"),
        (REGISTRY, ListenAddress(), ("local",), "take multicast DNS away"),
        (
            with_rules(rule(".corp.test", "10.1.0.1", ""), table=upstreams_windows.NRPT_POLICY),
            ListenAddress(),
            ZONES,
            "group policy",
        ),
    ],
)
def test_windows_refused(
    registry: dict[str, dict[str, object]], at: ListenAddress, zones: tuple[str, ...], words: str
) -> None:
    refused = resolver_windows.split(lambda: registry, at, zones)
    assert isinstance(refused, Refusal)
    assert words in refused.text


def test_windows_asks_for_everything() -> None:
    asked = resolver_windows.whole(lambda: REGISTRY, lambda address: True)
    assert isinstance(asked, ResolverPlan)
    assert [(one.kind, one.name, value) for one, value in asked.wanted] == [
        ("loopback-address", "198.18.53.53", True),
        ("windows-servers", "Wi-Fi", ["198.18.53.53"]),
        ("windows-servers", "Ethernet's", ["198.18.53.53"]),
    ]
    wifi, wire = (one for one, _ in asked.wanted[1:])
    assert (wifi.read(), wire.read()) == ([], ["10.1.0.1", "10.1.0.2"])
    assert wifi.commands(["198.18.53.53"], [])[0].endswith("set dnsservers name=Wi-Fi source=dhcp")
    back = wire.commands(["198.18.53.53"], ["10.1.0.1", "10.1.0.2"])
    assert [("address=10.1.0.1" in line, "address=10.1.0.2" in line) for line in back] == [(True, False), (False, True)]
    assert isinstance(resolver_windows.whole(lambda: REGISTRY, lambda address: False), Refusal)


def test_the_servers_before_us_on_windows() -> None:
    told = {**REGISTRY[INTERFACES + WIFI], "NameServer": "198.18.53.53"}
    found = upstreams_windows.parse_registry(
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
    assert servers_before(entries) == ["10.1.0.1", "10.1.0.2", "10.1.0.3"]


def test_quotes_stay_inside() -> None:
    assert nrpt.quote_powershell("it's") == "'it''s'"
