"""Remedies about VirtualBox, run as they are printed: on a VirtualBox of files, and then the finding is gone.

tests/live/test_doctor.py does the same on the real one.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterable

import pytest

from tests.facts import NOW
from tests.fakebox import FakeBox
from tests.unit.commands import test_wire
from tests.unit.commands.test_wire import HOST_ONLY, Host, run_wire, wire
from tests.unit.host.test_wire_plan import HEAD, group, network, server
from vmdns import cli
from vmdns.sources.vboxmanage import parse_machine
from vmdns.state.build import build
from vmdns.state.diagnosis import DoctorInput, find_findings
from vmdns.state.facts import DhcpServer, Fact, HostAddress, HostInterface, Lease, NatNetwork, PortForward
from vmdns.state.findings import OK, Finding
from vmdns.state.snapshot import Policy

box, host = test_wire.box, test_wire.host
UUID = "029ad526-939d-42e9-ada5-be7632a400d7"
OTHER = "029ad526-939d-42e9-ada5-be7632a400d8"
LISTENERS = ["127.0.0.1", "192.168.56.1", *(f"198.18.53.{number}" for number in range(1, 9))]
ADAPTER = '{name}macaddress{slot}="{mac}"\ncableconnected{slot}="{cable}"\nnic{slot}="{kind}"\n'


def vm(*adapters: str, uuid: str = UUID, state: str = "running") -> str:
    """What `showvminfo --machinereadable` says of a VM."""
    return f'name="web {uuid[-2:]}"\ngroups="/"\nUUID="{uuid}"\nVMState="{state}"\n' + "".join(adapters)


def adapter(kind: str, name: str = "", slot: int = 1, mac: str = "080027AABB01", cable: str = "on") -> str:
    key = {"hostonly": "hostonlyadapter", "natnetwork": "nat-network"}.get(kind, "")
    named = f'{key}{slot}="{name}"\n' if key else ""
    return ADAPTER.format(name=named, slot=slot, mac=mac, cable=cable, kind=kind)


def facts(box: FakeBox, addresses: Iterable[str], *more: Fact) -> list[Fact]:
    """What vmdns knows of this VirtualBox, and the addresses of this computer."""
    networks = wire().box.read_networks()
    found: list[Fact] = [HostAddress("lo", "127.0.0.1/8"), HostAddress("vboxnet0", "192.168.56.1/24")]
    found += [HostInterface("vboxnet0", "192.168.56.1/24"), *(HostAddress("lo", f"{one}/32") for one in addresses)]
    found += [NatNetwork(one.name, str(one.network), one.enabled) for one in networks.nat]
    found += [
        DhcpServer(one.network, one.addresses["server-ip"], one.addresses["netmask"], one.enabled, (), one.name_servers)
        for one in networks.servers.values()
    ]
    found += [parse_machine(file.read_text()) for file in sorted(box.home.glob("showvminfo-*"))]
    return [*found, *more]


def findings(everything: list[Fact], *asked: tuple[str, str]) -> list[Finding]:
    """What doctor says of them, where vmdns runs and these have asked it."""
    status = {
        "version": "0", "config_error": "", "upstreams": [{"address": "192.0.2.1:53", "failed": 0, "answered": 1}],
        "listeners": [{"address": one, "port": 53, "state": "listening", "detail": ""} for one in LISTENERS],
        "virtualbox": {"state": "ok", "version": "7.2", "reader": "api", "detail": ""},
        "askers": [{"address": address, "at": at, "time": NOW} for address, at in asked],
    }  # fmt: skip
    snapshot = build(everything, Policy(), NOW, 1)
    found = find_findings(DoctorInput(status, tuple(everything), snapshot, NOW))
    return [one for one in found if one.level != OK]


def run(box: FakeBox, line: str) -> None:
    """The command line in a shell, or in this process where it is one of vmdns."""
    if line.startswith("vmdns "):
        assert cli.main(shlex.split(line)[1:]) == 0
        return
    environ = {**os.environ, "PATH": f"{box.program}{os.pathsep}{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    subprocess.run(line, shell=True, env=environ, stdin=subprocess.DEVNULL, check=True, timeout=60)


@pytest.fixture(autouse=True)
def _may_give_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user of these tests may, whoever runs them."""
    monkeypatch.setattr("vmdns.host.elevation.can_elevate", lambda: True)


