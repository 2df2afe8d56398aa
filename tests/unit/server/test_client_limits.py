"""Who may cost how much (T8, T9, T13), by a clock that is set."""

from __future__ import annotations

import dns.flags
import dns.message
import pytest

from tests.facts import HOSTONLY, NETWORKS, NOW, lease, vm
from vmdns.dns.limits import Limits
from vmdns.dns.message import Record
from vmdns.dns.name import to_wire
from vmdns.dns.query import encode_query, encode_response, parse_query
from vmdns.server import client_limits as client_limits
from vmdns.server.client_limits import MOST_ACCOUNTS, MOST_VERIFIED, VERIFIED_SECONDS, ClientLimits, VerifiedClients
from vmdns.server.rate_limit import SendDecision
from vmdns.state.build import build
from vmdns.state.facts import HostAddress
from vmdns.state.policy import Policy
from vmdns.state.snapshot import Snapshot

DOOR, LAN_DOOR = "192.168.56.1", "192.168.1.5"
GUEST, OTHER, UNKNOWN, STRANGER = "192.168.56.101", "192.168.56.102", "192.168.56.9", "192.168.1.77"
NAME = to_wire("web.local")
QUERY = encode_query(1, NAME, 1)


class World:
    """Two guests of a host-only network, a LAN, and a clock."""

    def __init__(self, **limits: float) -> None:
        facts = [*NETWORKS, HostAddress("vboxnet0", "192.168.56.1/24"), vm(1, "web", HOSTONLY), vm(2, "db", HOSTONLY)]
        facts += [lease(1, GUEST, HOSTONLY), lease(2, OTHER, HOSTONLY)]
        self.snapshot = build(facts, Policy(), NOW, 1)
        self.now = 1000.0
        self.client_limits = ClientLimits(lambda: self.snapshot, lambda: Limits(**limits), lambda: self.now)  # type: ignore[arg-type]

    def admitted(self, local: str, peer: str, count: int) -> int:
        client = self.client_limits.client(local, peer)
        assert client is not None
        return sum(self.client_limits.admit(client, 5000) is SendDecision.SEND for _ in range(count))


def test_one_vm_is_one_client_of_lookups_with_all_its_addresses_and_a_network_of_strangers_another() -> None:
    world = World()
    facts = [*NETWORKS, HostAddress("vboxnet0", "192.168.56.1/24"), vm(1, "web", HOSTONLY, HOSTONLY)]
    world.snapshot = build([*facts, lease(1, GUEST, HOSTONLY), lease(1 + 256, OTHER, HOSTONLY)], Policy(), NOW, 1)

    def client(peer: str, proven: bool) -> str:
        client = world.client_limits.client(DOOR, peer, proven)
        assert client is not None
        return client.lookup_client

    for proven in (False, True):
        assert client(GUEST, proven) == client(OTHER, proven)
        strangers = {client(f"192.168.56.{host}", proven) for host in range(2, 100)}
        assert len(strangers) == 1
        assert client(GUEST, proven) not in strangers
    assert client(GUEST, False) != client(GUEST, True)  # what is sent in its name leaves it its lookups by TCP


def response(records: int) -> bytes:
    return encode_response(
        parse_query(QUERY), limit=1232, answer=[Record(NAME, 1, 5, bytes((1, 2, 3, n))) for n in range(records)]
    )


@pytest.mark.parametrize(
    ("local", "peer", "key"),
    [
        ("127.0.0.1", "127.0.0.1", ""),
        ("::1", "::1", ""),
        (DOOR, "127.0.0.1", ""),
        (DOOR, DOOR, DOOR),  # the host itself, or guests of NAT behind it
        (DOOR, GUEST, GUEST),
        (DOOR, OTHER, OTHER),
        (DOOR, UNKNOWN, "192.168.56.0/24"),
        (LAN_DOOR, STRANGER, "192.168.1.0/24"),
        (LAN_DOOR, "2001:db8:1:2::3", "2001:db8:1::/56"),
        (LAN_DOOR, "fe80::1%eth0", "fe80::/56"),
    ],
)
def test_what_an_asker_is_counted_by(local: str, peer: str, key: str) -> None:
    assert World().client_limits.client_key(local, peer) == key


