"""Port-forward rules as VirtualBox writes them."""

from __future__ import annotations

import pytest

from vmdns.sources.virtualbox_values import parse_nat_rule, rule_sort_key
from vmdns.state.facts import PortForward


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("ssh,1,127.0.0.1,2222,,22", PortForward("ssh", "tcp", "127.0.0.1", 2222, "", 22)),
        ("dns,0,,5353,10.0.2.15,53", PortForward("dns", "udp", "", 5353, "10.0.2.15", 53)),
        ("dns,udp,,5353,10.0.2.15,53", PortForward("dns", "udp", "", 5353, "10.0.2.15", 53)),
        ("tcp_80_80,tcp,,80,,80", PortForward("tcp_80_80", "tcp", "", 80, "", 80)),
        (",tcp,,80,,80", PortForward("", "tcp", "", 80, "", 80)),
        ('a "b",c\nd,tcp,,80,,80', PortForward('a "b",c\nd', "tcp", "", 80, "", 80)),
    ],
)
def test_nat_rule(text, rule) -> None:
    assert parse_nat_rule(text) == rule


@pytest.mark.parametrize(
    "text", ["", "tcp,,80,,80", "x,2,,80,,80", "x,unk,,80,,80", "x,TCP,,80,,80", "x,tcp,,,,80", "x,tcp,,80,,eighty"]
)
def test_no_nat_rule(text) -> None:
    with pytest.raises(ValueError):
        parse_nat_rule(text)


def test_order_does_not_depend_on_names_first() -> None:
    rules = [parse_nat_rule(text) for text in ("b,udp,,1,,1", "a,tcp,,9,,1", "z,tcp,127.0.0.1,1,,1", "y,tcp,,1,,1")]
    assert [rule.name for rule in sorted(rules, key=rule_sort_key)] == ["y", "z", "a", "b"]
