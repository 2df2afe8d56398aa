"""Addresses that the user set in `vmdns/address`, and the guest addresses of port-forward rules as a last hint."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.facts import BRIDGED, HOSTONLY, INTNET, LAB, NAT, NETWORKS, NOW, lease, mac, report, uuid, vm
from vmdns.state.addresses import BY_USER, FORWARD
from vmdns.state.build import build
from vmdns.state.facts import DhcpServer, Fact, HostAddress, Machine, NatNetwork, Neighbour, PortForward
from vmdns.state.guests import Guest
from vmdns.state.policy import Policy

LINK = HostAddress("vboxnet0", "192.168.56.1/24")


def guest(machine: Machine, *facts: Fact) -> Guest:
    return build((*NETWORKS, LINK, *facts, machine), Policy(), NOW, 1).by_uuid[machine.uuid]


def brief(one: Guest) -> list[tuple[str, str, str]]:
    return [(each.address, each.network.kind, each.source) for each in one.addresses]


def test_it_outranks_everything_else() -> None:
    machine = vm(1, "web", HOSTONLY, set_addresses=("192.168.56.10",), reports=(report(1, "192.168.56.11", NOW),))
    found = guest(machine, lease(1, "192.168.56.12", HOSTONLY), Neighbour("vboxnet0", mac(1), "192.168.56.13", NOW))
    assert brief(found) == [("192.168.56.10", "hostonly", BY_USER)]
    assert found.addresses[0].why == "set by vmdns/address"
    assert found.refused == ()


def test_it_makes_wrong_reports_not_matter() -> None:
    machine = vm(1, "web", HOSTONLY, set_addresses=("192.168.56.10",), reports=(report(1, "8.8.8.8", NOW),))
    assert guest(machine).refused == ()


def test_each_address_goes_to_the_adapter_with_its_prefix() -> None:
    texts = ("192.168.1.9", "10.0.2.9", "192.168.56.10", "172.31.0.9")
    machine = vm(1, "web", NAT, INTNET, LAB, HOSTONLY, BRIDGED, set_addresses=texts)
    assert brief(guest(machine)) == [
        ("172.31.0.9", "intnet", BY_USER),
        ("10.0.2.9", "natnetwork", BY_USER),
        ("192.168.56.10", "hostonly", BY_USER),
        ("192.168.1.9", "bridged", BY_USER),
    ]


def test_other_adapters_keep_what_is_known() -> None:
    machine = vm(1, "web", LAB, HOSTONLY, set_addresses=("192.168.56.10",))
    assert [one.address for one in guest(machine, lease(1, "10.0.2.4")).addresses] == ["10.0.2.4", "192.168.56.10"]


def test_one_family_leaves_the_other_alone() -> None:
    seen = Neighbour("vboxnet0", mac(1), "2001:db8::9", NOW)
    four = vm(1, "web", HOSTONLY, set_addresses=("192.168.56.10",))
    assert [one.address for one in guest(four, seen).addresses] == ["192.168.56.10", "2001:db8::9"]
    six = vm(1, "web", HOSTONLY, set_addresses=("2001:db8::10",))
    found = guest(six, seen, lease(1, "192.168.56.12", HOSTONLY))
    assert [one.address for one in found.addresses] == ["2001:db8::10", "192.168.56.12"]


def test_several_on_one_adapter_and_a_public_one_that_the_user_vouches_for() -> None:
    machine = vm(1, "web", INTNET, set_addresses=("172.31.0.9", "8.8.4.4", "172.31.0.9"))
    assert [one.address for one in guest(machine).addresses] == ["172.31.0.9", "8.8.4.4"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("web", "vmdns/address is set to 'web', which is no IP address; write addresses like 192.168.56.10, separated "
         "by commas"),
        ("192.168.56.10/24", "vmdns/address is set to '192.168.56.10/24', which is no IP address; write 192.168.56.10, "
         "without a prefix length"),
        ("10.9.9.9", "vmdns/address is set to 10.9.9.9, which is not on vboxnet0; it should be a free address of "
         "192.168.56.0/24"),
        ("192.168.56.1", "vmdns/address is set to 192.168.56.1, which is the address of the network's own server; it "
         "should be a free address of 192.168.56.0/24"),
        ("127.0.0.1", "vmdns/address is set to 127.0.0.1, which is no address of a machine; it should be a free "
         "address of 192.168.56.0/24"),
        ("fe80::1", "vmdns/address is set to fe80::1, which is no address of a machine; it should be a free address of "
         "192.168.56.0/24"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_and_leaves_the_rest_in_force(text: str, problem: str) -> None:
    found = guest(vm(1, "web", HOSTONLY, set_addresses=(text,)), lease(1, "192.168.56.12", HOSTONLY))
    assert [str(one) for one in found.refused] == [problem]
    assert [one.address for one in found.addresses] == ["192.168.56.12"]


def test_only_while_the_vm_is_online() -> None:
    assert guest(vm(1, "web", HOSTONLY, state="PoweredOff", set_addresses=("192.168.56.10",))).addresses == ()


def test_an_unplugged_adapter_has_none() -> None:
    machine = vm(1, "web", HOSTONLY, set_addresses=("192.168.56.10",))
    unplugged = replace(machine, adapters=(replace(machine.adapters[0], cable=False),))
    found = guest(unplugged)
    assert (found.addresses, len(found.refused)) == ((), 1)


# -- port-forward rules ------------------------------------------------------------------------------------------


def network(*rules: tuple[str, str], name: str = "lab") -> NatNetwork:
    made = [PortForward(rule, "tcp", "", 2200 + at, address, 22) for at, (rule, address) in enumerate(rules)]
    return NatNetwork(name, "10.0.2.0/24", forwards=tuple(made))


def hinted(*facts: Fact, name: str = "Web") -> list[tuple[str, str]]:
    others = [one for one in NETWORKS if not isinstance(one, NatNetwork)]
    found = build((*others, *facts, vm(1, name)), Policy(), NOW, 1).by_uuid[uuid(1)]
    return [(one.address, one.source) for one in found.addresses]


def test_a_rule_with_the_vms_name_gives_its_address() -> None:
    assert hinted(network(("web", "10.0.2.50"))) == [("10.0.2.50", FORWARD)]
    assert hinted(network(("My Web", "10.0.2.50")), name="my web") == [("10.0.2.50", FORWARD)]


@pytest.mark.parametrize(
    "facts",
    [
        (network(("Rule 1", "10.0.2.50")),),  # although it is the only VM on the network
        (network(("web-ssh", "10.0.2.50")),),
        (network(("web", "")),),
        (network(("web", "10.0.2.1")),),  # the gateway
        (network(("web", "10.0.9.50")),),
        (network(("web", "fd00::50")),),
        (network(("web", "10.0.2.50"), ("WEB", "10.0.2.51")),),
        (network(("web", "10.0.2.50")), lease(2, "10.0.2.50")),  # of a VM that may be off
        (network(("web", "10.0.2.50")), lease(2, "10.0.2.50", seconds=1)),  # and has run out
        (network(("web", "10.0.2.50")), DhcpServer("lab", "10.0.2.3", "255.255.255.0", fixed=((mac(2), "10.0.2.50"),))),
        (network(("web", "10.0.2.50"), name="other"),),
    ],
)
def test_no_rule_gives_an_address_that_may_be_wrong(facts: tuple[Fact, ...]) -> None:
    assert hinted(*facts) == []


def test_a_rule_counts_only_where_nothing_else_is_known() -> None:
    assert hinted(network(("web", "10.0.2.50")), lease(1, "10.0.2.4")) == [("10.0.2.4", "lease")]
    assert hinted(network(("web", "10.0.2.50"))) == [("10.0.2.50", FORWARD)]
    assert hinted(network(("web", "10.0.2.50")), lease(9, "10.0.2.50")) == []
    assert hinted(network(("web", "10.0.2.50")), lease(9, "10.0.2.51")) == [("10.0.2.50", FORWARD)]
