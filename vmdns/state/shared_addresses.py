"""VMs that have the same address on the same network: reported, as vmdns cannot know whose it is.

Where one of them has better proof than the others (a lease, the host's neighbour table), the address of the others is
refused (addresses.py) and not reported here. What remains are claims of equal worth, and copies of a VM that have its
MAC, and so its lease.
"""

from __future__ import annotations

from collections.abc import Iterable

from vmdns.state.address_check import SAME_MACHINE_ID
from vmdns.state.facts import Network
from vmdns.state.problem import Problem
from vmdns.state.snapshot import Guest

MOST_NAMED = 3
SAME_MAC = "they have one MAC address; `vmdns doctor` has the command that gives one of them another"


def find_shared_address(address: str, guests: Iterable[Guest]) -> Problem | None:
    """Those that have this address on the same network; None where there are none.

    guests: those that have it, on whatever network.
    """
    on: dict[Network, list[Guest]] = {}
    for guest in guests:
        for network in dict.fromkeys(one.network for one in guest.addresses if one.address == address):
            on.setdefault(network, []).append(guest)
    for network in sorted(on, key=repr):
        among = sorted(on[network], key=lambda one: one.machine.uuid)
        if len(among) > 1:
            names = [f"VM {one.machine.name!r}" for one in among[:MOST_NAMED]]
            more = f" and {len(among) - MOST_NAMED} more" if len(among) > MOST_NAMED else ""
            where = network.name or network.kind
            text = f"{', '.join(names)}{more}: all of them are at {address} on {where}, so it is not known whose it is"
            macs = {one.mac for guest in among for one in guest.addresses if one.address == address}
            return Problem(text, SAME_MAC if len(macs) == 1 else SAME_MACHINE_ID)
    return None
