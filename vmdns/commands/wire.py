"""`vmdns wire`: runs `Wire` and adds notes for the user to its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vmdns.commands.wire_networks import NetworkPlan, Wire
from vmdns.host import elevation
from vmdns.host.loopback_address import RESOLVER_ADDRESS

FOLLOW = "they follow when they renew their lease, within five minutes as VirtualBox gives leases, or when restarted"
ALONE = "while vmdns does not run, these guests resolve no names at all; have it started with your session"
PLAIN_NAT = (
    "guests on plain NAT are given what this computer itself asks, and nothing else can be set; "
    "`vmdns host --whole` makes this computer ask vmdns, and with it these guests"
)


def command(wire: Wire, do: str, network: str, say: Callable[[str], None]) -> dict[str, Any]:
    """The answer of `vmdns wire`: do is plan, apply or undo; say gets a line a step. Raises `CommandError`, OSError."""
    networks: list[NetworkPlan] = []
    left: list[str] = []
    if do == "undo":
        changed, left = wire.undo(say, network)
    else:
        networks = wire.plan(network)
        if do == "apply":
            networks = wire.apply(networks, say, network)
        changed = [one.row.network for one in networks if one.steps]
    notes = [f"{one.row.title}: {note}" for one in networks for note in one.row.notes]
    if changed and do != "undo":
        notes.append(ALONE)
    if networks and not network and RESOLVER_ADDRESS not in wire.resolvers:
        notes.append(PLAIN_NAT)
    guests = wire.guests(changed)
    if guests:
        notes.append(f"these guests run: {', '.join(guests)}; {FOLLOW}")
    return {
        "networks": [one.as_json() for one in networks],
        "changed": changed,
        "left": left,
        "notes": notes,
        "guests": guests,
        "done": do != "plan",
    }


def can_ask() -> bool:
    """Whether the right to give this computer an address is there, or someone who could be asked for it."""
    return elevation.is_elevated() or elevation.can_ask()
