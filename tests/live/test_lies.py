"""Guests that lie, on a real VirtualBox: forged addresses in guest properties, and control characters in a VM's name.

Also the server as its service confines it (host/systemd.py), beside an unconfined worker: VMs run that are started by
a VBoxSVC that this worker started.
"""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.lab import Lab, on_nat_network, serving, until
from tests.program import SocketUnit

# What XML can hold, and so VirtualBox's settings: an end of a line, C1 controls, bidirectional overrides.
EVIL = "x\n127.0.0.1 bank.example\u202eyz\u2028\x9b31m\x85\u200bend"


def control_characters(text: str) -> list[str]:
    return [one for one in text if unicodedata.category(one) in ("Cc", "Cf", "Zl", "Zp") and one != "\n"]


@pytest.fixture
def two(lab: Lab) -> tuple[str, str]:
    """The liar and another VM, with leases, on one NAT Network."""
    lab.nat_network()
    evil, db = (lab.create(name, *on_nat_network()) for name in ("evil", "db"))
    lab.lease("NatNetwork", (lab.mac(evil), "10.0.2.4"), (lab.mac(db), "10.0.2.5"))
    for uuid in (evil, db):
        lab.start(uuid)
    return evil, db


def test_forged_addresses(lab: Lab, two: tuple[str, str]) -> None:
    evil, _ = two
    with serving(lab) as server:
        server.is_at("evil.local", "10.0.2.4")
        server.is_at("db.local", "10.0.2.5")
        for address, why in (
            ("10.0.2.5", "gave to another VM"),
            ("10.0.2.1", "the network's own server"),
            ("10.0.2.2", "the network's own server"),
            ("10.0.2.255", "not on NatNetwork"),
            ("192.168.56.1", "not on NatNetwork"),
            ("8.8.8.8", "not on NatNetwork"),
        ):
            lab.report(evil, address)
            server.saw(f"! VM 'evil': Guest Additions report {address}, which")
            said = lab.vmdns("names", check=False)
            assert address in said
            assert why in said
            assert server.addresses("evil.local") == ["10.0.2.4"]
            assert server.addresses("db.local") == ["10.0.2.5"]
            assert why in lab.vmdns("status", check=False)
        # An address that no machine can have is not logged; a forged one is logged once.
        lines = len(server.lines)
        for address in ("127.0.0.1", "0.0.0.0", "224.0.0.251", "255.255.255.255", "\x1b[31m", "10.0.2.66\n10.0.2.67"):
            lab.report(evil, address)
        lab.set_property(evil, "Count", "999999999999999999999")
        lab.report(evil, "10.0.2.5")
        server.saw("! VM 'evil': Guest Additions report 10.0.2.5", after=lines)
        assert server.addresses("evil.local") == ["10.0.2.4"]
        assert server.addresses("5.2.0.10.in-addr.arpa", "PTR") == ["db.local."]
        # An address of the network that nobody has is believed, while it is newer than the lease.
        lab.report(evil, "10.0.2.66")
        server.is_at("evil.local", "10.0.2.66")


def test_a_lease_that_another_guest_got_under_a_vms_mac(lab: Lab, two: tuple[str, str]) -> None:
    evil, db = two
    with serving(lab) as server:
        server.is_at("db.local", "10.0.2.5")
        lab.report(db, "10.0.2.5")
        lab.lease("NatNetwork", (lab.mac(evil), "10.0.2.4"), (lab.mac(db), "10.0.2.5"), (lab.mac(db), "10.0.2.66"))
        server.saw("! VM 'db': another client with its MAC was given 10.0.2.66; it is not used")
        assert server.addresses("db.local") == ["10.0.2.5"]
        # The guest itself did: its Guest Additions say so within ten seconds.
        lab.report(db, "10.0.2.66")
        server.is_at("db.local", "10.0.2.66")


def test_control_characters_in_a_name(lab: Lab) -> None:
    lab.nat_network()
    uuid = lab.create("plain", *on_nat_network())
    lab.lease("NatNetwork", (lab.mac(uuid), "10.0.2.4"))
    lab.vbm("modifyvm", uuid, "--name", EVIL)
    lab.start(uuid)
    lab.report(uuid, "8.8.8.8")
    with serving(lab) as server:
        name = f"{uuid}.local"
        server.is_at(name, "10.0.2.4")
        server.saw("8.8.8.8")
        for words in (["names"], ["status"], ["ask", name], ["doctor"]):
            said = lab.vmdns(*words, check=False)
            assert not control_characters(said), words
            assert not [line for line in said.splitlines() if line.startswith("127.0.0.1 bank")], words
        listed = json.loads(lab.vmdns("names", "--json", check=False))
        assert listed["names"][0]["vm"] == EVIL
        assert listed["names"][0]["name"] == "x-127-0-0-1-bank-exampleyz-31mend.local"
        assert not [line for line in lab.vmdns("hosts", check=False).splitlines() if "bank.example" in line]
        assert not control_characters("\n".join(server.lines))


# -- confined -----------------------------------------------------------------------------------------------------


@pytest.fixture
def socket_unit(lab: Lab) -> Iterator[SocketUnit]:
    tree = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-P", "-m", "vmdns.daemon.worker_service"]
    made = SocketUnit(lab.folder / "beside", *command, environ={**lab.environ, "PYTHONPATH": tree})
    lab.environ["VMDNS_BESIDE"] = str(lab.folder / "beside")
    yield made
    made.close()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_vms_start_below_a_worker_beside_a_confined_server(lab: Lab, socket_unit: SocketUnit) -> None:
    lab.nat_network()
    uuid = lab.create("web", *on_nat_network())
    lab.lease("NatNetwork", (lab.mac(uuid), "10.0.2.4"))
    until(lambda: not lab.processes("VBoxSVC"), "VBoxSVC ended, since nobody uses it")
    # As the service has it: no new privileges, and of the capabilities one.
    confined = ["setpriv", "--no-new-privs", "--bounding-set=-all,+net_bind_service", "--inh-caps=-all"]
    with serving(lab, start=lambda command, **how: subprocess.Popen([*confined, *command], **how)) as server:
        server.saw("VirtualBox 7")
        assert status(server.process.pid)["NoNewPrivs"] == "1"
        (svc,) = until(lambda: lab.processes("VBoxSVC"), "a VBoxSVC that the worker started")
        assert status(svc)["NoNewPrivs"] == "0"
        assert status(svc)["Seccomp"] == "0"
        lab.start(uuid)
        server.is_at("web.local", "10.0.2.4")
        assert status(lab.process_of(uuid))["NoNewPrivs"] == "0"
        # A worker that is killed is replaced; VBoxSVC and the VM go on.
        socket_unit.started[-1].kill()
        lines = len(server.lines)
        server.saw("VirtualBox is read again", after=lines)
        assert lab.processes("VBoxSVC") == [svc]
        assert server.addresses("web.local") == ["10.0.2.4"]
        # VBoxSVC does not keep the worker's connection open: it ends with the server.
        server.stop()
        until(lambda: socket_unit.started[-1].poll() is not None, "the worker ended with its server")
        assert lab.processes("VBoxSVC") == [svc]
        assert lab.process_of(uuid)


def test_the_server_starts_nothing(lab: Lab, socket_unit: SocketUnit) -> None:
    with serving(lab) as server:
        server.saw("VirtualBox 7")
        task = Path(f"/proc/{server.process.pid}/task")
        children = [(one / "children").read_text().split() for one in task.iterdir()]
        assert not any(children)
