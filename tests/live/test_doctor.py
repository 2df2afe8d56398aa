"""Ten things that are broken: `vmdns doctor` finds each, and the command that it prints mends it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.lab import DOOR, Lab, Server, until

pytestmark = pytest.mark.skipif(
    "vboxnet0" not in {name for _, name in socket.if_nameindex()},
    reason="needs interfaces vboxnet0 and lan0: tools/live makes them in a network namespace",
)

HOST_ONLY = "HostInterfaceNetworking-vboxnet0"


class Ward:
    """A lab with a server and some VMs in good health."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.vbm = lab.vbm
        self.vbm("natnetwork", "add", "--netname", "lab net", "--network", "10.0.2.0/24", "--enable", "--dhcp", "on")
        self.web = lab.create("web", "--nic1", "natnetwork", "--nat-network1", "lab net")
        self.db = lab.create("db", "--nic1", "hostonly", "--host-only-adapter1", "vboxnet0")
        self.server: Server | None = Server(lab, at="")
        self.run("vmdns wire --apply")
        for uuid in (self.web, self.db):
            lab.start(uuid)
        lab.lease("lab net", (lab.mac(self.web), "10.0.2.4"))
        lab.lease(HOST_ONLY, (lab.mac(self.db), "192.168.56.101"))

    def run(self, command: str) -> str:
        """A command line as doctor prints it, in a shell; as root here, so that sudo is not wanted."""
        python, vboxmanage = f"'{sys.executable}' -m vmdns", f"'{self.lab.vboxmanage}' -q"
        line = command.replace("vmdns ", python + " ", 1).replace("sudo ", "").replace("VBoxManage", vboxmanage)
        done = subprocess.run(
            line, shell=True, env=self.lab.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0 or "doctor" in command, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def findings(self, text: str) -> list[dict[str, Any]]:
        found = json.loads(self.run("vmdns doctor --json"))["findings"]
        return [one for one in found if text in one["text"] and one["level"] != "ok"]

    def mended(self, text: str) -> str:
        """The finding with this text is there; its command is run, and then it is there no more. The command."""
        (found, *_) = until(lambda: self.findings(text), f"doctor finds {text!r}")  # type: ignore[misc]
        if "shut it down" in found["text"]:
            self.vbm("controlvm", found["command"].split()[2], "poweroff")
        said = self.run(found["command"])
        until(lambda: not self.findings(text), f"{found['command']} mends {text!r}, which said {said}")
        return str(found["command"])


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    lab = Lab(Path(tmp_path_factory.mktemp("ward")))
    made = None
    try:
        made = Ward(lab)
        until(lambda: not made.findings("no address of it is known"), "the ward is well")
        yield made
    finally:
        if made is not None and made.server is not None:
            made.server.stop()
        _take_addresses()
        lab.close()


def _no_group(ward: Ward) -> None:
    ward.vbm("dhcpserver", "modify", "--network", "lab net", "--group", "vmdns", "--remove-config")
    ward.vbm("dhcpserver", "modify", "--network", "lab net", "--del-opt", "6", check=False)


def _given(ward: Ward, address: str) -> None:
    """As VirtualBox 7.2 does where the host's own resolver is at a loopback address."""
    _no_group(ward)
    ward.vbm("dhcpserver", "modify", "--network", "lab net", "--set-opt", "6", address)


def _address_lost(ward: Ward) -> None:
    _take_addresses()


def _take_addresses() -> None:
    """Takes away what `vmdns wire` gave the host: other tests in this namespace begin without."""
    for line in subprocess.run(
        ["ip", "-o", "addr", "show", "dev", "lo"], capture_output=True, text=True
    ).stdout.split():
        if line.startswith("198.18.53.") and not line.startswith(f"{DOOR}/"):
            subprocess.run(["ip", "addr", "del", line, "dev", "lo"], check=True)


def _host_only_unwired(ward: Ward) -> None:
    ward.vbm("dhcpserver", "modify", "--network", HOST_ONLY, "--group", "vmdns", "--remove-config")


def _host_only_off(ward: Ward) -> None:
    ward.vbm("dhcpserver", "modify", "--network", HOST_ONLY, "--disable")


def _cable(ward: Ward) -> None:
    ward.vbm("controlvm", ward.web, "setlinkstate1", "off")


def _nat_alone(ward: Ward) -> None:
    uuid = ward.lab.create("alone", "--nic1", "nat", wired=())
    ward.lab.start(uuid)


def _twins(ward: Ward) -> None:
    mac = ward.lab.mac(ward.db)
    uuid = ward.lab.create("twin", "--nic1", "hostonly", "--host-only-adapter1", "vboxnet0", "--mac-address1", mac)
    ward.lab.start(uuid)


def _shared(ward: Ward) -> None:
    ward.vbm("natnetwork", "add", "--netname", "second", "--network", "10.0.3.0/24", "--enable", "--dhcp", "on")
    ward.run("vmdns wire --network second --apply")
    networks = json.loads(ward.run("vmdns wire --json"))["networks"]
    (first,) = (one["now"][0] for one in networks if "lab net" in one["title"])
    ward.vbm("dhcpserver", "modify", "--network", "second", "--group", "vmdns", "--set-opt", "6", first)


@pytest.mark.parametrize(
    ("break_it", "text", "command"),
    [
        (_no_group, "names no DNS server", "vmdns wire"),
        (lambda ward: _given(ward, "10.0.2.2"), "which is their DHCP server", "vmdns wire"),
        (lambda ward: _given(ward, "10.0.2.3"), "also gives to the first of them", "vmdns wire"),
        (_address_lost, "no address of this computer", "vmdns wire"),
        (_shared, "cannot tell their guests apart", "vmdns wire"),
        (_host_only_unwired, "names no DNS server", "vmdns wire"),
        (_host_only_off, "switched off", "VBoxManage dhcpserver"),
        (_cable, "is not connected", "VBoxManage controlvm"),
        (_nat_alone, "nobody can reach it", "VBoxManage controlvm"),
        (_twins, "has the MAC address of", "VBoxManage modifyvm"),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_what_is_broken_is_found_and_mended(
    ward: Ward, break_it: Callable[[Ward], None], text: str, command: str
) -> None:
    break_it(ward)
    assert ward.mended(text).startswith(command)


def test_nobody_runs(ward: Ward) -> None:
    assert ward.server is not None
    ward.server.stop()
    ward.server = None
    (found,) = ward.findings("no vmdns runs")
    assert found["command"] == "vmdns run"
    ward.server = Server(ward.lab, at="")
    assert not ward.findings("no vmdns runs")
