"""Every response, from the cache or not, is byte for byte what dnspython encodes of the same decision.

For clients on several networks, while VMs and leases change.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import dns.edns
import dns.flags
import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.dnspython_response import rendered
from tests.facts import BRIDGED, HOSTONLY, INTNET, LAB, NAT, NETWORKS, NOW, OTHER, lease, vm
from tests.testzone import FACTS, RECORDS, ZONES
from tests.unit.server.dnsbench import InlineThread, Script, answer_at_once
from vmdns.dns.message import REFUSED
from vmdns.dns.query import parse_query
from vmdns.dns.zonefile import parse_records
from vmdns.server.answer_cache import find
from vmdns.state.authoritative import Reply, answer_query
from vmdns.state.build import build
from vmdns.state.facts import DhcpServer, Fact, HostAddress, Lease, Machine, Network, PortForward
from vmdns.state.snapshot import AccessRight, Policy

# Local address and peer: the host, guests of two NAT Networks and of a host-only one, a neighbour, an unknown client.
ENDPOINTS = (
    ("127.0.0.1", "127.0.0.1"), ("198.18.53.1", "198.18.53.1"), ("198.18.53.2", "192.168.1.5"),
    ("192.168.56.1", "192.168.56.102"), ("192.168.1.5", "192.168.1.77"), ("203.0.113.5", "203.0.113.9"),
)  # fmt: skip
HOST = (
    *NETWORKS,
    DhcpServer("lab", "10.0.2.3", "255.255.255.0", name_servers=("198.18.53.1",)),
    DhcpServer("other", "10.0.2.3", "255.255.255.0", name_servers=("198.18.53.2",)),
    HostAddress("lo", "198.18.53.1/32"),
    HostAddress("lo", "198.18.53.2/32"),
    HostAddress("eth1", "203.0.113.5/24"),
)
SSH = PortForward("ssh", "tcp", "", 2222, "", 22)
POLICY = Policy(zones=ZONES, records=parse_records(RECORDS, ZONES, 5), lan="names")

NAMES = (
    "db", "web", "x.web", "a.b.db", "nope", "off", "waiting", "shop", "www2", "dangling", "circle", "self", "big",
    "huge", "web-01", "multi", "any.alias", "any.wild", "_ssh._tcp.shop", "_tcp.shop", "_http._tcp.web-01", "vmdns",
    "xn--pd1b38l32h",
)  # fmt: skip
QUESTIONS = (
    *(f"{name}.{zone}" for name in NAMES for zone in ZONES),
    *ZONES, "localhost", "x.localhost", "nas", "away.local", "vmdns", "www.example.org",
    "102.56.168.192.in-addr.arpa", "4.2.0.10.in-addr.arpa", "77.56.168.192.in-addr.arpa", "56.168.192.in-addr.arpa",
)  # fmt: skip
KINDS = ("A", "AAAA", "PTR", "SOA", "NS", "TXT", "SRV", "CNAME", "HTTPS", "ANY", "AXFR", "TYPE65280")
NETWORKS_OF_VMS = (LAB, OTHER, HOSTONLY, BRIDGED, INTNET, NAT)

# What changes most: VMs on the network that all clients here can reach, and their leases.
BEGINNING = (
    vm(1, "web", HOSTONLY), vm(3, "shop", HOSTONLY), lease(1, "192.168.56.4", HOSTONLY),
    lease(3, "192.168.56.5", HOSTONLY), lease(1, "10.0.2.4", LAB),
)  # fmt: skip
OFTEN = ("web.local", "db.local", "x.web.local", "shop.vm.internal", "_ssh._tcp.shop.local",
         "4.56.168.192.in-addr.arpa", "102.56.168.192.in-addr.arpa")  # fmt: skip


def machine(number: int, network: Network, state: str = "Running", forwarded: bool = True) -> Machine:
    """VMs 1 to 4 have a name each; 5 has the name of 1."""
    name = ("web", "db", "shop", "리눅스", "web")[number - 1]
    found = vm(number, name, network, state=state)
    rules = (SSH,) if forwarded else ()
    return replace(found, adapters=tuple(replace(one, forwards=rules) for one in found.adapters))


CHANGES = st.one_of(
    st.builds(
        machine, st.integers(1, 5), st.one_of(st.just(HOSTONLY), st.sampled_from(NETWORKS_OF_VMS)),
        st.sampled_from(("Running", "Running", "PoweredOff")), st.booleans(),
    ),
    st.builds(
        lease, st.integers(1, 3), st.sampled_from(("192.168.56.4", "192.168.56.5", "192.168.56.102")),
        st.just(HOSTONLY),
    ),
    st.builds(lease, st.integers(1, 5), st.sampled_from(("10.0.2.4", "10.0.2.5")), st.sampled_from((LAB, OTHER))),
    st.builds(vm, st.just(3), st.sampled_from(("shop", "web")), st.just(HOSTONLY)),
)  # fmt: skip
QUERIES = st.tuples(
    st.one_of(st.sampled_from(OFTEN), st.sampled_from(QUESTIONS)),
    st.one_of(st.sampled_from(("A", "PTR")), st.sampled_from(KINDS)), st.sampled_from(ENDPOINTS),
    st.integers(-1, 2), st.integers(0, 7), st.one_of(st.none(), st.integers(0, 99)),
)  # fmt: skip


def key_of(fact: Fact) -> object:
    """What a later fact replaces: a VM, or its lease of one network."""
    match fact:
        case Machine():
            return "vm", fact.uuid
        case Lease():
            return "lease", fact.network, fact.mac
        case _:
            return fact


class World:
    """A server that does not listen, and the facts behind it."""

    def __init__(self) -> None:
        self._facts: dict[object, Fact] = {}
        self._serial = 0
        self._script = Script(InlineThread())
        self.server = self._script.serve()
        self.change((*HOST, *FACTS, *BEGINNING))

    def change(self, facts: Iterable[Fact]) -> None:
        """As daemon/app.py and store.py do it."""
        self._facts |= {key_of(fact): fact for fact in facts}
        self._serial += 1
        self._script.snapshot = build(self._facts.values(), POLICY, NOW, self._serial)
        self.server.publish(self._script.snapshot)

    def respond(self, packet: bytes, local: str, peer: str) -> list[bytes]:
        """The UDP thread's responses: the first may have to be made, the second is cached; then one past the cache."""
        found = []
        for _ in range(2):
            answers = self.server.handler.find_answers(peer, local)
            cached = find(answers, packet) if answers is not None else None
            found.append(cached or answer_at_once(self.server, packet, peer, local))
        found.append(answer_at_once(self.server, packet, peer, local))
        return [response for response in found if response]

    def expect(self, packet: bytes, local: str, peer: str) -> bytes | None:
        """The response that dnspython encodes of the decision; None for what is forwarded."""
        query = parse_query(packet)
        snapshot = self._script.current()
        right = snapshot.right(local, peer)
        everything = right is AccessRight.ALL
        refused = right is AccessRight.NOTHING
        decided = None if refused else answer_query(query, snapshot, snapshot.view(local, peer))
        if everything and (decided is None or (decided.chase is not None and query.recursion_desired)):
            return None
        if decided is None:
            why = "may ask for local names only" if right is AccessRight.NAMES else "is no guest of this host"
            decided = Reply(REFUSED, authoritative=False, extended_error=(18, f"{peer} {why}"))
        return rendered(packet, decided, everything)