@pytest.mark.parametrize(
    ("local", "peer", "from_host", "stranger"),
    [
        (DOOR, DOOR, True, False),
        (DOOR, GUEST, False, False),
        (LAN_DOOR, GUEST, False, False),
        (DOOR, UNKNOWN, False, False),
        (LAN_DOOR, STRANGER, False, True),
        (LAN_DOOR, "203.0.113.9", False, True),
    ],
)
def test_who_is_a_stranger(local: str, peer: str, from_host: bool, stranger: bool) -> None:
    client = World().client_limits.client(local, peer)
    assert client is not None
    assert (client.from_host, client.stranger) == (from_host, stranger)


def test_loopback_is_not_counted() -> None:
    assert World().client_limits.client("127.0.0.1", "127.0.0.1") is None


def test_one_guest_takes_nothing_from_another() -> None:
    world = World(asker_rate=100)
    assert world.admitted(DOOR, GUEST, 1000) == 100
    assert world.admitted(DOOR, OTHER, 100) == 100
    # Whoever makes addresses up has those of one guest.
    made_up = sum(world.admitted(DOOR, f"192.168.56.{number}", 10) for number in range(110, 200))
    assert made_up == 100
    world.now += 0.5
    assert world.admitted(DOOR, GUEST, 1000) == 50


def test_a_change_of_the_table_forgives_nothing() -> None:
    world = World(asker_rate=100)
    assert world.admitted(DOOR, GUEST, 1000) == 100
    world.client_limits.forget_clients()
    assert world.admitted(DOOR, GUEST, 1000) == 0


def test_who_becomes_a_guest_while_it_is_looked_up() -> None:
    """What was found by the snapshot before is forgotten with it, though it was only then written down."""
    world = World()
    empty = build([*NETWORKS, HostAddress("vboxnet0", "192.168.56.1/24")], Policy(), NOW, 1)

    def looked_up_too_late() -> Snapshot:
        guests._current = lambda: world.snapshot
        guests.forget_clients()
        return empty

    guests = ClientLimits(looked_up_too_late, Limits, lambda: world.now)
    early = guests.client(DOOR, GUEST)
    assert early is not None
    assert early.usage.key == "192.168.56.0/24"
    late = guests.client(DOOR, GUEST)
    assert late is not None
    assert late.usage.key == GUEST
    assert not late.stranger


def test_t13_where_no_answer_may_go() -> None:
    world = World()
    for peer in ("192.168.56.255", "255.255.255.255", "224.0.0.251", "0.0.0.0", "::", "ff02::fb"):
        assert world.admitted(DOOR, peer, 1) == 0, peer
        unanswerable = world.client_limits.client(DOOR, peer)
        assert unanswerable is not None
        assert {world.client_limits.admit(unanswerable, 5000) for _ in range(10)} == {SendDecision.DROP}, peer
    client = world.client_limits.client(DOOR, GUEST)
    assert client is not None
    assert {world.client_limits.admit(client, 0) for _ in range(10)} == {SendDecision.DROP}


def test_t8_a_stranger_gets_three_bytes_for_one() -> None:
    world = World()
    client = world.client_limits.client(LAN_DOOR, STRANGER)
    for records in range(20):
        made = response(records)
        passed = world.client_limits.limit_response(client, made, len(QUERY))
        assert passed is not None
        assert len(passed) <= 3 * len(QUERY)
        assert (passed == made) is (len(made) <= 3 * len(QUERY))
        assert bool(dns.message.from_wire(passed).flags & dns.flags.TC) is (passed != made)


def test_t8_a_guest_has_an_allowance_and_all_once_it_is_proven() -> None:
    world = World()
    client, made = world.client_limits.client(DOOR, GUEST), response(20)
    passed = [world.client_limits.limit_response(client, made, len(QUERY)) for _ in range(2000)]
    sent = sum(len(one) for one in passed if one is not None)
    assert sent <= 3 * len(QUERY) * 2000 + 65_536
    assert None in passed
    world.client_limits.verify_address(GUEST)
    assert {world.client_limits.limit_response(client, made, len(QUERY)) for _ in range(100)} == {made}
    world.now += VERIFIED_SECONDS
    assert any(world.client_limits.limit_response(client, made, len(QUERY)) != made for _ in range(2000))


