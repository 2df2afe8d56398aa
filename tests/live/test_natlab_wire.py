"""What guests of a real NAT Network get by VirtualBox's own DHCP after `vmdns wire`, and that they reach it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.live import natlab
from tests.live.lab import until
from tests.live.natguest import Guest, guest

pytestmark = natlab.needs_natlab

WIRED = {"dns": "198.18.53.1", "domain": "local", "search": "local vm.internal"}
OUTSIDE = "192.0.2.1"


@pytest.fixture(scope="module")
def guests() -> Iterator[tuple[Guest, Guest]]:
    with natlab.up(), guest(1) as one, guest(2) as two:
        yield one, two


def networks() -> str:
    """The part of VirtualBox.xml about networks."""
    text = str(until(lambda: natlab.run("rig", "cat", "/root/natlab-home/VirtualBox.xml", check=False), "the settings"))
    return text[text.index("<DHCPServers") : text.index("</NetserviceRegistry>")]


def restart_network() -> None:
    """As when the last VM ended and another starts: VirtualBox writes the global options again."""
    natlab.stop_network()
    natlab.vbm("natnetwork", "start", "--netname", "NatNetwork")


def test_guests_get_what_wire_set_and_reach_it(guests: tuple[Guest, Guest]) -> None:
    one, two = guests
    natlab.run("resolv", f"nameserver {OUTSIDE}")
    before = networks()
    one.lease(dns=OUTSIDE)
    natlab.wire("--apply")
    for each in guests:
        each.lease(**WIRED)
    restart_network()
    assert two.lease(**WIRED)["serverid"] == "10.0.2.2"

    with natlab.serving(listen=("198.18.53.1",)) as server:
        natlab.start_vm("web", one.mac)
        server.saw("+ web.local")
        address = one.lease()["ip"]

        def resolved() -> bool:
            return address in two.run("busybox", "nslookup", "web.local", "198.18.53.1", check=False)

        until(resolved, f"guest 2 finds {address} for web.local ({one.mac})")
        assert any("198.18.53.1 port 53" in line for line in server.lines)
        natlab.discard("web")
    natlab.vbm("natnetwork", "start", "--netname", "NatNetwork", check=False)  # the VM's end may have stopped it
    natlab.wire("--undo")
    one.lease(dns=OUTSIDE)
    assert networks() == before


@pytest.mark.parametrize(("resolver", "trap"), [("127.0.0.1", "10.0.2.2"), ("127.0.0.53", "10.0.2.3")])
def test_the_traps_of_a_loopback_resolver(guests: tuple[Guest, Guest], resolver: str, trap: str) -> None:
    natlab.run("resolv", f"nameserver {resolver}")
    restart_network()
    before = networks()
    guests[0].lease(dns=trap)
    assert f"{trap}, given to guests now, is" in natlab.wire()
    natlab.wire("--apply")
    got = [each.lease(**WIRED)["ip"] for each in guests]
    assert min(got) == "10.0.2.4"
    assert re.search(r'networkName="NatNetwork" .*lowerIP="10\.0\.2\.4"', networks())
    natlab.wire("--undo")
    guests[0].lease(dns=trap)
    assert networks() == before


def test_run_with_wire_alone_makes_guests_use_vmdns(guests: tuple[Guest, Guest]) -> None:
    """On a host whose resolver is vmdns itself."""
    one, two = guests
    natlab.run("resolv", "nameserver 127.0.0.1")
    restart_network()
    before = networks()
    with natlab.serving("--wire") as server:
        one.lease(**WIRED)
        server.saw("listening on 198.18.53.1 port 53")
        answer = one.run("busybox", "nslookup", "nosuch.local", "198.18.53.1", check=False)
        assert "NXDOMAIN" in answer  # and no timeout
        natlab.box.set_dhcp("NatNetwork", "--group=vmdns", "--remove-config")
        until(lambda: 'Group name="vmdns"' in networks(), "the group is there again")
        two.lease(**WIRED)
    natlab.wire("--undo")
    assert networks() == before
