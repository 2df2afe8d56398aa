"""`vmdns wire` as a whole, on a VirtualBox of files: plan, apply, undo, whatever happens between."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.fakebox import FakeBox
from tests.unit.host.test_wire_plan import HEAD, OPTION6, network, server
from vmdns import cli
from vmdns.commands import CommandError
from vmdns.commands import wire as wiring
from vmdns.commands.wire import Wire
from vmdns.host import elevation as elevate
from vmdns.host import system_settings
from vmdns.host.elevation import ElevationDenied

ZONES = ("local", "vm.internal")
STRANGE = "a &quot;b&apos;/c"  # in XML; the name is a "b'/c
HOST_ONLY = "HostInterfaceNetworking-vboxnet0"
INTERFACE = (
    "Name:            vboxnet0\nGUID:            786f6276-656e-4074-8000-0a0027000000\nDHCP:            Disabled\n"
    "IPAddress:       192.168.56.1\nNetworkMask:     255.255.255.0\nIPV6Address:     \n"
    "IPV6NetworkMaskPrefixLength: 0\nHardwareAddress: 0a:00:27:00:00:00\nMediumType:      Ethernet\n"
    f"Wireless:        No\nStatus:          Up\nVBoxNetworkName: {HOST_ONLY}\n\n"
)
LAN = INTERFACE.replace("vboxnet0", "lan0").replace("192.168.56.1", "192.0.2.20")
MACHINE = (
    'name="{name}"\ngroups="/"\nUUID="{uuid}"\nVMState="running"\nnat-network1="{network}"\n'
    'macaddress1="080027AABB01"\ncableconnected1="on"\nnic1="natnetwork"\n'
)
UUID = "029ad526-939d-42e9-ada5-be7632a400d7"
TEXT = HEAD.format(
    system="linux",
    servers=server("lab", inside=OPTION6.format("10.0.2.2"))
    + server(HOST_ONLY, "192.168.56", at=100, lower=101)
    + server("HostInterfaceNetworking-gone", "192.168.57", at=100, lower=101),
    networks=network("lab") + network(STRANGE, "10.0.3") + network("off", "10.0.4", enabled=0),
)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBox:
    made = FakeBox(tmp_path, TEXT, monkeypatch)
    for name, value in made.environ.items():
        monkeypatch.setenv(name, value)
    made.says("list hostonlyifs", INTERFACE)
    made.says("list bridgedifs", LAN)
    monkeypatch.setattr(wiring, "_resolvers", lambda: ("127.0.0.1",))
    monkeypatch.setattr(wiring, "_outward", lambda: "")
    return made


class Host:
    """The addresses that this computer is said to have; `denied` makes each command that needs rights fail."""

    def __init__(self) -> None:
        self.addresses: set[str] = set()
        self.denied: OSError | None = None

    def run(self, command: list[str], *, elevated: bool = False, text: str = "") -> str:
        assert elevated
        if self.denied is not None:
            raise self.denied
        address = next(word for word in command if word.startswith("198.18.53."))
        verb = command[2]
        address = address.removesuffix("/32")
        (self.addresses.add if verb == "add" else self.addresses.remove)(address)
        return ""


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """Always there, so that no test gives addresses to this computer."""
    made = Host()
    monkeypatch.setattr(elevate, "run", made.run)
    monkeypatch.setattr(
        system_settings, "address_command", lambda address, present: ["ip", "a", "add" if present else "del", address]
    )
    monkeypatch.setattr(system_settings, "is_assigned", made.addresses.__contains__)
    monkeypatch.setattr(wiring, "is_assigned", made.addresses.__contains__)
    return made


def wire(*, may: bool = True) -> Wire:
    return Wire(None, ZONES, may=may)


def run_wire(do: str, network: str = "", *, may: bool = True) -> tuple[dict[str, Any], list[str]]:
    lines: list[str] = []
    return wiring.command(wire(may=may), do, network, lines.append), lines


def normal(box: FakeBox) -> bytes:
    """VirtualBox.xml as the played VBoxManage writes it, before anything was changed."""
    add = ["dhcpserver", "add", "--network=x", "--server-ip=10.9.0.2", "--netmask=255.255.255.0"]
    wire().box.call(*add, "--lower-ip=10.9.0.3", "--upper-ip=10.9.0.9", "--enable")
    wire().box.call("dhcpserver", "remove", "--network=x")
    return box.file.read_bytes()


def test_plan_apply_again_and_undo(box: FakeBox, host: Host) -> None:
    before = normal(box)
    planned, lines = run_wire("plan")
    assert lines == []
    assert box.file.read_bytes() == before
    assert [(one["title"], one["wanted"], len(one["steps"])) for one in planned["networks"]] == [
        ("NAT Network lab", "198.18.53.1", 3),
        ("NAT Network a \"b'/c", "198.18.53.2", 3),
        ("NAT Network off", "", 0),
        ("host-only vboxnet0", "192.168.56.1", 1),
    ]
    done, lines = run_wire("apply")
    steps = [step for one in planned["networks"] for step in one["steps"]]
    # Addresses come first: without them, networks are planned anew.
    assert lines == [one["what"] for one in sorted(steps, key=lambda step: step["kind"] != "loopback-address")]
    assert done["changed"] == ["lab", "a \"b'/c", HOST_ONLY]
    assert host.addresses == {"198.18.53.1", "198.18.53.2"}

    found = wire().box.read_networks().servers
    wanted = {"15": "local", "119": "local vm.internal"}
    assert found["lab"].groups == {"vmdns": {"6": "198.18.53.1", **wanted}}
    assert (found["lab"].addresses["lower-ip"], found["lab"].name_servers) == ("10.0.2.4", ("198.18.53.1",))
    assert found["a \"b'/c"].groups == {"vmdns": {"6": "198.18.53.2", **wanted}}
    other = found["a \"b'/c"].addresses
    assert (other["server-ip"], other["lower-ip"]) == ("10.0.3.2", "10.0.3.4")
    assert found[HOST_ONLY].groups == {"vmdns": {"6": "192.168.56.1", **wanted}}

    applied = box.file.read_bytes()
    for do in ("plan", "apply"):
        again, lines = run_wire(do)
        assert (again["changed"], lines) == ([], [])
    assert box.file.read_bytes() == applied

    undone, lines = run_wire("undo")
    assert (undone["left"], len(lines)) == ([], 7)
    assert box.file.read_bytes() == before
    assert host.addresses == set()
    again, lines = run_wire("undo")
    assert (again["changed"], again["left"], lines) == ([], [], [])


def test_a_dhcp_server_is_restarted_only_if_it_runs(box: FakeBox, host: Host) -> None:
    run_wire("apply", "lab")
    assert len(box.asked("restart")) == 2
    box.runs(True)
    run_wire("undo", "lab")
    assert box.asked("restart") == ["--network=lab"] * 4  # it answers now, before it failed and that was no failure


STARTED = (
    '<?xml version="1.0"?>\n<DHCPServer networkName="lab" IPAddress="10.0.2.2">\n  <Options/>\n'
    '  <Group name="vmdns"><ConditionMACWildcard inclusive="true" value="*"/>\n{options}  </Group>\n</DHCPServer>\n'
)


def test_a_dhcp_server_that_runs_with_old_settings_is_restarted(box: FakeBox, host: Host) -> None:
    run_wire("apply", "lab")
    options = {"6": "198.18.53.1", "15": "local", "119": "local vm.internal"}
    for found, restarts in ((options, 0), ({**options, "6": "192.0.2.1"}, 1)):
        lines = "".join(f'<Option name="{number}" encoding="0" value="{text}"/>' for number, text in found.items())
        (box.home / "lab-Dhcpd.config").write_text(STARTED.format(options=lines))
        for runs in (False, True):
            box.runs(runs)
            before = len(box.asked("restart"))
            said = run_wire("apply", "lab")[1]
            assert len(box.asked("restart")) == before + restarts
            assert len(said) == (restarts if runs else 0)


def test_one_network_alone(box: FakeBox, host: Host) -> None:
    before = normal(box)
    run_wire("apply", "vboxnet0")
    run_wire("apply", "a \"b'/c")
    assert host.addresses == {"198.18.53.2"}  # the first is lab's
    run_wire("apply", "lab")
    assert host.addresses == {"198.18.53.1", "198.18.53.2"}
    found = wire().box.read_networks().servers
    assert [sorted(found[name].groups) for name in ("lab", "a \"b'/c", HOST_ONLY)] == [["vmdns"]] * 3

    undone, _ = run_wire("undo", "a \"b'/c")
    assert undone["changed"] == ["a \"b'/c"]
    assert host.addresses == {"198.18.53.1"}
    assert sorted(wire().box.read_networks().servers["lab"].groups) == ["vmdns"]
    run_wire("undo", HOST_ONLY)
    run_wire("undo", "lab")
    assert box.file.read_bytes() == before
    with pytest.raises(CommandError, match="no network lab"):
        run_wire("undo", "lab")
    with pytest.raises(CommandError, match="there is lab, a"):
        run_wire("plan", "la")


def test_what_someone_else_changed_since_is_left(box: FakeBox, host: Host) -> None:
    run_wire("apply", "lab")
    vboxmanage = wire().box.call
    vboxmanage("dhcpserver", "modify", "--network=lab", "--group=vmdns", "--set-opt=44", "192.0.2.9")
    undone, lines = run_wire("undo")
    assert len(undone["left"]) == 1
    assert "the DHCP group vmdns" in undone["left"][0]
    assert "changed by someone else" in undone["left"][0]
    found = wire().box.read_networks().servers["lab"]
    assert found.groups["vmdns"]["44"] == "192.0.2.9"
    assert found.addresses["lower-ip"] == "10.0.2.3"
    assert len(lines) == 2
    assert host.addresses == set()


def test_a_server_that_virtualbox_started_with_is_left(box: FakeBox, host: Host) -> None:
    run_wire("apply", "a \"b'/c")
    # NATNetwork::start writes options of the whole server.
    there = 'upperIP="10.0.3.254" enabled="1">'
    options = '<Options><Option name="3" value="10.0.3.1"/></Options>'
    assert there in box.file.read_text()
    box.file.write_text(box.file.read_text().replace(there, there + options))
    undone, _ = run_wire("undo")
    assert len(undone["left"]) == 1
    assert "the DHCP server" in undone["left"][0]
    assert wire().box.read_networks().servers["a \"b'/c"].groups == {}


@pytest.mark.parametrize(
    "error", [ElevationDenied("this needs root; run: sudo ip ..."), OSError("sudo ip ... failed: no")]
)
def test_without_the_right_networks_share_an_address(box: FakeBox, host: Host, error: OSError) -> None:
    before = normal(box)
    host.denied = error
    done, lines = run_wire("apply")
    assert str(error) in lines[1]
    assert {one["wanted"] for one in done["networks"]} == {"192.0.2.20", "192.168.56.1", ""}
    assert wire().box.read_networks().servers["a \"b'/c"].name_servers == ("192.0.2.20",)
    assert any("shares 192.0.2.20 with other networks" in note for note in done["notes"])
    assert run_wire("apply", may=False)[1] == []
    run_wire("undo")
    assert box.file.read_bytes() == before


def test_addresses_that_a_restart_took_come_back(box: FakeBox, host: Host) -> None:
    before = normal(box)
    run_wire("apply")
    host.addresses.clear()
    done, lines = run_wire("apply")
    assert lines == [
        "give this computer the address 198.18.53.1 on its loopback interface",
        "give this computer the address 198.18.53.2 on its loopback interface",
    ]
    assert [one["wanted"] for one in done["networks"]] == ["198.18.53.1", "198.18.53.2", "", "192.168.56.1"]
    run_wire("undo")
    assert host.addresses == set()
    assert box.file.read_bytes() == before


def test_a_network_that_is_gone_is_no_trouble(box: FakeBox, host: Host) -> None:
    run_wire("apply", "lab")
    wire().box.call("dhcpserver", "remove", "--network=lab")
    undone, _ = run_wire("undo")
    assert [one for one in undone["left"] if "group" in one] == []
    assert host.addresses == set()


def test_undo_without_the_right_gives_guests_back_what_they_had(box: FakeBox, host: Host) -> None:
    before = normal(box)
    run_wire("apply")
    host.denied = ElevationDenied("this needs root; run: sudo ip ...")
    with pytest.raises(ElevationDenied):
        run_wire("undo")
    assert box.file.read_bytes() == before
    assert host.addresses == {"198.18.53.1", "198.18.53.2"}
    host.denied = None
    run_wire("undo")
    assert host.addresses == set()


def test_guests_that_run_are_named(box: FakeBox, host: Host) -> None:
    box.says("list runningvms", f'"web" {{{UUID}}}\n')
    box.says(f"showvminfo {UUID}", MACHINE.format(name="web", uuid=UUID, network="lab"))
    assert run_wire("plan", "vboxnet0")[0]["guests"] == []
    done, _ = run_wire("apply")
    assert done["guests"] == ["web"]
    assert any(note.startswith("these guests run: web;") for note in done["notes"])
    assert run_wire("apply")[0]["guests"] == []


def test_an_address_where_vmdns_does_not_answer_is_not_given_to_guests(box: FakeBox, host: Host) -> None:
    queried = []

    def answers(address: str) -> bool:
        queried.append(address)
        return address == "198.18.53.1"

    one = Wire(None, ZONES, may=True, answers=answers)
    done = wiring.command(one, "apply", "", lambda line: None)
    assert queried == ["198.18.53.1", "198.18.53.2", "192.168.56.1"]
    assert host.addresses == {"198.18.53.1", "198.18.53.2"}, "they are there before they are queried"
    assert done["changed"] == ["lab"]
    text = box.file.read_text("utf-8")
    assert "198.18.53.1" in text
    assert "198.18.53.2" not in text
    assert f"host-only vboxnet0: {wiring.NO_ANSWER.format('192.168.56.1')}" in done["notes"]
    # Once it answers there, the others follow.
    assert len(run_wire("apply")[0]["changed"]) == 2


def test_a_host_only_network_of_macos_is_listed_and_left(box: FakeBox, host: Host) -> None:
    one = '<HostOnlyNetwork name="Legacy vboxnet0 Network" mask="255.255.255.0" ipLower="192.168.77.1" enabled="true"/>'
    text = box.file.read_text("utf-8")
    box.file.write_text(
        text.replace("</NATNetworks>", f"</NATNetworks><HostOnlyNetworks>{one}</HostOnlyNetworks>"), "utf-8"
    )
    [row] = wire().plan("Legacy vboxnet0 Network")
    assert (row.title, row.steps) == ("host-only Legacy vboxnet0 Network", [])
    assert row.notes == [
        "macOS gives its guests their settings, which cannot be changed: enter 192.168.77.1 in the guest"
    ]


@pytest.mark.parametrize(("may", "after"), [(True, 0), (True, 2), (True, 3), (True, 7), (False, 0), (False, 3)])
def test_stopped_between_two_steps_and_undone(box: FakeBox, host: Host, may: bool, after: int) -> None:
    """A step is logged when the journal is written and the setting is not."""
    before = normal(box)
    steps = iter(range(after))
    one = wire(may=may)
    with suppress(StopIteration):
        one.apply(lambda line: print(next(steps)))
    changed = box.file.read_bytes() != before
    assert changed == (after > (2 if may else 0))  # the first two steps give addresses
    assert wire(may=False).undo(print)[1] == []
    assert (box.file.read_bytes(), host.addresses) == (before, set())
    assert json.loads(box.journal.read_text()) == {"entries": []}


def test_the_command(box: FakeBox, host: Host, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(elevate, "can_elevate", lambda: True)
    assert cli.main(["wire"]) == 0
    shown = capsys.readouterr().out
    assert "NAT Network lab      10.0.2.2          198.18.53.1\n" in shown
    assert f"{box.vboxmanage} dhcpserver restart --network=lab\n" in shown
    assert "10.0.2.2, given to guests now, is its DHCP server" in shown
    assert wiring.ALONE in shown
    assert shown.endswith("Do it with: vmdns wire --apply\n")
    assert cli.main(["wire", "--apply", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["done"] is True
    assert answer["networks"][0]["steps"][0]["kind"] == "loopback-address"
    assert cli.main(["wire", "--apply"]) == 0
    assert capsys.readouterr().out == "Nothing to do.\n"
    assert cli.main(["wire", "--undo", "--network", "lab"]) == 0
    assert "take the DHCP group vmdns away from lab" in capsys.readouterr().out
    assert cli.main(["wire", "--network", "nosuch"]) == 1
    assert "there is no network nosuch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda box: box.file.unlink(), "start VirtualBox once"),
        (lambda box: box.file.write_text("<VirtualBox"), "cannot be understood"),
    ],
)
def test_one_clear_sentence_when_it_fails(
    box: FakeBox, host: Host, capsys: pytest.CaptureFixture[str], spoil: Callable[[FakeBox], Any], error: str
) -> None:
    spoil(box)
    assert cli.main(["wire"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("vmdns: ")
    assert error in said
    assert said.count("\n") == 1


def test_the_networks_of_another_home_are_left_alone(box: FakeBox, host: Host) -> None:
    """VBoxManage changes those of the VBoxSVC that runs, whatever folder is named."""
    run_wire("apply")
    (box.home / "list-vms").write_text('"other" {99999999-8888-4777-8666-555555555555}\n')
    for do in ("plan", "apply", "undo"):
        with pytest.raises(CommandError, match="quit VirtualBox and all its VMs"):
            run_wire(do)
