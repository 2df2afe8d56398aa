"""X07: what only a guesser would have to know is spread evenly over all that it can be (RFC 5452 section 9.2)."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from vmdns.dns.upstreams import Upstream
from vmdns.server.source_ports import RandomBytes, SourcePortPool
from vmdns.server.upstream_socket import UpstreamSockets

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
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        upstream = Upstream("127.0.0.1", server.getsockname()[1])
        ports = SourcePortPool(UpstreamSockets(100), RandomBytes())
        drawn = []
        for _ in range(DRAWS):
            port = ports.take(upstream, 0.0)
            drawn.append(port.socket.getsockname()[1])
            ports.drop(port)
    assert even(chi_square(drawn, 1024, 65536)), chi_square(drawn, 1024, 65536)


def test_x07_ten_thousand_ids() -> None:
    noise = RandomBytes()
    drawn = [int.from_bytes(noise.draw(2), "big") for _ in range(DRAWS)]
    assert even(chi_square(drawn, 0, 65536))
    # Nor does one tell the next.
    steps = [(after - before) % 65536 for before, after in pairwise(drawn)]
    assert even(chi_square(steps, 0, 65536))


def test_x07_what_rests_is_taken_at_random() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        upstream = Upstream("127.0.0.1", server.getsockname()[1])
        ports = SourcePortPool(UpstreamSockets(1024), RandomBytes())
        opened: dict[int, int] = {}
        which = []
        waiting = [ports.take(upstream, 0.0) for _ in range(256)]
        for one in waiting:
            ports.release(one, 0.0)
        for _ in range(2000):
            port = ports.take(upstream, 0.0)
            which.append(opened.setdefault(port.number, len(opened)))
            if not ports.release(port, 0.0):
                ports.drop(port)
        for one in ports.expired(1e9):
            ports.drop(one)
    assert len(set(which)) > 200
    assert max(Counter(which).values()) <= 32 * 2  # a number may be another socket's later
