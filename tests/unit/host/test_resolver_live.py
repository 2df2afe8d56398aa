"""`vmdns host` beside real resolvers: systemd-resolved in each version that is there, dnsmasq, NetworkManager, glibc.

Each test is a computer of its own in namespaces (box.py); this machine's files stay as they are.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.needs import needs_mount_namespace
from tests.unit.host.box import inside, roots

pytestmark = [
    pytest.mark.slow,
    needs_mount_namespace,
    pytest.mark.skipif(not roots(), reason="no resolvers here: tests/unit/host/prepare gets them"),
]
ROOTS = pytest.mark.parametrize("root", roots())
WEB = "192.168.56.101"


@ROOTS
def test_systemd_resolved_asks_us_for_our_zones_only(root: str) -> None:
    seen = inside("split", root)
    assert seen["plan"].startswith("1. write /etc/systemd/")
    assert seen["untouched"]
    assert seen["first"] == "192.0.2.200"  # a router that answers everything, as some do
    assert seen["names"] == [WEB, WEB]
    assert seen["leaked"] == []
    assert (seen["other"], seen["router"]) == ("192.0.2.200", ["www.example.org"])
    assert seen["vmdns"], "vmdns was asked for another name"
    assert seen["again"] == []
    assert seen["restored"]
    assert seen["after"] == ["web.vm.internal"]


@ROOTS
def test_systemd_resolved_asks_another_port(root: str) -> None:
    assert inside("port", root)["names"] == [WEB, WEB]


@ROOTS
def test_everything_is_asked_of_us_and_the_network_followed(root: str) -> None:
    seen = inside("whole", root)
    assert "\nnameserver 198.18.53.53\n" in seen["resolv.conf"]
    assert seen["resolv.conf"].count("\nnameserver ") == 1
    assert seen["names"] == [WEB, WEB, "192.0.2.200"]
    assert seen["status"] == ["192.0.2.54:53"]
    assert seen["again"] == []
    assert (seen["restored"], seen["address"]) == (True, False)


ROUTER, VPN = "192.0.2.200", "192.0.2.201"  # what each of the two servers gives every name


@ROOTS
def test_a_vpn_s_domains_are_asked_of_its_own_server(root: str) -> None:
    seen = inside("vpn", root)
    assert seen["before"] == [ROUTER] * 3
    assert seen["split"] == [VPN, VPN, ROUTER]
    assert (seen["router"], seen["vpn"]) == (["www1.example.org"], ["git1.corp.example", "intranet.corp.lan"])
    assert seen["upstreams"] == ["127.0.0.54:53"]
    assert seen["with host"] == [VPN, WEB, ROUTER]
    assert seen["whole"] == [VPN, VPN, ROUTER]
    assert seen["whole upstreams"] == ["192.0.2.53:53", "192.0.2.54:53"]
    assert seen["after"] == [ROUTER, ROUTER]
    assert seen["loop"] == ["SERVFAIL"]


@ROOTS
def test_a_systemd_resolved_that_asks_us_is_not_asked_in_turn(root: str) -> None:
    assert inside("loop", root) == {"names": [WEB, ROUTER], "upstreams": ["192.0.2.53:53"]}


@ROOTS
def test_everything_beside_nss_resolve(root: str) -> None:
    assert inside("by_nss", root) == {"names": [WEB, WEB, "192.0.2.200"], "restored": True}


def test_a_plain_resolv_conf() -> None:
    seen = inside("plain", roots()[0])
    assert "`vmdns hosts --keep`" in seen["refused"]
    assert "no vmdns runs here" in seen["alone"]
    assert seen["kept"]
    assert seen["elsewhere"].startswith("vmdns: no vmdns answers at 198.18.53.53 port 53")
    assert seen["still"]
    assert seen["resolv.conf"].splitlines()[1:] == [
        "#vmdns nameserver 192.0.2.53", "nameserver 198.18.53.53", "search corp.test", "options timeout:1",
    ]  # fmt: skip
    assert seen["names"] == [WEB, WEB, "192.0.2.200"]
    assert seen["searched"]
    assert seen["restored"]


def test_dnsmasq_of_networkmanager() -> None:
    seen = inside("dnsmasq", roots()[0])
    assert seen["names"] == [WEB, WEB, "192.0.2.200"]
    assert seen["leaked"] == []
    assert (seen["restored"], seen["after"]) == (True, "192.0.2.200")


@pytest.mark.skipif(
    not Path(roots()[0] if roots() else "/", "usr/sbin/NetworkManager").exists(), reason="no NetworkManager"
)
def test_everything_beside_networkmanager() -> None:
    seen = inside("network_manager", roots()[0])
    assert seen["names"] == [WEB, "192.0.2.200"]
    assert seen["link"] == "/etc/vmdns/resolv.conf"
    assert seen["again"] == [WEB, "192.0.2.201"]
    assert seen["restored"]
