"""What guests of a real NAT Network get by VirtualBox's own DHCP after `vmdns wire`, and that they reach it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.live import natlab
from tests.live.lab import until

pytestmark = pytest.mark.skipif(bool(natlab.available()), reason=natlab.available() or "natlab is there")

WIRED = {"dns": "198.18.53.1", "domain": "local", "search": "local vm.internal"}
OUTSIDE = "192.0.2.1"
MAC = "080027AABB01"  # of the namespace that plays guest 1


@pytest.fixture(scope="module")
def lab() -> Iterator[None]:
    with natlab.up():
        yield


def lease(guest: int, **wanted: str) -> dict[str, str]:
    """A lease with this in it; a DHCP server that was just started may not be on the wire yet."""

    def take() -> dict[str, str]:
        natlab.run("plug", check=False)
        lines = natlab.run("dhcp", str(guest), check=False).splitlines()
        got = dict(line.split("=", 1) for line in lines if "=" in line)
        return got if got and wanted.items() <= got.items() else {}

    found = until(take, f"guest {guest} is given {wanted}")
    assert isinstance(found, dict)
    return found


def networks() -> str:
    """What VirtualBox.xml says of networks."""
    text = str(until(lambda: natlab.run("rig", "cat", "/root/natlab-home/VirtualBox.xml", check=False), "the settings"))
    return text[text.index("<DHCPServers") : text.index("</NetserviceRegistry>")]


def restart_network() -> None:
    """As when the last VM ended and another starts: VirtualBox writes the global options anew."""
    natlab.stop_network()
    natlab.vbm("natnetwork", "start", "--netname", "NatNetwork")


def test_guests_get_what_wire_set_and_reach_it(lab: None) -> None:
    natlab.run("resolv", f"nameserver {OUTSIDE}")
    before = networks()
    assert lease(1)["dns"] == OUTSIDE
    natlab.wire("--apply")
    for guest in (1, 2):
        lease(guest, **WIRED)
    restart_network()
    assert lease(2, **WIRED)["serverid"] == "10.0.2.2"

    server = natlab.Server(listen=("198.18.53.1",))
    try:
        natlab.create("web", MAC)
        natlab.start("web")
        until(lambda: any("+ web.local" in line for line in server.lines), "web runs")
        address = lease(1)["ip"]

        def asked() -> bool:
            return address in natlab.run("guest", "2", "busybox", "nslookup", "web.local", "198.18.53.1", check=False)

        until(asked, f"guest 2 is told {address} for web.local ({MAC})")
        assert any("198.18.53.1 port 53" in line for line in server.lines)
    finally:
        server.stop()
        natlab.discard("web")
    natlab.vbm("natnetwork", "start", "--netname", "NatNetwork", check=False)  # the VM's end may have stopped it
    natlab.wire("--undo")
    lease(1, dns=OUTSIDE)
    assert networks() == before


@pytest.mark.parametrize(("resolver", "trap"), [("127.0.0.1", "10.0.2.2"), ("127.0.0.53", "10.0.2.3")])
def test_the_traps_of_a_loopback_resolver(lab: None, resolver: str, trap: str) -> None:
    natlab.run("resolv", f"nameserver {resolver}")
    restart_network()
    before = networks()
    lease(1, dns=trap)
    assert f"{trap}, given to guests now, is" in natlab.wire()
    natlab.wire("--apply")
    got = [lease(guest, **WIRED)["ip"] for guest in (1, 2)]
    assert min(got) == "10.0.2.4"
    assert re.search(r'networkName="NatNetwork" .*lowerIP="10\.0\.2\.4"', networks())
    natlab.wire("--undo")
    lease(1, dns=trap)
    assert networks() == before


def test_one_command_makes_guests_ask(lab: None) -> None:
    """`vmdns run --wire` and nothing else, on a host whose resolver is vmdns itself."""
    natlab.run("resolv", "nameserver 127.0.0.1")
    restart_network()
    before = networks()
    server = natlab.Server("--wire")
    try:
        lease(1, **WIRED)
        until(lambda: any("listening on 198.18.53.1 port 53" in line for line in server.lines), "it listens there")
        asked = natlab.run("guest", "1", "busybox", "nslookup", "nosuch.local", "198.18.53.1", check=False)
        assert "NXDOMAIN" in asked  # an answer, and no timeout
        natlab.vbm("dhcpserver", "modify", "--network=NatNetwork", "--group=vmdns", "--remove-config")
        until(lambda: 'Group name="vmdns"' in networks(), "the group is there again")
        lease(2, **WIRED)
    finally:
        server.stop()
    natlab.wire("--undo")
    assert networks() == before
