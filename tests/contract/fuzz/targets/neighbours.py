"""Any output of a command on neighbours gives only entries of the right shape, and only unicast machines become facts.

A zero byte in the text divides one look from the next.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from vmdns.sources.neighbours import MAX_ENTRIES, NeighbourHistory, parse_macos
from vmdns.state.facts import from_json, to_json


def check(data: bytes) -> None:
    seen = NeighbourHistory()
    for now, text in enumerate(data.decode("utf-8", "replace").split("\0")[:10]):
        facts = seen.facts(parse_macos(text), float(now))
        assert len(facts) <= MAX_ENTRIES
        for key, one in facts.items():
            assert key == f"neighbour:{one.interface} {one.address}"
            assert re.fullmatch("[0-9a-f]{12}", one.mac)
            assert not int(one.mac[:2], 16) & 1
            address = ip_address(one.address)
            assert not (address.is_multicast or address.is_loopback or address.is_link_local or address.is_unspecified)
            assert 0 <= one.since <= now
            assert from_json(to_json(one)) == one, "the worker could not tell it"