def settings(box: FakeBox, *parts: str) -> None:
    """These NAT Networks and DHCP servers."""
    servers = "".join(one for one in parts if one.startswith("<DHCPServer"))
    networks = "".join(one for one in parts if one.startswith("<NATNetwork"))
    box.file.write_text(HEAD.format(system="linux", servers=servers, networks=networks), "utf-8")


WIRED = server("lab", inside=group())
HOST_ONLY_WIRED = server(HOST_ONLY, "192.168.56", inside=group("192.168.56.1"), at=100, lower=101)


WIRE_LAB = "vmdns wire --network lab --apply"
LAB = network("lab")


@pytest.mark.parametrize(
    ("parts", "text", "command"),
    [
        ([LAB, server("lab")], "names no DNS server", WIRE_LAB),
        ([network("my lab"), server("my lab", inside=group("10.0.2.2"))], "which is their DHCP server",
         'vmdns wire --network "my lab" --apply'),
        ([LAB, server("lab", inside=group("10.0.2.3"))], "also gives to the first of them", WIRE_LAB),
        ([LAB, server("lab", inside=group("192.0.2.99"))], "no address of this computer", WIRE_LAB),
        ([LAB], "has no DHCP server", WIRE_LAB),
        ([LAB, server("lab", inside=group("127.0.0.1"))], "which is the guest itself", WIRE_LAB),
        ([LAB, WIRED, server(HOST_ONLY, "192.168.56", at=100, lower=101)], "names no DNS server",
         "vmdns wire --network vboxnet0 --apply"),
        ([LAB, WIRED, network("other", "10.0.3"), server("other", "10.0.3", group())],
         "cannot tell their guests apart", "vmdns wire --apply"),
        ([LAB, WIRED, HOST_ONLY_WIRED.replace('enabled="1"', 'enabled="0"')], "has its DHCP server switched off",
         "VBoxManage dhcpserver modify --network=HostInterfaceNetworking-vboxnet0 --enable"),
    ],
)  # fmt: skip
def test_what_networks_hand_out(box: FakeBox, host: Host, parts: list[str], text: str, command: str) -> None:
    if not any(HOST_ONLY in one for one in parts):
        parts = [*parts, HOST_ONLY_WIRED]
    settings(box, *parts)
    host.addresses.add("198.18.53.1")
    (found,) = findings(facts(box, host.addresses))
    assert (text in found.text, found.command) == (True, command)
    run(box, found.command)
    assert findings(facts(box, host.addresses)) == []


@pytest.mark.parametrize(
    ("parts", "version"),
    [
        ([network("my lab", dhcp=0), server("my lab")], "7.2.4"),
        ([network("my lab"), server("my lab", enabled=0)], "7.2.4"),
        ([network("my lab", mapped=False), server("my lab", at=3, lower=4)], "7.1.12"),
    ],
)
def test_notes_of_the_plan_to_wire(
    box: FakeBox, host: Host, monkeypatch: pytest.MonkeyPatch, parts: list[str], version: str
) -> None:
    monkeypatch.setenv("FAKE_VERSION", version)
    settings(box, *parts)
    (note,) = run_wire("plan", "my lab")[0]["notes"][:1]
    line = note[note.index("VBoxManage") :]
    assert shlex.split(line)[3].removeprefix("--network=") in ("--netname", "my lab")
    run(box, line)
    planned = run_wire("plan", "my lab")[0]
    assert not [one for one in planned["notes"] if "VBoxManage" in one]
    assert planned["networks"][0]["steps"], "now there is something to apply"


