"""Settings files: recorded ones held against what the API said, and by tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.sources import zoo
from vmdns.sources.settings_file import InvalidSettingsFile, parse_machine, parse_registry, read_networks
from vmdns.state.facts import DhcpServer, NatNetwork, Network, PortForward

UUID = "029ad526-939d-42e9-ada5-be7632a400d7"


def vbox(inside: str = "", attributes: str = "", version: str = "1.19-linux", uuid: str = UUID) -> bytes:
    return (
        f'<?xml version="1.0"?>\n<VirtualBox xmlns="http://www.virtualbox.org/" version="{version}">\n'
        f'<Machine uuid="{{{uuid}}}" name="n" {attributes}>{inside}</Machine></VirtualBox>'
    ).encode()


def network(adapters: str) -> str:
    return f"<Hardware><Network>{adapters}</Network></Hardware>"


@pytest.mark.parametrize("path", sorted((zoo.FOLDER / "machines").iterdir()), ids=lambda path: path.stem)
def test_recorded(path) -> None:
    expected = zoo.MACHINES[path.stem]
    found = parse_machine(path.read_bytes())
    if expected.online:  # the file cannot tell
        expected = replace(expected, state=found.state, state_changed=found.state_changed, reports=())
    assert found == expected


def test_recorded_registry() -> None:
    home = Path("/home/user/.config/VirtualBox")
    found = parse_registry((zoo.FOLDER / "VirtualBox.xml").read_bytes(), home)
    assert found.paths == {uuid: home / "machines" / f"{uuid}.vbox" for uuid in zoo.MACHINES}


def test_registry_paths() -> None:
    data = (
        b'<VirtualBox xmlns="http://www.virtualbox.org/"><Global><MachineRegistry>'
        b'<MachineEntry uuid="{AAAAAAAA-0000-0000-0000-000000000001}" src="/vms/a b/a.vbox"/>'
        b'<MachineEntry uuid="{aaaaaaaa-0000-0000-0000-000000000002}" src="Machines/b/b.xml"/>'
        b'<MachineEntry uuid="{aaaaaaaa-0000-0000-0000-000000000003}"/>'
        b'<MachineEntry uuid="{}" src="c.vbox"/><MachineEntry src="d.vbox"/>'
        b"</MachineRegistry></Global></VirtualBox>"
    )
    assert parse_registry(data, Path("/home")).paths == {
        "aaaaaaaa-0000-0000-0000-000000000001": Path("/vms/a b/a.vbox"),
        "aaaaaaaa-0000-0000-0000-000000000002": Path("/home/Machines/b/b.xml"),
    }


def adapter_mac(vm: str, slot: int) -> str:
    return {("a7715ed1-544a-4bbb-b0f3-164faaeb189b", 30): "080027e96b45"}.get((vm, slot), "")


def test_recorded_networks() -> None:
    registry = parse_registry((zoo.FOLDER / "VirtualBox.xml").read_bytes(), Path())
    found = list(read_networks(registry, adapter_mac))
    expected = [fact for fact in zoo.FACTS.values() if isinstance(fact, NatNetwork | DhcpServer)]
    assert sorted(found, key=repr) == sorted(expected, key=repr)
    assert len(found) == 6


def test_fixed_addresses_of_adapters_that_are_not_there() -> None:
    text = (zoo.FOLDER / "VirtualBox.xml").read_text("utf-8")
    for slot in ("7", "x", "-1"):
        registry = parse_registry(text.replace('slot="30"', f'slot="{slot}"').encode(), Path())
        fixed = [fact.fixed for fact in read_networks(registry, adapter_mac) if isinstance(fact, DhcpServer)]
        assert fixed == [(), (("080027aabb02", "10.0.2.88"),), ()]


WHOLE = '<Options><Option name="3" value="10.0.2.1"/><Option name="6" value="192.0.2.1 192.0.2.2"/></Options>'


def group(name: str, value: str, *conditions: tuple[bool, int, str], suppressed: str = "") -> str:
    lines = [f'<Condition inclusive="{str(one).lower()}" type="{kind}" value="{on}"/>' for one, kind, on in conditions]
    option = f'<Option name="6" value="{value}"/>' if value else ""
    return f'<Group name="{name}" suppressedOptions="{suppressed}">{option}{"".join(lines)}</Group>'


STAR = True, 1, "*"


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [
        ([WHOLE], "whole"),
        ([WHOLE.replace(" 192.0.2.2", ",192.0.2.2")], "whole"),
        ([WHOLE.replace("<Options", '<Options suppressedOptions="3 6"')], []),
        ([WHOLE.replace("<Options", '<Options suppressedOptions="66"')], "whole"),
        ([WHOLE, group("a", "192.0.2.9", STAR)], ["192.0.2.9"]),
        ([WHOLE, group("a", "192.0.2.9", (True, 1, "08:00:27:0*:*:*"))], "whole"),
        ([WHOLE, group("a", "192.0.2.9", (True, 0, "08:00:27:00:00:01"))], "whole"),
        ([WHOLE, group("a", "192.0.2.9", (True, 3, "*"))], "whole"),
        ([WHOLE, group("a", "192.0.2.9", STAR, (False, 1, "*"))], "whole"),
        ([WHOLE, group("a", "192.0.2.9", STAR, (False, 0, "08:00:27:00:00:01"))], ["192.0.2.9"]),
        ([WHOLE, group("b", "192.0.2.9", STAR), group("a", "", STAR)], ["192.0.2.9"]),
        ([WHOLE, group("b", "192.0.2.9", STAR), group("a", "192.0.2.8", STAR)], ["192.0.2.8"]),
        ([WHOLE, group("a", "", STAR, suppressed="6")], []),
        ([WHOLE, '<Config MACAddress="08:00:27:aa:bb:02"><Option name="6" value="10.9.9.9"/></Config>'], "whole"),
        (["<Options/>"], []),
        ([], []),
    ],
)
def test_name_servers_of_an_ordinary_guest(scopes, expected) -> None:
    data = (
        "<VirtualBox><Global><NetserviceRegistry><DHCPServers>"
        f'<DHCPServer networkName="N">{"".join(scopes)}</DHCPServer>'
        "</DHCPServers></NetserviceRegistry></Global></VirtualBox>"
    )
    (server,) = read_networks(parse_registry(data.encode(), Path()), adapter_mac)
    assert isinstance(server, DhcpServer)
    assert list(server.name_servers) == (["192.0.2.1", "192.0.2.2"] if expected == "whole" else expected)


@pytest.mark.parametrize(
    ("attributes", "state"),
    [
        ("", "PoweredOff"),
        ('aborted="false"', "PoweredOff"),
        ('aborted="true"', "Aborted"),
        ('aborted="1"', "Aborted"),
        ('stateFile="Snapshots/x.sav"', "Saved"),
        ('stateFile="Snapshots/x.sav" aborted="true"', "AbortedSaved"),
        ('stateFile=""', "PoweredOff"),
    ],
)
def test_state(attributes, state) -> None:
    assert parse_machine(vbox(attributes=attributes)).state == state


def nic(inside: str, attributes: str = 'enabled="true"', slot: int = 0, mac: str = "080027000001") -> str:
    return f'<Adapter slot="{slot}" {attributes} MACAddress="{mac}">{inside}</Adapter>'


DISABLED = '<DisabledModes><NAT/><InternalNetwork name="x"/></DisabledModes>'


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        (nic("<NAT/>", ""), None),
        (nic("<NAT/>", 'enabled="false"'), None),
        (nic(""), Network("null")),
        (nic("<NAT/>", 'enabled="1"'), Network("nat")),
        (nic(DISABLED + '<NATNetwork name="Nat"/>'), Network("natnetwork", "Nat")),
        (nic('<HostOnlyNetwork name="h"/>'), Network("hostonly", "h")),
        (nic('<CloudNetwork name="c"/>'), Network("cloud")),
        (nic('<VDE network="v"/>'), Network("null")),
    ],
)
def test_network(adapter, expected) -> None:
    found = parse_machine(vbox(network(adapter))).adapters
    assert [one.network for one in found] == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("version", "written", "expected"),
    [
        ("1.20-windows", "", True),
        ("1.16-linux", "", True),
        ("1.15-linux", "", False),
        ("1.9-macosx", "", False),
        ("1.19-linux", 'cable="false"', False),
        ("1.15-linux", 'cable="true"', True),
        ("2.0", "", True),
    ],
)
def test_cable(version, written, expected) -> None:
    adapter = nic("<NAT/>", f'enabled="true" {written}')
    assert parse_machine(vbox(network(adapter), version=version)).adapters[0].cable is expected


def test_rules() -> None:
    rules = (
        '<Forwarding name="b" proto="1" hostport="80" guestport="8080"/>'
        '<Forwarding name="a" proto="0" hostip="127.0.0.1" hostport="53" guestip="10.0.2.15" guestport="53"/>'
    )
    adapter = nic(f'<NAT network="10.9/16">{rules}</NAT>', slot=3, mac="0800270000AB")
    (found,) = parse_machine(vbox(network(adapter))).adapters
    assert (found.slot, found.mac) == (3, "0800270000ab")
    assert found.forwards == (
        PortForward("b", "tcp", "", 80, "", 8080),
        PortForward("a", "udp", "127.0.0.1", 53, "10.0.2.15", 53),
    )


def test_only_the_current_state_counts_and_no_snapshot() -> None:
    old, new = network(nic("<NAT/>")), network(nic('<NATNetwork name="N"/>', mac="080027000002"))
    snapshot = f'<Snapshot uuid="{{x}}" name="s">{old}<Groups><Group name="/old"/></Groups></Snapshot>'
    found = parse_machine(vbox(f'{snapshot}{new}<Groups><Group name="/a"/><Group name="/b"/></Groups>'))
    assert [one.mac for one in found.adapters] == ["080027000002"]
    assert found.groups == ("/a", "/b")


def test_extra_data() -> None:
    items = (
        '<ExtraDataItem name="vmdns/names" value=" web ,, shop"/><ExtraDataItem name="vmdns/ignore" value="on"/>'
        '<ExtraDataItem name="vmdns/address" value="10.0.2.9, x"/>'
    )
    found = parse_machine(vbox(f"<ExtraData>{items}</ExtraData>"))
    assert (found.names, found.ignored, found.set_addresses) == (("web", "shop"), True, ("10.0.2.9", "x"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not xml",
        vbox()[:-20],
        vbox() + b"<more/>",
        b"\xff\xfe\x00",
        b'<VirtualBox xmlns="http://www.virtualbox.org/"/>',
        b'<VirtualBox xmlns="http://virtualbox.org/"><MachineEncrypted uuid="{u}">a</MachineEncrypted></VirtualBox>',
        b'<VirtualBox xmlns="http://www.virtualbox.org/"><Machine name="n"/></VirtualBox>',
        b'<VirtualBox xmlns="http://www.virtualbox.org/"><Machine uuid="{}" name="n"/></VirtualBox>',
        vbox(network('<Adapter enabled="true" MACAddress="080027000001"/>')),
        vbox(network('<Adapter slot="x" enabled="true" MACAddress="080027000001"/>')),
    ],
    ids=lambda data: repr(data[:40]),
)
def test_damaged(data) -> None:
    with pytest.raises(InvalidSettingsFile):
        parse_machine(data)


LAUGHS = "<!DOCTYPE a [<!ENTITY a0 'x'>" + "".join(f"<!ENTITY a{n + 1} '{f'&a{n};' * 10}'>" for n in range(9)) + "]>"


@pytest.mark.parametrize(
    "data",
    [
        (LAUGHS + "<VirtualBox><Machine uuid='{1}' name='&a9;'/></VirtualBox>").encode(),  # a billion laughs
        b"<a>" * 100_000,
        b"<a>" * 100_000 + b"</a>" * 100_000,
        b"<a>" + b"<b/>" * 600_000 + b"</a>",
        b'<?xml version="1.0" encoding="rot13"?><VirtualBox/>',  # a codec of Python's that makes no text
        b'<?xml version="1.0" encoding="nonsense"?><VirtualBox/>',
        "<VirtualBox/>".encode("utf-16"),
        b"<VirtualBox>\0</VirtualBox>",
        b'<VirtualBox version="1.19"><Machine uuid="{1}"><Hardware><Network><Adapter enabled="1" slot="'
        + b"9" * 5000
        + b'"/></Network></Hardware></Machine></VirtualBox>',  # more digits than int takes
    ],
    ids=["laughs", "deep", "deep and whole", "wide", "codec", "no codec", "utf-16", "nul", "digits"],
)
def test_hostile_settings_are_damaged(data: bytes) -> None:
    with pytest.raises(InvalidSettingsFile):
        parse_machine(data)


def test_a_version_of_many_digits() -> None:
    assert parse_machine(b'<V version="' + b"9" * 5000 + b'.1"><Machine uuid="{1}" name="web"/></V>').name == "web"
