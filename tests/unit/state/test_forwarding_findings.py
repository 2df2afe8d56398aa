"""What doctor says about names that are forwarded, and the names behind it."""

from __future__ import annotations

import pytest

from vmdns.dns.name import to_wire
from vmdns.dns.rebinding import MAX_WITHHELD, WITHHELD_SECONDS, WithheldNames
from vmdns.dns.upstreams import find_forwarded_domains
from vmdns.state.findings import OK, WARNING, Finding, domain_to_allow, find_server_findings


def findings(subject: str, **status: object) -> list[Finding]:
    return [one for one in find_server_findings({"version": "1", **status}, False) if one.subject == subject]


def test_a_company_s_domain_below_a_zone_is_named() -> None:
    upstreams = [
        {"address": "192.0.2.1:53", "failed": 0, "domains": [".", "corp.local", "corp.example"]},
        {"address": "192.0.2.2:53", "failed": 0, "domains": ["corp.local"]},
    ]
    (found,) = findings("corp.local", zones=["local", "vm.internal"], upstreams=upstreams)
    assert (found.subject, found.level) == ("corp.local", OK)
    assert "192.0.2.1:53 and 192.0.2.2:53" in found.text


def test_names_that_were_withheld_come_with_the_line_that_allows_them() -> None:
    held = ["nas.fritz.box", "www.nas.lan", "nas.lan", "10.0.0.1.nip.io"]
    (found,) = findings("private addresses", forwarding={"held_back": held})
    assert found.level == WARNING
    assert "nas.fritz.box, www.nas.lan, nas.lan and 10.0.0.1.nip.io" in found.text
    assert found.text.endswith('private_domains = ["nip.io", "lan", "nas.lan", "fritz.box"]')
    assert findings("private addresses") == []


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("nas.fritz.box", "fritz.box"),
        ("fritz.box", "fritz.box"),
        ("nas.lan", "lan"),
        ("shop.test", "test"),
        ("db.prod.corp.example", "prod.corp.example"),
        ("lan", "lan"),
        ("example.co.uk", "example.co.uk"),
        ("db.example.com.au", "example.com.au"),
    ],
)
def test_the_domain_to_allow(name: str, domain: str) -> None:
    assert domain_to_allow(name) == domain


def test_names_that_were_withheld_are_bounded_and_forgotten() -> None:
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
