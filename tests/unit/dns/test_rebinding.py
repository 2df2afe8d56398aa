"""Names whose answers were withheld, and domains that are forwarded although they lie in zones of ours."""

from __future__ import annotations

import pytest

from vmdns.dns.name import to_wire
from vmdns.dns.rebinding import MAX_WITHHELD, WITHHELD_SECONDS, WithheldNames
from vmdns.dns.upstreams import find_forwarded_domains


def test_withheld_names_are_bounded_and_expire() -> None:
    held = WithheldNames()
    names = [to_wire(f"x{at}.lan") for at in range(MAX_WITHHELD + 1)]
    assert all(held.add(name, 0.0) for name in names)
    assert not held.add(names[-1], 1.0)
    assert len(held.names(1.0)) == MAX_WITHHELD
    assert held.names(WITHHELD_SECONDS) == [f"x{MAX_WITHHELD}.lan"]
    assert held.add(names[-2], WITHHELD_SECONDS)


@pytest.mark.parametrize(
    ("domain", "forwarded"),
    [
        ("corp.local", True),
        ("a.corp.local", True),
        ("x.vm.internal", True),
        ("home.arpa", True),
        ("lan.home.arpa", True),
        ("local", False),
        ("vm.internal", False),
        ("corp.example", False),  # forwarded anyway
        ("internal", False),
        ("10.in-addr.arpa", False),
        ("x.localhost", False),
        ("x.onion", False),
    ],
)
def test_the_host_s_domains_that_are_forwarded(domain: str, forwarded: bool) -> None:
    zones = (to_wire("local"), to_wire("vm.internal"))
    assert find_forwarded_domains([to_wire(domain)], zones) == ({to_wire(domain)} if forwarded else set())
