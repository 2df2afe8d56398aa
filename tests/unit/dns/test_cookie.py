"""DNS cookies: the form of RFC 9018, and what X10 and E15 of the list of correct answers want."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmdns.dns.cookie import EARLY_SECONDS, VALID_SECONDS, cookie_age, is_legal_length, make_cookie

SECRET = bytes.fromhex("e5e973e5a6b2a43f48e7dc849e37bfcf")
OTHER = bytes.fromhex("dd3bdf9344b678b185a6f5cb60fca715")
CLIENT = bytes.fromhex("2464c4abcf10c957")


def test_the_form_of_rfc_9018() -> None:
    made = make_cookie(CLIENT, "198.51.100.100", 1559731985, SECRET)
    assert made[:16] == CLIENT + bytes.fromhex("010000005cf79f11")
    assert len(made) == 24
    assert cookie_age(made, "198.51.100.100", 1559731985, SECRET) == 0


@pytest.mark.parametrize(
    ("later", "old"),
    [
        (0, 0), (1, 1), (VALID_SECONDS, VALID_SECONDS), (VALID_SECONDS + 1, None),
        (-EARLY_SECONDS, -EARLY_SECONDS), (-EARLY_SECONDS - 1, None), (10**8, None),
    ],
)  # fmt: skip
def test_x10_a_cookie_is_good_for_an_hour(later: int, old: int | None) -> None:
    made = make_cookie(CLIENT, "192.168.56.101", 1_800_000_000, SECRET)
    assert cookie_age(made, "192.168.56.101", 1_800_000_000 + later, SECRET) == old


def test_the_end_of_32_bits() -> None:
    made = make_cookie(CLIENT, "192.168.56.101", 2**32 - 10, SECRET)
    assert cookie_age(made, "192.168.56.101", 2**32 + 10, SECRET) == 20


def test_a_cookie_is_good_for_its_client_alone() -> None:
    made = make_cookie(CLIENT, "192.168.56.101", 1000, SECRET)
    assert cookie_age(made, "192.168.56.102", 1000, SECRET) is None
    assert cookie_age(made, "192.168.56.101", 1000, OTHER) is None
    assert cookie_age(bytes(8) + made[8:], "192.168.56.101", 1000, SECRET) is None


def test_the_interface_of_a_link_local_address_does_not_count() -> None:
    assert make_cookie(CLIENT, "fe80::1%eth0", 1000, SECRET) == make_cookie(CLIENT, "fe80::1", 1000, SECRET)


@given(st.binary(max_size=48))
def test_nothing_made_up_is_ours(data: bytes) -> None:
    assert cookie_age(data, "192.168.56.101", 1_800_000_000, SECRET) is None


@given(st.integers(8, 23), st.integers(0, 7))
def test_a_changed_bit_is_noticed(byte: int, bit: int) -> None:
    made = bytearray(make_cookie(CLIENT, "192.168.56.101", 1000, SECRET))
    made[byte] ^= 1 << bit
    assert cookie_age(bytes(made), "192.168.56.101", 1000, SECRET) is None


def test_e15_lengths() -> None:
    assert [length for length in range(50) if is_legal_length(length)] == [8, *range(16, 41)]
