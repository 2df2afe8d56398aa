"""A real guest with Guest Additions on plain NAT, in which nothing is set: its host uses vmdns as name server."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.live import natlab
from tests.live.lab import until
from tests.live.natguest import Guest, guest
from tests.live.nathost import Host, host

pytestmark = natlab.needs_natlab

HOST_SERVER = "198.18.53.53"  # the name server that `vmdns host --whole` sets
# As the guest's own start does: it was saved when its host had another name server.
RENEW = "udhcpc -i eth0 -s /udhcpc.sh -t 5 -T 2 -n -q >/dev/null 2>&1; cat /etc/resolv.conf"
# Fetches the page of a VM from the port and host of the VM's first SRV record.
WHERE = "set -- $(busybox nslookup -type=srv _http._tcp.{0} | sed -n 's/.*service = 0 0 //p'); "
FETCH = WHERE + "busybox wget -q -O - http://$2:$1/"


@pytest.fixture
def desk() -> Iterator[Host]:
    if not (natlab.rig() / "root/.guest-ready").exists():
        pytest.skip("the rig has no real guest; `rig guest` builds it")
    with host() as made:
        # A copy, in natlab's own VirtualBox: what becomes of it is of no matter.
        shutil.copytree(natlab.rig() / "root/guest-home/vms/guest", natlab.rig() / "root/natlab-home/guest")
        yield made


def run_in_guest(command: str) -> str:
    """What a command in the real guest prints."""
    url = f"http://127.0.0.1:20080/cgi-bin/sh?{quote(command)}"
    return natlab.run("rig", "curl", "-sS", "-m", "60", url, check=False)


def test_the_real_guest(desk: Host) -> None:
    with natlab.serving("--wire", within=desk.within) as server:
        before = desk.resolv_conf
        desk.vmdns("host", "--whole", "--apply")
        assert f"nameserver {HOST_SERVER}" in desk.resolv_conf
        server.saw(f"listening on {HOST_SERVER} port 53")
        natlab.vbm("registervm", "/root/natlab-home/guest/guest.vbox")
        natlab.box.start("guest")
        with guest(1) as web:
            natlab.start_vm("web", web.mac)
            _check(server, web)
        desk.vmdns("host", "--undo")
        assert desk.resolv_conf == before


def _check(server: natlab.Server, web: Guest) -> None:
    address = web.lease(dns="198.18.53.1")["ip"]
    rules = ("natnetwork", "modify", "--netname", "NatNetwork", "--port-forward-4")
    natlab.vbm(*rules, f"http:tcp:[]:20088:[{address}]:80")
    server.saw("host:20088 -> 80 http")
    server.saw("~ guest.local  10.0.2.15 (NAT, guest additions)")
    assert f"nameserver {HOST_SERVER}" in str(until(lambda: run_in_guest(RENEW), "the guest answers"))

    # It finds a VM on a NAT Network, by the host's address, and its page, by the host's port.
    for name in ("web.local", "web.vm.internal"):
        start = time.monotonic()
        output = run_in_guest(f"nslookup -type=a {name}")
        print(f"the real guest finds {name} within {time.monotonic() - start:.1f} s (on the interpreter, by HTTP)")
        assert f"Name:\t{name}\nAddress: {HOST_SERVER}\n" in output, output
    assert "NXDOMAIN" in run_in_guest("nslookup -type=a nosuch.local")
    with web.serving("hello from web\n"):
        start = time.monotonic()
        assert run_in_guest(FETCH.format("web.local")) == "hello from web\n"
        print(f"and fetches its page within {time.monotonic() - start:.1f} s")

    # And the other way round: the guest of the NAT Network fetches a page of the real one, by a rule that is new.
    assert web.resolve("guest") == ["10.0.2.1"]  # the gateway leads to the host's 127.0.0.1
    natlab.vbm("controlvm", "guest", "natpf1", "page,tcp,,8081,,8080")
    server.saw("host:8081 -> 8080 http-alt")
    where = web.run("sh", "-c", WHERE.format("guest.local") + 'echo "$2:$1"').strip()
    assert where == "guest.local:20080"
    web.fetch(f"http://{where}/", "hello from the guest\n")
    assert "IN SRV 0 0 8081 guest.local." in web.query("_http-alt._tcp.guest.local", "SRV")

    # What a rule gave goes with it.
    natlab.vbm("controlvm", "guest", "natpf1", "delete", "page")
    until(lambda: "NXDOMAIN" in web.query("_http-alt._tcp.guest.local", "SRV"), "the second service is gone")
    natlab.vbm(*rules, "delete", "http")
    until(
        lambda: "service" not in run_in_guest("nslookup -type=srv _http._tcp.web.local"), "the service of web is gone"
    )
    output = run_in_guest("nslookup -type=a web.local")
    assert f"Address: {HOST_SERVER}\n" not in output
    assert "NXDOMAIN" not in output
