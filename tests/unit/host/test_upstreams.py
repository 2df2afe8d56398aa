"""What each system says of its DNS servers. The texts are in the format of the systems; only Linux's were seen live."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vmdns.dns.message import SOA, Record, soa_rdata
from vmdns.dns.name import to_wire
from vmdns.dns.query import encode_query, encode_response, parse_query
from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.host import resolver, resolver_macos, resolver_windows, system_settings, upstreams_linux

SAMPLES = Path(__file__).parent / "samples"


def names(*texts: str) -> frozenset[bytes]:
    return frozenset(to_wire(text) for text in texts)


def at(*addresses: str, port: int = 53) -> tuple[Upstream, ...]:
    return tuple(Upstream(address, port) for address in addresses)


# -- Linux ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "servers", "search"),
    [
        ("nameserver 192.168.1.1\nsearch lan\n", at("192.168.1.1"), names("lan")),
        ("# nameserver 1.1.1.1\n; x\nnameserver 9.9.9.9 # quad9\n", at("9.9.9.9"), names()),
        ("nameserver fe80::1%eth0\nnameserver 2001:db8::53\n", at("fe80::1%eth0", "2001:db8::53"), names()),
        ("\tnameserver\t10.0.0.1\r\nnameserver 10.0.0.1\n", at("10.0.0.1"), names()),
        ("domain a.test\nsearch b.test C.Test. .\n", (), names("b.test", "c.test")),
        ("search a.test\ndomain b.test\noptions edns0 trust-ad\n", (), names("b.test")),
        ("search a..b fine.test " + "x" * 64 + "\n", (), names("fine.test")),
        ("nameserver\nsearch\nnonsense\n\0\ufffd\udce9\n", (), names()),
        ("search caf\udce9.test lan\n", (), names("lan")),
    ],
)
def test_resolv_conf(text: str, servers: tuple[Upstream, ...], search: frozenset[bytes]) -> None:
    assert upstreams_linux.parse_resolv_conf(text) == Upstreams(servers, search=search)


STUB = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n"
REAL = "nameserver 192.168.1.1\nnameserver 10.8.0.1\nsearch lan corp.test\n"


@pytest.mark.parametrize(
    ("etc", "resolved", "servers", "search"),
    [
        (STUB, REAL, at("192.168.1.1", "10.8.0.1"), names("lan", "corp.test")),
        (STUB.replace("53", "54"), REAL, at("192.168.1.1", "10.8.0.1"), names("lan", "corp.test")),
        (STUB, None, at("127.0.0.53"), names("lan")),
        (STUB, "# No DNS servers known.\n", at("127.0.0.53"), names("lan")),
        (STUB, STUB, at("127.0.0.53"), names("lan")),
        ("nameserver 9.9.9.9\n", REAL, at("9.9.9.9"), names()),
        (STUB + "nameserver 9.9.9.9\n", REAL, at("127.0.0.53", "9.9.9.9"), names("lan")),
        ("", REAL, (), names()),
    ],
)
def test_the_servers_behind_systemd_resolved(
    tmp_path: Path, etc: str, resolved: str | None, servers: tuple[Upstream, ...], search: frozenset[bytes]
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text(etc)
    if resolved is not None:
        (tmp_path / "run/systemd/resolve").mkdir(parents=True)
        (tmp_path / "run/systemd/resolve/resolv.conf").write_text(resolved)
    found = upstreams_linux.read_files(tmp_path)
    assert (found.default, found.search) == (servers, search)
    asked = [line.split()[1] for line in etc.splitlines() if line.startswith("nameserver")]
    assert found.resolvers == tuple(asked)


def test_domains_of_a_vpn_s_link_are_those_that_systemd_resolved_has() -> None:
    found = upstreams_linux.read_files(SAMPLES / "vpn")
    assert found.default == at("192.0.2.53")
    assert found.domains == {to_wire("corp.example"): at("192.0.2.54"), to_wire("corp.local"): at("192.0.2.54")}
    assert (found.search, found.resolvers) == (names("corp.local"), ("127.0.0.53",))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SERVERS=192.0.2.54\nDOMAINS=~corp.test lan\n", {"corp.test": at("192.0.2.54"), "lan": at("192.0.2.54")}),
        # systemd-networkd's own files.
        ("DNS=192.0.2.54 192.0.2.55\nDOMAINS=lan\nROUTE_DOMAINS=corp.example\nDNS_DEFAULT_ROUTE=no\n",
         {"lan": at("192.0.2.54", "192.0.2.55"), "corp.example": at("192.0.2.54", "192.0.2.55")}),
        ("SERVERS=192.0.2.54:5300 [2001:db8::1]:5300 2001:db8::2#dns.example fe80::1 fe80::2%tun0 nonsense 1.2.3\n"
         "DOMAINS=~.\n",
         {".": (*at("192.0.2.54", "2001:db8::1", port=5300), *at("2001:db8::2", "fe80::1%7", "fe80::2%tun0"))}),
        ("DOMAINS=~corp.example\n", {}),
        ("SERVERS=192.0.2.54\nDOMAINS=a..b\nLLMNR\n\0=\n", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_settings_of_a_link(text: str, found: dict[str, tuple[Upstream, ...]]) -> None:
    assert upstreams_linux.parse_link(text, "7") == {to_wire(key): servers for key, servers in found.items()}


def test_links_with_the_same_domain_and_one_that_takes_everything(tmp_path: Path) -> None:
    for path, text in {
        "etc/resolv.conf": STUB,
        "run/systemd/resolve/resolv.conf": "nameserver 192.168.1.1\n",
        "run/systemd/resolve/netif/7": "SERVERS=10.8.0.1\nDOMAINS=~. corp.test\n",
        "run/systemd/netif/links/8": "DNS=10.9.0.1\nDOMAINS=corp.test\n",
        "run/systemd/netif/links/junk": "DNS=10.10.0.1\nDOMAINS=junk.test\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    found = upstreams_linux.read_files(tmp_path)
    assert found.default == at("10.8.0.1", "192.168.1.1")
    assert found.domains == {to_wire("corp.test"): at("10.8.0.1", "10.9.0.1")}
    # The same where programs read the servers themselves, and systemd-resolved is asked by nss-resolve.
    (tmp_path / "etc/resolv.conf").unlink()
    (tmp_path / "etc/resolv.conf").symlink_to("../run/systemd/resolve/resolv.conf")
    assert upstreams_linux.read_files(tmp_path).domains == found.domains


def test_the_proxy_takes_the_place_of_servers_unless_it_would_ask_us() -> None:
    proxy, ours = Upstream("127.0.0.54"), Upstream("127.0.0.1")
    domains = {to_wire("corp.test"): at("10.8.0.1"), to_wire("lab.test"): (ours,)}
    found = Upstreams(at("192.168.1.1"), domains, names("lan"), ("127.0.0.53",), proxy)
    by = found.by_proxy(lambda server: server == ours)
    assert by.default == (proxy,)
    assert by.domains == {to_wire("corp.test"): (proxy,), to_wire("lab.test"): (ours,)}
    assert (by.search, by.resolvers) == (names("lan"), ("127.0.0.53",))
    looped = replace(found, default=(*at("192.168.1.1"), ours))
    assert looped.by_proxy(lambda server: server == ours) == looped
    assert found.by_proxy(lambda server: server == proxy) == found
    assert replace(found, proxy=None).by_proxy(lambda server: False).default == at("192.168.1.1")


def test_a_reply_that_came_from_vmdns_is_known() -> None:
    name = to_wire("113.0.203.in-addr.arpa")
    query = parse_query(encode_query(1, name, SOA))
    ours = Record(name, SOA, 5, soa_rdata(to_wire("vmdns.local"), to_wire("hostmaster.local"), 1, 2, 3, 4, 5))
    theirs = Record(name, SOA, 5, soa_rdata(name, to_wire("nobody.invalid"), 1, 2, 3, 4, 5))
    assert upstreams_linux.leads_to_vmdns(encode_response(query, limit=512, answer=[ours]))
    assert upstreams_linux.leads_to_vmdns(encode_response(query, 2, limit=512))  # one that has just started
    assert not upstreams_linux.leads_to_vmdns(encode_response(query, limit=512, answer=[theirs]))
    assert not upstreams_linux.leads_to_vmdns(encode_response(query, 3, limit=512, authority=[theirs]))
    assert not upstreams_linux.leads_to_vmdns(None)


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", True), ("127.0.0.2", True), ("::1", True), ("127.0.0.53", False), ("127.0.0.54", False),
     ("192.168.1.1", False), ("nonsense", False)],
)  # fmt: skip
def test_a_resolver_of_the_user_on_this_computer(address: str, local: bool) -> None:
    assert Upstream(address).local is local
    assert not Upstream(address, 5353).local


def test_a_resolv_conf_that_links_to_itself_is_watched(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"/etc/resolv.conf cannot be read \(No such file or directory\)"):
        upstreams_linux.read_files(tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").symlink_to("resolv.conf")
    assert tmp_path / "etc" in upstreams_linux.watched_folders(tmp_path)
    with pytest.raises(OSError, match="cannot be read"):
        upstreams_linux.read_files(tmp_path)


def test_the_folders_to_watch_are_those_of_the_files_and_of_the_link_s_end(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "run/NetworkManager").mkdir(parents=True)
    (tmp_path / "etc/resolv.conf").symlink_to("../run/NetworkManager/resolv.conf")
    resolved = tmp_path / "run/systemd/resolve"  # which need not be there yet
    links = [tmp_path / "run/systemd/resolve/netif", tmp_path / "run/systemd/netif/links"]
    assert upstreams_linux.watched_folders(tmp_path) == [
        tmp_path / "etc",
        tmp_path / "run/NetworkManager",
        resolved,
        *links,
    ]


# -- macOS ----------------------------------------------------------------------------------------------------

SCUTIL = """DNS configuration

