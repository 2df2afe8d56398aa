"""Wrong values of `vmdns/address`, and port-forward rules that say nothing about a VM's address."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.facts import HOSTONLY, NETWORKS, NOW, lease, mac, uuid, vm
from vmdns.state.build import build
from vmdns.state.facts import DhcpServer, Fact, HostAddress, Machine, NatNetwork, PortForward
from vmdns.state.guests import Guest
from vmdns.state.snapshot import Policy


def guest(machine: Machine) -> Guest:
    facts = (*NETWORKS, HostAddress("vboxnet0", "192.168.56.1/24"), lease(1, "192.168.56.12", HOSTONLY), machine)
    return build(facts, Policy(), NOW, 1).by_uuid[machine.uuid]


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
def test_a_wrong_value_is_reported_and_ignored(text: str, problem: str) -> None:
    found = guest(vm(1, "web", HOSTONLY, set_addresses=(text,)))
    assert [str(one) for one in found.refused] == [problem]
    assert [one.address for one in found.addresses] == ["192.168.56.12"]


def test_an_unplugged_adapter_has_no_address() -> None:
    machine = vm(1, "web", HOSTONLY, set_addresses=("192.168.56.10",))
    found = guest(replace(machine, adapters=(replace(machine.adapters[0], cable=False),)))
    assert (found.addresses, len(found.refused)) == ((), 1)


def network(*rules: tuple[str, str], name: str = "lab") -> NatNetwork:
    forwards = [PortForward(rule, "tcp", "", 2200 + at, address, 22) for at, (rule, address) in enumerate(rules)]
    return NatNetwork(name, "10.0.2.0/24", forwards=tuple(forwards))


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
        (network(("web", "10.0.2.50")), lease(2, "10.0.2.50", seconds=1)),  # of a VM that may be off
        (network(("web", "10.0.2.50")), DhcpServer("lab", "10.0.2.3", "255.255.255.0", fixed=((mac(2), "10.0.2.50"),))),
        (network(("web", "10.0.2.50"), name="other"),),
    ],
)
def test_no_rule_gives_an_address_that_may_be_wrong(facts: tuple[Fact, ...]) -> None:
    world = [one for one in NETWORKS if not isinstance(one, NatNetwork)]
    assert build((*world, *facts, vm(1)), Policy(), NOW, 1).by_uuid[uuid(1)].addresses == ()
