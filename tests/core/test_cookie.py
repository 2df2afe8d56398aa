"""DNS cookies: the vectors of RFC 9018 appendix A, and what X10 and E15 of the list of correct answers want."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmdns.core.cookie import EARLY_SECONDS, VALID_SECONDS, age, legal, make
from vmdns.core.siphash import siphash24

SECRET = bytes.fromhex("e5e973e5a6b2a43f48e7dc849e37bfcf")
OTHER = bytes.fromhex("dd3bdf9344b678b185a6f5cb60fca715")
ROLLED = bytes.fromhex("445536bcd2513298075a5d379663c962")
CLIENT = bytes.fromhex("2464c4abcf10c957")

# RFC 9018 appendix A: client cookie, address, secret, time of the answer, the cookie that goes out.
VECTORS = {
    "A.1 a new cookie": ("2464c4abcf10c957", "198.51.100.100", SECRET, 1559731985, "010000005cf79f111f8130c3eee29480"),
    "A.2 the same, a renewed one": (
        "2464c4abcf10c957", "198.51.100.100", SECRET, 1559734385, "010000005cf7a871d4a564a1442aca77",
    ),
    "A.3 another client": ("fc93fc62807ddb86", "203.0.113.203", SECRET, 1559734700, "010000005cf7a9acf73a7810aca2381e"),
    "A.4 IPv6, before the secret is rolled": (
        "22681ab97d52c298", "2001:db8:220:1:59de:d0f4:8769:82b8", OTHER, 0x5CF7C579, "010000005cf7c57926556bd0934c72f8",
    ),
    "A.4 IPv6, afterwards": (
        "22681ab97d52c298", "2001:db8:220:1:59de:d0f4:8769:82b8", ROLLED, 0x5CF7C609,
        "010000005cf7c609a6bb79d16625507a",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", VECTORS)
def test_the_vectors_of_the_rfc(case: str) -> None:
    client, address, secret, when, server = VECTORS[case]
    made = make(bytes.fromhex(client), address, when, secret)
    assert made.hex() == client + server
    assert age(made, address, when, secret) == 0


def test_siphash_of_its_paper() -> None:
    assert siphash24(bytes(range(16)), bytes(range(15))).hex() == "e545be4961ca29a1"


@pytest.mark.parametrize(
    ("later", "old"),
    [
        (0, 0), (1, 1), (VALID_SECONDS, VALID_SECONDS), (VALID_SECONDS + 1, None),
        (-EARLY_SECONDS, -EARLY_SECONDS), (-EARLY_SECONDS - 1, None), (10**8, None),
    ],
)  # fmt: skip
def test_x10_a_cookie_is_good_for_an_hour(later: int, old: int | None) -> None:
    made = make(CLIENT, "192.168.56.101", 1_800_000_000, SECRET)
    assert age(made, "192.168.56.101", 1_800_000_000 + later, SECRET) == old


def test_the_end_of_32_bits() -> None:
    made = make(CLIENT, "192.168.56.101", 2**32 - 10, SECRET)
    assert age(made, "192.168.56.101", 2**32 + 10, SECRET) == 20


def test_a_cookie_is_good_for_its_client_alone() -> None:
    made = make(CLIENT, "192.168.56.101", 1000, SECRET)
    assert age(made, "192.168.56.102", 1000, SECRET) is None
    assert age(made, "192.168.56.101", 1000, OTHER) is None
    assert age(bytes(8) + made[8:], "192.168.56.101", 1000, SECRET) is None


def test_the_interface_of_a_link_local_address_does_not_count() -> None:
    assert make(CLIENT, "fe80::1%eth0", 1000, SECRET) == make(CLIENT, "fe80::1", 1000, SECRET)


@given(st.binary(max_size=48))
def test_nothing_made_up_is_ours(data: bytes) -> None:
    assert age(data, "192.168.56.101", 1_800_000_000, SECRET) is None


@given(st.integers(8, 23), st.integers(0, 7))
def test_a_changed_bit_is_noticed(byte: int, bit: int) -> None:
    made = bytearray(make(CLIENT, "192.168.56.101", 1000, SECRET))
    made[byte] ^= 1 << bit
    assert age(bytes(made), "192.168.56.101", 1000, SECRET) is None


def test_e15_lengths() -> None:
    assert [length for length in range(50) if legal(length)] == [8, *range(16, 41)]