def test_t8_what_comes_later_is_measured_by_what_its_query_must_have_had() -> None:
    client = World().client_limits.client(LAN_DOOR, STRANGER)
    passed = World().client_limits.limit_response(client, response(20))
    assert passed is not None
    assert len(passed) <= 3 * len(QUERY)


def test_the_host_itself_gets_all() -> None:
    world, made = World(), response(20)
    assert {
        world.client_limits.limit_response(world.client_limits.client(DOOR, DOOR), made, 40) for _ in range(2000)
    } == {made}


def test_t9_questions_for_others() -> None:
    world = World(asker_rate=5000, outstanding=10_000)
    client, other = world.client_limits.client(DOOR, GUEST), world.client_limits.client(DOOR, OTHER)
    count = 0
    while world.client_limits.may_forward(client) and count < 10_000:
        world.client_limits.count_forward(client)
        count += 1
    assert count == 400
    assert world.client_limits.may_forward(other)
    world.now += 1
    count = 0
    while world.client_limits.may_forward(client) and count < 10_000:
        world.client_limits.count_forward(client)
        count += 1
    assert count == 200


def test_t9_half_of_what_is_under_way_is_left_to_others() -> None:
    world = World(asker_rate=1_000_000, outstanding=100, query_timeout=5)
    client = world.client_limits.client(DOOR, GUEST)
    for _ in range(50):
        assert world.client_limits.may_forward(client)
        world.client_limits.count_forward(client)
    assert not world.client_limits.may_forward(client)
    assert world.client_limits.may_forward(world.client_limits.client(DOOR, OTHER))
    world.client_limits.end_forward(client)
    assert world.client_limits.may_forward(client)
    world.client_limits.count_forward(client)
    world.now += 7  # an answer that never came
    assert world.client_limits.may_forward(client)


@pytest.mark.parametrize(("local", "peer", "share"), [(DOOR, GUEST, 1), (DOOR, UNKNOWN, 4), (LAN_DOOR, STRANGER, 4)])
def test_who_is_proven_is_counted_by_himself(local: str, peer: str, share: int) -> None:
    world = World(asker_rate=5000, outstanding=1000)
    flood, honest = world.client_limits.client(local, peer), world.client_limits.client(local, peer, proven=True)
    assert flood is not None
    assert honest is not None
    assert world.admitted(local, peer, 10_000) == 5000
    while world.client_limits.may_forward(flood):
        world.client_limits.count_forward(flood)
    assert sum(world.client_limits.admit(honest, 5000) is SendDecision.SEND for _ in range(10_000)) == 5000 // share
    count = 0
    while world.client_limits.may_forward(honest):
        world.client_limits.count_forward(honest)
        count += 1
    assert count == 400 // share
    neighbour = world.client_limits.client(local, peer[:-1] + "3", proven=True)
    assert neighbour is not None
    assert world.client_limits.may_forward(neighbour)


def test_an_address_of_the_host_is_counted_once_as_nobody_else_can_have_it() -> None:
    client_limits = World().client_limits
    one, other = client_limits.client(DOOR, DOOR), client_limits.client(DOOR, DOOR, proven=True)
    assert one is not None
    assert other is not None
    assert one.usage is other.usage


def test_t11_no_more_is_remembered_than_the_bounds() -> None:
    world = World()
    for number in range(MOST_ACCOUNTS + 50):
        world.client_limits.client(LAN_DOOR, f"10.{number >> 8}.{number & 255}.1")
    assert len(world.client_limits._usages) <= MOST_ACCOUNTS
    assert len(world.client_limits._clients) <= client_limits.MAX_CLIENTS
    proven = VerifiedClients()
    for number in range(MOST_VERIFIED + 50):
        proven.add(str(number), 0.0)
    assert len(proven) == MOST_VERIFIED
    assert not proven.has("0", 1.0)
    assert proven.has(str(MOST_VERIFIED), 1.0)
