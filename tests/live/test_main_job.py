"""The main job on a real VirtualBox: name a VM, ask for the name, get its current address."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import dns.rcode
import pytest

from tests.live.lab import HOST_ONLY, ON_HOST_ONLY, ON_LAN, Lab, on_nat_network, serving, until
from vmdns.sources.installation import find
from vmdns.sources.supervisor import look_once
from vmdns.state.facts import from_json

NATNET = on_nat_network()
each_reader = pytest.mark.parametrize("reader", ["api", "vboxmanage"])


@each_reader
def test_a_vm_through_its_life(lab: Lab, reader: str) -> None:
    lab.nat_network()
    with serving(lab, "--reader", reader) as server:
        assert "API" in server.saw("VirtualBox 7") or reader == "vboxmanage"
        server.is_at("web.local")
        web = lab.create("Web", *NATNET)
        lab.start(web)
        lab.lease("NatNetwork", (lab.mac(web), "10.0.2.4"))
        server.is_at("web.local", "10.0.2.4")
        assert server.dig("+short", "web.local").split() == ["10.0.2.4"]
        assert server.dig("+short", "+tcp", "web.vm.internal").split() == ["10.0.2.4"]
        assert server.dig("+short", "-x", "10.0.2.4").split() == ["web.local."]
        assert server.addresses(f"{web}.local") == ["10.0.2.4"]
        assert "+ web.local" in server.saw("+ web.local")

        lab.report(web, "10.0.2.9")  # fresher than the lease
        server.is_at("web.local", "10.0.2.9")
        lab.lease("NatNetwork", (lab.mac(web), "10.0.2.6"))
        until(lambda: server.ask("web.local").answer, "an answer")

        lab.vbm("controlvm", web, "pause")
        until(lambda: 'VMState="paused"' in lab.info(web), "paused")
        assert server.addresses("web.local")
        lab.vbm("controlvm", web, "resume")
        lab.vbm("controlvm", web, "savestate")
        server.is_at("web.local")
        assert "not running" in server.dig("web.local")

        lab.start(web)  # restores
        lab.lease("NatNetwork", (lab.mac(web), "10.0.2.7"))
        until(lambda: server.addresses("web.local"), "restored")
        lab.power_off(web)
        server.is_at("web.local")

        lab.vbm("modifyvm", web, "--name", "shop 1")
        lab.start(web)
        server.is_at("shop-1.local", "10.0.2.7")
        server.is_at("web.local")

        os.kill(lab.process_of(web), signal.SIGKILL)
        server.is_at("shop-1.local")
        until(lambda: 'VMState="aborted"' in lab.info(web), "aborted")
        lab.vbm("unregistervm", web)
        server.is_at(f"{web}.local")
        assert server.stop() == 0


def test_a_snapshot_comes_back_with_its_adapter(lab: Lab) -> None:
    lab.nat_network()
    with serving(lab) as server:
        web = lab.create("web", *NATNET)
        first = lab.mac(web)
        lab.vbm("snapshot", web, "take", "before")
        lab.vbm("modifyvm", web, "--mac-address1", "080027FFFF01")
        lab.lease("NatNetwork", (first, "10.0.2.4"), ("080027FFFF01", "10.0.2.5"))
        lab.start(web)
        server.is_at("web.local", "10.0.2.5")
        lab.power_off(web)
        server.is_at("web.local")
        lab.vbm("snapshot", web, "restore", "before")
        lab.start(web)
        server.is_at("web.local", "10.0.2.4")


def test_every_kind_of_attachment(lab: Lab) -> None:
    lab.nat_network()
    interfaces = {name for _, name in socket.if_nameindex()}
    if not {"vboxnet0", "lan0"} <= interfaces:
        pytest.skip("needs interfaces vboxnet0 and lan0: tools/live makes them in a network namespace")
    hostonly = lab.create("ho", *ON_HOST_ONLY)
    bridged = lab.create("br", *ON_LAN)
    both = lab.create("both", *NATNET, "--nic2", "nat")
    with serving(lab) as server:
        for uuid in (hostonly, bridged, both):
            lab.start(uuid)
        lab.lease(HOST_ONLY, (lab.mac(hostonly), "192.168.56.101"))
        server.is_at("ho.local", "192.168.56.101")
        lab.report(bridged, "192.0.2.77")
        server.is_at("br.local", "192.0.2.77")
        lab.lease("NatNetwork", (lab.mac(both), "10.0.2.5"))
        lab.report(both, "10.0.2.15", nic=2)
        server.is_at("both.local", "10.0.2.5")
        assert server.addresses("101.56.168.192.in-addr.arpa", "PTR") == ["ho.local."]
        # What a guest claims is believed on its own network only.
        lab.report(hostonly, "8.8.8.8")
        lab.report(hostonly, "192.168.56.1")
        time.sleep(1)
        server.is_at("ho.local", "192.168.56.101")


def test_names_that_people_give(lab: Lab) -> None:
    lab.nat_network()
    names = {
        "리눅스": "xn--pd1b38l32h", 'quo"te': "quo-te", "two\nlines": "two-lines", "web 🚀": "web",
        "a.b_c d": "a-b-c-d", "wpad": "wpad-2", "x" * 240: "x" * 63,
    }  # fmt: skip
    uuids = {lab.create(name, *NATNET): label for name, label in names.items()}
    twins = [lab.create("twin", *NATNET, folder=f"vms{n}", groups=f"/g{n}") for n in (1, 2)]
    macs = {uuid: lab.mac(uuid) for uuid in [*uuids, *twins]}
    leases = [(mac, f"10.0.2.{n + 10}") for n, mac in enumerate(macs.values())]
    address = {uuid: leases[n][1] for n, uuid in enumerate(macs)}
    lab.lease("NatNetwork", *leases)
    for reader in ("api", "vboxmanage"):
        with serving(lab, "--reader", reader) as server:
            for uuid in macs:
                if reader == "api":
                    lab.start(uuid)
            for uuid, label in uuids.items():
                server.is_at(f"{label}.local", address[uuid])
            assert server.addresses("리눅스.local") == [address[next(iter(uuids))]]
            server.is_at("twin.local", address[twins[0]])
            server.is_at("twin-2.local", address[twins[1]])
            groups = re.findall(r"twin\.g\d\.local", str([server.dig(f"twin.g{n}.local") for n in (1, 2)]))
            assert set(groups) == {"twin.g1.local", "twin.g2.local"}
            assert {a for n in (1, 2) for a in server.addresses(f"twin.g{n}.local")} == {address[u] for u in twins}


@each_reader
def test_a_vm_keeps_its_name(lab: Lab, reader: str) -> None:
    """A VM that is off takes it neither before nor after a restart of vmdns, nor does an older one that starts."""
    lab.nat_network()
    older, younger = (lab.create("twin", *NATNET, folder=f"vms{n}") for n in (1, 2))
    lab.lease("NatNetwork", (lab.mac(older), "10.0.2.11"), (lab.mac(younger), "10.0.2.12"))
    lab.start(younger)
    with serving(lab, "--reader", reader) as server:
        server.is_at("twin.local", "10.0.2.12")
        server.is_at("twin-2.local")
    lab.start(older)
    with serving(lab, "--reader", reader) as server:
        server.is_at("twin-2.local", "10.0.2.11")
        server.is_at("twin.local", "10.0.2.12")
        server.saw(f"is twin-2, because VM 'twin' ({younger}) has the name twin")
        lab.vbm("setextradata", older, "vmdns/names", "other")
        server.is_at("other.local", "10.0.2.11")
        lab.power_off(younger)
        server.is_at("twin.local")
        server.is_at("twin-2.local", "10.0.2.11")
        lab.vbm("unregistervm", younger)
        server.is_at("twin.local", "10.0.2.11")


@each_reader
def test_of_two_vms_that_run_the_older_one_has_the_name(lab: Lab, reader: str) -> None:
    lab.nat_network()
    older, younger = (lab.create("twin", *NATNET, folder=f"vms{n}") for n in (1, 2))
    lab.lease("NatNetwork", (lab.mac(older), "10.0.2.11"), (lab.mac(younger), "10.0.2.12"))
    for uuid in (younger, older):
        lab.start(uuid)
    with serving(lab, "--reader", reader) as server:
        server.is_at("twin-2.local", "10.0.2.12")
        server.is_at("twin.local", "10.0.2.11")


def test_extra_names_and_ignored_vms(lab: Lab) -> None:
    lab.nat_network()
    web = lab.start_vm("web", "10.0.2.4")
    with serving(lab) as server:
        server.is_at("web.local", "10.0.2.4")
        lab.vbm("setextradata", web, "vmdns/names", "shop, api.v1")
        server.is_at("shop.local", "10.0.2.4")
        server.is_at("api.v1.local", "10.0.2.4")
        lab.vbm("setextradata", web, "vmdns/ignore", "1")
        server.is_at("web.local")
        lab.vbm("setextradata", web, "vmdns/ignore")
        server.is_at("web.local", "10.0.2.4")


@each_reader
def test_an_address_that_the_user_set(lab: Lab, reader: str) -> None:
    lab.nat_network()
    web = lab.start_vm("web", "10.0.2.4")
    with serving(lab, "--reader", reader) as server:
        server.is_at("web.local", "10.0.2.4")
        lab.vbm("setextradata", web, "vmdns/address", "10.0.2.77")
        server.is_at("web.local", "10.0.2.77")
        lab.vbm("setextradata", web, "vmdns/address", "10.9.9.9")
        server.saw("vmdns/address is set to 10.9.9.9, which is not on NatNetwork")
        server.is_at("web.local", "10.0.2.4")


@each_reader
def test_a_report_of_an_earlier_run_is_not_used(lab: Lab, reader: str) -> None:
    """As Guest Additions up to 7.0 leave one behind: in properties without flags, which VirtualBox keeps."""
    lab.nat_network()
    old, new = lab.create("old", *NATNET), lab.create("new", *NATNET)
    for name, value in {"Count": "1", "0/Status": "Up", "0/MAC": lab.mac(old), "0/V4/IP": "10.0.2.77"}.items():
        lab.set_property(old, name, value)
    lab.start(old)
    lab.start(new)
    with serving(lab, "--reader", reader) as server:
        lab.report(new, "10.0.2.78")
        server.is_at("new.local", "10.0.2.78")
        assert server.addresses("old.local") == []
        lab.vbm("controlvm", new, "pause")
        lab.vbm("controlvm", new, "resume")
        lab.set_property(old, "Count", "1")  # a sign of life in this run
        server.is_at("old.local", "10.0.2.77")
        server.is_at("new.local", "10.0.2.78")


@each_reader
def test_vboxsvc_dies_and_comes_back(lab: Lab, reader: str) -> None:
    """Its death takes the VM's process along; no answer is wrong on the way, and the next start is seen."""
    lab.nat_network()
    web = lab.start_vm("web", "10.0.2.4")
    with serving(lab, "--reader", reader) as server:
        server.is_at("web.local", "10.0.2.4")
        before = len(server.lines)
        lab.kill("VBoxSVC")
        if reader == "api":  # VBoxManage starts a new VBoxSVC at its next call and notices nothing
            server.saw("its last names stay in force", before)
            server.saw("VirtualBox is read again", before)
        assert server.ask("web.local").rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
        until(lambda: lab.processes("VBoxSVC"), "a new VBoxSVC")
        # What remains of the VM is for VirtualBox to say; once it is off it must start again and be seen.
        lab.power_off(web, check=False)
        server.is_at("web.local")
        until(lambda: lab.vbm("startvm", web, "--type", "headless", check=False).count("success"), "started again")
        server.is_at("web.local", "10.0.2.4")


