"""The findings of `vmdns doctor` and their remedies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.facts import BRIDGED, HOSTONLY, INTNET, NAT, NOW, OTHER, lease, report, uuid, vm
from vmdns.state.addresses import SAME_MACHINE_ID
from vmdns.state.build import build
from vmdns.state.diagnosis import DoctorInput, find_findings
from vmdns.state.facts import DhcpServer, Fact, HostAddress, HostInterface, HostName, NatNetwork, PortForward
from vmdns.state.findings import (
    OK,
    PROBLEM,
    WARNING,
    Finding,
    domain_to_allow,
    find_server_findings,
    has_no_problem,
)
from vmdns.state.snapshot import Policy, Snapshot

WIRED = DhcpServer("lab", "10.0.2.2", "255.255.255.0", name_servers=("198.18.53.1",))
HOST_ONLY = DhcpServer(
    "HostInterfaceNetworking-vboxnet0", "192.168.56.100", "255.255.255.0", name_servers=("192.168.56.1",)
)
WORLD: tuple[Fact, ...] = (
    HostAddress("lo", "127.0.0.1/8"), HostAddress("lo", "198.18.53.1/32"), HostAddress("eth0", "192.168.1.5/24"),
    HostAddress("vboxnet0", "192.168.56.1/24"), HostInterface("vboxnet0", "192.168.56.1/24"),
    NatNetwork("lab", "10.0.2.0/24"), WIRED, HOST_ONLY,
)  # fmt: skip
DB = vm(2, "db", HOSTONLY)
ORIGINAL = vm(1, "web", INTNET, reports=(report(1, "172.31.0.4"),))
DB_LEASE = lease(2, "192.168.56.102", HOSTONLY)


def listener(address: str, port: int = 53, state: str = "listening", detail: str = "") -> dict[str, Any]:
    return {"address": address, "port": port, "state": state, "detail": detail}


STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "listeners": [listener(one) for one in ("127.0.0.1", "192.168.56.1", "198.18.53.1", "192.168.1.5")],
    "virtualbox": {"state": "ok", "version": "7.2.4", "reader": "api", "detail": ""},
    "upstreams": [{"address": "192.0.2.53:53", "failed": 0, "answered": 3, "error": "", "silent": False}],
    "askers": [{"address": "192.168.56.102", "at": "192.168.56.1", "time": NOW - 5}],
}


def found(*facts: Fact, world: tuple[Fact, ...] = WORLD, status: dict[str, Any] | None = STATUS) -> list[Finding]:
    everything = (*world, *facts)
    snapshot: Snapshot = build(everything, Policy(), NOW, 7)
    return list(find_findings(DoctorInput(status, everything, snapshot, NOW)))


def without(*gone: Fact) -> tuple[Fact, ...]:
    return tuple(fact for fact in WORLD if fact not in gone)


def troubles(findings: list[Finding]) -> list[Finding]:
    return [one for one in findings if one.level != OK]


def test_a_healthy_host() -> None:
    findings = found(DB, DB_LEASE, vm(1), lease(1, "10.0.2.4"))
    assert troubles(findings) == []
    assert has_no_problem(findings)
    assert {one.subject for one in findings} >= {"vmdns", "port 53", "VirtualBox", "NAT Network lab", "VM 'db'"}


WIRE = "vmdns wire --network lab --apply"
SILENT = {"address": "192.0.2.54:53", "failed": 3, "answered": 0, "error": "timed out", "silent": True}
UUID = uuid(1)
RELINK = f"VBoxManage controlvm {UUID} setlinkstate1 off && VBoxManage controlvm {UUID} setlinkstate1 on"


def check(findings: list[Finding], *expected: str) -> None:
    """Whether this is the only finding that is not OK."""
    assert troubles(findings) == [Finding(*expected)]
    assert has_no_problem(findings) == (expected[1] != PROBLEM)


def test_no_vmdns_runs() -> None:
    findings = found(status=None)
    assert Finding("vmdns", PROBLEM, "no vmdns runs, so no names are answered", "vmdns run") in findings
    assert len(troubles(findings)) == 1


PORT_53 = "::1 port 53 is held by dnsmasq (pid 7): use --listen, or `sudo systemctl stop x`"
RIGHT = "port 53 may not be bound: you are not allowed to use ports below 1024; `sudo sysctl x` allows it"


@pytest.mark.parametrize(
    ("status", "finding"),
    [
        ({"listeners": [*STATUS["listeners"], listener("::1", 5300, detail=PORT_53)]},
         ("port 53", PROBLEM, "::1 port 53 is held by dnsmasq (pid 7): use --listen, or", "sudo systemctl stop x")),
        # One cause is one finding, although three listeners and a network are without port 53.
        ({"listeners": [listener("192.168.56.1"), *(
            listener(one, 5300, detail=f"{one} {RIGHT}") for one in ("127.0.0.1", "::1", "198.18.53.1"))]},
         ("port 53", PROBLEM, "127.0.0.1, ::1 and 198.18.53.1 port 53 may not be bound: you are not allowed to use "
          "ports below 1024", "sudo sysctl x")),
        # A port that the user chose.
        ({"listeners": [*STATUS["listeners"], listener("127.0.0.1", 5300)]},
         ("port 53", WARNING, "127.0.0.1 is answered at port 5300 only, which guests and most systems never ask")),
        ({"listeners": [listener("127.0.0.1"), listener("198.18.53.1")]},
         ("host-only vboxnet0", WARNING, "its guests are given 192.168.56.1, where vmdns does not listen: add it to "
          "listen (--listen), or leave listen out")),
        ({"virtualbox": {"state": "failing", "detail": "VBoxSVC is gone"}},
         ("VirtualBox", PROBLEM, "VBoxSVC is gone")),
        ({"sources": [{"name": "hosts", "state": "failing", "detail": "90 are left out"}]},
         ("hosts file", WARNING, "90 are left out")),
        ({"upstreams": []},
         ("upstreams", PROBLEM, "none is known, so names outside of the VMs' zones are not answered; name one:",
          "vmdns run --upstream ADDRESS")),
        ({"upstreams": [*STATUS["upstreams"], SILENT]}, ("upstream", WARNING, "192.0.2.54:53: timed out")),
        ({"upstreams": [SILENT]}, ("upstream", PROBLEM, "192.0.2.54:53: timed out")),
        ({"left_out": ["The upstream 127.0.0.1:53 is left out"]},
         ("upstream", WARNING, "The upstream 127.0.0.1:53 is left out")),
        ({"config_error": "vmdns.toml, line 3: ttl: no"},
         ("configuration", PROBLEM, "vmdns.toml, line 3: ttl: no; the configuration before it stays in force")),
        ({"faults": ["vmdns itself failed"]}, ("vmdns", PROBLEM, "vmdns itself failed")),
        ({"refusal": "it is refused"}, ("local network", PROBLEM, "it is refused")),
    ],
)  # fmt: skip
def test_findings_of_the_status(status: dict[str, Any], finding: tuple[str, ...]) -> None:
    check(found(status={**STATUS, **status}), *finding)


def with_servers(*addresses: str) -> tuple[Fact, ...]:
    return (*without(WIRED), replace(WIRED, name_servers=addresses))


NO_ADDRESS = "which is no address of this computer"
OTHER_LAB = NatNetwork("my other", "10.0.2.0/24")


@pytest.mark.parametrize(
    ("world", "finding"),
    [
        (with_servers("10.0.2.2"),
         (PROBLEM, "its guests are given 10.0.2.2, which is their DHCP server and answers no DNS", WIRE)),
        (with_servers("10.0.2.3"),
         (PROBLEM, "its guests are given 10.0.2.3, which VirtualBox also gives to the first of them", WIRE)),
        (with_servers("192.0.2.53"), (PROBLEM, f"its guests are given 192.0.2.53, {NO_ADDRESS}", WIRE)),
    ],
)  # fmt: skip
def test_findings_of_a_nat_network_with_a_vm(world: tuple[Fact, ...], finding: tuple[str, str, str]) -> None:
    check(found(vm(1), lease(1, "10.0.2.4"), world=world), "NAT Network lab", *finding)


def test_two_wrong_servers_are_one_finding() -> None:
    (one,) = troubles(found(world=with_servers("192.0.2.53", "192.0.2.54")))
    assert one.text.count(NO_ADDRESS) == 2


@pytest.mark.parametrize(
    ("world", "finding"),
    [
        (with_servers("192.0.2.53"),
         ("NAT Network lab", WARNING, f"its guests are given 192.0.2.53, {NO_ADDRESS}", WIRE)),
        (without(HostAddress("lo", "198.18.53.1/32")),
         ("NAT Network lab", WARNING, f"its guests are given 198.18.53.1, {NO_ADDRESS}", WIRE)),
        ((*without(HOST_ONLY), replace(HOST_ONLY, enabled=False)),
         ("host-only vboxnet0", WARNING, "has its DHCP server switched off",
          "VBoxManage dhcpserver modify --network=HostInterfaceNetworking-vboxnet0 --enable")),
        ((*WORLD, OTHER_LAB, replace(WIRED, network="my other")),
         ("NAT Networks", WARNING, "lab and my other share 198.18.53.1: vmdns cannot tell their guests apart",
          "vmdns wire --apply")),
        ((*WORLD, OTHER_LAB),
         ("NAT Network my other", WARNING, "has no DHCP server: VirtualBox makes it when the network first starts",
          'vmdns wire --network "my other" --apply')),
    ],
)  # fmt: skip
def test_findings_of_networks_without_vms(world: tuple[Fact, ...], finding: tuple[str, ...]) -> None:
    check(found(world=world), *finding)


def test_a_host_only_network_without_dhcp_server_is_well_where_its_guests_ask_vmdns() -> None:
    web = vm(1, "web", HOSTONLY, reports=(report(1, "192.168.56.20"),))
    findings = found(web, world=without(HOST_ONLY))
    text = "has no DHCP server; guests in which 192.168.56.1 is the DNS server ask vmdns"
    assert Finding("host-only vboxnet0", OK, text) in findings
    why = "no DHCP server names its DNS server"
    silent = f"192.168.56.20 has not asked vmdns lately: {why}, so set 192.168.56.1 in the guest"
    check(findings, "VM 'web'", WARNING, silent)
    askers = [{"address": "192.168.56.20", "at": "192.168.56.1", "time": NOW - 5}]
    assert troubles(found(web, world=without(HOST_ONLY), status={**STATUS, "askers": askers})) == []


@pytest.mark.parametrize(
    ("facts", "finding"),
    [
        ((ORIGINAL, replace(vm(3, "copy"), adapters=ORIGINAL.adapters, reports=ORIGINAL.reports)),
         ("VM 'copy'", PROBLEM, "has the MAC address of 'web' on wire, and so its lease; shut it down, then",
          f"VBoxManage modifyvm {uuid(3)} --mac-address1=auto")),
        ((replace(vm(1), adapters=(replace(vm(1).adapters[0], cable=False),)),),
         ("VM 'web'", PROBLEM, "the cable of its adapter 1 is not connected",
          f"VBoxManage controlvm {UUID} setlinkstate1 on")),
        # A copy with the machine-id of its original, which DHCP gives the original's address.
        ((DB, DB_LEASE, vm(1, "clone", HOSTONLY, reports=(report(1, "192.168.56.102"),))),
         ("VM 'clone'", PROBLEM, "Guest Additions report 192.168.56.102, which VirtualBox's DHCP gave to another VM "
          f"(db); {SAME_MACHINE_ID}")),
        (tuple(vm(one, f"vm{one}", INTNET, reports=(report(one, "172.31.0.4"),)) for one in (1, 3)),
         ("address 172.31.0.4", PROBLEM, "VM 'vm1', VM 'vm3': all of them are at 172.31.0.4 on wire, so it is not "
          f"known whose it is; {SAME_MACHINE_ID}")),
        ((vm(1, "web", HOSTONLY, reports=(report(1, "10.9.9.9"),)),),
         ("VM 'web'", PROBLEM, "Guest Additions report 10.9.9.9, which is not on vboxnet0; have the guest ask by DHCP, "
          "or give it an address of 192.168.56.0/24")),
        ((vm(1, "web", BRIDGED),),
         ("VM 'web'", WARNING, "it runs, but no address of it is known yet; it is on the LAN of eth0: Guest Additions "
          "report none, and it has sent this computer nothing; ping this computer from it")),
        ((vm(1, "web", BRIDGED, reports=(report(1, "192.168.1.77"),)),),
         ("VM 'web'", WARNING, "192.168.1.77 has not asked vmdns lately: its router names its DNS server, so set "
          "192.168.1.5 in the guest")),
        ((vm(1, "web", NAT),),
         ("VM 'web'", WARNING, "it is on NAT alone, where nobody can reach it: add a port-forward rule or another "
          "adapter", f"VBoxManage controlvm {UUID} natpf1 ssh,tcp,127.0.0.1,20001,,22")),
        ((vm(1),),
         ("VM 'web'", WARNING, "it runs, but no address of it is known yet; it has no DHCP lease on "
          "NAT Network lab, and Guest Additions report none; have it ask again", RELINK)),
        ((vm(1, "web", HOSTONLY), lease(1, "192.168.56.103", HOSTONLY)),
         ("VM 'web'", WARNING, "192.168.56.103 has not asked vmdns lately; it does once it has renewed its lease: "
          "restart it, or unplug its cable and plug it in", RELINK)),
        # A guest with a fixed address renews no lease.
        ((vm(1, "web", HOSTONLY, reports=(report(1, "192.168.56.20"),)),),
         ("VM 'web'", WARNING, "192.168.56.20 has not asked vmdns lately: its address is not from VirtualBox's DHCP, "
          "so set 192.168.56.1 in the guest")),
        ((replace(vm(1), adapters=()),),
         ("VM 'web'", PROBLEM, "it has no network adapter; shut it down, then",
          f"VBoxManage modifyvm {UUID} --nic1=nat")),
        # The doctor names VMs as the running server does.
        ((vm(1), lease(1, "10.0.2.4"), HostName("web", "192.0.2.80")),
         ("VM 'web'", WARNING, "it is web-2, because web is in this computer's hosts file (192.0.2.80 web); remove "
          "that line from the hosts file, or rename the VM")),
        ((vm(1), vm(2), lease(1, "10.0.2.4"), lease(2, "10.0.2.5")),
         ("VM 'web'", WARNING, f"it is web-2, because VM 'web' ({UUID}) has the name web; rename one of the two VMs, "
          "or choose a name for this one", f"VBoxManage setextradata {uuid(2)} vmdns/names web-2")),
    ],
)  # fmt: skip
def test_findings_of_vms(facts: tuple[Fact, ...], finding: tuple[str, ...]) -> None:
    check(found(*facts), *finding)


def test_guests_of_a_network_that_names_no_server_need_not_renew_their_leases() -> None:
    """It would change nothing: the network is the finding."""
    world = (*without(HOST_ONLY), replace(HOST_ONLY, name_servers=()))
    (one,) = troubles(found(DB, DB_LEASE, world=world, status={**STATUS, "askers": []}))
    assert one.subject == "host-only vboxnet0"


def test_no_vm_that_shares_its_address_is_ok() -> None:
    twice = tuple(vm(number, f"vm{number}", INTNET, reports=(report(number, "172.31.0.4"),)) for number in (1, 2))
    assert [one.subject for one in found(*twice) if "172.31.0.4" in one.text] == ["address 172.31.0.4"]


def test_a_vm_with_a_rule_needs_nothing() -> None:
    rule = PortForward("ssh", "tcp", "", 2222, "", 22)
    machine = replace(vm(1, "web", NAT), adapters=(replace(vm(1, "web", NAT).adapters[0], forwards=(rule,)),))
    assert troubles(found(machine)) == []


def test_a_vm_on_another_network_with_the_same_mac_is_no_copy() -> None:
    other = replace(vm(3, "copy", OTHER), adapters=(replace(vm(1).adapters[0], network=OTHER),))
    assert not [one for one in found(vm(1), lease(1, "10.0.2.4"), other) if "MAC" in one.text]


# -- names that are forwarded -------------------------------------------------------------------------------------


def findings(subject: str, **status: object) -> list[Finding]:
    return [one for one in find_server_findings({"version": "1", **status}, False) if one.subject == subject]


def test_a_company_s_domain_below_a_zone_is_named() -> None:
    upstreams = [
        {"address": "192.0.2.1:53", "failed": 0, "domains": [".", "corp.local", "corp.example"]},
        {"address": "192.0.2.2:53", "failed": 0, "domains": ["corp.local"]},
    ]
    (found,) = findings("corp.local", zones=["local", "vm.internal"], upstreams=upstreams)
    assert (found.subject, found.level) == ("corp.local", OK)
    assert "192.0.2.1:53 and 192.0.2.2:53" in found.text


def test_names_that_were_withheld_come_with_the_line_that_allows_them() -> None:
    held = ["nas.fritz.box", "www.nas.lan", "nas.lan", "10.0.0.1.nip.io"]
    (found,) = findings("private addresses", forwarding={"held_back": held})
    assert found.level == WARNING
    assert "nas.fritz.box, www.nas.lan, nas.lan and 10.0.0.1.nip.io" in found.text
    assert found.text.endswith('private_domains = ["nip.io", "lan", "nas.lan", "fritz.box"]')
    assert findings("private addresses") == []


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("nas.fritz.box", "fritz.box"),
        ("fritz.box", "fritz.box"),
        ("nas.lan", "lan"),
        ("shop.test", "test"),
        ("db.prod.corp.example", "prod.corp.example"),
        ("lan", "lan"),
        ("example.co.uk", "example.co.uk"),
        ("db.example.com.au", "example.com.au"),
    ],
)
def test_the_domain_to_allow(name: str, domain: str) -> None:
    assert domain_to_allow(name) == domain
