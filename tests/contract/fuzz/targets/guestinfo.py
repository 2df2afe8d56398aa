"""Whatever a guest says of itself and a user of a VM, each name and address that comes of it is sound and the VM's own.

The data is texts, divided by zero bytes: the VM's name, its extra data, and then guest properties, name and value.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

from tests.facts import HOSTONLY, LAB, NETWORKS, NOW, lease, uuid, vm
from vmdns.control.requests import names
from vmdns.dns.name import to_text
from vmdns.sources.virtualbox_values import MAX_NAMES, MAX_REPORTS, parse_extra, parse_guest_reports
from vmdns.state.build import build
from vmdns.state.snapshot import Policy

POLICY = Policy(zones=("local", "vm.internal"))
NET = "/VirtualBox/GuestInfo/Net/"
OTHER = "192.168.56.102"


def check(data: bytes) -> None:
    name, extra, *said = [part.decode("utf-8", "replace") for part in (data + b"\0").split(b"\0")][:200]
    pairs = zip(said[::2], said[1::2], strict=False)
    properties = {key if key.startswith("/") else NET + key: (value, NOW - 1) for key, value in pairs}
    claimed = parse_guest_reports({**properties, "/VirtualBox/HostInfo/VBoxVer": ("7.2.22", NOW - 60)}, "Running")
    assert len(claimed) <= MAX_REPORTS
    for one in claimed:
        assert str(IPv4Address(one.address)) == one.address
        assert len(one.mac) == 12
    given = parse_extra({"vmdns/names": extra}).names
    assert len(given) <= MAX_NAMES
    liar = vm(1, name, HOSTONLY, LAB, reports=claimed, names=given)
    facts = (*NETWORKS, liar, vm(2, "db", HOSTONLY), lease(2, OTHER, HOSTONLY))
    snapshot = build(facts, POLICY, NOW, 7)
    for owner in snapshot.owned:
        assert owner == owner.lower()
        assert len(owner) <= 255
        assert to_text(owner).isprintable()
    _own(names(snapshot, NOW))


def _own(report: dict[str, Any]) -> None:
    """The other VM keeps its name and its address."""
    listed: list[dict[str, Any]] = report["names"]
    found = [one["uuid"] for one in listed if OTHER in [address["address"] for address in one["addresses"]]]
    assert found == [uuid(2)], "the other VM lost its address, or somebody else has it as well"
