"""Every response from the cache, and the one that it was made of, is what dnspython makes of the same decision.

Byte for byte, for askers on several networks, while the world changes.
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
from vmdns.state.facts import DhcpServer, Fact, HostAddress, Lease, Machine, PortForward
from vmdns.state.policy import Policy
from vmdns.state.snapshot import AccessRight, Snapshot

# Where vmdns is asked, and by whom: the host, guests of two NAT Networks and of a host-only one, a neighbour.
DOORS = (
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

# What changes most: VMs on the network that everybody here can reach, and their leases.
BEGINNING = (
    vm(1, "web", HOSTONLY), vm(3, "shop", HOSTONLY), lease(1, "192.168.56.4", HOSTONLY),
    lease(3, "192.168.56.5", HOSTONLY), lease(1, "10.0.2.4", LAB),
)  # fmt: skip
OFTEN = ("web.local", "db.local", "x.web.local", "shop.vm.internal", "_ssh._tcp.shop.local",
         "4.56.168.192.in-addr.arpa", "102.56.168.192.in-addr.arpa")  # fmt: skip

# VM numbers 1 to 4 have other names each; 5 has the name of 1.
CHANGES = st.one_of(
    st.builds(
        lambda number, network, state, ruled: _machine(number, network, state, ruled),
        st.integers(1, 5), st.one_of(st.just(HOSTONLY), st.sampled_from(NETWORKS_OF_VMS)),
        st.sampled_from(("Running", "Running", "PoweredOff")), st.booleans(),
    ),
    st.builds(
        lambda number, last: lease(number, f"192.168.56.{last}", HOSTONLY),
        st.integers(1, 3), st.sampled_from((4, 5, 102)),
    ),
    st.builds(
        lambda number, network, last: lease(number, f"10.0.2.{last}", network),
        st.integers(1, 5), st.sampled_from((LAB, OTHER)), st.sampled_from((4, 5)),
    ),
    st.sampled_from(("shop", "web")).map(lambda name: vm(3, name, HOSTONLY)),
)  # fmt: skip
ASKS = st.tuples(
    st.one_of(st.sampled_from(OFTEN), st.sampled_from(QUESTIONS)),
    st.one_of(st.sampled_from(("A", "PTR")), st.sampled_from(KINDS)), st.sampled_from(DOORS),
    st.integers(-1, 2), st.integers(0, 7), st.one_of(st.none(), st.integers(0, 99)),
)  # fmt: skip


def _machine(number: int, network: object, state: str, ruled: bool) -> Machine:
    found = vm(number, ("web", "db", "shop", "리눅스", "web")[number - 1], network, state=state)  # type: ignore[arg-type]
    return replace(found, adapters=tuple(replace(one, forwards=(SSH,) if ruled else ()) for one in found.adapters))


def _key(fact: Fact) -> object:
    """A VM, or its lease of one network, is what it was before with another content; the rest is there for good."""
    match fact:
        case Machine():
            return "vm", fact.uuid
        case Lease():
            return "lease", fact.network, fact.mac
        case _:
            return fact


class World:
    """A server that nobody listens to, and the facts behind it."""

    def __init__(self) -> None:
        self._facts: dict[object, Fact] = {}
        self._serial = 0
        self.script = Script(InlineThread())
        one = self.script
        self.server = one.serve()
        self.change((*HOST, *FACTS, *BEGINNING))

    @property
    def snapshot(self) -> Snapshot:
        return self.script.current()

    def change(self, facts: Iterable[Fact]) -> None:
        """As daemon/app.py and store.py do it."""
        for fact in facts:
            self._facts[_key(fact)] = fact
        self._serial += 1
        self.script.snapshot = build(self._facts.values(), POLICY, NOW, self._serial)
        self.server.publish(self.script.snapshot)

    def said(self, packet: bytes, door: tuple[str, str]) -> list[bytes]:
        """What the listener's thread answers: made for it at first perhaps, then what stands ready."""
        local, peer = door
        found = []
        for _ in range(2):
            answers = self.server.handler.find_answers(peer, local)
            response = find(answers, packet) if answers is not None else None
            if response is None:
                response = answer_at_once(self.server, packet, peer, local)
            found += [response] if response else []
        return found

    def truth(self, packet: bytes, door: tuple[str, str]) -> bytes | None:
        """What dnspython makes of the decision; None for what takes others."""
        local, peer = door
        query = parse_query(packet)
        right = self.snapshot.right(local, peer)
        everything = right is AccessRight.ALL
        decided = (
            answer_query(query, self.snapshot, self.snapshot.view(local, peer))
            if right is not AccessRight.NOTHING
            else None
        )
        if decided is not None and decided.chase is not None and everything and query.recursion_desired:
            return None
        if decided is None:
            if everything:
                return None
            why = (
                f"{peer} may ask for local names only"
                if right is AccessRight.NAMES
                else f"{peer} is no guest of this host"
            )
            decided = Reply(REFUSED, authoritative=False, extended_error=(18, why))
        return rendered(packet, decided, everything)


