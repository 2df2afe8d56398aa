"""Cookies met by the server: X10, and a secret that is rolled."""

from __future__ import annotations

from vmdns.dns.cookie import RENEW_SECONDS, VALID_SECONDS
from vmdns.server.cookies import CHECKS, MAX_REMEMBERED, ROLL_SECONDS, Cookies

CLIENT, PEER = b"cccccccc", "192.168.56.101"


class World:
    """A clock that is set, and secrets that are counted."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.secrets = 0
        self.cookies = Cookies(lambda: self.now, self._random)

    def _random(self, count: int) -> bytes:
        self.secrets += 1
        return bytes([self.secrets]) * count


def test_x10_an_hour_and_renewed_after_half_of_it() -> None:
    world = World()
    given, proves = world.cookies.check(CLIENT, PEER)
    assert (given[:8], len(given), proves) == (CLIENT, 24, False)
    for later, kept in ((0, True), (RENEW_SECONDS - 1, True), (RENEW_SECONDS, False), (VALID_SECONDS, False)):
        world.now = 1_800_000_000.0 + later
        again, proves = world.cookies.check(given, PEER)
        assert proves
        assert (again == given) is kept
    world.now += 1
    assert world.cookies.check(given, PEER)[1] is False


def test_what_is_remembered_is_what_would_be_found() -> None:
    for seconds in range(0, 2 * VALID_SECONDS, 97):
        world = World()
        given, _ = world.cookies.check(CLIENT, PEER)
        world.cookies.check(given, PEER)
        world.now += seconds
        met = world.cookies.check(given, PEER)
        world.cookies._valid.clear()
        world.cookies._invalid.clear()
        fresh = world.cookies.check(given, PEER)
        assert met[1] == fresh[1]
        assert (met[0] == given) == (fresh[0] == given)


def test_another_address_has_another_cookie() -> None:
    world = World()
    given, _ = world.cookies.check(CLIENT, PEER)
    assert world.cookies.check(given, "192.168.56.102")[1] is False


def test_the_secret_is_rolled_and_the_one_before_is_good_for_an_hour() -> None:
    world = World()
    world.now += ROLL_SECONDS - 10
    given, _ = world.cookies.check(CLIENT, PEER)
    world.now += 20
    again, proves = world.cookies.check(given, PEER)
    assert world.secrets == 2
    assert proves
    assert again != given
    world.now += VALID_SECONDS
    assert world.cookies.check(given, PEER)[1] is False


def test_a_clock_that_jumps_costs_a_cookie_and_no_more() -> None:
    world = World()
    given, _ = world.cookies.check(CLIENT, PEER)
    for jump in (-3600, 7200, -86_400, 10**8):
        world.now += jump
        data, _ = world.cookies.check(given, PEER)
        assert world.cookies.check(data, PEER)[1] is True


def test_no_more_are_remembered_than_the_bound() -> None:
    world = World()
    for number in range(MAX_REMEMBERED + 10):
        world.cookies.check(number.to_bytes(8, "big"), PEER)
    assert len(world.cookies._invalid) <= MAX_REMEMBERED


def test_a_flood_of_invented_cookies_takes_little_and_pushes_no_valid_one_out() -> None:
    world = World()
    given, _ = world.cookies.check(CLIENT, PEER)
    assert world.cookies.is_valid(given, PEER)
    invented = [CLIENT + number.to_bytes(16, "big") for number in range(3 * MAX_REMEMBERED)]
    assert not any(world.cookies.is_valid(one, PEER) for one in invented)
    assert len(world.cookies._invalid) <= CHECKS  # no more were looked at
    for one in invented:
        world.cookies.check(one, PEER)
    assert world.cookies.is_valid(given, PEER)
    unseen, _ = World().cookies.check(b"dddddddd", PEER)  # the same secret: it is valid here too
    assert not world.cookies.is_valid(unseen, PEER)
    world.now += 1
    assert world.cookies.is_valid(unseen, PEER)
    assert not world.cookies.is_valid(CLIENT, PEER)
    assert not world.cookies.is_valid(b"", PEER)
