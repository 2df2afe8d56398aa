"""What a Mac's guests get: facts in the forms in which VirtualBox and macOS write them, in; names, views and findings
out. None of it was recorded on a Mac by this project (docs/macos.md)."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_run import Run
from tests.facts import addresses, report, vm
from tests.unit.sources.twohosts import GUEST_MAC, missing, two_hosts
from vmdns.dns.message import SRV
from vmdns.dns.name import to_wire
from vmdns.mdns.links import find_links
from vmdns.sources.host_network import address_facts
from vmdns.sources.lease_file import parse_bootpd_leases
from vmdns.sources.neighbours import NeighbourHistory, parse_macos
from vmdns.sources.settings_file import parse_registry, read_networks
from vmdns.state.build import build
from vmdns.state.diagnosis import DoctorInput, find_findings
from vmdns.state.facts import Adapter, Fact, HostAddress, HostInterface, Lease, Machine, Network, PortForward
from vmdns.state.findings import OK, WARNING
from vmdns.state.snapshot import Policy, Snapshot

NOW = float(0x69000000)
NETWORK = Network("hostonly", "HostNetwork")
NAT, WIFI = Network("nat"), Network("bridged", "en0: Wi-Fi")
SSH = PortForward("ssh", "tcp", "", 2222, "", 22)

# As Settings.cpp writes it (buildHostOnlyNetworks); the last one cannot start a VM.
REGISTRY = b"""<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.12-macosx"><Global><NetserviceRegistry>
<DHCPServers><DHCPServer networkName="HostInterfaceNetworking-en0" IPAddress="192.168.1.100"
 networkMask="255.255.255.0" lowerIP="192.168.1.101" upperIP="192.168.1.254" enabled="1"/></DHCPServers><NATNetworks/>
<HostOnlyNetworks>
<HostOnlyNetwork name="HostNetwork" mask="255.255.255.0" ipLower="192.168.56.1" ipUpper="192.168.56.199"
 id="{a0c3a1c8-5f5a-4f5f-9f0b-2f1d7b1f0001}" enabled="true"/>
<HostOnlyNetwork name="Off" mask="255.255.255.0" ipLower="192.168.57.1" ipUpper="192.168.57.99"
 id="{b0c3a1c8-5f5a-4f5f-9f0b-2f1d7b1f0002}" enabled="false"/>
