"""Windows: its DNS servers, and what is set there, by adapters and registry values as Microsoft documents them."""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import Any

import pytest

from tests.unit.host.test_upstreams_linux import at, names
from vmdns.dns.name import to_wire
from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.host import elevation, resolver, resolver_windows
from vmdns.host.plan import JournalEntry
from vmdns.host.resolver import find_earlier_servers
from vmdns.host.resolver_windows import NrptSetting, find_stale_rules, find_upstreams, rule_values
from vmdns.host.system_settings import ListenAddress
from vmdns.windows.dns_client import InterfaceSettings, set_name_servers
from vmdns.windows.ip_helper import PREFERRED, UP, Adapter, AdapterAddress

WINDOWS = pytest.mark.skipif(sys.platform != "win32", reason="calls of Windows")
WIFI_GUID = "{AAAA0001-0000-0000-0000-000000000000}"


def adapter(name: str, address: str, *servers: str, **changed: Any) -> Adapter:
    given = (AdapterAddress(address, 24, PREFERRED),) if address else ()
    one = Adapter(
        3,
        3,
        WIFI_GUID if name == "Wi-Fi" else f"{{{name}}}",
        name,
        "a card",
        "080027000001",
        6,
        UP,
        25,
        given,
        (),
        servers,
        "",
    )
    return one._replace(**changed)


NONE = ("fec0:0:0:ffff::1", "fec0:0:0:ffff::2", "fec0:0:0:ffff::3")
WIFI = adapter("Wi-Fi", "192.168.1.20", "192.168.1.1", "fe80::1%12", gateways=("192.168.1.1",), dns_suffix="home.lan")
WIFI_SERVERS = at("192.168.1.1", "fe80::1%12")
LAN = adapter("Ethernet", "10.1.0.5", "10.1.0.1", gateways=("10.1.0.254",), metric=10)
PHONE = adapter("Phone", "172.20.10.3", "172.20.10.1", status=2)
NEVER_UP = adapter("Ethernet 2", "", "1.2.3.4")
LOOPBACK = adapter("Loopback Pseudo-Interface 1", "127.0.0.1", "9.9.9.9", kind=24)
HOST_ONLY = adapter("VirtualBox Host-Only Network", "192.168.56.1", *NONE, metric=5)
VPN = adapter("VPN", "10.8.0.6", "10.8.0.1", "2001:db8::54", dns_suffix="corp.example", metric=1)
VPN_SERVERS = at("10.8.0.1", "2001:db8::54")


@pytest.mark.parametrize(
    ("adapters", "servers", "search"),
    [
        ([PHONE, NEVER_UP, LOOPBACK, WIFI], WIFI_SERVERS, names("home.lan")),
        ([WIFI, LAN], (*at("10.1.0.1"), *WIFI_SERVERS), names("home.lan")),
        # VirtualBox's host-only adapter has the placeholders of IPv6 alone.
        ([HOST_ONLY, WIFI], WIFI_SERVERS, names("home.lan")),
        # A VPN without a gateway that has servers and a suffix gets queries for that suffix alone.
        ([VPN, WIFI], WIFI_SERVERS, names("home.lan", "corp.example")),
        ([VPN], VPN_SERVERS, names("corp.example")),
        ([], (), names()),
    ],
)
def test_servers_of_adapters(adapters: list[Adapter], servers: tuple[Upstream, ...], search: frozenset[bytes]) -> None:
    domains = {to_wire("corp.example"): VPN_SERVERS} if VPN in adapters and WIFI in adapters else {}
    assert find_upstreams(adapters, {}) == Upstreams(servers, domains, search)


def test_search_lists() -> None:
    registry = {
        resolver_windows.TCPIP: {"SearchList": "a.test,b.test", "Domain": "ad.test", "NV Domain": "ad.test"},
        resolver_windows.POLICY: {"SearchList": "gpo.test"},
    }
    assert find_upstreams([WIFI], registry).search == names("home.lan", "a.test", "b.test", "ad.test", "gpo.test")


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
    found = find_upstreams([WIFI], {path: values for part in parts for path, values in part.items()})
    assert found.default == (*default, *WIFI_SERVERS)
    assert found.domains == {to_wire(domain): servers for domain, servers in domains.items()}


# -- what is set ------------------------------------------------------------------------------------------------

OURS = "{22222222-0000-0000-0000-000000000001}"
REGISTRY: dict[str, dict[str, object]] = {resolver_windows.TCPIP: {}}


def tagged(space: str, server: str, comment: str = "vmdns") -> dict[str, object]:
    return {"Name": [space], "GenericDNSServers": server, "ConfigOptions": 8, "Version": 2, "Comment": comment}


def with_rules(*rules: dict[str, object], table: str = resolver_windows.NRPT) -> dict[str, dict[str, object]]:
    numbered = {f"{table}\\{{22222222-0000-0000-0000-00000000000{at}}}": one for at, one in enumerate(rules, 1)}
    return {**REGISTRY, **numbered}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, object]]:
    """A registry that tests may change, with Windows' Wi-Fi adapter."""
    found = dict(REGISTRY)

    def remove(keys: list[str]) -> None:
        for key in keys:
            del found[rf"{resolver_windows.NRPT}\{key}"]

    monkeypatch.setattr(resolver_windows, "read_registry", lambda: found)
    monkeypatch.setattr(resolver_windows, "read_adapters", lambda: [LOOPBACK, HOST_ONLY, WIFI])
    monkeypatch.setattr(resolver_windows, "remove_rules", remove)
    monkeypatch.setattr(
        resolver_windows, "write_rule", lambda key, values: found.update({rf"{resolver_windows.NRPT}\{key}": values})
    )
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


