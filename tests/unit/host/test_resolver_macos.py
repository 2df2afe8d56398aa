"""macOS: its DNS servers, and what is set there, by texts in the format of the manual pages."""

from __future__ import annotations

import plistlib
from collections.abc import Callable

import pytest

from tests.unit.host.test_upstreams_linux import at, names
from vmdns.dns.name import to_wire
from vmdns.dns.upstreams import Upstreams
from vmdns.host import resolver_macos
from vmdns.host.system_settings import ListenAddress

SCUTIL = """DNS configuration

resolver #1
  search domain[0] : home.lan
  search domain[1] : corp.example
  nameserver[0] : 192.168.1.1
  nameserver[1] : fe80::1%en0
  if_index : 6 (en0)

resolver #2
  domain   : local
  options  : mdns

resolver #3
  domain   : vm.internal
  nameserver[0] : 127.0.0.1
  port     : 5300

resolver #4
  domain   : Corp.Example.
  nameserver[0] : 10.8.0.1
  nameserver[1] : 10.8.0.2

resolver #5
  nameserver[0] : 9.9.9.9

resolver #6
  domain   : empty.example

DNS configuration (for scoped queries)

resolver #1
  search domain[0] : scoped.example
  nameserver[0] : 172.20.10.1
  if_index : 9 (en7)

resolver #2
  nameserver[0] : 192.168.1.1
  if_index : 12 (en0)
"""


def test_scutil() -> None:
    assert resolver_macos.parse_scutil(SCUTIL) == Upstreams(
        at("192.168.1.1", "fe80::1%en0", "9.9.9.9"),
        {to_wire("vm.internal"): at("127.0.0.1", port=5300), to_wire("corp.example"): at("10.8.0.1", "10.8.0.2")},
        names("home.lan", "corp.example"),
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("No DNS configuration available\n", Upstreams()),
        ("DNS configuration\n\nresolver #1\n  flags : Request A records\n", Upstreams()),
        (
            "DNS configuration\n\nresolver #1\n  domain : home\n  nameserver[0] : 10.0.0.1\n  order   : 200000\n",
            Upstreams(at("10.0.0.1"), search=names("home")),
        ),
        ("DNS configuration\n\nresolver #1\n  domain : a..b\n  nameserver[0] : 10.0.0.1\n", Upstreams()),
    ],
)
def test_other_output_of_scutil(text: str, found: Upstreams) -> None:
    assert resolver_macos.parse_scutil(text) == found


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
PACKET = """\
options:
server_identifier (ip): 192.168.1.1
domain_name_server (ip_mult): {192.168.1.1, 192.168.1.2}
end (none):
"""


@pytest.mark.parametrize(
    ("parse", "text", "found"),
    [
        (resolver_macos.parse_order, ORDER, {"en7": "USB 10/100/1000 LAN", "en0": "Wi-Fi"}),
        (resolver_macos.parse_devices, SCUTIL, ["en7", "en0"]),
        (resolver_macos.parse_packet, PACKET, ["192.168.1.1", "192.168.1.2"]),
        (resolver_macos.parse_packet, "", []),
        (resolver_macos.parse_servers, "There aren't any DNS Servers set on Wi-Fi.\n", []),
        (resolver_macos.parse_servers, "192.0.2.1\n2001:db8::1\n", ["192.0.2.1", "2001:db8::1"]),
        (resolver_macos.parse_servers, "fe80::1%en0\n", ["fe80::1%en0"]),
    ],
)
def test_output_of_commands(parse: Callable[[str], object], text: str, found: object) -> None:
    assert parse(text) == found


def test_all_zones_but_local() -> None:
    [(setting, text)] = resolver_macos.plan_zones(ListenAddress(port=5300), ["vm.internal"])
    assert (setting.kind, setting.name) == ("resolver-file", "/etc/resolver/vm.internal")
    assert text.splitlines()[1:] == ["nameserver 127.0.0.1", "port 5300"]
    with pytest.raises(OSError, match=r"keeps \.local"):
        resolver_macos.plan_zones(ListenAddress(), [])


def test_everything() -> None:
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