<HostOnlyNetwork name="Empty" mask="" ipLower="" ipUpper="" id="{b0c3a1c8-5f5a-4f5f-9f0b-2f1d7b1f0003}" enabled="true"/>
</HostOnlyNetworks></NetserviceRegistry></Global></VirtualBox>
"""
MAC = (  # the Mac: its loopback, its LAN, the bridge of VirtualBox's vmnet, and that of another program
    ("lo0", "127.0.0.1", 8), ("en0", "192.168.1.20", 24), ("bridge100", "192.168.56.1", 24),
    ("bridge101", "192.168.64.1", 24),
)  # fmt: skip
ARP = """? (192.168.1.1) at a4:b1:c1:0:1:2 on en0 ifscope [ethernet]
? (192.168.56.1) at 5e:87:9c:0:1:64 on bridge100 ifscope permanent [bridge]
? (192.168.56.4) at 8:0:27:0:0:3 on bridge100 ifscope [bridge]
? (192.168.56.7) at (incomplete) on bridge100 ifscope [bridge]
"""
LEASES = b"""{
\tname=web
\tip_address=192.168.56.4
\thw_address=1,8:0:27:0:0:3
\tidentifier=1,8:0:27:0:0:3
\tlease=0x69000400
}
{
\tip_address=192.168.64.9
\thw_address=1,8:0:27:0:0:3
\tidentifier=1,8:0:27:0:0:3
\tlease=0x69000500
}
{
\tip_address=192.168.56.5
\thw_address=1,8:0:27:0:0:4
\tidentifier=1,8:0:27:0:0:4
\tlease=0x68000000
}
"""
WORLD: tuple[Fact, ...] = (
    *address_facts(MAC).values(),
    *read_networks(parse_registry(REGISTRY, Path()), lambda vm, slot: ""),
)


def guest(number: int, *claims: str, network: Network = NETWORK, **more: Any) -> Machine:
    return vm(number, f"vm{number}", network, reports=tuple(report(number, one) for one in claims), **more)


def built(*more: Fact) -> Snapshot:
    return build((*WORLD, *more), Policy(), NOW, 7)


def asked(snapshot: Snapshot, name: str, at: str, peer: str) -> list[str]:
    return addresses(snapshot, f"{name}.local", view=snapshot.view(at, peer)) or []


def findings(*more: Fact, **status: Any) -> list[tuple[str, ...]]:
    facts = (*WORLD, *more)
    listeners = [{"address": "192.168.56.1", "port": 53, "state": "listening", "detail": ""}]
    known = {"version": "1", "listeners": listeners, **status}
    return [one[:3] for one in find_findings(DoctorInput(known, facts, built(*more), NOW)) if one.level]


def test_only_networks_that_a_vm_can_use_are_networks() -> None:
    assert [one for one in WORLD if isinstance(one, HostInterface)] == [
        HostInterface("HostNetwork", "192.168.56.1/24", vmnet=True)
    ]


def test_guests_of_a_host_only_network_find_each_other_and_the_mac_finds_them() -> None:
    snapshot = built(guest(1, "192.168.56.2"), guest(2, "192.168.56.3"))
    assert asked(snapshot, "vm1", "192.168.56.1", "192.168.56.3") == ["192.168.56.2"]
    assert asked(snapshot, "vm1", "127.0.0.1", "127.0.0.1") == ["192.168.56.2"]
    assert snapshot.view("192.168.56.1", "192.168.56.3").members == (NETWORK,)
    assert snapshot.host_networks.guest_addresses(lan=True) == ("192.168.56.1",)


def test_multicast_dns_on_the_bridge_of_a_host_only_network() -> None:
    links = find_links(built(guest(1, "192.168.56.2")), relay=True)
    assert links["bridge100"].names[to_wire("vm1.local")] == ("192.168.56.2",)
    assert links["bridge100"].guests_only
    assert "bridge101" not in links, "the bridge of another program"


@pytest.mark.parametrize("lie", ["192.168.56.1", "192.168.1.20", "10.9.9.9", "192.168.56.4"])
def test_what_a_guest_claims_is_checked_as_on_a_host_only_adapter(lie: str) -> None:
    neighbours = NeighbourHistory().facts(parse_macos(ARP), NOW - 60)
    snapshot = built(guest(1, lie), guest(3), *neighbours.values())
    assert asked(snapshot, "vm1", "127.0.0.1", "127.0.0.1") == []
    assert asked(snapshot, "vm3", "127.0.0.1", "127.0.0.1") == ["192.168.56.4"]


@pytest.mark.parametrize("source", ["neighbours", "leases"])
def test_a_guest_without_guest_additions(source: str) -> None:
    if source == "neighbours":
        known = NeighbourHistory().facts(parse_macos(ARP), NOW).values()
    else:
        known = parse_bootpd_leases(LEASES)
    snapshot = built(guest(3), guest(4), *known)
    assert asked(snapshot, "vm3", "127.0.0.1", "127.0.0.1") == ["192.168.56.4"]
    assert asked(snapshot, "vm4", "127.0.0.1", "127.0.0.1") == [], "its lease is over"
    if source == "leases":
        assert snapshot.valid_until == float(0x69000400)


def test_a_guest_that_has_moved_on_from_its_lease() -> None:
    """Nothing tells when a lease was given, so a report counts more."""
    snapshot = built(guest(3, "192.168.56.77"), *parse_bootpd_leases(LEASES))
    assert asked(snapshot, "vm3", "127.0.0.1", "127.0.0.1") == ["192.168.56.77"]


def test_a_lease_of_a_dhcp_server_on_a_bridged_interface() -> None:
    lease = Lease("HostInterfaceNetworking-en0", "080027000001", "192.168.1.77", NOW - 60, NOW + 60)
    assert asked(built(guest(1, network=WIFI), lease), "vm1", "127.0.0.1", "127.0.0.1") == ["192.168.1.77"]


def test_forwarded_ports_for_askers_on_a_host_only_network() -> None:
    natted = replace(vm(1, "vm1", NAT), adapters=(Adapter(0, "080027000001", NAT, forwards=(SSH,)),))
    snapshot = built(natted, guest(2, "192.168.56.3"))
    assert asked(snapshot, "vm1", "192.168.56.1", "192.168.56.3") == ["192.168.56.1"]
    node = snapshot.find(to_wire("_ssh._tcp.vm1.local"), snapshot.view("192.168.56.1", "192.168.56.3"))
    assert SRV in (node or {})
    assert snapshot.host_networks.reachable == ("192.168.1.20", "192.168.56.1"), "no bridge of another program"


def test_findings() -> None:
    subject = "host-only HostNetwork"
    text = "macOS gives its guests their settings; guests in which 192.168.56.1 is the DNS server ask vmdns"
    silent = "192.168.56.2 has not asked vmdns lately: macOS names its DNS server, so set 192.168.56.1 in the guest"
    found = findings(guest(1, "192.168.56.2"))
    assert (subject, OK, text) in found
    assert ("VM 'vm1'", WARNING, silent) in found
    assert not any("DHCP server" in text for _, _, text in found)
    askers = [{"address": "192.168.56.2", "at": "192.168.56.1", "time": NOW - 5}]
    assert [one for one in findings(guest(1, "192.168.56.2"), askers=askers) if one[0] == "VM 'vm1'"] == [
        ("VM 'vm1'", OK, "is vm1 at 192.168.56.2")
    ]


def test_a_network_that_no_vm_uses_has_no_address_of_the_mac() -> None:
    """vmnet makes its bridge when the first VM starts."""
    away = [one for one in WORLD if not (isinstance(one, HostAddress) and one.interface == "bridge100")]
    snapshot = build(away, Policy(), NOW, 7)
    assert snapshot.host_networks.guest_addresses(lan=True) == ()
    assert not snapshot.host_networks.owns("192.168.56.1")


SETTINGS = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.12-macosx"><Global><NetserviceRegistry><DHCPServers/>
<NATNetworks/><HostOnlyNetworks><HostOnlyNetwork name="HostNetwork" mask="255.255.255.0" ipLower="192.168.56.1"
 ipUpper="192.168.56.199" id="{a0c3a1c8-5f5a-4f5f-9f0b-2f1d7b1f0001}" enabled="true"/></HostOnlyNetworks>
</NetserviceRegistry></Global></VirtualBox>
"""
UUID = "00000000-0000-4000-8000-000000000001"
SHOWN = f'''name="My Web"
groups="/"
UUID="{UUID}"
VMState="running"
hostonly-network1="HostNetwork"
macaddress1="{GUEST_MAC.upper()}"
cableconnected1="on"
nic1="hostonlynetwork"
'''
PLAYED = f"""#!/bin/sh
case "$*" in
--version) echo 7.1.4r165100 ;;
"list vms" | "list runningvms") echo '"My Web" {{{UUID}}}' ;;
"list hostonlyifs") ;;
"showvminfo {UUID} --machinereadable") cat "$(dirname "$0")/shown" ;;
"guestproperty enumerate"*) ;;
*) exit 1 ;;
esac
"""