resolver #1
  search domain[0] : home.lan
  search domain[1] : corp.example
  nameserver[0] : 192.168.1.1
  nameserver[1] : fe80::1%en0
  if_index : 6 (en0)
  flags    : Request A records, Request AAAA records
  reach    : 0x00020002 (Reachable,Directly Reachable Address)

resolver #2
  domain   : local
  options  : mdns
  timeout  : 5
  flags    : Request A records, Request AAAA records
  reach    : 0x00000000 (Not Reachable)
  order    : 300000

resolver #3
  domain   : 254.169.in-addr.arpa
  options  : mdns
  timeout  : 5
  order    : 300200

resolver #4
  domain   : vm.internal
  nameserver[0] : 127.0.0.1
  port     : 5300
  flags    : Request A records, Request AAAA records
  reach    : 0x00030002 (Reachable,Local Address,Directly Reachable Address)

resolver #5
  domain   : Corp.Example.
  nameserver[0] : 10.8.0.1
  nameserver[1] : 10.8.0.2
  flags    : Supplemental, Request A records
  order    : 101400

resolver #6
  nameserver[0] : 9.9.9.9
  flags    : Supplemental

resolver #7
  domain   : empty.example
  flags    : Request A records

DNS configuration (for scoped queries)

resolver #1
  search domain[0] : scoped.example
  nameserver[0] : 172.20.10.1
  if_index : 9 (en7)
  flags    : Scoped, Request A records
  reach    : 0x00000002 (Reachable)
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
def test_scutil_s_other_words(text: str, found: Upstreams) -> None:
    assert resolver_macos.parse_scutil(text) == found


