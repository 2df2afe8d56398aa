"""`vmdns wire` on a real VirtualBox: what it sets, read back by VBoxManage and in VirtualBox.xml, and undone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

import pytest

from tests.live.lab import DOOR, HOST_ONLY, Lab, ip, serving, until

STRANGE = "a \"b'/c d"
needs_root = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="addresses are given in tools/live's namespace, as root"
)


@pytest.fixture
def wired(lab: Lab) -> Iterator[Lab]:
    """Three NAT Networks: one that never started, one that VirtualBox has started once, one with a name to escape."""
    for name, at in (("fresh", 2), ("started", 3), (STRANGE, 4)):
        lab.add_nat_network(name, f"10.0.{at}.0/24")
    lab.add_dhcp_server("started", "10.0.3")
    lab.set_dhcp("started", "--set-opt=3", "10.0.3.1", "--set-opt=6", "10.0.3.2")
    own = ("--group=own", "--incl-mac=08:00:27:00:00:01", "--set-opt=42", "10.0.3.9")
    lab.set_dhcp("started", *own)
    yield lab
    lab.vmdns("wire", "--undo", check=False)


def networks(lab: Lab) -> str:
    """The part of VirtualBox.xml about networks, byte for byte."""
    text = (lab.home / "VirtualBox.xml").read_text()
    return text[text.index("<DHCPServers") : text.index("</NetserviceRegistry>")]


def group(lab: Lab, name: str) -> str:
    """The block of `list dhcpservers` about our group of that network; '' where there is none."""
    block = next(one for one in lab.vbm("list", "dhcpservers").split("\n\n") if f"NetworkName:    {name}\n" in one)
    found = re.search(r"^Group: +vmdns\n(?: .*\n?)*", block, re.MULTILINE)
    return found[0] if found else ""


def addresses() -> set[str]:
    """The addresses that vmdns gave the host: all of its range but the one of tools/live."""
    return set(re.findall(r"198\.18\.53\.\d+", ip("-4", "-o", "addr", "show", "dev", "lo"))) - {DOOR}


@needs_root
def test_apply_read_back_and_undo(wired: Lab) -> None:
    before = networks(wired)
    plan = json.loads(wired.vmdns("wire", "--json"))
    assert networks(wired) == before
    wanted = {one["network"]: one["wanted"] for one in plan["networks"]}
    # tools/live has given the host 198.18.53.1 already.
    given = {"fresh": "198.18.53.2", "started": "198.18.53.3", STRANGE: "198.18.53.4"}
    assert wanted == {**given, HOST_ONLY: "192.168.56.1"}
    assert "10.0.3.2, given to guests now, is its DHCP server" in " ".join(plan["notes"])

    said = wired.vmdns("wire", "--apply")
    assert f"have the DHCP of {STRANGE} hand out 198.18.53.4, and search local and vm.internal" in said
    assert addresses() == set(given.values())
    for name, address in wanted.items():
        shown = group(wired, name)
        options = re.findall(r"(\d+)/\S+: (.*)", shown)
        assert options == [("6", address), ("15", "local"), ("119", "local vm.internal")], shown
        assert re.search(r"include MAC\* +\*", shown), shown
    xml = networks(wired)
    assert '<Option name="119" value="local vm.internal"/>' in xml
    assert 'IPAddress="10.0.2.2" networkMask="255.255.255.0" lowerIP="10.0.2.4" upperIP="10.0.2.254" enabled="1"' in xml

    assert wired.vmdns("wire", "--apply") == "Nothing to do.\n"
    assert networks(wired) == xml
    # vmdns distinguishes the networks by what it reads of VirtualBox.
    handed = wired.vmdns("wire")
    assert re.search(r"^NAT Network started +198\.18\.53\.3 +as it is$", handed, re.MULTILINE), handed

    wired.vmdns("wire", "--undo", "--network", STRANGE)
    assert addresses() == {"198.18.53.2", "198.18.53.3"}
    wired.vmdns("wire", "--undo")
    assert networks(wired) == before
    assert addresses() == set()


@needs_root
def test_networks_are_kept_wired_while_vmdns_runs(wired: Lab) -> None:
    before = networks(wired)
    with serving(wired, "--wire") as running:
        running.saw("wiring: have the DHCP of started hand out 198.18.53.3")
        until(lambda: "198.18.53.3" in group(wired, "started"), "the group of `started`")
        wired.add_nat_network("late", "10.0.5.0/24")
        running.saw("wiring: have the DHCP of late hand out 198.18.53.5")
        # A group that someone removes comes back.
        seen = len(running.lines)
        wired.set_dhcp("started", "--group=vmdns", "--remove-config")
        running.saw("wiring: have the DHCP of started hand out 198.18.53.3", seen)
    wired.vmdns("wire", "--undo")
    wired.vbm("natnetwork", "remove", "--netname", "late")
    assert networks(wired) == before
