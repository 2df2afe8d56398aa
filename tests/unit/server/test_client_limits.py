"""Who may cost how much (T8, T9, T13), by a clock that is set."""

from __future__ import annotations

import dns.flags
import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.facts import HOSTONLY, NETWORKS, NOW, lease, vm
from vmdns.dns.limits import Limits
from vmdns.dns.message import Record
from vmdns.dns.name import to_wire
from vmdns.dns.query import encode_query, encode_response, parse_query
from vmdns.server.client_limits import (
    ALLOWANCE,
    ALLOWANCE_BURST,
    FACTOR,
    MAX_CLIENTS,
    MAX_USAGES,
    MAX_VERIFIED,
    MUTE_SECONDS,
    UNCACHED,
    VERIFIED_SECONDS,
    Client,
    ClientLimits,
    ClientUsage,
    SendDecision,
)  # fmt: skip
from vmdns.state.build import build
from vmdns.state.facts import HostAddress
from vmdns.state.snapshot import Policy, Snapshot

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
        self.limits = ClientLimits(lambda: self.snapshot, Limits(**limits), lambda: self.now)  # type: ignore[arg-type]

    def admitted(self, local: str, peer: str, count: int) -> int:
        return self.admit(self.client(local, peer), count).count(SendDecision.SEND)

    def client(self, local: str, peer: str, verified: bool = False) -> Client:
        client = self.limits.client(local, peer, verified)
        assert client is not None
        return client

    def admit(self, client: Client, count: int, port: int = 5000) -> list[SendDecision]:
        return [self.limits.admit(client, port, lambda network: False) for _ in range(count)]


def test_one_vm_is_one_client_of_lookups_with_all_its_addresses_and_a_network_of_strangers_another() -> None:
    world = World()
    facts = [*NETWORKS, HostAddress("vboxnet0", "192.168.56.1/24"), vm(1, "web", HOSTONLY, HOSTONLY)]
    world.snapshot = build([*facts, lease(1, GUEST, HOSTONLY), lease(1 + 256, OTHER, HOSTONLY)], Policy(), NOW, 1)
    for verified in (False, True):
        one, other = (world.client(DOOR, peer, verified).lookup_client for peer in (GUEST, OTHER))
        strangers = {world.client(DOOR, f"192.168.56.{host}", verified).lookup_client for host in range(2, 100)}
        assert one == other
        assert len(strangers) == 1
        assert one not in strangers
    # What is sent in its name leaves it its lookups by TCP.
    assert world.client(DOOR, GUEST).lookup_client != world.client(DOOR, GUEST, verified=True).lookup_client


def response(records: int) -> bytes:
    return encode_response(
        parse_query(QUERY), limit=1232, answer=[Record(NAME, 1, 5, bytes((1, 2, 3, n))) for n in range(records)]
    )


@pytest.mark.parametrize(
    ("local", "peer", "key", "from_host", "stranger"),
    [
        (DOOR, DOOR, DOOR, True, False),  # the host itself, or guests of NAT behind it
        (DOOR, GUEST, GUEST, False, False),
        (LAN_DOOR, GUEST, GUEST, False, False),
        (DOOR, UNKNOWN, "192.168.56.0/24", False, False),
        (LAN_DOOR, STRANGER, "192.168.1.0/24", False, True),
        (LAN_DOOR, "203.0.113.9", "203.0.113.0/24", False, True),
        (LAN_DOOR, "2001:db8:1:2::3", "2001:db8:1::/56", False, True),
        (LAN_DOOR, "fe80::1%eth0", "fe80::/56", False, True),
    ],
)
def test_which_limits_a_client_has(local: str, peer: str, key: str, from_host: bool, stranger: bool) -> None:
    world = World()
    client = world.client(local, peer)
    assert (world.limits.client_key(peer), client.usage.network) == (key, key)
    assert (client.from_host, client.stranger) == (from_host, stranger)


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1"])
def test_loopback_is_not_limited(peer: str) -> None:
    assert World().limits.client(DOOR, peer) is None


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
    world.limits.forget_clients()
    assert world.admitted(DOOR, GUEST, 1000) == 0


