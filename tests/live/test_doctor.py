"""Ten things that are broken: `vmdns doctor` finds each, and the command that it prints repairs it."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.lab import DOOR, HOST_ONLY, ON_HOST_ONLY, Lab, Server, ip, on_nat_network, run, until

pytestmark = pytest.mark.skipif(
    "vboxnet0" not in {name for _, name in socket.if_nameindex()},
    reason="needs interfaces vboxnet0 and lan0: tools/live makes them in a network namespace",
)


class Ward:
    """A lab with a server and two VMs without problems."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.vbm = lab.vbm
        lab.add_nat_network("lab net")
        self.web = lab.create("web", *on_nat_network("lab net"))
        self.db = lab.create("db", *ON_HOST_ONLY)
        self.server = Server(lab, at="")
        self.run("vmdns wire --apply")
        for uuid in (self.web, self.db):
            lab.start(uuid)
        lab.lease("lab net", (lab.mac(self.web), "10.0.2.4"))
        lab.lease(HOST_ONLY, (lab.mac(self.db), "192.168.56.101"))

    def run(self, command: str) -> str:
        """A command line as doctor prints it, in a shell; as root here, so that sudo is not wanted."""
        python, vboxmanage = f"'{sys.executable}' -m vmdns", f"'{self.lab.vboxmanage}' -q"
        line = command.replace("vmdns ", python + " ", 1).replace("sudo ", "").replace("VBoxManage", vboxmanage)
        return run("sh", "-c", line, env=self.lab.environ, check="doctor" not in command)

    def findings(self, text: str) -> list[dict[str, Any]]:
        found = json.loads(self.run("vmdns doctor --json"))["findings"]
        return [one for one in found if text in one["text"] and one["level"] != "ok"]

    def repair(self, text: str) -> str:
        """Waits for a finding with this text, runs its command, and waits until the finding is gone; the command."""
        (found, *_) = until(lambda: self.findings(text), f"doctor finds {text!r}")
        if "shut it down" in found["text"]:
            self.lab.power_off(found["command"].split()[2])
        output = self.run(found["command"])
        until(lambda: not self.findings(text), f"{found['command']} repairs {text!r}; it printed {output}")
        return str(found["command"])


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    lab = Lab(Path(tmp_path_factory.mktemp("ward")))
    try:
        made = Ward(lab)
        until(lambda: not made.findings("no address of it is known"), "all is well")
        yield made
        made.server.stop()
    finally:
        _remove_addresses()
        lab.close()


def _no_group(ward: Ward) -> None:
    ward.lab.set_dhcp("lab net", "--group", "vmdns", "--remove-config")
    ward.vbm("dhcpserver", "modify", "--network", "lab net", "--del-opt", "6", check=False)


def _given(ward: Ward, address: str) -> None:
    """As VirtualBox 7.2 does where the host's own resolver is at a loopback address."""
    _no_group(ward)
    ward.lab.set_dhcp("lab net", "--set-opt", "6", address)


def _remove_addresses(_: Ward | None = None) -> None:
    """Removes the addresses that `vmdns wire` gave the host: other tests in this namespace start without."""
    for word in ip("-o", "addr", "show", "dev", "lo").split():
        if word.startswith("198.18.53.") and not word.startswith(f"{DOOR}/"):
            ip("addr", "del", word, "dev", "lo")


def _twins(ward: Ward) -> None:
    ward.lab.start(ward.lab.create("twin", *ON_HOST_ONLY, "--mac-address1", ward.lab.mac(ward.db)))


def _shared(ward: Ward) -> None:
    ward.lab.add_nat_network("second", "10.0.3.0/24")
    ward.run("vmdns wire --network second --apply")
    networks = json.loads(ward.run("vmdns wire --json"))["networks"]
    (first,) = (one["now"][0] for one in networks if "lab net" in one["title"])
    ward.lab.set_dhcp("second", "--group", "vmdns", "--set-opt", "6", first)


@pytest.mark.parametrize(
    ("break_it", "text", "command"),
    [
        (_no_group, "names no DNS server", "vmdns wire"),
        (lambda ward: _given(ward, "10.0.2.2"), "which is their DHCP server", "vmdns wire"),
        (lambda ward: _given(ward, "10.0.2.3"), "also gives to the first of them", "vmdns wire"),
        (_remove_addresses, "no address of this computer", "vmdns wire"),
        (_shared, "cannot tell their guests apart", "vmdns wire"),
        (lambda ward: ward.lab.set_dhcp(HOST_ONLY, "--group", "vmdns", "--remove-config"), "names no DNS server",
         "vmdns wire"),
        (lambda ward: ward.lab.set_dhcp(HOST_ONLY, "--disable"), "switched off", "VBoxManage dhcpserver"),
        (lambda ward: ward.vbm("controlvm", ward.web, "setlinkstate1", "off"), "is not connected",
         "VBoxManage controlvm"),
        (lambda ward: ward.lab.start(ward.lab.create("alone", "--nic1", "nat", wired=())), "nobody can reach it",
         "VBoxManage controlvm"),
        (_twins, "has the MAC address of", "VBoxManage modifyvm"),
    ],
    ids=range(10),
)  # fmt: skip
def test_a_problem_is_found_and_repaired(ward: Ward, break_it: Callable[[Ward], None], text: str, command: str) -> None:
    break_it(ward)
    assert ward.repair(text).startswith(command)


def test_no_vmdns_runs(ward: Ward) -> None:
    ward.server.stop()
    (found,) = ward.findings("no vmdns runs")
    assert found["command"] == "vmdns run"
    ward.server = Server(ward.lab, at="")
    assert not ward.findings("no vmdns runs")
