"""The right address for this asker: views by the address asked at and the peer, and what each sees of a VM."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.facts import BRIDGED, HOSTONLY, INTNET, LAB, NAT, NOW, OTHER, lease, mac, report, vm
from vmdns.dns.message import AAAA, PTR, SRV, A
from vmdns.dns.name import to_text, to_wire
from vmdns.state.build import build
from vmdns.state.facts import Adapter, DhcpServer, Fact, HostAddress, HostInterface, NatNetwork, Neighbour, PortForward
from vmdns.state.policy import Policy
from vmdns.state.reachability import explain_choices
from vmdns.state.snapshot import AccessRight, Snapshot
from vmdns.state.views import HOST, View, index_host_networks

LAN2 = replace(BRIDGED, name="wlan0")
ELSEWHERE = replace(BRIDGED, name="eth1")
OTHER_HOSTONLY = replace(HOSTONLY, name="vboxnet1")
SSH = PortForward("ssh", "tcp", "", 2222, "", 22)
WEB = PortForward("Rule 1", "tcp", "", 8080, "", 80)
INWARD = PortForward("db", "tcp", "127.0.0.1", 33060, "", 3306)
OUTWARD = PortForward("game", "udp", "192.168.1.5", 7777, "", 7777)

# A host on a LAN by cable and by radio, with another LAN, two host-only networks, containers, and two NAT Networks,
# each of which hands out an address of the host of its own.
WORLD: tuple[Fact, ...] = (
    HostAddress("lo", "127.0.0.1/8"), HostAddress("lo", "::1/128"),
    HostAddress("lo", "198.18.53.1/32"), HostAddress("lo", "198.18.53.2/32"), HostAddress("lo", "198.18.53.53/32"),
    HostAddress("docker0", "172.17.0.1/16"),
    HostAddress("eth0", "192.168.1.5/24"), HostAddress("eth0", "2001:db8:1::5/64"), HostAddress("eth0", "fe80::5/64"),
    HostAddress("wlan0", "192.168.1.6/24"), HostAddress("eth1", "172.20.0.5/16"),
    HostAddress("vboxnet0", "192.168.56.1/24"), HostInterface("vboxnet0", "192.168.56.1/24"),
    HostAddress("vboxnet1", "192.168.57.1/24"), HostInterface("vboxnet1", "192.168.57.1/24"),
    NatNetwork("lab", "10.0.2.0/24"), NatNetwork("other", "10.0.2.0/24"),
    DhcpServer("lab", "10.0.2.2", "255.255.255.0", name_servers=("198.18.53.1",)),
    DhcpServer("other", "10.0.2.2", "255.255.255.0", name_servers=("198.18.53.2",)),
    vm(90, "on-eth1", ELSEWHERE), vm(91, "on-wlan", LAN2), vm(92, "on-eth0", BRIDGED),
)  # fmt: skip

ASKERS = {
    "host": ("127.0.0.1", "127.0.0.1"),
    "lab": ("198.18.53.1", "198.18.53.1"),
    "other": ("198.18.53.2", "198.18.53.2"),
    "nat": ("192.168.1.5", "192.168.1.5"),
    "hostonly": ("192.168.56.1", "192.168.56.150"),
    "hostonly1": ("192.168.57.1", "192.168.57.150"),
    "lan": ("192.168.1.5", "192.168.1.150"),
    "eth1": ("172.20.0.5", "172.20.9.9"),
}


def made(*facts: Fact, **policy: object) -> Snapshot:
    return build((*WORLD, *facts), Policy(**policy), NOW, 7)  # type: ignore[arg-type]


def seen(snapshot: Snapshot, asker: str, name: str = "web.local", kind: int = A) -> list[str]:
    """Addresses of the name, or port and target of services, for that asker."""
    node = snapshot.find(to_wire(name), snapshot.view(*ASKERS[asker]))
    rdatas = node[kind].rdatas if node is not None and kind in node else ()
    if kind == SRV:
        return [f"{int.from_bytes(one[4:6], 'big')} {to_text(one[6:])}" for one in rdatas]
    return [to_text(one) for one in rdatas] if kind == PTR else [str(ip_address(one)) for one in rdatas]


@pytest.mark.parametrize(
    ("asker", "members"),
    [
        ("host", (HOST,)), ("lab", (LAB,)), ("other", (OTHER,)), ("nat", (HOST, NAT)), ("hostonly", (HOSTONLY,)),
        ("hostonly1", (OTHER_HOSTONLY,)), ("lan", (BRIDGED,)), ("eth1", (ELSEWHERE,)),
    ],
)  # fmt: skip
def test_who_asks(asker: str, members: tuple[object, ...]) -> None:
    local = ASKERS[asker][0]
    assert made().view(*ASKERS[asker]) == View(members, local)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("resolvers", "local", "members"),
    [
        ((), "127.0.0.1", (HOST,)),
        (("192.168.1.1",), "127.0.0.1", (HOST,)),
        # VirtualBox passes on what its guests ask to the host's first name server, and a stub hands it to us.
        (("127.0.0.53",), "127.0.0.1", (HOST, NAT)),
        (("198.18.53.53",), "198.18.53.53", (HOST, NAT)),
        (("198.18.53.1",), "198.18.53.1", (LAB, HOST, NAT)),
        ((), "198.18.53.1", (LAB,)),
    ],
)
def test_where_the_host_itself_asks_guests_behind_nat_may_too(
    resolvers: tuple[str, ...], local: str, members: tuple[object, ...]
) -> None:
    assert made(resolvers=resolvers).view(local, local).members == members


# -- the four rules --------------------------------------------------------------------------------------------


def addresses_by_asker(snapshot: Snapshot, name: str = "web.local") -> dict[str, list[str]]:
    return {asker: found for asker in ASKERS if (found := seen(snapshot, asker, name))}


def test_a_vm_on_a_nat_network_is_seen_there_alone() -> None:
    snapshot = made(vm(1), lease(1, "10.0.2.4"))
    assert addresses_by_asker(snapshot) == {"lab": ["10.0.2.4"]}
    assert seen(snapshot, "lab", "4.2.0.10.in-addr.arpa", PTR) == ["web.local"]
    for asker in set(ASKERS) - {"lab"}:
        assert seen(snapshot, asker, "4.2.0.10.in-addr.arpa", PTR) == []


def test_two_nat_networks_with_the_same_addresses() -> None:
    snapshot = made(vm(1), lease(1, "10.0.2.15"), vm(2, "db", OTHER), lease(2, "10.0.2.15", OTHER))
    assert addresses_by_asker(snapshot) == {"lab": ["10.0.2.15"]}
    assert addresses_by_asker(snapshot, "db.local") == {"other": ["10.0.2.15"]}
    assert seen(snapshot, "lab", "15.2.0.10.in-addr.arpa", PTR) == ["web.local"]
    assert seen(snapshot, "other", "15.2.0.10.in-addr.arpa", PTR) == ["db.local"]


def test_a_vm_on_a_host_only_network() -> None:
    snapshot = made(vm(1, "web", HOSTONLY), lease(1, "192.168.56.101", HOSTONLY))
    there = ["192.168.56.101"]
    assert addresses_by_asker(snapshot) == {
        "host": there, "lab": there, "other": there, "nat": there, "hostonly": there
    }  # fmt: skip


def test_a_bridged_vm() -> None:
    snapshot = made(vm(1, "web", BRIDGED, reports=(report(1, "192.168.1.77"),)))
    there = ["192.168.1.77"]
    assert addresses_by_asker(snapshot) == {"host": there, "lab": there, "other": there, "nat": there, "lan": there}


def test_two_interfaces_of_the_host_on_one_lan_are_one_network() -> None:
    snapshot = made(vm(1, "web", LAN2, reports=(report(1, "192.168.1.77"),)))
    assert seen(snapshot, "lan") == ["192.168.1.77"]
    assert seen(snapshot, "eth1") == []
    assert snapshot.view("192.168.1.6", "192.168.1.150") == View((LAN2,), "192.168.1.6")


def test_each_network_of_a_vm_gives_its_own_address() -> None:
    web = vm(1, "web", LAB, HOSTONLY, BRIDGED, reports=(report(1 + 512, "192.168.1.77"),))
    snapshot = made(web, lease(1, "10.0.2.4"), lease(257, "192.168.56.101", HOSTONLY))
    assert addresses_by_asker(snapshot) == {
        "host": ["192.168.56.101", "192.168.1.77"],
        "lab": ["10.0.2.4"],
        "other": ["192.168.56.101", "192.168.1.77"],
        "nat": ["192.168.56.101", "192.168.1.77"],
        "hostonly": ["192.168.56.101"],
        "lan": ["192.168.1.77"],
    }


def test_plain_nat_is_of_no_use_to_anybody() -> None:
    snapshot = made(vm(1, "web", NAT, reports=(report(1, "10.0.2.15"),)))
    assert addresses_by_asker(snapshot) == {}


def natted(*rules: PortForward, number: int = 1, name: str = "web") -> Fact:
    machine = vm(number, name, NAT, reports=(report(number, "10.0.2.15"),))
    return replace(machine, adapters=(Adapter(0, machine.adapters[0].mac, NAT, forwards=rules),))


def test_forwarded_ports_of_plain_nat() -> None:
    snapshot = made(natted(SSH, WEB))
    assert addresses_by_asker(snapshot) == {
        "host": ["127.0.0.1"],
        "lab": ["198.18.53.1"],
        "other": ["198.18.53.2"],
        "nat": ["192.168.1.5"],
        "hostonly": ["192.168.56.1"],
        "hostonly1": ["192.168.57.1"],
        "lan": ["192.168.1.5"],
        "eth1": ["172.20.0.5"],
    }
    for asker in ASKERS:
        assert seen(snapshot, asker, "_ssh._tcp.web.local", SRV) == ["2222 web.local"]
        assert seen(snapshot, asker, "_http._tcp.web.vm.internal", SRV) == ["8080 web.vm.internal"]
        assert seen(snapshot, asker, "1.0.0.127.in-addr.arpa", PTR) == ["localhost"]


def test_a_rule_bound_to_loopback() -> None:
    snapshot = made(natted(INWARD))
    # The gateway of a NAT Network leads to the host's loopback address.
    assert addresses_by_asker(snapshot) == {
        "host": ["127.0.0.1"], "lab": ["10.0.2.1"], "other": ["10.0.2.1"], "nat": ["127.0.0.1"]
    }  # fmt: skip
    assert seen(snapshot, "lab", "_mysql._tcp.web.local", SRV) == ["33060 web.local"]
    assert seen(snapshot, "lan", "_mysql._tcp.web.local", SRV) == []


def test_a_rule_bound_to_one_address() -> None:
    snapshot = made(natted(OUTWARD))
    out = ["192.168.1.5"]
    assert addresses_by_asker(snapshot) == {"host": out, "lab": out, "other": out, "nat": out, "lan": out}


def test_as_few_addresses_as_lead_to_all_rules() -> None:
    snapshot = made(natted(SSH, INWARD))
    assert seen(snapshot, "host") == ["127.0.0.1"]
    assert seen(snapshot, "lab") == ["10.0.2.1"]
    assert seen(snapshot, "lan") == ["192.168.1.5"]
    assert seen(snapshot, "lan", "_mysql._tcp.web.local", SRV) == []
    assert seen(made(natted(OUTWARD, INWARD)), "host") == ["192.168.1.5", "127.0.0.1"]


def test_port_53_is_not_passed_on_by_the_gateway() -> None:
    snapshot = made(natted(PortForward("dns", "udp", "127.0.0.1", 53, "", 53)))
    assert seen(snapshot, "lab") == []
    assert seen(snapshot, "host") == ["127.0.0.1"]


def test_forwarded_ports_of_a_nat_network() -> None:
    rule = PortForward("ssh", "tcp", "", 1022, "10.0.2.4", 22)
    stranger = PortForward("ssh", "tcp", "", 1023, "10.0.2.9", 22)
    lab = NatNetwork("lab", "10.0.2.0/24", forwards=(rule, stranger))
    facts = [fact for fact in WORLD if not (isinstance(fact, NatNetwork) and fact.name == "lab")]
    snapshot = build((*facts, lab, vm(1), lease(1, "10.0.2.4")), Policy(), NOW, 7)
    assert seen(snapshot, "host") == ["127.0.0.1"]
    assert seen(snapshot, "host", "_ssh._tcp.web.local", SRV) == ["1022 web.local"]
    # Who is on the network needs no forwarding.
    assert seen(snapshot, "lab") == ["10.0.2.4"]
    assert seen(snapshot, "lab", "_ssh._tcp.web.local", SRV) == ["22 web.local"]


def test_what_several_askers_share_is_what_all_of_them_can_use() -> None:
    shared = DhcpServer("other", "10.0.2.2", "255.255.255.0", name_servers=("198.18.53.1",))
    facts = [fact for fact in WORLD if not (isinstance(fact, DhcpServer) and fact.network == "other")]
    web = vm(1, "web", LAB, HOSTONLY)
    leases = lease(1, "10.0.2.4"), lease(257, "192.168.56.101", HOSTONLY)
    both = build((*facts, shared, web, *leases), Policy(), NOW, 7)
    assert seen(both, "lab") == ["192.168.56.101"]
    alone = build((*facts, shared, vm(1), leases[0], vm(2, "db", OTHER), lease(2, "10.0.2.4", OTHER)), Policy(), NOW, 7)
    assert seen(alone, "lab") == ["10.0.2.4"]
    assert seen(alone, "lab", "db.local") == ["10.0.2.4"]


def test_the_host_behind_a_stub_and_guests_behind_nat_get_what_serves_both() -> None:
    snapshot = made(natted(SSH), natted(INWARD, number=2, name="db"), resolvers=("127.0.0.53",))
    assert seen(snapshot, "host") == ["172.20.0.5"]  # the first address of a LAN
    assert seen(snapshot, "host", "db.local") == ["127.0.0.1"]


def choices(snapshot: Snapshot, uuid: str, view: View) -> list[str]:
    guest = snapshot.by_uuid[uuid]
    return [text for _, text in explain_choices(guest, snapshot.vm_view(guest, view), view, snapshot.host_networks)]


def test_why_there_is_nothing_is_said() -> None:
    snapshot = made(vm(1), lease(1, "10.0.2.4"), vm(2, "shy", NAT), natted(INWARD, number=3, name="db"), vm(4, "slow"))

    def why(asker: str, number: int) -> str:
        guest = next(one for one in snapshot.guests if one.machine.uuid.endswith(f"{number:04x}"))
        return snapshot.vm_view(guest, snapshot.view(*ASKERS[asker])).why

    assert why("host", 1) == "VM 'web' is on NAT Network lab, which the host cannot reach"
    assert why("lan", 1) == "VM 'web' is on NAT Network lab, which a client on the LAN of eth0 cannot reach"
    assert why("lab", 1) == ""
    assert why("lan", 2) == (
        "VM 'shy' is on NAT alone, where nobody can reach it: add a port-forward rule or another adapter"
    )
    assert why("lan", 3) == (
        "the forwarded ports of VM 'db' are at addresses of the host that a client on the LAN of eth0 cannot reach"
    )
    assert why("lab", 4) == "VM 'slow' runs, but no address of it is known yet"


@pytest.mark.parametrize(
    ("asker", "expected"),
    [
        ("host", [
            "192.168.56.9 is chosen: it is on the host-only network vboxnet0, which this computer can reach",
            "192.168.1.9 is chosen: it is on the LAN of eth0, which this computer can reach",
            "10.0.2.15 is left out: it is inside of the VM's own NAT, which nobody else reaches",
            "10.0.2.4 is left out: it is on NAT Network lab, which this computer cannot reach",
        ]),
        ("lab", [
            "10.0.2.4 is chosen: it is on NAT Network lab, the client's own network",
            "10.0.2.15 is left out: it is inside of the VM's own NAT, which nobody else reaches",
            "192.168.56.9 is left out: it is on the host-only network vboxnet0, and the client has a nearer one on its "
            "own network",
            "192.168.1.9 is left out: it is on the LAN of eth0, and the client has a nearer one on its own network",
        ]),
        ("other", [
            "192.168.56.9 is chosen: it is on the host-only network vboxnet0, which guests on NAT Network other can "
            "reach",
            "192.168.1.9 is chosen: it is on the LAN of eth0, which guests on NAT Network other can reach",
            "10.0.2.15 is left out: it is inside of the VM's own NAT, which nobody else reaches",
            "10.0.2.4 is left out: it is on NAT Network lab, which guests on NAT Network other cannot reach",
        ]),
        ("hostonly1", [
            "10.0.2.15 is left out: it is inside of the VM's own NAT, which nobody else reaches",
            "192.168.56.9 is left out: it is on the host-only network vboxnet0, which guests on the host-only network "
            "vboxnet1 cannot reach",
            "192.168.1.9 is left out: it is on the LAN of eth0, which guests on the host-only network vboxnet1 cannot "
            "reach",
            "10.0.2.4 is left out: it is on NAT Network lab, which guests on the host-only network vboxnet1 cannot "
            "reach",
        ]),
    ],
)  # fmt: skip
def test_why_this_address(asker: str, expected: list[str]) -> None:
    one = vm(1, "web", NAT, HOSTONLY, BRIDGED, LAB, reports=(report(1, "10.0.2.15"), report(513, "192.168.1.9")))
    snapshot = made(one, lease(257, "192.168.56.9", HOSTONLY), lease(769, "10.0.2.4"))
    found = choices(snapshot, one.uuid, snapshot.view(*ASKERS[asker]))
    assert found == expected
    assert [each.partition(" ")[0] for each in found if "is chosen" in each] == seen(snapshot, asker)


def test_why_an_address_that_only_some_clients_reach() -> None:
    # Where this computer's own resolver is at a loopback address, its queries and those of guests on NAT look alike.
    one = vm(1, "web", HOSTONLY)
    snapshot = made(one, lease(1, "192.168.56.9", HOSTONLY), Neighbour("vboxnet0", mac(1), "2001:db8:56::9", NOW))
    view = View((HOST, NAT))
    assert choices(snapshot, one.uuid, view) == [
        "192.168.56.9 is chosen: it is on the host-only network vboxnet0, which this computer and guests on NAT can "
        "reach",
        "2001:db8:56::9 is chosen: it is on the host-only network vboxnet0, which this computer can reach",
    ]


def test_why_an_address_of_this_computer() -> None:
    one = replace(
        vm(1, "web"), adapters=(Adapter(0, mac(1), NAT, forwards=(SSH, INWARD)),), reports=(report(1, "10.0.2.15"),)
    )
    snapshot = made(one)
    assert choices(snapshot, one.uuid, snapshot.view(*ASKERS["host"])) == [
        "127.0.0.1 is chosen: it is this computer's, and port-forward rules lead to the VM (2222 to its 22, 33060 to "
        "its 3306)",
        "10.0.2.15 is left out: it is inside of the VM's own NAT, which nobody else reaches",
    ]


def test_an_internal_network_has_no_way_to_ask() -> None:
    snapshot = made(vm(1, "web", INTNET, reports=(report(1, "172.31.0.4"),)))
    assert addresses_by_asker(snapshot) == {}


# -- neighbours ------------------------------------------------------------------------------------------------


def seen_at(number: int, address: str, since: float = NOW - 5, interface: str = "eth0") -> Neighbour:
    return Neighbour(interface, f"080027{number:06x}", address, since)


def test_a_bridged_vm_is_known_by_its_first_packet() -> None:
    snapshot = made(vm(1, "web", BRIDGED), seen_at(1, "192.168.1.77"), seen_at(1, "2001:db8:1::77"))
    assert seen(snapshot, "host") == ["192.168.1.77"]
    assert seen(snapshot, "lan", kind=AAAA) == ["2001:db8:1::77"]
    assert seen(snapshot, "lab", kind=AAAA) == []
    assert snapshot.right("192.168.1.5", "192.168.1.77") is AccessRight.ALL
    assert snapshot.right("192.168.1.5", "192.168.1.78") is AccessRight.UNKNOWN


@pytest.mark.parametrize(
    ("neighbours", "expected"),
    [
        ((seen_at(1, "192.168.1.77", interface="eth1"),), []),
        ((seen_at(2, "192.168.1.77"),), []),
        ((seen_at(1, "192.168.1.5"),), []),  # the host's own
        ((seen_at(1, "192.168.1.77", NOW - 50), seen_at(1, "192.168.1.78", NOW - 5)), ["192.168.1.78"]),
    ],
)
def test_which_neighbours_count(neighbours: tuple[Neighbour, ...], expected: list[str]) -> None:
    assert seen(made(vm(1, "web", BRIDGED), *neighbours), "lan") == expected


@pytest.mark.parametrize(("since", "expected"), [(NOW - 50, "192.168.1.70"), (NOW - 1, "192.168.1.77")])
def test_what_was_seen_later_wins(since: float, expected: str) -> None:
    machine = vm(1, "web", BRIDGED, reports=(report(1, "192.168.1.70", NOW - 10),))
    assert seen(made(machine, seen_at(1, "192.168.1.77", since)), "lan") == [expected]


@pytest.mark.parametrize(
    ("name", "interface", "alias"),
    [("en0: Wi-Fi", "en0", ""), ("Intel(R) Wi-Fi 6 AX201", "Wi-Fi", "Intel(R) Wi-Fi 6 AX201")],
)
def test_interfaces_that_virtualbox_calls_otherwise(name: str, interface: str, alias: str) -> None:
    network = replace(BRIDGED, name=name)
    facts = (
        HostAddress(interface, "192.168.9.5/24", alias), HostAddress("other", "192.168.8.5/24"),
        vm(1, "web", network),
        seen_at(1, "192.168.9.77", interface=interface), seen_at(1, "192.168.8.77", NOW, "other"),
    )  # fmt: skip
    snapshot = build(facts, Policy(), NOW, 7)
    view = snapshot.view("192.168.9.5", "192.168.9.150")
    assert view.members == (network,)
    assert snapshot.vm_view(snapshot.guests[0], view).addresses == ("192.168.9.77",)
    assert snapshot.host_networks.guest_addresses(lan=True) == ("192.168.9.5",)


def test_an_old_neighbour_does_not_outlive_a_fresher_sight_of_the_known_address() -> None:
    machine = vm(1, "web", BRIDGED, reports=(report(1, "192.168.1.70", NOW - 100),))
    world = seen_at(1, "192.168.1.70", NOW - 5), seen_at(1, "192.168.1.77", NOW - 50)
    assert seen(made(machine, *world), "lan") == ["192.168.1.70"]


# -- below a VM, and our own name ------------------------------------------------------------------------------


def test_our_own_name_is_where_one_asks() -> None:
    for asker, (local, _) in ASKERS.items():
        assert seen(made(), asker, "vmdns.local") == [local]


def test_guest_addresses() -> None:
    machine = vm(1, "web", BRIDGED)
    snapshot = made(machine)
    given = ["198.18.53.1", "198.18.53.2", "198.18.53.53"]
    only = ["192.168.56.1", "192.168.57.1"]
    assert sorted(snapshot.host_networks.guest_addresses(lan=False)) == sorted([*given, *only])
    assert sorted(snapshot.host_networks.guest_addresses(lan=True)) == sorted(
        [*given, *only, "192.168.1.5", "192.168.1.6", "172.20.0.5"]
    )
    off = build([fact for fact in WORLD if not hasattr(fact, "state")], Policy(), NOW, 7)
    assert sorted(off.host_networks.guest_addresses(lan=True)) == sorted([*given, *only])
    # The host's own first name server is an address at which guests ask as well.
    told = build(WORLD[:-3], Policy(resolvers=("192.168.1.5", "192.168.1.1", "127.0.0.53")), NOW, 7)
    assert "192.168.1.5" in told.host_networks.guest_addresses(lan=False)
    assert not {"192.168.1.1", "127.0.0.53"} & set(told.host_networks.guest_addresses(lan=False))


def test_an_address_that_only_virtualbox_names_is_none_of_the_host() -> None:
    """VirtualBox goes on naming the address of an interface that was changed or taken away."""
    interface = HostInterface("vboxnet0", "192.168.56.1/24")
    loopback, changed = HostAddress("lo", "127.0.0.1/8"), HostAddress("vboxnet0", "192.168.56.9/24")
    assert index_host_networks([interface]).guest_addresses(lan=True) == (
        "192.168.56.1",
    )  # the system was not asked yet
    assert index_host_networks([interface, loopback]).guest_addresses(lan=True) == ()
    assert index_host_networks([interface, loopback, changed]).guest_addresses(lan=True) == ("192.168.56.9",)