def test_who_becomes_a_guest_while_it_is_looked_up() -> None:
    """What was found by the snapshot before is forgotten with it, though it was only then written down."""
    world = World()
    empty = build([*NETWORKS, HostAddress("vboxnet0", "192.168.56.1/24")], Policy(), NOW, 1)

    def looked_up_too_late() -> Snapshot:
        guests._current = lambda: world.snapshot
        guests.forget_clients()
        return empty

    guests = ClientLimits(looked_up_too_late, Limits(), lambda: world.now)
    early, late = guests.client(DOOR, GUEST), guests.client(DOOR, GUEST)
    assert early is not None
    assert early.usage.network == "192.168.56.0/24"
    assert late is not None
    assert late.usage.network == GUEST
    assert not late.stranger


def test_t13_where_no_answer_may_go() -> None:
    world = World()
    for peer in ("192.168.56.255", "255.255.255.255", "224.0.0.251", "0.0.0.0", "::", "ff02::fb"):
        assert set(world.admit(world.client(DOOR, peer), 10)) == {SendDecision.DROP}, peer
    assert set(world.admit(world.client(DOOR, GUEST), 10, port=0)) == {SendDecision.DROP}


def test_t8_a_stranger_gets_three_bytes_for_one() -> None:
    world = World()
    client = world.client(LAN_DOOR, STRANGER)
    for records in range(20):
        made = response(records)
        passed = world.limits.limit_response(client, made, len(QUERY))
        assert 0 < len(passed) <= 3 * len(QUERY)
        assert (passed == made) is (len(made) <= 3 * len(QUERY))
        assert bool(dns.message.from_wire(passed).flags & dns.flags.TC) is (passed != made)


def test_t8_a_guest_has_an_allowance_and_all_once_it_is_proven() -> None:
    world = World()
    client, made = world.client(DOOR, GUEST), response(20)
    passed = [world.limits.limit_response(client, made, len(QUERY)) for _ in range(2000)]
    assert sum(map(len, passed)) <= 3 * len(QUERY) * 2000 + ALLOWANCE_BURST
    assert b"" in passed
    world.limits.verify_address(GUEST)
    assert {world.limits.limit_response(client, made, len(QUERY)) for _ in range(100)} == {made}
    world.now += VERIFIED_SECONDS
    assert any(world.limits.limit_response(client, made, len(QUERY)) != made for _ in range(2000))


def test_the_host_itself_gets_all() -> None:
    world, made = World(), response(20)
    assert {world.limits.limit_response(world.client(DOOR, DOOR), made, 40) for _ in range(2000)} == {made}
    # It is counted once, as no other host can have its address.
    assert world.client(DOOR, DOOR).usage is world.client(DOOR, DOOR, verified=True).usage


def forward(world: World, client: Client) -> int:
    """Forwards as many queries as the client may. Returns how many."""
    count = 0
    while world.limits.may_forward(client) and count < 10_000:
        world.limits.begin_forward(client)
        count += 1
    return count


def test_t9_forwarded_queries() -> None:
    world = World(asker_rate=5000, outstanding=10_000)
    client = world.client(DOOR, GUEST)
    assert forward(world, client) == 400
    assert world.limits.may_forward(world.client(DOOR, OTHER))
    world.now += 1
    assert forward(world, client) == 200


def test_t9_half_of_what_is_under_way_is_left_to_others() -> None:
    world = World(asker_rate=1_000_000, outstanding=100, query_timeout=5)
    client = world.client(DOOR, GUEST)
    assert forward(world, client) == 50
    assert world.limits.may_forward(world.client(DOOR, OTHER))
    world.limits.end_forward(client)
    assert forward(world, client) == 1
    world.now += 7  # answers that never came
    assert forward(world, client) == 50


