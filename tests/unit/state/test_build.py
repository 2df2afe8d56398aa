"""Facts in, snapshot out: what is at which name, and that the order of the facts makes no difference."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.facts import (
    BRIDGED,
    EVERYWHERE,
    HOSTONLY,
    INTNET,
    LAB,
    NAT,
    NETWORKS,
    NOW,
    OTHER,
    addresses,
    lease,
    mac,
    report,
    uuid,
    vm,
)
from vmdns.dns.message import AAAA, CNAME, NS, PTR, SOA, TXT, A, Node
from vmdns.dns.name import BUILT_IN, reverse_name, split_labels, to_text, to_wire
from vmdns.dns.zonefile import parse_records
from vmdns.state.build import build
from vmdns.state.facts import DhcpServer, Fact, HostName
from vmdns.state.snapshot import Policy, Snapshot, list_names

POLICY = Policy()


def build_world(*facts: Fact, now: float = NOW, policy: Policy = POLICY) -> Snapshot:
    return build((*NETWORKS, *facts), policy, now, 7)


def with_records(text: str, ttl: int = 5) -> Policy:
    return replace(POLICY, records=parse_records(text, POLICY.zones, ttl))


def node_at(snapshot: Snapshot, name: str) -> Node:
    found = snapshot.find(to_wire(name), EVERYWHERE)
    assert found is not None
    return found


def pointers(snapshot: Snapshot, address: str) -> list[str]:
    node = snapshot.find(reverse_name(address), EVERYWHERE) or {}
    return [to_text(rdata) for rdata in node[PTR].rdatas] if PTR in node else []


# -- VMs -------------------------------------------------------------------------------------------------------


def test_a_vm_has_all_its_names_in_each_zone() -> None:
    snapshot = build_world(vm(1, groups=("/a/lab",), names=("www", "a.shop")), lease(1, "10.0.2.4"))
    for relative in ("web", "web.lab.a", "www", "a.shop", uuid(1)):
        for zone in POLICY.zones:
            assert addresses(snapshot, f"{relative}.{zone}") == ["10.0.2.4"], relative
    assert pointers(snapshot, "10.0.2.4") == ["web.local"]
    assert list_names(snapshot.guests[0], POLICY.zones)[:2] == ["web.local", "web.vm.internal"]
    for above in ("a.local", "lab.a.local", "0.10.in-addr.arpa"):
        assert node_at(snapshot, above) == {}
    for outside in ("internal", "arpa", "."):
        assert snapshot.find(to_wire(outside), EVERYWHERE) is None


def test_one_pointer_for_an_address_and_leases_before_reports() -> None:
    # The VM with the lower UUID reports it on another network, where nothing contradicts.
    snapshot = build_world(vm(1, "a", INTNET, reports=(report(1, "10.0.2.5"),)), vm(2, "db"), lease(2, "10.0.2.5"))
    assert addresses(snapshot, "a.local") == ["10.0.2.5"]
    assert pointers(snapshot, "10.0.2.5") == ["db.local"]
    twins = build_world(vm(2, "db"), vm(1, "web", OTHER), lease(2, "10.0.2.5"), lease(1, "10.0.2.5", OTHER))
    assert pointers(twins, "10.0.2.5") == ["web.local"]


def test_all_addresses_of_a_vm_are_at_its_name_once_with_one_ttl() -> None:
    # X04.
    machine = vm(1, "web", LAB, HOSTONLY, OTHER)
    facts = lease(1, "10.0.2.4"), lease(257, "192.168.56.101", HOSTONLY), lease(513, "10.0.2.4", OTHER)
    snapshot = build_world(machine, *facts, policy=with_records("web TXT x", ttl=99))
    rrset = node_at(snapshot, "web.local")[A]
    assert (rrset.ttl, len(rrset.rdatas)) == (5, 2)


def test_a_vm_renamed_in_letters_alone_is_the_same_owner() -> None:
    # X06.
    before, after = (build_world(vm(1, name), lease(1, "10.0.2.4")) for name in ("Web-01", "web-01"))
    assert before.nodes == after.nodes


# -- zones -----------------------------------------------------------------------------------------------------


def test_each_zone_has_one_soa_and_one_name_server_with_an_address() -> None:
    snapshot = build_world(policy=replace(POLICY, ttl=30))
    assert snapshot.policy.apexes == BUILT_IN | {to_wire(zone) for zone in POLICY.zones}
    for apex in snapshot.policy.apexes:
        node = snapshot.find(apex, EVERYWHERE) or {}
        assert len(node[SOA].rdatas) == len(node[NS].rdatas) == 1
        assert to_text(node[NS].rdatas[0]) == "vmdns.local"
    for zone in POLICY.zones:
        assert addresses(snapshot, f"vmdns.{zone}") == ["192.168.56.1"]
        assert addresses(snapshot, f"vmdns.{zone}", AAAA) == []
    assert struct.unpack("!5I", snapshot.soa[-20:]) == (7, 3600, 1200, 604_800, 30)


def test_localhost_is_this_host_and_nothing_else() -> None:
    # RFC 6761 section 6.3, whatever the hosts file says.
    snapshot = build_world(HostName("localhost", "192.168.1.9"), HostName("localhost", "127.0.0.1"))
    assert addresses(snapshot, "localhost") == ["127.0.0.1"]
    assert addresses(snapshot, "*.localhost", AAAA) == ["::1"]
    assert pointers(snapshot, "127.0.0.1") == ["localhost"]


def test_pointers_of_vms_stay_in_a_forwarded_reverse_zone() -> None:
    policy = replace(POLICY, forwarded=frozenset({to_wire("10.in-addr.arpa"), to_wire("local")}))
    snapshot = build_world(vm(1), lease(1, "10.0.2.4"), policy=policy)
    assert to_wire("10.in-addr.arpa") not in snapshot.policy.apexes
    assert to_wire("local") in snapshot.policy.apexes  # our own zones stay ours
    assert pointers(snapshot, "10.0.2.4") == ["web.local"]


# -- the user's own records ------------------------------------------------------------------------------------


def test_records_beside_a_vm() -> None:
    policy = with_records('web TXT "hello"\n_ssh._tcp.web SRV 0 0 22 web\n* A 192.168.1.60\nprinter A 192.168.1.60\n')
    snapshot = build_world(vm(1), lease(1, "10.0.2.4"), policy=policy)
    assert set(node_at(snapshot, "web.local")) == {A, TXT}
    assert snapshot.nodes[to_wire("_tcp.web.local")] == {}
    assert addresses(snapshot, "printer.vm.internal") == ["192.168.1.60"]
    assert pointers(snapshot, "192.168.1.60") == ["printer.local"]


@pytest.mark.parametrize("record", ["WEB A 192.168.1.60", "web AAAA fd00::60", "web CNAME printer"])
def test_a_record_takes_the_name_of_a_vm(record: str) -> None:
    # X05: never a CNAME and something else at one name.
    snapshot = build_world(vm(1), lease(1, "10.0.2.4"), policy=with_records(record))
    assert addresses(snapshot, "web.local") != ["10.0.2.4"]
    assert addresses(snapshot, "web-2.local") == ["10.0.2.4"]
    assert snapshot.guests[0].note.endswith("is web-2, because web is among the records of the configuration")


@pytest.mark.parametrize("name", ["web.lab", uuid(1), "www", "vmdns"])
def test_a_vm_named_like_an_alias(name: str) -> None:
    facts = vm(1, groups=("/lab",), names=("www",)), lease(1, "10.0.2.4")
    snapshot = build_world(*facts, policy=with_records(f"{name} CNAME x"))
    assert set(node_at(snapshot, f"{name}.local")) == {A if name == "vmdns" else CNAME}
    assert addresses(snapshot, "web.local") == ["10.0.2.4"]


# -- the hosts file ----------------------------------------------------------------------------------------------


def test_the_hosts_file_is_answered_as_it_is_and_bare_names_in_our_zones_too() -> None:
    snapshot = build_world(
        HostName("nas", "192.168.1.9"), HostName("nas", "fd00::9"), HostName("box.example.org", "192.168.1.10"),
        HostName("storage", "192.168.1.9", canonical=False),
    )  # fmt: skip
    for name in ("nas", "nas.local", "nas.vm.internal", "storage", "storage.local"):
        assert addresses(snapshot, name) == ["192.168.1.9"]
    assert addresses(snapshot, "nas.local", AAAA) == ["fd00::9"]
    assert addresses(snapshot, "box.example.org") == ["192.168.1.10"]
    assert addresses(snapshot, "box.example.org.local") is None
    assert pointers(snapshot, "192.168.1.9") == ["nas"]
    assert pointers(snapshot, "192.168.1.10") == ["box.example.org"]


@pytest.mark.parametrize("address", ["::1", "0.0.0.0", "::", "169.254.1.1", "fe80::1", "ff02::1", "255.255.255.255"])
def test_unreachable_addresses_of_the_hosts_file_stay_out_of_our_zones(address: str) -> None:
    snapshot = build_world(HostName("myhost", address))
    assert addresses(snapshot, "myhost", A if "." in address else AAAA) == [address]
    assert addresses(snapshot, "myhost.local") is None
    assert pointers(snapshot, address) in ([], ["localhost"])


def test_vms_and_records_may_be_allowed_names_of_the_hosts_file() -> None:
    policy = replace(with_records("nas A 192.168.1.60"), reserved_allowed=frozenset({"web", "nas"}))
    facts = vm(1), lease(1, "10.0.2.4"), HostName("web", "192.168.1.9"), HostName("nas.local", "192.168.1.9")
    snapshot = build_world(*facts, policy=policy)
    for name, address in (("web.local", "10.0.2.4"), ("nas.local", "192.168.1.60"), ("web", "192.168.1.9")):
        assert addresses(snapshot, name) == [address]


@pytest.mark.parametrize(
    "host",
    [HostName("a" * 64, "192.168.1.9"), HostName("a..b", "192.168.1.9"), HostName("nas", "999.1.1.1"),
     HostName("local", "192.168.1.9"), HostName("vm.internal", "192.168.1.9")],
)  # fmt: skip
def test_invalid_names_in_the_hosts_file_change_nothing(host: HostName) -> None:
    assert build_world(host).nodes == build_world().nodes


# -- laws ----------------------------------------------------------------------------------------------------------

ADDRESSES = st.sampled_from(["10.0.2.4", "10.0.2.5", "10.0.2.6", "192.168.56.7", "8.8.8.8", "127.0.0.1"])
NUMBERS = st.integers(1, 4)
FACTS = st.one_of(
        st.builds(
            vm,
            NUMBERS,
            st.sampled_from(["web", "Web", "db", "www", "wpad", "local"]),
            st.sampled_from([LAB, OTHER, NAT, HOSTONLY, BRIDGED]),
            state=st.sampled_from(["Running", "Running", "Saved"]),
            groups=st.sampled_from([("/",), ("/lab",), ("/www",)]),
            names=st.sampled_from([(), ("www",), ("x.lab",)]),
            reports=st.lists(st.builds(report, NUMBERS, ADDRESSES, st.sampled_from([NOW - 99, NOW])), max_size=2).map(
                tuple
            ),
        ),
        st.builds(
            lease, NUMBERS, ADDRESSES, st.sampled_from([LAB, OTHER, HOSTONLY]),
            issued=st.sampled_from([NOW - 90, NOW - 60]), seconds=st.sampled_from([80.0, 100.0, 600.0]),
        ),
        st.builds(HostName, st.sampled_from(["web", "nas", "x.lab.local", "lab.local"]), ADDRESSES, st.booleans()),
        st.builds(
            DhcpServer, st.just("lab"), st.just("10.0.2.3"), st.just("255.255.255.0"), st.booleans(),
            st.lists(st.tuples(NUMBERS.map(mac), ADDRESSES), max_size=2).map(tuple),
        ),
)  # fmt: skip
WORLDS = st.lists(FACTS, max_size=12, unique_by=lambda fact: getattr(fact, "uuid", fact))
OWN = with_records("www CNAME web\nfixed A 10.0.2.6\n* TXT x\nlab TXT y\n")


@given(WORLDS, st.randoms(use_true_random=False))
def test_any_order_of_facts_gives_an_equal_snapshot(world: list[Fact], random: object) -> None:
    shuffled = list(world)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert build_world(*world, policy=OWN) == build_world(*shuffled, policy=OWN)


@given(WORLDS)
def test_every_snapshot_is_well_formed(world: list[Fact]) -> None:
    snapshot = build_world(*world, policy=OWN)
    everything = {*snapshot.nodes, *snapshot.late, *snapshot.above, *snapshot.owned, *snapshot.pointers}
    for owner in everything:
        node = snapshot.find(owner, EVERYWHERE)
        assert node is not None or owner in snapshot.pointers
        node = node or {}
        assert owner == owner.lower()
        assert len(owner) <= 255
        assert CNAME not in node or set(node) == {CNAME}
        for kind, rrset in node.items():
            assert rrset.rdatas
            assert len(set(rrset.rdatas)) == len(rrset.rdatas)
            assert kind not in (PTR, CNAME, SOA) or len(rrset.rdatas) == 1
            assert kind in (SOA, NS) or owner not in snapshot.policy.own
        above = owner
        while above not in snapshot.policy.apexes and above[0]:
            above = above[1 + above[0] :]
            assert above in everything or not is_below(above, snapshot.policy.apexes)
    for guest in snapshot.guests:
        for name in list_names(guest, POLICY.zones):
            assert snapshot.find(to_wire(name), EVERYWHERE) is not None or not guest.machine.online
            assert to_wire(name) not in snapshot.policy.apexes


def is_below(name: bytes, zones: Iterable[bytes]) -> bool:
    parts = split_labels(name)
    return any(
        len(split_labels(zone)) <= len(parts) and parts[len(parts) - len(split_labels(zone)) :] == split_labels(zone)
        for zone in zones
    )


@given(WORLDS, st.floats(0, 1000))
def test_a_snapshot_is_valid_until_the_time_it_names(world: list[Fact], later: float) -> None:
    snapshot = build_world(*world, policy=OWN)
    assert snapshot.valid_until == 0 or snapshot.valid_until > NOW
    end = snapshot.valid_until or NOW + 10_000
    then = build_world(*world, policy=OWN, now=min(NOW + later, end - 0.001))
    assert then == snapshot