# -- Windows --------------------------------------------------------------------------------------------------

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
        ([WIFI_DHCP], at("192.168.1.1", "192.168.1.2"), names("home.lan")),
        ([STALE, NEVER_UP, WIFI_DHCP], at("192.168.1.1", "192.168.1.2"), names("home.lan")),
        # One without a gateway (VirtualBox's host-only adapter) comes after those that lead somewhere.
        ([HOST_ONLY, WIFI_DHCP], at("192.168.1.1", "192.168.1.2", "192.168.56.9"), names("home.lan")),
        # A VPN without a gateway that has servers and a suffix is asked for that suffix alone.
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


def rule(base: str, number: int, **values: Any) -> dict[str, dict[str, Any]]:
    return {rf"{base}\{{{number}}}": {"Version": 2, "ConfigOptions": 8, **values}}


CORP = rule(
    resolver_windows.NRPT, 1, Name=[".corp.example", "host.Other.example"], GenericDNSServers="10.8.0.1;10.8.0.2"
)


@pytest.mark.parametrize(
    ("parts", "default", "domains"),
    [
        (
            [CORP], (),
            {"corp.example": at("10.8.0.1", "10.8.0.2"), "host.other.example": at("10.8.0.1", "10.8.0.2")},
        ),
        ([rule(resolver_windows.NRPT, 1, Name=["."], GenericDNSServers="10.9.0.1")], at("10.9.0.1"), {}),
        ([rule(resolver_windows.NRPT, 1, Name=[".x.test"], GenericDNSServers="")], (), {}),
        ([rule(resolver_windows.NRPT, 1, Name=[".x.test"], GenericDNSServers="10.9.0.1", ConfigOptions=4)], (), {}),
        ([rule(resolver_windows.NRPT, 1, Name=["a..b"], GenericDNSServers="10.9.0.1")], (), {}),
        # With one rule of a group policy, Windows ignores the local ones.
        (
            [CORP, rule(resolver_windows.NRPT_POLICY, 2, Name=[".gpo.test"], GenericDNSServers="10.7.0.1")], (),
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


def test_an_address_is_assigned_where_it_can_be_bound() -> None:
    assert system_settings.is_assigned("127.0.0.1")
    assert not system_settings.is_assigned("192.0.2.77")
    assert not system_settings.is_assigned("no address")


# -- this machine ---------------------------------------------------------------------------------------------


def test_this_machine_is_read() -> None:
    """Whatever it uses, its servers are addresses, and there are folders to watch or it is polled."""
    for server in resolver.read_upstreams().default:
        ipaddress.ip_address(server.address)
    assert resolver.watched_folders() or resolver.POLL_SECONDS > 0