def asked(name: str, kind: str, edns: int, bits: int, case: int | None) -> bytes:
    """A query. edns: none, or a size, the largest with an option; bits: RD, CD, DO; case: drawn by this number."""
    message = dns.message.make_query(name, kind, use_edns=-1)
    message.id = 4711
    message.flags = (dns.flags.RD if bits & 1 else 0) | (dns.flags.CD if bits & 2 else 0)
    if edns >= 0:
        options = [dns.edns.GenericOption(65001, b"x")] if edns == 2 else []
        payload = (600, 1232, 4096)[edns]
        message.use_edns(0, dns.flags.DO if bits & 4 else 0, payload, options=options)
    packet = message.to_wire()
    if case is None:
        return packet
    lots = random.Random(case)
    end = packet.index(0, 12)
    cased = bytes(lots.choice((one, one ^ 0x20)) if 63 < one < 128 and chr(one).isalpha() else one
                  for one in packet[12:end])  # fmt: skip
    return packet[:12] + cased + packet[end:]


def hold(world: World, name: str, kind: str, door: tuple[str, str], edns: int, bits: int, case: int | None) -> int:
    """Asks, and holds all that was said against dnspython. Returns how much was said."""
    packet = asked(name, kind, edns, bits, case)
    truth = world.truth(packet, door)
    said = world.said(packet, door)
    if truth is None:  # refused, if anything: the upstream would answer
        assert not any(dns.message.from_wire(response).answer for response in said)
        return 0
    assert said
    fresh = answer_at_once(world.server, packet, door[1], door[0])
    assert fresh is not None
    said.append(fresh)
    for response in said:
        assert response == truth, (name, kind, door, dns.message.from_wire(response).to_text())
    return len(said)


@given(st.lists(ASKS, min_size=4, max_size=10), st.lists(CHANGES, min_size=1, max_size=4))
def test_whatever_is_asked_while_the_world_changes_dnspython_says_the_same(
    asks: list[tuple[str, str, tuple[str, str], int, int, int | None]], changes: list[Fact]
) -> None:
    world = World()
    for change in ((), *((one,) for one in changes)):
        world.change(change)
        for ask in asks:  # what stood ready before the change must be true after it, or gone
            hold(world, *ask)


@pytest.mark.parametrize("door", DOORS, ids=[f"{local} by {peer}" for local, peer in DOORS])
def test_every_question_of_the_list_is_said_as_dnspython_says_it(door: tuple[str, str]) -> None:
    world = World()
    world.change([_machine(1, LAB, "Running", True), lease(1, "10.0.2.4"), _machine(3, NAT, "Running", True)])
    count = 0
    for number, name in enumerate(QUESTIONS):
        for kind in KINDS:
            for edns in (-1, number % 3):
                count += hold(world, name, kind, door, edns, number % 8, number if number % 3 else None)
    assert count > 2 * len(QUESTIONS) * len(KINDS)  # what is forwarded says nothing here