@pytest.mark.parametrize(("local", "peer", "share"), [(DOOR, GUEST, 1), (DOOR, UNKNOWN, 4), (LAN_DOOR, STRANGER, 4)])
def test_a_verified_client_has_limits_of_its_own(local: str, peer: str, share: int) -> None:
    world = World(asker_rate=5000, outstanding=1000)
    flood, honest = world.client(local, peer), world.client(local, peer, verified=True)
    assert world.admitted(local, peer, 10_000) == 5000
    forward(world, flood)
    assert world.admit(honest, 10_000).count(SendDecision.SEND) == 5000 // share
    assert forward(world, honest) == 400 // share
    assert world.limits.may_forward(world.client(local, peer[:-1] + "3", verified=True))


def test_t11_no_more_is_remembered_than_the_bounds() -> None:
    world = World()
    for number in range(MAX_USAGES + 50):
        world.client(LAN_DOOR, f"10.{number >> 8}.{number & 255}.1")
    assert len(world.limits._usages) <= MAX_USAGES
    assert len(world.limits._clients) <= MAX_CLIENTS
    for number in range(MAX_VERIFIED + 50):
        world.limits.verify_address(str(number))
    assert list(world.limits._verified) == [str(number) for number in range(50, MAX_VERIFIED + 50)]


# -- what one client may use -------------------------------------------------------------------------------------


def usage(rate: float = 1000.0) -> ClientUsage:
    return ClientUsage(GUEST, rate, 1, 0.0)


@given(st.lists(st.tuples(st.floats(-5, 60), st.integers(12, 512), st.integers(12, 1232)), max_size=300))
def test_no_more_is_sent_than_the_law_allows(steps: list[tuple[float, int, int]]) -> None:
    one, now, received, sent, passed = usage(), 0.0, 0, 0, 0.0
    for later, query, answer in steps:
        passed += max(0.0, later)
        now += later  # a clock that goes back counts as none
        received += query
        decision = one.release(now, query, answer)
        sent += {SendDecision.SEND: answer, SendDecision.TRUNCATE: query, SendDecision.DROP: 0}[decision]
        assert sent <= FACTOR * received + ALLOWANCE_BURST + ALLOWANCE * passed + 1e-6


def test_beyond_the_allowance_one_half_is_truncated_and_one_half_dropped() -> None:
    one = usage()
    decisions = [one.release(0.0, 40, 1200) for _ in range(100)]
    assert decisions[:54] == [SendDecision.SEND] * 54
    over = [decision for decision in decisions if decision is not SendDecision.SEND]
    assert over[:4] == [SendDecision.TRUNCATE, SendDecision.DROP] * 2
    # Answers of three times their query are sent all the same, and four of 500 bytes a second (old musl).
    assert {one.release(0.0, 40, 120) for _ in range(1000)} == {SendDecision.SEND}
    assert {one.release(1.0 + count / 4, 40, 500) for count in range(1000)} == {SendDecision.SEND}


@given(st.lists(st.tuples(st.floats(0, 0.01), st.booleans()), max_size=500))
def test_no_more_queries_than_the_rate(steps: list[tuple[float, bool]]) -> None:
    one, now, cost = usage(100.0), 0.0, 0.0
    for later, uncached in steps:
        now += later
        if one.admit(now) is SendDecision.SEND:
            cost += 1 + UNCACHED * uncached
            one.work.tokens -= UNCACHED * uncached
        assert cost <= 100.0 + 100.0 * now + UNCACHED + 1e-6  # the last one may go below zero


def test_beyond_the_rate_one_in_three_is_answered_empty_and_a_flood_is_muted() -> None:
    one = usage(100.0)
    decisions = [one.admit(0.0) for _ in range(400)]
    assert decisions[:100] == [SendDecision.SEND] * 100
    assert decisions[100:] == [SendDecision.DROP, SendDecision.DROP, SendDecision.TRUNCATE] * 100
    muted: list[str] = []
    world = World(asker_rate=100)
    client = world.client(DOOR, UNKNOWN)
    for _ in range(100 + 64):
        world.limits.admit(client, 5000, lambda network: not muted.append(network))
    assert muted == ["192.168.56.0/24"]
    assert set(world.admit(client, 50)) == {SendDecision.TRUNCATE}  # the kernel has dropped two in three
    world.now += MUTE_SECONDS
    assert world.admit(client, 30) == [SendDecision.DROP, SendDecision.DROP, SendDecision.TRUNCATE] * 10  # no refill