def test_our_rule_is_changed_and_taken_away(registry: dict[str, dict[str, object]]) -> None:
    registry.update(with_rules(tagged(".vm.internal", "127.0.0.2"), tagged(".vm.internal", "10.1.0.1", "work")))
    before, setting = dict(registry), NrptSetting(".vm.internal")
    assert setting.read() == ["127.0.0.2"]
    setting.write(["127.0.0.1", "127.0.0.9"])
    assert setting.read() == ["127.0.0.1", "127.0.0.9"]
    assert len(registry) == len(before)
    setting.write(None)
    assert setting.read() is None
    assert list(registry) == [one for one in before if OURS not in one], "the rule of someone else stays"


@WINDOWS
def test_a_rule_in_the_registry() -> None:
    if not elevation.is_elevated():
        pytest.skip("writing rules takes an administrator")
    setting = NrptSetting(".vmdns-test.internal")
    setting.write(["198.18.53.53"])
    try:
        [values] = [one for one in resolver_windows.read_registry().values() if one.get("Comment") == "vmdns"]
        assert values == rule_values(".vmdns-test.internal", ["198.18.53.53"])
        assert find_upstreams([], resolver_windows.read_registry()).domains == {}, "vmdns is no upstream of its own"
        setting.write(["192.0.2.1"])
        domains = find_upstreams([], resolver_windows.read_registry()).domains
        assert domains == {to_wire("vmdns-test.internal"): at("192.0.2.1")}
    finally:
        setting.write(None)
    assert setting.read() is None


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


def test_windows_asks_for_everything(registry: dict[str, dict[str, object]], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = resolver_windows.plan_all()
    assert [(one.kind, one.name, value) for one, value in wanted] == [
        ("loopback-address", "198.18.53.53", True),
        ("windows-servers", WIFI_GUID, ["198.18.53.53"]),
        ("nrpt", ".", ["198.18.53.53"]),
    ]
    servers = wanted[1][0]
    assert servers.read() == []
    registry[rf"{resolver_windows.TCPIP}\Interfaces\{WIFI_GUID}"] = {"NameServer": "10.1.0.1,10.1.0.2"}
    assert servers.read() == ["10.1.0.1", "10.1.0.2"]
    assert servers.describe(None, []) == "set the DNS servers of Wi-Fi to those of the network"
    registry.update(with_rules(tagged(".corp.test", "10.1.0.1", ""), table=resolver_windows.NRPT_POLICY))
    assert [one.kind for one, _ in resolver_windows.plan_all()] == ["loopback-address", "windows-servers"]
    monkeypatch.setattr(resolver_windows, "read_adapters", lambda: [LOOPBACK, HOST_ONLY])
    with pytest.raises(OSError, match="nothing to set"):
        resolver_windows.plan_all()


@pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="the layout of 64 bits")
def test_layout_of_interface_settings() -> None:
    """Of netioapi.h, with natural alignment."""
    offsets = [getattr(InterfaceSettings, name).offset for name, _ in InterfaceSettings._fields_]
    assert offsets == [0, 8, 16, 24, 32, 40, 44, 48, 52, 56]
    assert ctypes.sizeof(InterfaceSettings) == 64


@WINDOWS
def test_an_old_windows_sets_no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "WinDLL", lambda name: object())
    with pytest.raises(OSError, match=r"takes Windows 10 version 2004 or newer; set 198\.18\.53\.53 in Settings"):
        set_name_servers(WIFI_GUID, ["198.18.53.53"])


@WINDOWS
def test_a_change_of_an_adapter_s_settings_is_noticed() -> None:
    if not elevation.is_elevated():
        pytest.skip("writing keys takes an administrator")
    import winreg

    path, changed = rf"{resolver_windows.TCPIP}\Interfaces\{{vmdns-test}}", threading.Event()
    stop = resolver.watch_servers(changed.set)
    try:
        winreg.CreateKey(winreg.HKEY_LOCAL_MACHINE, path).Close()
        winreg.DeleteKey(winreg.HKEY_LOCAL_MACHINE, path)
        assert changed.wait(30)
    finally:
        stop()


def test_earlier_servers() -> None:
    ours = WIFI._replace(dns_servers=("198.18.53.53", "2001:db8::53"))
    registry = {rf"{resolver_windows.TCPIP}\Interfaces\{WIFI_GUID}": {"DhcpNameServer": "192.168.1.1 192.168.1.2"}}
    found = find_upstreams([ours], registry)
    assert (found.default, found.resolvers) == (at("192.168.1.1", "192.168.1.2", "2001:db8::53"), ("198.18.53.53",))
    entries = [
        JournalEntry("host", "windows-servers", WIFI_GUID, [], ["198.18.53.53"]),
        JournalEntry("host", "windows-servers", "{B}", ["10.1.0.1", "10.1.0.2"], ["198.18.53.53"]),
        JournalEntry("host", "nrpt", ".vm.internal", ["127.0.0.9"], ["127.0.0.1"]),
        JournalEntry("host", "mac-servers", "Wi-Fi", ["10.1.0.2", "10.1.0.3"], ["198.18.53.53"]),
    ]
    assert find_earlier_servers(entries) == ["10.1.0.1", "10.1.0.2", "10.1.0.3"]
