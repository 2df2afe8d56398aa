"""The DNS servers that Linux uses, and those of this machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.needs import needs_links
from vmdns.dns.message import SOA, Record, soa_rdata
from vmdns.dns.name import to_wire
from vmdns.dns.query import encode_query, encode_response, parse_query
from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.host import resolver, upstreams_linux

SAMPLES = Path(__file__).parent / "samples"


def names(*texts: str) -> frozenset[bytes]:
    return frozenset(to_wire(text) for text in texts)


def at(*addresses: str, port: int = 53) -> tuple[Upstream, ...]:
    return tuple(Upstream(address, port) for address in addresses)


def write(root: Path, files: Mapping[str, str | None]) -> None:
    """Writes these files below the root, those that have a text."""
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            (root / path).write_text(text)


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
    write(tmp_path, {"etc/resolv.conf": etc, "run/systemd/resolve/resolv.conf": resolved})
    found = upstreams_linux.read_files(tmp_path)
    assert (found.default, found.search) == (servers, search)
    assert found.resolvers == tuple(line.split()[1] for line in etc.splitlines() if line.startswith("nameserver"))


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


@needs_links
def test_links_with_the_same_domain_and_one_that_takes_everything(tmp_path: Path) -> None:
    files = {
        "etc/resolv.conf": STUB,
        "run/systemd/resolve/resolv.conf": "nameserver 192.168.1.1\n",
        "run/systemd/resolve/netif/7": "SERVERS=10.8.0.1\nDOMAINS=~. corp.test\n",
        "run/systemd/netif/links/8": "DNS=10.9.0.1\nDOMAINS=corp.test\n",
        "run/systemd/netif/links/junk": "DNS=10.10.0.1\nDOMAINS=junk.test\n",
    }
    write(tmp_path, files)
    found = upstreams_linux.read_files(tmp_path)
    assert found.default == at("10.8.0.1", "192.168.1.1")
    assert found.domains == {to_wire("corp.test"): at("10.8.0.1", "10.9.0.1")}
    # The same where programs read the servers themselves, and query systemd-resolved by nss-resolve.
    (tmp_path / "etc/resolv.conf").unlink()
    (tmp_path / "etc/resolv.conf").symlink_to("../run/systemd/resolve/resolv.conf")
    assert upstreams_linux.read_files(tmp_path).domains == found.domains


def test_the_proxy_takes_the_place_of_servers_unless_it_forwards_to_vmdns() -> None:
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


@needs_links
def test_the_folders_to_watch_are_those_of_the_files_and_of_the_link_s_end(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"/etc/resolv.conf cannot be read \(No such file or directory\)"):
        upstreams_linux.read_files(tmp_path)
    (tmp_path / "etc").mkdir()
    link = tmp_path / "etc/resolv.conf"
    link.symlink_to("resolv.conf")  # to itself
    assert tmp_path / "etc" in upstreams_linux.watched_folders(tmp_path)
    link.unlink()
    link.symlink_to("../run/NetworkManager/resolv.conf")
    links = ("run/systemd/resolve/netif", "run/systemd/netif/links")
    folders = [tmp_path / one for one in ("etc", "run/NetworkManager", "run/systemd/resolve", *links)]
    assert upstreams_linux.watched_folders(tmp_path) == folders


# -- this machine ---------------------------------------------------------------------------------------------


def test_this_machine_is_read() -> None:
    """Whatever it uses, its servers are addresses, and there are folders to watch or it is polled."""
    for server in resolver.read_upstreams().default:
        ipaddress.ip_address(server.address)
    assert resolver.watched_folders() or resolver.POLL_SECONDS > 0
