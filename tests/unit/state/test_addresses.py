"""Which addresses a VM has, and which claims of a guest are not believed (threat T1)."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest

from tests.facts import (
    BRIDGED,
    HOSTONLY,
    INTNET,
    LAB,
    NAT,
    NETWORKS,
    NOW,
    OTHER,
    lease,
    mac,
    report,
    uuid,
    vm,
)
from vmdns.state.addresses import ADDITIONS
from vmdns.state.build import build
from vmdns.state.facts import (
    Adapter,
    DhcpServer,
    Fact,
    HostAddress,
    Machine,
    NatNetwork,
    Neighbour,
    Network,
    PortForward,
)
from vmdns.state.findings import Problem
from vmdns.state.guests import Guest
from vmdns.state.networks import LEASE
from vmdns.state.snapshot import Policy


class FoundAddresses(NamedTuple):
    """Addresses with their sources, and the texts of refusals."""

    addresses: list[tuple[str, str]]
    refused: list[str]


def find_guest(machine: Machine, *facts: Fact) -> Guest:
    return build((*NETWORKS, *facts, machine), Policy(), NOW, 1).by_uuid[machine.uuid]


def found(machine: Machine, *facts: Fact) -> FoundAddresses:
    guest = find_guest(machine, *facts)
    return FoundAddresses(
        [(each.address, each.source) for each in guest.addresses], [problem.text for problem in guest.refused]
    )


def addresses(machine: Machine, *facts: Fact) -> list[str]:
    return [address for address, _ in found(machine, *facts).addresses]


# -- what VirtualBox's DHCP gave ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "dhcp_name", "address"),
    [
        (LAB, "lab", "10.0.2.9"),
        (INTNET, "wire", "10.9.9.9"),
        (HOSTONLY, "HostInterfaceNetworking-vboxnet0", "192.168.56.9"),
        (BRIDGED, "HostInterfaceNetworking-eth0", "192.168.1.9"),
        # The name comes back from the lease file's name, in which `_` stands for what a file name cannot hold.
        (Network("natnetwork", 'a/b:c*"d'), "a_b_c__d", "10.9.9.9"),
        (Network("hostonly", "VirtualBox Host-Only Ethernet Adapter"),
         "HostInterfaceNetworking-VirtualBox Host-Only Ethernet Adapter", "10.9.9.9"),
    ],
)  # fmt: skip
def test_the_lease_file_of_each_kind_of_network(network: Network, dhcp_name: str, address: str) -> None:
    assert found(vm(1, "web", network), replace(lease(1, address), network=dhcp_name)) == ([(address, LEASE)], [])


@pytest.mark.parametrize("network", [NAT, Network("generic", "UDPTunnel")])
def test_no_lease_where_virtualbox_runs_no_dhcp_server(network: Network) -> None:
    assert found(vm(1, "web", network), lease(1, "10.0.2.4", NAT)) == ([], [])


@pytest.mark.parametrize(
    ("leases", "expected"),
    [
        # The newest that is valid, wherever it is in the file: a MAC with several client ids has several.
        ([("10.0.2.5", -30, 600), ("10.0.2.4", -60, 600)], "10.0.2.5"),
        ([("10.0.2.4", -60, 6000), ("10.0.2.5", -30, 100)], "10.0.2.5"),
        ([("10.0.2.5", -30, 20), ("10.0.2.4", -60, 600)], "10.0.2.4"),
        ([("10.0.2.4", -60, 600), ("10.0.2.5", -60, 900)], "10.0.2.5"),
        # Over at its very end; one that lasts for ever is valid.
        ([("10.0.2.4", -600, 600)], None),
        ([("10.0.2.4", -600, 601)], "10.0.2.4"),
        ([("10.0.2.4", -60, 0)], None),
        ([("10.0.2.4", 0, 2**32 - 1)], "10.0.2.4"),
    ],
)
def test_of_several_leases(leases: list[tuple[str, float, float]], expected: str | None) -> None:
    facts = [lease(1, address, issued=NOW + issued, seconds=seconds) for address, issued, seconds in leases]
    assert addresses(vm(1), *facts) == ([expected] if expected else [])


def test_a_dhcp_server_that_is_off_gives_no_fixed_address_and_owns_none() -> None:
    off = DhcpServer("other", "10.0.2.9", "255.255.255.0", enabled=False, fixed=((mac(1), "10.0.2.77"),))
    assert found(vm(1, "web", OTHER), off) == ([], [])
    claiming = vm(1, "web", OTHER, reports=(report(1, "10.0.2.9"),))
    assert found(claiming, off) == ([("10.0.2.9", ADDITIONS)], [])


def test_a_fixed_address_that_is_none_is_ignored() -> None:
    server = DhcpServer("lab", "10.0.2.3", "255.255.255.0", fixed=((mac(1), "none"), (mac(2), "")))
    assert found(vm(1), server) == found(vm(2), server) == ([], [])


@pytest.mark.parametrize(
    ("state", "online"),
    [("AbortedSaved", False), ("Null", False), ("", False), ("LiveSnapshotting", True), ("Teleporting", True)],
)
def test_states_in_which_a_vm_has_addresses(state: str, online: bool) -> None:
    machine = vm(1, state=state, reports=(report(1, "10.0.2.4"),))
    assert addresses(machine, lease(1, "10.0.2.4")) == (["10.0.2.4"] if online else [])


def test_an_adapter_without_its_cable_has_no_address_and_is_reported() -> None:
    machine = Machine(uuid(1), "web", "Running", adapters=(Adapter(2, mac(1), LAB, cable=False),))
    guest = find_guest(machine, lease(1, "10.0.2.4"))
    plug_in = f"VBoxManage controlvm {uuid(1)} setlinkstate3 on"
    assert guest.refused == (Problem("the cable of its adapter 3 is not connected", command=plug_in),)
    assert guest.addresses == ()


def test_addresses_are_in_the_order_of_the_adapters() -> None:
    leases = lease(257, "10.0.2.4"), lease(1, "192.168.56.101", HOSTONLY)
    assert addresses(vm(1, "web", HOSTONLY, LAB), *leases) == ["192.168.56.101", "10.0.2.4"]


# -- what Guest Additions report --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("issued", "claims", "expected"),
    [
        # Both agree: the lease is the source, and other reports are kept.
        (-60, [("10.0.2.4", -5)], [("10.0.2.4", LEASE)]),
        (-60, [("10.0.2.4", -5), ("10.0.2.40", -5)], [("10.0.2.4", LEASE), ("10.0.2.40", ADDITIONS)]),
        # They disagree: the newer wins, the lease where both are equally new.
        (-60, [("10.0.2.9", -5)], [("10.0.2.9", ADDITIONS)]),
        (-5, [("10.0.2.9", -60)], [("10.0.2.4", LEASE)]),
        (-5, [("10.0.2.9", -5)], [("10.0.2.4", LEASE)]),
        (-5, [("10.0.2.9", -4.01)], [("10.0.2.4", LEASE)]),  # VBoxNetDHCP writes whole seconds
        (-5, [("10.0.2.9", -4)], [("10.0.2.9", ADDITIONS)]),
        (-30, [("10.0.2.8", -60), ("10.0.2.9", -5)], [("10.0.2.8", ADDITIONS), ("10.0.2.9", ADDITIONS)]),
        # One of them alone.
        (None, [("10.0.2.9", -9999)], [("10.0.2.9", ADDITIONS)]),
        (-60, [], [("10.0.2.4", LEASE)]),
        (None, [], []),
    ],
)
def test_the_newer_report_wins_then_the_better(
    issued: float | None, claims: list[tuple[str, float]], expected: list[tuple[str, str]]
) -> None:
    machine = vm(1, reports=tuple(report(1, address, NOW + since) for address, since in claims))
    leases = () if issued is None else (lease(1, "10.0.2.4", issued=NOW + issued),)
    assert found(machine, *leases).addresses == expected


# -- T1: what a guest may claim ---------------------------------------------------------------------------------

SERVER, GIVEN, AWAY, PUBLIC, NOBODY, HOST, ELSEWHERE, SEEN, NATS = (
    "which is the address of the network's own server",
    "which VirtualBox's DHCP gave to another VM (db)",
    "which is not on ",
    "which is a public address",
    "which is no address of a machine",
    "which is an address of the host",
    "which is on another network of this computer",
    "which this computer sees at another machine",
    "which is an address of VirtualBox's NAT itself",
)
LINK = HostAddress("vboxnet0", "192.168.56.1/24")
OWNER_SEEN = Neighbour("eth0", mac(2), "192.168.1.77", NOW)


@pytest.mark.parametrize(
    ("network", "address", "objection"),
    [
        (LAB, "10.0.2.9", None),
        (LAB, "10.0.2.1", SERVER),  # the gateway
        (LAB, "10.0.2.3", SERVER),  # the DHCP server
        (LAB, "10.0.2.5", GIVEN),
        (LAB, "10.0.2.0", AWAY + "lab"),
        (LAB, "10.0.2.255", AWAY + "lab"),
        (LAB, "10.0.3.9", AWAY + "lab"),
        (LAB, "8.8.8.8", AWAY + "lab"),
        (LAB, "192.168.1.5", AWAY + "lab"),
        (OTHER, "10.0.2.5", None),  # the same address on another network is another address
        (HOSTONLY, "192.168.56.9", None),
        (HOSTONLY, "192.168.56.1", SERVER),  # the host
        (HOSTONLY, "192.168.56.100", SERVER),
        (HOSTONLY, "192.168.57.9", AWAY + "vboxnet0"),
        (BRIDGED, "192.168.1.9", None),
        (BRIDGED, "203.0.113.9", None),  # a LAN may have public addresses
        (BRIDGED, "192.168.1.5", HOST),
        (BRIDGED, "192.168.56.1", HOST),
        (BRIDGED, "192.168.1.0", NOBODY),
        (BRIDGED, "192.168.1.255", NOBODY),
        (BRIDGED, "192.168.56.9", ELSEWHERE),
        (BRIDGED, "10.0.2.9", ELSEWHERE),
        (BRIDGED, "172.20.0.9", None),  # another prefix on the same wire
        (BRIDGED, "192.168.1.77", SEEN),  # another VM's, or the router's: whatever the host sees there
        (HOSTONLY, "192.168.56.77", None),  # seen on another link, which says nothing of this one
        (NAT, "10.0.2.2", NATS),
        (NAT, "10.0.2.3", NATS),
        (NAT, "10.0.5.4", NATS),
        (NAT, "10.0.2.15", None),
        (NAT, "8.8.8.8", PUBLIC),
        (INTNET, "172.31.0.9", None),
        (INTNET, "8.8.8.8", PUBLIC),
    ],
)
def test_a_claim(network: Network, address: str, objection: str | None) -> None:
    facts = (vm(2, "db"), lease(2, "10.0.2.5"), LINK, OWNER_SEEN, Neighbour("eth0", mac(2), "192.168.56.77", NOW))
    machine = vm(1, "web", network, reports=(report(1, address),))
    got = found(machine, *facts)
    if objection is None:
        assert got == ([(address, ADDITIONS)], [])
    else:
        assert all(problem.remedy for problem in find_guest(machine, *facts).refused)
        assert got == ([], [f"Guest Additions report {address}, {objection}"])


FORGED = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "169.254.7.7", "224.0.0.251", "239.255.255.250",
    "240.0.0.1", "255.255.255.255", "192.168.1.5", "192.168.56.1", "10.0.2.1", "10.0.2.3", "10.0.2.5", "8.8.8.8",
]  # fmt: skip


@pytest.mark.parametrize("address", FORGED)
@pytest.mark.parametrize("by", ["additions", "lease", "neighbour"])
@pytest.mark.parametrize("network", [LAB, HOSTONLY, BRIDGED, INTNET, NAT], ids=lambda one: one.kind)
def test_a_forged_address_is_never_answered(network: Network, by: str, address: str) -> None:
    """Neither of Guest Additions, nor of a lease file, nor of the neighbour table."""
    reports, facts = (), [vm(2, "db"), lease(2, "10.0.2.5"), LINK]
    if by == "additions":
        reports = (report(1, address),)
    elif by == "lease":
        facts.append(lease(1, address, network))
    else:
        facts.append(Neighbour("vboxnet0" if network == HOSTONLY else "eth0", mac(1), address, NOW))
    got = addresses(vm(1, "web", network, reports=reports), *facts)
    believed = {
        (BRIDGED, "8.8.8.8"),  # a LAN may have public addresses
        (INTNET, "192.168.1.5"), (INTNET, "192.168.56.1"), (NAT, "192.168.1.5"), (NAT, "192.168.56.1"),
        (INTNET, "10.0.2.1"), (INTNET, "10.0.2.3"), (INTNET, "10.0.2.5"), (NAT, "10.0.2.1"), (NAT, "10.0.2.5"),
    }  # fmt: skip
    seen_by = by == "additions" or (by == "lease" and network != NAT) or (by == "neighbour" and network == BRIDGED)
    if by == "lease" and (network, address) == (LAB, "10.0.2.5"):
        assert got == [address], "its own DHCP server gave it to both: a copy with the same MAC"
    else:
        assert got == ([address] if (network, address) in believed and seen_by else [])


@pytest.mark.parametrize(
    ("address", "host", "objection"),
    [
        # A second cable to the same switch: the host's own LAN may well be on it. Host-only networks are not.
        ("192.168.1.9", LINK, None),
        ("192.168.56.9", LINK, ELSEWHERE),
        ("192.168.1.9", HostAddress("eth1", "172.16.0.1/16"), ELSEWHERE),
    ],
)
def test_a_claim_where_the_host_has_no_address(address: str, host: HostAddress, objection: str | None) -> None:
    got = found(vm(1, "web", Network("bridged", "eth1"), reports=(report(1, address),)), host)
    assert got.refused == ([f"Guest Additions report {address}, {objection}"] if objection else [])


@pytest.mark.parametrize("seen", [(), (replace(OWNER_SEEN, mac=mac(1)),), (replace(OWNER_SEEN, interface="eth9"),)])
def test_a_claim_that_the_neighbour_table_does_not_contradict(seen: tuple[Neighbour, ...]) -> None:
    assert addresses(vm(1, "web", BRIDGED, reports=(report(1, "192.168.1.77"),)), *seen) == ["192.168.1.77"]


def test_a_guest_with_two_adapters_on_one_link_may_answer_by_either() -> None:
    machine = vm(1, "web", BRIDGED, BRIDGED, reports=(report(1, "192.168.1.8"), report(257, "192.168.1.9")))
    flux = (Neighbour("eth0", mac(257), "192.168.1.8", NOW - 60), Neighbour("eth0", mac(1), "192.168.1.9", NOW - 60))
    assert set(addresses(machine, *flux)) == {"192.168.1.8", "192.168.1.9"}


def test_the_owner_of_an_address_may_report_it_and_one_that_is_off_owns_none() -> None:
    claim = vm(1, reports=(report(1, "10.0.2.5"),))
    assert found(claim, lease(1, "10.0.2.5")) == ([("10.0.2.5", LEASE)], [])
    assert found(claim, lease(2, "10.0.2.5"), vm(2, "db", state="PoweredOff")) == ([("10.0.2.5", ADDITIONS)], [])


@pytest.mark.parametrize(
    "address",
    ["::", "fe80::1", "::ffff:10.0.2.9", "", "999.1.1.1", "10.0.2", "10.0.2.9\n", " 10.0.2.9", "1" * 65_536, "web"],
)
def test_a_claim_that_is_no_ipv4_address(address: str) -> None:
    got = found(vm(1, reports=(report(1, address),)), lease(1, "10.0.2.4"))
    assert got == ([("10.0.2.4", LEASE)], ["Guest Additions report what is no IPv4 address"])


# -- networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "nonsense", "10.0.2.0/99", "fd00::/64", "255.255.255.255/32", "0.0.0.0/0"])
def test_a_nat_network_with_an_odd_prefix_harms_nothing(prefix: str) -> None:
    network = Network("natnetwork", "odd")
    machine = vm(1, "web", network, reports=(report(1, "10.0.2.9"),))
    assert found(machine, NatNetwork("odd", prefix)) == ([("10.0.2.9", ADDITIONS)], [])


def test_many_vms_at_one_address_are_one_problem() -> None:
    claims = [vm(number, f"vm{number}", HOSTONLY, reports=(report(number, "192.168.56.9"),)) for number in range(1, 9)]
    (problem,) = build((*NETWORKS, *claims), Policy(), NOW, 1).problems
    assert problem.startswith("VM 'vm1', VM 'vm2', VM 'vm3' and 5 more: all of them are at 192.168.56.9 on vboxnet0")


# -- what the user sets, and port-forward rules --------------------------------------------------------------------


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
    found = find_guest(vm(1, "web", HOSTONLY, set_addresses=(text,)), LINK, lease(1, "192.168.56.12", HOSTONLY))
    assert [str(one) for one in found.refused] == [problem]
    assert [one.address for one in found.addresses] == ["192.168.56.12"]


def forwarding(*rules: tuple[str, str], name: str = "lab") -> NatNetwork:
    forwards = [PortForward(rule, "tcp", "", 2200 + at, address, 22) for at, (rule, address) in enumerate(rules)]
    return NatNetwork(name, "10.0.2.0/24", forwards=tuple(forwards))


@pytest.mark.parametrize(
    "facts",
    [
        (forwarding(("Rule 1", "10.0.2.50")),),  # although it is the only VM on the network
        (forwarding(("web-ssh", "10.0.2.50")),),
        (forwarding(("web", "")),),
        (forwarding(("web", "10.0.2.1")),),  # the gateway
        (forwarding(("web", "10.0.9.50")),),
        (forwarding(("web", "fd00::50")),),
        (forwarding(("web", "10.0.2.50"), ("WEB", "10.0.2.51")),),
        (forwarding(("web", "10.0.2.50")), lease(2, "10.0.2.50", seconds=1)),  # of a VM that may be off
        (
            forwarding(("web", "10.0.2.50")),
            DhcpServer("lab", "10.0.2.3", "255.255.255.0", fixed=((mac(2), "10.0.2.50"),)),
        ),
        (forwarding(("web", "10.0.2.50"), name="other"),),
    ],
)
def test_no_rule_gives_an_address_that_may_be_wrong(facts: tuple[Fact, ...]) -> None:
    world = [one for one in NETWORKS if not isinstance(one, NatNetwork)]
    assert build((*world, *facts, vm(1)), Policy(), NOW, 1).by_uuid[uuid(1)].addresses == ()
