"""DNS cookies: the form of RFC 9018, and what X10 and E15 of the list of correct answers want."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmdns.dns.cookie import (
    EARLY_SECONDS,
    RENEW_SECONDS,
    ROLL_SECONDS,
    VALID_SECONDS,
    Cookies,
    cookie_age,
    is_legal_length,
    make_cookie,
)  # fmt: skip

SECRET = bytes.fromhex("e5e973e5a6b2a43f48e7dc849e37bfcf")
OTHER = bytes.fromhex("dd3bdf9344b678b185a6f5cb60fca715")
CLIENT = bytes.fromhex("2464c4abcf10c957")
PEER = "192.168.56.101"
NOW = 1_800_000_000


def test_the_form_of_rfc_9018() -> None:
    made = make_cookie(CLIENT, "198.51.100.100", 1559731985, SECRET)
    assert made[:16] == CLIENT + bytes.fromhex("010000005cf79f11")
    assert len(made) == 24


@pytest.mark.parametrize(
    ("made", "later", "age"),
    [
        (NOW, 0, 0), (NOW, 1, 1), (NOW, VALID_SECONDS, VALID_SECONDS), (NOW, VALID_SECONDS + 1, None),
        (NOW, -EARLY_SECONDS, -EARLY_SECONDS), (NOW, -EARLY_SECONDS - 1, None), (NOW, 10**8, None),
        (2**32 - 10, 20, 20),
    ],
)  # fmt: skip
def test_x10_a_cookie_is_valid_for_an_hour(made: int, later: int, age: int | None) -> None:
    assert cookie_age(make_cookie(CLIENT, PEER, made, SECRET), PEER, made + later, SECRET) == age


def test_a_cookie_is_valid_for_its_client_alone() -> None:
    made = make_cookie(CLIENT, PEER, 1000, SECRET)
    assert cookie_age(made, "192.168.56.102", 1000, SECRET) is None
    assert cookie_age(made, PEER, 1000, OTHER) is None
    assert cookie_age(bytes(8) + made[8:], PEER, 1000, SECRET) is None
    # The interface of a link-local address does not count.
    assert make_cookie(CLIENT, "fe80::1%eth0", 1000, SECRET) == make_cookie(CLIENT, "fe80::1", 1000, SECRET)


@given(st.binary(max_size=48))
def test_made_up_cookies_are_invalid(data: bytes) -> None:
    assert cookie_age(data, PEER, NOW, SECRET) is None


@given(st.integers(8, 23), st.integers(0, 7))
def test_a_changed_bit_is_noticed(byte: int, bit: int) -> None:
    made = bytearray(make_cookie(CLIENT, PEER, 1000, SECRET))
    made[byte] ^= 1 << bit
    assert cookie_age(bytes(made), PEER, 1000, SECRET) is None


def test_e15_lengths() -> None:
    assert [length for length in range(50) if is_legal_length(length)] == [8, *range(16, 41)]


# -- cookies of a server ------------------------------------------------------------------------------------------


class World:
    """A clock that is set, and secrets that are counted."""

    def __init__(self) -> None:
        self.now = float(NOW)
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
        world.now = NOW + later
        again, proves = world.cookies.check(given, PEER)
        assert proves
        assert (again == given) is kept
    world.now += 1
    assert world.cookies.check(given, PEER)[1] is False


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
