"""Real leases of VirtualBox's own DHCP server, and a real guest with Guest Additions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.live import natlab
from tests.live.lab import until

pytestmark = pytest.mark.skipif(bool(natlab.available()), reason=natlab.available() or "natlab is there")

MAC = "080027AABB01"  # of the namespace that plays guest 1
GUEST_HOME = "/root/guest-home"  # where `rig guest` keeps the real guest


@pytest.fixture(scope="module")
def lab() -> Iterator[None]:
    if Path("/run/natlab").exists():
        natlab.clean()  # a run that was interrupted
    natlab.run("up")
    try:
        yield
    finally:
        natlab.clean()


@pytest.fixture
def server(lab: None) -> Iterator[natlab.Server]:
    natlab.run("resolv", f"nameserver {natlab.HOST}")
    made = natlab.Server()
    try:
        yield made
    finally:
        made.stop()


def _create(name: str, vbm: object = natlab.vbm) -> None:
    assert callable(vbm)
    vbm("createvm", "--name", name, "--ostype", "Linux_64", "--register", "--basefolder", "/root/natlab-home/vms")
    vbm(
        "modifyvm", name, "--memory", "32", "--vram", "1", "--audio-enabled", "off",
        "--vm-execution-engine", "interpreter", "--nic1", "natnetwork", "--nat-network1", "NatNetwork",
        "--mac-address1", MAC,
    )  # fmt: skip
    vbm("setextradata", name, "VBoxInternal/Devices/e1000/0/LUN#0/Config/IgnoreConnectFailure", "1")


def _take_lease() -> str:
    """Guest 1 takes a lease; a DHCP server that was just started may not be on the wire yet. Its address."""

    def take() -> str | None:
        natlab.run("plug", check=False)
        said = natlab.run("dhcp", "1", check=False)
        return next((line.removeprefix("ip=") for line in said.splitlines() if line.startswith("ip=")), None)

    return str(until(take, "a lease"))


def test_a_name_follows_the_leases_of_virtualbox(server: natlab.Server) -> None:
    _create("web")
    natlab.vbm("startvm", "web", "--type", "headless")
    until(lambda: any("+ web.local" in line for line in server.lines), "web runs")
    assert natlab.dig("web.local") == []

    first = _take_lease()
    until(lambda: natlab.dig("web.local") == [first], f"web.local at the lease {first}")
    assert natlab.dig("-x", first) == ["web.local."]
    assert natlab.dig("web.vm.internal", "+tcp") == [first]

    # The guest asks through the NAT engine: the gateway's port 53 is the host's first name server, which is vmdns.
    asked = natlab.run("guest", "1", "busybox", "nslookup", "web.local", "10.0.2.1")
    assert first in asked.partition("web.local")[2], asked

    server_options = ("dhcpserver", "modify", "--network", "NatNetwork", "--mac-address", "08:00:27:aa:bb:01")
    natlab.vbm(*server_options, "--fixed-address", "10.0.2.88")
    natlab.vbm("dhcpserver", "restart", "--network", "NatNetwork")
    assert _take_lease() == "10.0.2.88"
    until(lambda: natlab.dig("web.local") == ["10.0.2.88"], "web.local at its fixed address")

    natlab.vbm(*server_options, "--remove-config")
    natlab.vbm("dhcpserver", "restart", "--network", "NatNetwork")
    again = _take_lease()
    until(lambda: natlab.dig("web.local") == [again], f"web.local at {again} again")

    natlab.run("guest", "1", "busybox", "ping", "-c", "1", "-W", "2", "10.0.2.2")  # who has the DHCP server's address
    natlab.run("guest", "1", sys.executable, "tests/live/dhcp_release.py", "eth0", again, "10.0.2.2")
    until(lambda: natlab.dig("web.local") == [], "web.local without an address after the release")
    natlab.vbm("controlvm", "web", "poweroff")
    until(lambda: "NXDOMAIN" in natlab.run("rig", "dig", f"@{natlab.HOST}", "web.local"), "web.local gone")


def test_the_real_guest(lab: None) -> None:
    """Its address appears because its Guest Additions report it, and it resolves another VM's name."""
    if natlab.run("rig", "ls", "/root/.guest-ready", check=False).strip() != "/root/.guest-ready":
        pytest.skip("the rig has no real guest; `rig guest` builds it")
    program = "/usr/lib/virtualbox"
    environ = (
        f"VBOX_USER_HOME={GUEST_HOME}", "VBOX_IPC_SOCKETID=vmdnsguest", f"VBOX_APP_HOME={program}",
        f"VBOX_PROGRAM_PATH={program}", f"PATH={program}:/usr/sbin:/usr/bin:/sbin:/bin",
    )  # fmt: skip

    def vbm(*arguments: str, check: bool = True) -> str:
        return natlab.run("rig", "env", *environ, "VBoxManage", "-q", *arguments, check=check)

    natlab.run("resolv", f"nameserver {natlab.HOST}")
    server = natlab.Server(*environ)
    try:
        vbm("natnetwork", "add", "--netname", "Other", "--network", "10.0.9.0/24", "--enable", "--dhcp", "off")
        _create("other", vbm)
        vbm("modifyvm", "other", "--nat-network1", "Other")
        vbm("startvm", "other", "--type", "headless")
        report = "/VirtualBox/GuestInfo/Net"
        for name, value in {"Count": "1", "0/Status": "Up", "0/MAC": MAC, "0/V4/IP": "10.0.9.7"}.items():
            vbm("guestproperty", "set", "other", f"{report}/{name}", value, "--flags", "TRANSRESET")
        until(lambda: natlab.dig("other.local") == ["10.0.9.7"], "other.local")

        vbm("startvm", "guest", "--type", "headless")
        until(lambda: natlab.dig("guest.local") == ["10.0.2.15"], "guest.local, as its Guest Additions report it")
        url = "http://127.0.0.1:20080/cgi-bin/sh?" + quote("nslookup other.local 10.0.2.2")

        def resolved() -> bool:
            said = natlab.run("rig", "curl", "-sS", "-m", "30", url, check=False)
            return "10.0.9.7" in said.partition("other.local")[2]

        until(resolved, "the guest resolves other.local through vmdns", 180)
    finally:
        server.stop()
        vbm("controlvm", "guest", "savestate", check=False)
        vbm("controlvm", "other", "poweroff", check=False)
        until(lambda: 'VMState="poweroff"' in vbm("showvminfo", "other", "--machinereadable"), "other is off")
        vbm("unregistervm", "other", "--delete", check=False)
        vbm("natnetwork", "remove", "--netname", "Other", check=False)
