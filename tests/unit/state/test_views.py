"""The right address for each client: views by the local address and the peer, and what each sees of a VM."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests import facts
from tests.facts import BRIDGED, HOSTONLY, LAB, NAT, NOW, OTHER, report, vm
from vmdns.dns.message import AAAA, SRV, A
from vmdns.dns.name import to_text, to_wire
from vmdns.state.build import build
from vmdns.state.facts import (
    Adapter,
    DhcpServer,
    Fact,
    HostAddress,
    HostInterface,
    NatNetwork,
    Neighbour,
    Network,
    PortForward,
)
from vmdns.state.snapshot import AccessRight, Policy, Snapshot
from vmdns.state.views import HOST, View, index_host_networks

LAN2 = replace(BRIDGED, name="wlan0")
ELSEWHERE = replace(BRIDGED, name="eth1")
OTHER_HOSTONLY = replace(HOSTONLY, name="vboxnet1")
SSH = PortForward("ssh", "tcp", "", 2222, "", 22)
WEB = PortForward("Rule 1", "tcp", "", 8080, "", 80)
INWARD = PortForward("db", "tcp", "127.0.0.1", 33060, "", 3306)
OUTWARD = PortForward("game", "udp", "192.168.1.5", 7777, "", 7777)

# A host on a LAN by cable and by radio, with another LAN, two host-only networks, containers, and two NAT Networks,
# each of which names an address of the host as its DNS server.
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

CLIENTS = {
    "host": ("127.0.0.1", "127.0.0.1"),
    "lab": ("198.18.53.1", "198.18.53.1"),
    "other": ("198.18.53.2", "198.18.53.2"),
    "nat": ("192.168.1.5", "192.168.1.5"),
    "hostonly": ("192.168.56.1", "192.168.56.150"),
    "hostonly1": ("192.168.57.1", "192.168.57.150"),
    "lan": ("192.168.1.5", "192.168.1.150"),
    "eth1": ("172.20.0.5", "172.20.9.9"),
}


def build_world(*more: Fact, **policy: object) -> Snapshot:
    return build((*WORLD, *more), Policy(**policy), NOW, 7)  # type: ignore[arg-type]


def addresses(snapshot: Snapshot, client: str, name: str = "web.local", kind: int = A) -> list[str]:
    return facts.addresses(snapshot, name, kind, snapshot.view(*CLIENTS[client])) or []


def addresses_by_client(snapshot: Snapshot) -> dict[str, list[str]]:
    return {client: found for client in CLIENTS if (found := addresses(snapshot, client))}


def services(snapshot: Snapshot, client: str, name: str) -> list[str]:
    """Ports and targets of the SRV records."""
    node = snapshot.find(to_wire(name), snapshot.view(*CLIENTS[client])) or {}
    rdatas = node[SRV].rdatas if SRV in node else ()
    return [f"{int.from_bytes(one[4:6], 'big')} {to_text(one[6:])}" for one in rdatas]


@pytest.mark.parametrize(
    ("client", "members"),
    [
        ("host", (HOST,)), ("lab", (LAB,)), ("other", (OTHER,)), ("nat", (HOST, NAT)), ("hostonly", (HOSTONLY,)),
        ("hostonly1", (OTHER_HOSTONLY,)), ("lan", (BRIDGED,)), ("eth1", (ELSEWHERE,)),
    ],
)  # fmt: skip
def test_the_view_of_each_client(client: str, members: tuple[Network, ...]) -> None:
    local = CLIENTS[client][0]
    assert build_world().view(*CLIENTS[client]) == View(members, local)
    assert addresses(build_world(), client, "vmdns.local") == [local]


def test_the_view_follows_the_local_address_where_two_are_on_one_lan() -> None:
    assert build_world().view("192.168.1.6", "192.168.1.150") == View((LAN2,), "192.168.1.6")


@pytest.mark.parametrize(
    ("resolvers", "local", "members"),
    [
        ((), "127.0.0.1", (HOST,)),
        (("192.168.1.1",), "127.0.0.1", (HOST,)),
        # VirtualBox forwards queries of its guests to the host's first name server, and a stub forwards them to us.
        (("127.0.0.53",), "127.0.0.1", (HOST, NAT)),
        (("198.18.53.53",), "198.18.53.53", (HOST, NAT)),
        (("198.18.53.1",), "198.18.53.1", (LAB, HOST, NAT)),
        ((), "198.18.53.1", (LAB,)),
    ],
)
def test_guests_behind_nat_may_query_where_the_host_itself_does(
    resolvers: tuple[str, ...], local: str, members: tuple[Network, ...]
) -> None:
    assert build_world(resolvers=resolvers).view(local, local).members == members


def natted(*rules: PortForward, number: int = 1, name: str = "web") -> Fact:
    machine = vm(number, name, NAT, reports=(report(number, "10.0.2.15"),))
    return replace(machine, adapters=(Adapter(0, machine.adapters[0].mac, NAT, forwards=rules),))


@pytest.mark.parametrize(
    ("world", "expected"),
    [
        # Two interfaces of the host on one LAN are one network.
        (
            (vm(1, "web", LAN2, reports=(report(1, "192.168.1.77"),)),),
            {client: ["192.168.1.77"] for client in ("host", "lab", "other", "nat", "lan")},
        ),
        (
            (natted(SSH, WEB),),
            {"host": ["127.0.0.1"], "lab": ["198.18.53.1"], "other": ["198.18.53.2"], "nat": ["192.168.1.5"],
             "hostonly": ["192.168.56.1"], "hostonly1": ["192.168.57.1"], "lan": ["192.168.1.5"],
             "eth1": ["172.20.0.5"]},
        ),
        # The gateway of a NAT Network does not pass on port 53.
        ((natted(PortForward("dns", "udp", "127.0.0.1", 53, "", 53)),), {"host": ["127.0.0.1"], "nat": ["127.0.0.1"]}),
    ],
)  # fmt: skip
def test_addresses_by_client(world: tuple[Fact, ...], expected: dict[str, list[str]]) -> None:
    assert addresses_by_client(build_world(*world)) == expected


def test_a_rule_bound_to_loopback() -> None:
    snapshot = build_world(natted(SSH, INWARD), natted(INWARD, number=2, name="db"))
    # The gateway of a NAT Network leads to the host's loopback address.
    assert [addresses(snapshot, client, "db.local") for client in ("host", "lab", "other", "nat", "lan")] == [
        ["127.0.0.1"], ["10.0.2.1"], ["10.0.2.1"], ["127.0.0.1"], [],
    ]  # fmt: skip
    # As few addresses as lead to all rules.
    assert [addresses(snapshot, client) for client in ("host", "lab", "lan")] == [
        ["127.0.0.1"], ["10.0.2.1"], ["192.168.1.5"],
    ]  # fmt: skip
    assert services(snapshot, "lab", "_mysql._tcp.web.local") == ["33060 web.local"]
    assert services(snapshot, "lan", "_mysql._tcp.web.local") == []
    assert services(snapshot, "lan", "_ssh._tcp.web.vm.internal") == ["2222 web.vm.internal"]


def test_a_rule_bound_to_one_address() -> None:
    assert addresses_by_client(build_world(natted(OUTWARD))) == {
        client: ["192.168.1.5"] for client in ("host", "lab", "other", "nat", "lan")
    }
    assert addresses(build_world(natted(OUTWARD, INWARD)), "host") == ["192.168.1.5", "127.0.0.1"]


def test_an_inner_interface_counts_where_a_vm_is_on_it() -> None:
    """A bridge of libvirt, Docker or vmnet is nobody else's network, unless a network of VirtualBox is on it."""
    client = "172.17.0.1", "172.17.0.9"
    for world, expected in ((), []), ((vm(93, "on-docker", replace(BRIDGED, name="docker0")),), ["172.17.0.1"]):
        snapshot = build_world(natted(SSH), *world)
        assert facts.addresses(snapshot, "web.local", A, snapshot.view(*client)) == expected


