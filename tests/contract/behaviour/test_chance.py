"""X07: what only a guesser would have to know is spread evenly over all that it can be (RFC 5452 section 9.2)."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from vmdns.dns.forwarded_answer import Question
from vmdns.dns.message import A
from vmdns.dns.name import to_wire
from vmdns.server.upstream_exchange import encode_query
from vmdns.server.upstream_sockets import bind_random_port

DRAWS, BUCKETS = 10_000, 64


def chi_square(drawn: Iterable[int], least: int, most: int) -> float:
    """Of how often each of 64 equal ranges from least to most - 1 was drawn."""
    found = Counter((one - least) * BUCKETS // (most - least) for one in drawn)
    assert set(found) <= set(range(BUCKETS))
    expected = sum(found.values()) / BUCKETS
    return sum((found[bucket] - expected) ** 2 / expected for bucket in range(BUCKETS))


# Of 63 degrees of freedom: more than 135 happens by chance once in a million runs, and so does less than 22.
def even(chi: float) -> bool:
    return 22 < chi < 135


def test_x07_ten_thousand_ports() -> None:
    drawn = []
    for _ in range(DRAWS):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            bind_random_port(sock, socket.AF_INET)
            drawn.append(sock.getsockname()[1])
    assert even(chi_square(drawn, 1024, 65536)), chi_square(drawn, 1024, 65536)


def test_x07_ten_thousand_ids() -> None:
    question = Question(to_wire("www.example"), A, False, False)
    drawn = [encode_query(question, edns=True, mix_case=True)[1].id for _ in range(DRAWS)]
    assert even(chi_square(drawn, 0, 65536))
    # Nor does one tell the next.
    steps = [(after - before) % 65536 for before, after in pairwise(drawn)]
    assert even(chi_square(steps, 0, 65536))