def test_a_strange_group_is_taken_away(box: FakeBox, host: Host) -> None:
    settings(box, network("my lab"), server("my lab", inside=group(macs="0800*")))
    (note,) = [one for one in run_wire("plan", "my lab")[0]["notes"] if "--remove-config" in one]
    run(box, note[note.index("VBoxManage") :])
    planned = run_wire("plan", "my lab")[0]
    assert not [one for one in planned["notes"] if "--remove-config" in one]
    assert planned["networks"][0]["steps"]


def set_state(box: FakeBox, uuid: str, state: str) -> None:
    """Starts a VM or shuts it down, as the user does where the finding says so."""
    file = box.home / f"showvminfo-{uuid}"
    file.write_text(re.sub(r'VMState="[a-z]+"', f'VMState="{state}"', file.read_text()))


@pytest.mark.parametrize(
    ("adapters", "text"),
    [
        ([adapter("nat", cable="off"), adapter("hostonly", "vboxnet0", 2)], "adapter 1 is not connected"),
        ([adapter("hostonly", "vboxnet0"), adapter("nat", slot=2, cable="off")], "adapter 2 is not connected"),
        ([adapter("nat")], "NAT alone"),
        ([], "no network adapter"),
    ],
)
def test_what_is_wrong_with_a_vm(box: FakeBox, adapters: list[str], text: str) -> None:
    settings(box, HOST_ONLY_WIRED)
    box.says(f"showvminfo {UUID}", vm(*adapters))
    reached = Lease(HOST_ONLY, "080027aabb01", "192.168.56.101", NOW - 60, NOW + 540)
    asked = ("192.168.56.101", "192.168.56.1")
    (found,) = [one for one in findings(facts(box, (), reached), asked) if text in one.text]
    if "shut it down" in found.text:
        set_state(box, UUID, "poweroff")
    run(box, found.command)
    set_state(box, UUID, "running")
    assert [one for one in findings(facts(box, (), reached), asked) if text in one.text] == []


def test_a_port_forward_is_open_to_this_computer_alone(box: FakeBox) -> None:
    """No remedy opens a guest to the user's LAN."""
    settings(box, HOST_ONLY_WIRED)
    box.says(f"showvminfo {UUID}", vm(adapter("nat")))
    (found,) = findings(facts(box, ()))
    run(box, found.command)
    (rule,) = parse_machine((box.home / f"showvminfo-{UUID}").read_text()).adapters[0].forwards
    assert rule == PortForward("ssh", "tcp", "127.0.0.1", rule.host_port, "", 22)


def test_two_vms_with_one_mac_address(box: FakeBox) -> None:
    settings(box, HOST_ONLY_WIRED)
    for uuid in (OTHER, UUID):
        box.says(f"showvminfo {uuid}", vm(adapter("hostonly", "vboxnet0"), uuid=uuid))
    twin = "has the MAC address of"
    (found,) = [one for one in findings(facts(box, ())) if twin in one.text]
    assert "shut it down" in found.text
    assert OTHER in found.command
    set_state(box, OTHER, "poweroff")
    run(box, found.command)
    set_state(box, OTHER, "running")
    assert [one for one in findings(facts(box, ())) if twin in one.text] == []


@pytest.mark.parametrize(("leased", "text"), [(False, "no address of it is known"), (True, "has not asked vmdns")])
def test_a_guest_is_made_to_renew_its_lease(box: FakeBox, leased: bool, text: str) -> None:
    """The guest is simulated: it takes a lease, and asks, once its cable was unplugged and plugged in."""
    settings(box, HOST_ONLY_WIRED)
    box.says(f"showvminfo {UUID}", vm(adapter("nat"), adapter("hostonly", "vboxnet0", 2, "080027AABB02")))
    lease = Lease(HOST_ONLY, "080027aabb02", "192.168.56.101", NOW - 60, NOW + 540)
    (found,) = findings(facts(box, (), *([lease] if leased else [])))
    assert text in found.text
    run(box, found.command)
    calls = [eval(one)[0] for one in (box.home / "asked").read_text().splitlines()]
    assert calls[-2:] == [["controlvm", UUID, "setlinkstate2", state] for state in ("off", "on")]
    assert findings(facts(box, (), lease), ("192.168.56.101", "192.168.56.1")) == []