# -- neighbours ------------------------------------------------------------------------------------------------


def seen_at(number: int, address: str, since: float = NOW - 5, interface: str = "eth0") -> Neighbour:
    return Neighbour(interface, f"080027{number:06x}", address, since)


def test_a_bridged_vm_is_a_guest_by_its_first_packet() -> None:
    snapshot = build_world(vm(1, "web", BRIDGED), seen_at(1, "192.168.1.77"), seen_at(1, "2001:db8:1::77"))
    assert addresses(snapshot, "lan", kind=AAAA) == ["2001:db8:1::77"]
    assert addresses(snapshot, "lab", kind=AAAA) == []
    assert snapshot.right("192.168.1.5", "192.168.1.77") is AccessRight.ALL
    assert snapshot.right("192.168.1.5", "192.168.1.78") is AccessRight.UNKNOWN


@pytest.mark.parametrize(
    ("name", "interface", "alias"),
    [("en0: Wi-Fi", "en0", ""), ("Intel(R) Wi-Fi 6 AX201", "Wi-Fi", "Intel(R) Wi-Fi 6 AX201")],
)
def test_interfaces_with_another_name_in_virtualbox(name: str, interface: str, alias: str) -> None:
    network = replace(BRIDGED, name=name)
    world = (
        HostAddress(interface, "192.168.9.5/24", alias), HostAddress("other", "192.168.8.5/24"),
        vm(1, "web", network),
        seen_at(1, "192.168.9.77", interface=interface), seen_at(1, "192.168.8.77", NOW, "other"),
    )  # fmt: skip
    snapshot = build(world, Policy(), NOW, 7)
    view = snapshot.view("192.168.9.5", "192.168.9.150")
    assert view.members == (network,)
    assert snapshot.vm_view(snapshot.guests[0], view).addresses == ("192.168.9.77",)
    assert snapshot.host_networks.guest_addresses(lan=True) == ("192.168.9.5",)