@pytest.mark.skipif(missing() != "", reason=missing() or "-")
def test_a_guest_of_a_host_only_network_asks_with_real_packets(tmp_path: Path) -> None:
    """On Linux, with a bridge that is named as vmnet's is: found by its address, the guest by the neighbour table."""
    program = tmp_path / "program"
    program.mkdir()
    (program / "VBoxSVC").touch()
    (program / "shown").write_text(SHOWN)
    (program / "VBoxManage").write_text(PLAYED)
    (program / "VBoxManage").chmod(0o755)
    (tmp_path / "VirtualBox").mkdir()
    (tmp_path / "VirtualBox" / "VirtualBox.xml").write_text(SETTINGS)
    with two_hosts() as hosts:
        hosts.ip(hosts.host, "link", "set", "lan0", "down")
        hosts.ip(hosts.host, "link", "set", "lan0", "name", "bridge100")
        hosts.ip(hosts.host, "link", "set", "bridge100", "up")
        hosts.ip(hosts.host, "addr", "add", "192.168.56.1/24", "dev", "bridge100")
        hosts.ip(hosts.guest, "addr", "add", "192.168.56.4/24", "dev", "eth0")

        def start(command: list[str], **how: Any) -> subprocess.Popen[bytes]:
            return subprocess.Popen(["ip", "netns", "exec", hosts.host, *command], **how)

        environ = {"VBOX_PROGRAM_PATH": str(program)}
        run = Run(tmp_path, "--reader", "vboxmanage", environ=environ, start=start)
        try:
            run.saw("listening on 192.168.56.1 port 53")
            done = hosts.run(hosts.guest, sys.executable, "-c", ASK, "my-web.local")
            assert done.stdout.decode().split() == ["192.168.56.4"], done.stderr
        finally:
            run.stop()


# The first query is the first packet of the guest: until the host has seen it, it is a name without address.
ASK = """
import sys, time
import dns.message, dns.query
for _ in range(200):
    reply = dns.query.udp(dns.message.make_query(sys.argv[1], "A"), "192.168.56.1", timeout=10)
    if reply.answer:
        break
    time.sleep(0.1)
print(*(rdata for rrset in reply.answer for rdata in rrset))
"""