def make_query(name: str, kind: str, edns: int, bits: int, case: int | None) -> bytes:
    """edns: none, or a size, the largest with an option; bits: RD, CD, DO; case: the seed of random letter case."""
    message = dns.message.make_query(name, kind, use_edns=-1)
    message.id = 4711
    message.flags = (dns.flags.RD if bits & 1 else 0) | (dns.flags.CD if bits & 2 else 0)
    if edns >= 0:
        options = [dns.edns.GenericOption(65001, b"x")] if edns == 2 else []
        message.use_edns(0, dns.flags.DO if bits & 4 else 0, (600, 1232, 4096)[edns], options=options)
    packet = bytearray(message.to_wire())
    if case is not None:
        lots = random.Random(case)
        for at in range(12, packet.index(0, 12)):
            if packet[at : at + 1].isalpha():
                packet[at] ^= lots.choice((0, 0x20))
    return bytes(packet)


def compare(
    world: World, name: str, kind: str, endpoint: tuple[str, str], edns: int, bits: int, case: int | None
) -> int:
    """Compares all responses to a query with dnspython's. Returns their number, 0 for what is forwarded."""
    packet = make_query(name, kind, edns, bits, case)
    expected = world.expect(packet, *endpoint)
    responses = world.respond(packet, *endpoint)
    if expected is None:  # refused, if anything: the upstream would answer
        assert not any(dns.message.from_wire(response).answer for response in responses)
        return 0
    assert len(responses) == 3
    for response in responses:
        assert response == expected, (name, kind, endpoint, dns.message.from_wire(response).to_text())
    return len(responses)


@given(st.lists(QUERIES, min_size=4, max_size=10), st.lists(CHANGES, min_size=1, max_size=4))
def test_responses_are_dnspythons_while_the_world_changes(
    queries: list[tuple[str, str, tuple[str, str], int, int, int | None]], changes: list[Fact]
) -> None:
    world = World()
    for change in ((), *((one,) for one in changes)):
        world.change(change)
        for query in queries:  # what was cached before the change must be true after it, or gone
            compare(world, *query)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=[f"{local} by {peer}" for local, peer in ENDPOINTS])
def test_responses_to_every_listed_question_are_dnspythons(endpoint: tuple[str, str]) -> None:
    world = World()
    world.change([machine(1, LAB), lease(1, "10.0.2.4"), machine(3, NAT)])
    count = 0
    for number, name in enumerate(QUESTIONS):
        for kind in KINDS:
            for edns in (-1, number % 3):
                count += compare(world, name, kind, endpoint, edns, number % 8, number if number % 3 else None)
    assert count > 2 * len(QUESTIONS) * len(KINDS)  # what is forwarded counts nothing
