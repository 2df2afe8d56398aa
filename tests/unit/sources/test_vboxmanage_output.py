"""VBoxManage's output to values: recorded from 7.2.22 and held against the API, and by tables."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.unit.sources import zoo
from vmdns.sources import vboxmanage as output
from vmdns.sources.virtualbox_values import GUEST_PROPERTIES, parse_guest_reports
from vmdns.state.facts import HostInterface, Network, PortForward

U1 = "029ad526-939d-42e9-ada5-be7632a400d7"
U2 = "a7715ed1-544a-4bbb-b0f3-164faaeb189b"
SHOWN = [words.split()[1] for words, call in zoo.CALLS.items() if words.startswith("showvminfo") and not call["status"]]


def facts(kind: type) -> list:
    return sorted((fact for fact in zoo.FACTS.values() if isinstance(fact, kind)), key=str)


# -- recorded --------------------------------------------------------------------------------------------------


def test_recorded_vms() -> None:
    expected = {
        uuid: machine.name if machine.accessible else "<inaccessible>" for uuid, machine in zoo.MACHINES.items()
    }
    expected[zoo.NOBODY] = ""  # the name that looks like two lines
    expected[zoo.named(f'" {{{zoo.NOBODY}}}\n"y').uuid] = "y"
    assert output.parse_vms(zoo.out("list", "vms")) == expected


@pytest.mark.parametrize("uuid", [uuid for uuid in SHOWN if zoo.MACHINES[uuid].name != "percent"])
def test_recorded_machine(uuid) -> None:
    expected = replace(zoo.MACHINES[uuid], reports=(), names=(), ignored=False)
    assert output.parse_machine(zoo.out("showvminfo", uuid, "--machinereadable")) == expected


def test_recorded_rule_that_vboxmanage_takes_for_a_format() -> None:
    shown = output.parse_machine(zoo.out("showvminfo", zoo.named("percent").uuid, "--machinereadable"))
    (rule,) = zoo.named("percent").adapters[0].forwards
    (seen,) = shown.adapters[0].forwards
    assert rule.name == "%s%n"
    assert replace(seen, name=rule.name) == rule


def test_recorded_states() -> None:
    text = (zoo.FOLDER / "long.txt").read_text("utf-8")
    found = output.parse_states(text)
    assert found == {uuid: (zoo.MACHINES[uuid].state, zoo.MACHINES[uuid].state_changed) for uuid in found}
    assert {state for state, _ in found.values()} == {"Running", "Paused", "Saved", "PoweredOff"}


def test_recorded_properties() -> None:
    for uuid, machine in zoo.MACHINES.items():
        words = ("guestproperty", "enumerate", uuid, "--old-format", "--patterns", GUEST_PROPERTIES)
        if machine.online:
            assert parse_guest_reports(output.parse_properties(zoo.out(*words)), machine.state) == machine.reports
    found = output.parse_properties(zoo.out(*words[:2], zoo.named("run2").uuid, *words[3:]))
    net = "/VirtualBox/GuestInfo/Net/"
    assert {name.removeprefix(net): value for name, (value, _) in found.items() if name.startswith(net)} == {
        "0/MAC": "080027112233",
        "0/Status": "Up",
        "0/V4/IP": "10.0.2.4",
        "1/MAC": "0800271122AA",
        "1/Name": "it's, value: x, timestamp: 1, flags: ",
        "1/V4/IP": "10.9.8.7\n",
        "7/V4/IP": "리눅스🦀",
        "Count": "2",
    }


def test_recorded_interfaces() -> None:
    found = output.parse_host_interfaces(zoo.out("list", "hostonlyifs"))
    assert sorted(found, key=str) == facts(HostInterface)
    assert len(found) == 3


# -- tables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        (f'"a" {{{U1}}}\n', {U1: "a"}),
        (f'"a" {{{U1}}}', {U1: "a"}),
        (f'"" {{{U1}}}\n"" {{{U2}}}\n', {U1: "", U2: ""}),
        (f'"a\n\n"b" {{{U1}}}\n"c" {{{U2}}}\n', {U1: 'a\n\n"b', U2: "c"}),
        (f'"x" {{{U2}}}" {{{U1}}}\n', {U1: f'x" {{{U2}}}'}),
        (f'WARNING: no vboxdrv\n"a" {{{U1}}}\n', {U1: "a"}),
        (f'"a" {{{U1}', {}),
        (f'"a" {{{U1[:-1]}}}\n', {}),
        ("a" * 100_000, {}),
    ],
)
def test_vms(text, expected) -> None:
    assert output.parse_vms(text) == expected


def shown(lines: str, *, name: str = "n", state: str = "poweroff") -> str:
    return f'name="{name}"\nencryption="disabled"\ngroups="/"\nUUID="{U1}"\nVMState="{state}"\n{lines}\n'


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("", ""),
        (r"a\"b", 'a"b'),
        (r"a\\", "a\\"),
        (r"\\\"", '\\"'),
        (r"a\\n", "a\\n"),
        ('a\n\\"\nUUID=\\"', 'a\n"\nUUID="'),
    ],
)
def test_machine_name(written, name) -> None:
    assert output.parse_machine(shown("", name=written)).name == name


@pytest.mark.parametrize(
    ("word", "state"),
    [("aborted-saved", "AbortedSaved"), ("gurumeditation", "Stuck"), ("unknown", ""), ("неизвестно", "")],
)
def test_machine_state(word, state) -> None:
    assert output.parse_machine(shown("", state=word)).state == state


def adapter(number: int, kind: str, detail: str = "", cable: str = "on") -> str:
    return (
        f'{detail}macaddress{number}="0800270000{number:02X}"\ncableconnected{number}="{cable}"\nnic{number}="{kind}"\n'
        f'nictype{number}="82540EM"\nnicspeed{number}="0"\n'
    )


@pytest.mark.parametrize(
    ("kind", "detail", "network"),
    [
        ("nat", 'natnet3="nat"\n', Network("nat")),
        ("nat", 'natnet3="10.9.0.0/16"\n', Network("nat")),
        ("natnetwork", 'nat-network3="Nat"\n', Network("natnetwork", "Nat")),
        ("bridged", 'bridgeadapter3="Realtek "x" #2"\n', Network("bridged", 'Realtek "x" #2')),
        ("bridged", 'bridgeadapter3=""\n', Network("bridged")),
        ("hostonly", 'hostonlyadapter3="Host-Only Adapter"\n', Network("hostonly", "Host-Only Adapter")),
        ("hostonlynetwork", 'hostonly-network3="HostNetwork"\n', Network("hostonly", "HostNetwork")),
        ("intnet", 'intnet3="a"\nnic4="bridged"\n', Network("intnet", 'a"\nnic4="bridged')),
        ("Generic", 'generic3="UDPTunnel"\n', Network("generic", "UDPTunnel")),
        ("cloudnetwork", 'cloud-network3="c"\n', Network("cloud")),
        ("null", "", Network("null")),
        ("unknown", "", Network("null")),
    ],
)
def test_machine_network(kind, detail, network) -> None:
    text = shown(f'nic1="none"\nnic2="none"\n{adapter(3, kind, detail)}nic4="none"')
    (found,) = output.parse_machine(text).adapters
    assert (found.slot, found.mac, found.network, found.cable) == (2, "080027000003", network, True)


def test_machine_forwards_belong_to_the_adapter_above_them() -> None:
    text = shown(
        adapter(1, "nat", 'natnet1="nat"\n')
        + 'mtu="0"\nForwarding(0)="ssh,tcp,127.0.0.1,2222,,22"\nForwarding(1)="odd,unk,,1,,1"\nForwarding(2)="tcp,,1"\n'
        + adapter(2, "intnet", 'intnet2="i"\n', cable="off")
        + adapter(3, "nat", 'natnet3="nat"\n')
        + 'Forwarding(0)="a "b",udp,,53,10.0.2.15,53"\n'
        + 'nic4="none"'
    )
    first, second, third = output.parse_machine(text).adapters
    assert first.forwards == (PortForward("ssh", "tcp", "127.0.0.1", 2222, "", 22),)
    assert (second.forwards, second.cable) == ((), False)
    assert third.forwards == (PortForward('a "b"', "udp", "", 53, "10.0.2.15", 53),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Name:                        <inaccessible!>\n",
        'name="a"\n',
        f'name="a"\nUUID="{U1}"\n',
        'name="',
        shown("").replace("VMState", "VMstate"),
        "\n" + shown(""),
    ],
)
def test_no_machine(text) -> None:
    with pytest.raises(ValueError):
        output.parse_machine(text)


SAVED = "State:      saved (since 2026-11-22T22:13:02)\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        (f"UUID:     {U1}\n{SAVED}", ("Saved", 1795385582.0)),
        (f"UUID:     {U1}\n{SAVED.replace('saved', 'teleporting (incoming)')}", ("TeleportingIn", 1795385582.0)),
        (f"UUID:     {U1}\nState:      running (since today)\n", ("Running", 0.0)),
        (f"UUID:     {U1}\n{SAVED.replace('saved', 'работает')}", None),
        (f"UUID:     {U1}\n\nUUID:    {U2}\n{SAVED}", None),
        (f"Hardware UUID:     {U1}\n{SAVED}", None),
    ],
)
def test_states(text, expected) -> None:
    assert output.parse_states(text).get(U1) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No properties found.\n", {}),
        ("", {}),
        ("Name: /a, value: 1, timestamp: 1500000000, flags: \n", {"/a": ("1", 1.5)}),
        ("Name: /a, value: , timestamp: 0, flags: TRANSIENT, RDONLYGUEST\n", {"/a": ("", 0.0)}),
        (
            "Name: /a, value: 1\n2, timestamp: 5, flags: \nx, timestamp: 1000000000, flags: \n"
            "Name: /b, value: 2, timestamp: 0, flags: \n",
            {"/a": ("1\n2, timestamp: 5, flags: \nx", 1.0), "/b": ("2", 0.0)},
        ),
        ("Имя: /a, значение: 1, метка времени: 1500000000, флаги: \n", {"/a": ("1", 1.5)}),
        ("Name: /a, value: 1, timestamp: 1500000000, flags: ", {}),
        ("/a = '1' @ 2026-11-22T19:41:36.182Z\n", {}),
    ],
)
def test_properties(text, expected) -> None:
    assert output.parse_properties(text) == expected


def test_properties_of_64_kilobytes() -> None:
    long = ", x: " * 13_000
    text = f"Name: /a, value: {long}, timestamp: 1, flags: \nName: /b, value: 2, timestamp: 0, flags: \n"
    assert output.parse_properties(text) == {"/a": (long, 1e-9), "/b": ("2", 0.0)}


@pytest.mark.parametrize(
    ("address", "mask", "expected"),
    [
        ("192.168.56.1", "255.255.255.0", ["192.168.56.1/24"]),
        ("10.0.0.1", "255.0.0.0", ["10.0.0.1/8"]),
        ("", "", []),
        ("0.0.0.0", "0.0.0.0", []),
        ("192.168.56.1", "255.0.255.0", []),
        ("999.168.56.1", "255.255.255.0", []),
    ],
)
def test_host_interfaces(address, mask, expected) -> None:
    text = (
        "Name:            v\nGUID:            g\nDHCP:            Disabled\n"
        f"IPAddress:       {address}\nNetworkMask:     {mask}\nIPV6Address:     \n"
    )
    assert [one.prefix for one in output.parse_host_interfaces(text)] == expected


@given(some.text(), some.integers(0, 3000), some.sampled_from(sorted(zoo.CALLS)))
def test_nothing_breaks_a_parser(text, at, words) -> None:
    recorded = zoo.CALLS[words]["out"]
    damaged = recorded[:at] + text + recorded[at + 1 :]
    for parse in (
        output.parse_vms,
        output.parse_states, output.parse_properties,
        output.parse_host_interfaces,
    ):  # fmt: skip
        parse(damaged)
    with contextlib.suppress(ValueError):
        output.parse_machine(damaged)