def test_an_upgrade_is_survived(lab: Lab, tmp_path: Path) -> None:
    """A VBoxSVC that is replaced on disk: the reader lets the old one go, and reads the new one."""
    installation = find(os.environ)
    assert installation is not None
    program = installation.program / "VBoxSVC"
    if not os.access(program, os.W_OK):
        pytest.skip(f"{program} may not be touched")
    config = tmp_path / "vmdns.toml"
    config.write_text("[limits]\nlook_interval = 5\n")
    lab.nat_network()
    web = lab.create("web", *NATNET)
    lab.lease("NatNetwork", (lab.mac(web), "10.0.2.4"))
    times = program.stat()
    with serving(lab, "--reader", "api", "--config", str(config)) as server:
        server.saw("VirtualBox 7")
        old = lab.processes("VBoxSVC")
        try:
            os.utime(program, ns=(times.st_atime_ns, times.st_mtime_ns + 1_000_000_000))
            server.saw("it was upgraded or removed")
            until(lambda: lab.processes("VBoxSVC") not in ([], old), "another VBoxSVC")
            server.saw("VirtualBox is read again")
            lab.start(web)
            server.is_at("web.local", "10.0.2.4")
        finally:
            os.utime(program, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_both_readers_report_the_same_facts(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.nat_network()
    lab.vbm("natnetwork", "modify", "--netname", "NatNetwork", "--port-forward-4", "r 1:tcp:[]:2022:[10.0.2.4]:22")
    web = lab.create("web", *NATNET, "--nic2", "nat", "--natpf2", "ssh,tcp,127.0.0.1,2222,,22", groups="/lab/a")
    lab.vbm("setextradata", web, "vmdns/names", "shop,api")
    lab.create('리눅스 "q"', "--nic1", "intnet", "--intnet1", "my net")
    lab.create("many", "--chipset", "ich9", "--nic20", "nat", wired=())
    broken = lab.create("broken")
    settings = re.search(r'CfgFile="(.*)"', lab.info(broken))[1]  # type: ignore[index]
    lab.start(web)
    lab.report(web, "10.0.2.15", nic=2)
    lab.set_dhcp("NatNetwork", "--vm", web, "--nic", "1", "--fixed-address", "10.0.2.77")
    # The MAC of a disabled adapter cannot be read: such an entry is left out, and the others count.
    lab.set_dhcp("NatNetwork", "--vm", web, "--nic", "8", "--fixed-address", "10.0.2.78")
    os.rename(settings, settings + ".away")
    until(lambda: not lab.processes("VBoxManage"), "VBoxManage has ended")
    found = []
    for name, value in lab.environ.items():
        monkeypatch.setenv(name, value)
    for reader in ("api", "vboxmanage"):
        messages = look_once(reader, str(lab.home), 30)
        reports = [one["facts"] for one in messages if "virtualbox" in (one.get("put"), one.get("patch"))]
        found.append({key: from_json(fact) for facts in reports for key, fact in facts.items() if fact is not None})
        key = f"machine:{broken}"  # only its settings file says when it last ran
        found[-1][key] = replace(found[-1][key], state_changed=0.0)
    assert len(found[0]) >= 6
    assert found[0] == found[1]