def test_guest_addresses() -> None:
    snapshot = build_world(vm(1, "web", BRIDGED))
    given = ["198.18.53.1", "198.18.53.2", "198.18.53.53"]
    only = ["192.168.56.1", "192.168.57.1"]
    assert sorted(snapshot.host_networks.guest_addresses(lan=False)) == sorted([*given, *only])
    assert sorted(snapshot.host_networks.guest_addresses(lan=True)) == sorted(
        [*given, *only, "192.168.1.5", "192.168.1.6", "172.20.0.5"]
    )
    off = build([fact for fact in WORLD if not hasattr(fact, "state")], Policy(), NOW, 7)
    assert sorted(off.host_networks.guest_addresses(lan=True)) == sorted([*given, *only])
    # The host's own first name server is an address at which guests query as well.
    own = build(WORLD[:-3], Policy(resolvers=("192.168.1.5", "192.168.1.1", "127.0.0.53")), NOW, 7)
    assert "192.168.1.5" in own.host_networks.guest_addresses(lan=False)
    assert not {"192.168.1.1", "127.0.0.53"} & set(own.host_networks.guest_addresses(lan=False))


def test_an_address_that_only_virtualbox_reports_is_not_of_the_host() -> None:
    """VirtualBox goes on naming the address of an interface that was changed or taken away."""
    interface = HostInterface("vboxnet0", "192.168.56.1/24")
    loopback, changed = HostAddress("lo", "127.0.0.1/8"), HostAddress("vboxnet0", "192.168.56.9/24")
    # Before the system has reported its addresses:
    assert index_host_networks([interface]).guest_addresses(lan=True) == ("192.168.56.1",)
    assert index_host_networks([interface, loopback]).guest_addresses(lan=True) == ()
    assert index_host_networks([interface, loopback, changed]).guest_addresses(lan=True) == ("192.168.56.9",)
