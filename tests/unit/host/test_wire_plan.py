"""What `vmdns wire` wants of each network, for VirtualBox.xml as it is found on each system."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vmdns.host.virtualbox_dhcp import DhcpServerPresence, NetworkSettings, VirtualBox, parse_networks
from vmdns.host.wire_plan import NetworkRow, WireState, plan_networks
from vmdns.state.facts import HostInterface

HEAD = (
    '<?xml version="1.0"?>\n<VirtualBox xmlns="http://www.virtualbox.org/" version="1.12-{system}">\n'
    "  <Global>\n    <NetserviceRegistry>\n      <DHCPServers>{servers}</DHCPServers>\n"
    "      <NATNetworks>{networks}</NATNetworks>\n    </NetserviceRegistry>\n  </Global>\n</VirtualBox>\n"
)
SERVER = (
    '<DHCPServer networkName="{name}" IPAddress="{net}.{at}" networkMask="255.255.255.0" lowerIP="{net}.{lower}" '
    'upperIP="{net}.254" enabled="{enabled}">{inside}</DHCPServer>'
)
NETWORK = (
    '<NATNetwork networkName="{name}" network="{net}.0/{bits}" ipv6="0" ipv6prefix="fd17:625c:f037:2::/64" '
    'advertiseDefaultIPv6Route="0" needDhcp="{dhcp}" enabled="{enabled}"><Mappings>{mappings}</Mappings></NATNetwork>'
)
MAPPED = '<Loopback4 address="127.0.0.1" offset="2"/>'
GROUP = (
    '<Group name="{name}"><Option name="6" value="{address}"/><Option name="15" value="local"/>'
    '<Option name="119" value="local vm.internal"/><Condition inclusive="true" type="1" value="{macs}"/></Group>'
)


def server_value(*addresses: str) -> dict[str, Any]:
    """The value of a DHCP server with this address, mask, lowest and highest address, as VirtualBox creates it."""
    return {**dict(zip(("server-ip", "netmask", "lower-ip", "upper-ip"), addresses, strict=True)), "since": []}


ZONES = ("local", "vm.internal")
BOX = VirtualBox(Path("/"), "VBoxManage", lambda *_: "")
Wanted = tuple[str, str, Any]


def server(name: str, net: str = "10.0.2", inside: str = "", at: int = 2, lower: int = 3, enabled: int = 1) -> str:
    return SERVER.format(name=name, net=net, at=at, lower=lower, enabled=enabled, inside=inside)


def network(
    name: str, net: str = "10.0.2", *, bits: int = 24, dhcp: int = 1, enabled: int = 1, mapped: bool = True
) -> str:
    mappings = MAPPED if mapped else ""
    return NETWORK.format(name=name, net=net, bits=bits, dhcp=dhcp, enabled=enabled, mappings=mappings)


def group(address: str = "198.18.53.1", name: str = "vmdns", macs: str = "*") -> str:
    return GROUP.format(name=name, address=address, macs=macs)


def settings(*parts: str, system: str = "linux") -> NetworkSettings:
    servers = "".join(one for one in parts if one.startswith("<DHCPServer"))
    networks = "".join(one for one in parts if one.startswith("<NATNetwork"))
    return parse_networks(HEAD.format(system=system, servers=servers, networks=networks).encode())


def options(address: str) -> dict[str, str]:
    return {"6": address, "15": "local", "119": "local vm.internal"}


def look(networks: NetworkSettings, **more: Any) -> WireState:
    return replace(WireState(BOX, version=(7, 2), networks=networks, zones=ZONES, resolvers=("192.0.2.1",)), **more)


def wants(row: NetworkRow) -> list[Wanted]:
    return [(setting.kind, setting.name, value) for setting, value in row.want]


OPTION6 = '<Options><Option name="3" value="10.0.2.1"/><Option name="6" value="{}"/></Options>'
GIVEN = ("loopback-address", "198.18.53.1", True)
WIRED = ("dhcp-group", "lab", options("198.18.53.1"))
MADE = ("dhcp-server", "lab", server_value("10.0.2.2", "255.255.255.0", "10.0.2.4", "10.0.2.254"))
MADE_BY_6 = ("dhcp-server", "lab", server_value("10.0.2.3", "255.255.255.0", "10.0.2.4", "10.0.2.254"))
OTHER_ZONES = ("dhcp-group", "lab", {"6": "198.18.53.1", "15": "lab.internal", "119": "lab.internal local"})
NET = network("lab")
LOWER = ("dhcp-lower-ip", "lab", "10.0.2.4")
LOOPBACK = {"resolvers": ("127.0.0.53",)}
UNABLE = {"may": False, "hosts": ("192.0.2.20", "192.168.56.1")}
SHARED = ("dhcp-group", "lab", options("192.0.2.20"))


@pytest.mark.parametrize(
    ("parts", "more", "wanted", "note"),
    [
        # A NAT Network of 7.2: as it starts first, as it is after that, as it is wired already.
        ([NET], {}, [GIVEN, MADE, WIRED], ""),
        ([NET, server("lab", inside=OPTION6.format("192.0.2.1"))], {}, [GIVEN, WIRED], ""),
        ([NET, server("lab", inside=group())], {"given": frozenset({"198.18.53.1"})}, [GIVEN, WIRED], ""),
        ([NET, server("lab")], {"zones": ("lab.internal", "local")}, [GIVEN, OTHER_ZONES], ""),
        # A host with a loopback resolver: the first trap, the second, and a pool that begins higher already.
        (
            [NET, server("lab", inside=OPTION6.format("10.0.2.2"))], {"resolvers": ("127.0.0.1",)},
            [GIVEN, LOWER, WIRED], "10.0.2.2, given to guests now, is its DHCP server",
        ),
        (
            [NET, server("lab", inside=OPTION6.format("10.0.2.3"))], LOOPBACK,
            [GIVEN, LOWER, WIRED], "10.0.2.3, given to guests now, is also the first guest's own address",
        ),
        ([NET, server("lab", at=3, lower=4)], LOOPBACK, [GIVEN, WIRED], ""),
        ([NET, server("lab")], {"resolvers": ("127.0.0.53", "192.0.2.1")}, [GIVEN, WIRED], ""),
        # Without the right to add an address: one that is there, and the one that is handed out stays.
        ([NET, server("lab")], UNABLE, [SHARED], "shares 192.0.2.20 with other networks"),
        (
            [NET, server("lab", inside=group("192.168.56.1"))], UNABLE,
            [("dhcp-group", "lab", options("192.168.56.1"))], "shares 192.168.56.1",
        ),
        ([NET, server("lab", inside=group("192.0.2.99"))], UNABLE, [SHARED], "shares 192.0.2.20"),
        (
            [NET, server("lab", inside=group())],
            {**UNABLE, "given": frozenset({"198.18.53.1"}), "ours": frozenset({"198.18.53.1"})}, [GIVEN, WIRED], "",
        ),
        ([NET, server("lab")], {"may": False}, [], "no address that its guests could reach"),
        # VirtualBox up to 7.1.
        (
            [NET, server("lab", at=3, lower=4)], {"version": (7, 1), **LOOPBACK},
            [("dhcp-group", "lab", options("10.0.2.2"))], "",
        ),
        ([NET], {"version": (6, 1)}, [MADE_BY_6, ("dhcp-group", "lab", options("10.0.2.2"))], ""),
        ([network("lab", mapped=False), server("lab")], {"version": (7, 1)}, [], "--loopback-4 127.0.0.1=2"),
        # What is left alone.
        ([network("lab", enabled=0), server("lab")], {}, [], "switched off in VirtualBox"),
        ([network("lab", dhcp=0), server("lab")], {}, [], "natnetwork modify --netname lab --dhcp on"),
        ([NET, server("lab", enabled=0)], {}, [], "dhcpserver modify --network=lab --enable"),
        ([network("lab", bits=30)], {}, [], "10.0.2.0/30 has no room"),
        ([server("lab", net="10.7.0")], {}, [], "an internal network"),
        # Groups: someone else's of our name, and others that come first.
        ([NET, server("lab", inside=group(macs="0800*"))], {}, [], "a group vmdns that is not vmdns'"),
        ([NET, server("lab", inside=group(macs="0800*"))], {"groups": frozenset({"lab"})}, [GIVEN, WIRED], ""),
        (
            [NET, server("lab", inside=group(name="a"))], {},
            [("loopback-address", "198.18.53.2", True), ("dhcp-group", "lab", options("198.18.53.2"))],
            "the group a of its DHCP server comes before",
        ),
        (
            [NET, server("lab", inside='<Config MACAddress="08:00:27:aa:bb:02" slot="4294967295"/>')], {},
            [GIVEN, WIRED], "single guests have settings of their own",
        ),
    ],
)  # fmt: skip
def test_a_network(parts: list[str], more: dict[str, Any], wanted: list[Wanted], note: str) -> None:
    [row] = plan_networks(look(settings(*parts), **more))
    assert wants(row) == wanted
    assert row.server == (wanted[-1][2]["6"] if wanted else "")
    assert (note in " ".join(row.notes)) if note else not row.notes


def test_each_network_has_an_address_of_its_own() -> None:
    found = settings(
        network("a", "10.0.2"), network("b", "10.0.3"), network("c", "10.0.4"), network("d", "10.0.5"),
        server("b", "10.0.3", group("198.18.53.1")), server("c", "10.0.4", group("198.18.53.1")),
        server("x", "10.0.9", group("198.18.53.3", "other")),
    )  # fmt: skip
    strange = frozenset({"198.18.53.1", "198.18.53.2", "198.18.53.5"})
    among = plan_networks(look(found, given=strange, ours=frozenset({"198.18.53.1", "198.18.53.5"})))
    # b keeps the one it has; 2 is there and not ours, 3 is handed out; 5 is there and ours to use.
    assert [row.server for row in among] == ["198.18.53.4", "198.18.53.1", "198.18.53.5", "198.18.53.6", ""]


def test_the_address_of_the_host_itself_is_nobodys() -> None:
    many = settings(*[network(f"n{at}", f"10.{at}.2") for at in range(60)])
    addresses = [row.server for row in plan_networks(look(many))]
    assert len(set(addresses)) == 60
    assert "198.18.53.53" not in addresses


@pytest.mark.parametrize(
    ("system", "interface"),
    [("linux", "vboxnet0"), ("macosx", "vboxnet0"), ("windows", "VirtualBox Host-Only Ethernet Adapter #2")],
)
def test_host_only(system: str, interface: str) -> None:
    name = f"HostInterfaceNetworking-{interface}"
    interfaces = (HostInterface(interface, "192.168.56.1/24"),)
    found = settings(server(name, "192.168.56", at=100, lower=101), system=system)
    [row] = plan_networks(look(found, interfaces=interfaces, may=False))
    assert (row.title, row.now, wants(row)) == (
        f"host-only {interface}", (), [("dhcp-group", name, options("192.168.56.1"))],
    )  # fmt: skip
    assert plan_networks(look(found)) == []  # the interface is gone
    for parts, note in (((), "has no DHCP server"), ((server(name, enabled=0),), "switched off")):
        [row] = plan_networks(look(settings(*parts), interfaces=interfaces))
        assert (row.want, row.server) == ([], "")
        assert note in row.notes[0]
        assert "192.168.56.1" in row.notes[0]


def test_host_only_networks_of_macos() -> None:
    [row] = plan_networks(look(NetworkSettings(), interfaces=(HostInterface("Host", "192.168.56.1/24", vmnet=True),)))
    assert (row.title, row.want) == ("host-only Host", [])
    assert "enter 192.168.56.1" in row.notes[0]


def test_the_recorded_settings() -> None:
    sample = Path(__file__).parents[1] / "sources" / "samples" / "zoo" / "VirtualBox.xml"
    found = parse_networks(sample.read_bytes())
    interfaces = (HostInterface("vboxnet0", "192.168.56.1/24"),)
    among = {row.network: row for row in plan_networks(look(found, interfaces=interfaces))}
    assert among["NatNetwork"].now == ("192.0.2.10",)
    assert [one.kind for one, _ in among["NatNetwork"].want] == ["loopback-address", "dhcp-group"]
    assert among["HostInterfaceNetworking-vboxnet0"].server == "192.168.56.1"
    assert found.servers["NatNetwork"].others == [
        "Config 08:00:27:aa:bb:02", "Config 08:00:27:aa:bb:03",
        "Config 00:00:00:00:00:00 a7715ed1-544a-4bbb-b0f3-164faaeb189b",
    ]  # fmt: skip


def test_a_damaged_network_is_left_out() -> None:
    networks = settings(network("a"), network("b").replace("10.0.2.0/24", "rubbish"), network("c", "10.0.3"))
    assert [one.name for one in networks.nat] == ["a", "c"]


# -- changes that were made although VBoxManage failed --------- -----------------------------------------------

VALUE = server_value("10.0.2.2", "255.255.255.0", "10.0.2.4", "10.0.2.254")


def box(home: Path, servers: str, after: str) -> VirtualBox:
    """A VirtualBox with these servers, whose VBoxManage fails when there are those."""

    def write(text: str) -> None:
        (home / "VirtualBox.xml").write_text(HEAD.format(system="linux", servers=text, networks=""))

    def call(*arguments: str) -> str:
        write(after)
        raise OSError(f"VBoxManage {' '.join(arguments[:2])}: Failed to find DHCP server")

    write(servers)
    return VirtualBox(home, "VBoxManage", call)


HERE, GONE = server("lab", lower=4), ""


@pytest.mark.parametrize(
    ("before", "after", "wanted", "done"),
    [(HERE, GONE, None, True), (HERE, HERE, None, False), (GONE, HERE, VALUE, True), (GONE, GONE, VALUE, False)],
)
def test_a_change_that_was_made_is_no_failure(
    tmp_path: Path, before: str, after: str, wanted: dict[str, object] | None, done: bool
) -> None:
    setting = DhcpServerPresence("lab", box(tmp_path, before, after))
    if done:
        setting.write(wanted)
    else:
        with pytest.raises(OSError, match="Failed to find"):
            setting.write(wanted)
