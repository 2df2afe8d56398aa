"""The snapshot as JSON values, for commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vmdns.dns.message import AAAA, SRV, A
from vmdns.dns.name import display_name, to_text
from vmdns.state.facts import Network, PortForward
from vmdns.state.guests import Guest, VmChange
from vmdns.state.networks import Address
from vmdns.state.reachability import explain_choices, find_service_name
from vmdns.state.snapshot import Snapshot, list_names
from vmdns.state.views import View


def names(snapshot: Snapshot, zones: Sequence[str], now: float) -> dict[str, Any]:
    """Every VM that is online, with its names and addresses; "here" are those by which this host reaches it.

    now in Unix seconds.
    """
    online = [guest for guest in snapshot.by_uuid.values() if guest.machine.online]
    online.sort(key=lambda one: (one.named.label, one.machine.uuid))
    return {
        "zones": list(zones),
        "serial": snapshot.serial,
        "names": [_guest(snapshot, guest, zones, now) for guest in online],
        "problems": list(snapshot.problems),
    }


def _guest(snapshot: Snapshot, guest: Guest, zones: Sequence[str], now: float) -> dict[str, Any]:
    first, *others = list_names(guest, zones)
    return {
        "name": first,
        "shown": display_name(first),
        "also": others,
        "vm": guest.machine.name,
        "uuid": guest.machine.uuid,
        "state": guest.machine.state,
        "addresses": [_address(one, now) for one in guest.addresses],
        "forwards": [_forward(rule) for rule in guest.forwards],
        "here": list(snapshot.vm_view(guest, View()).addresses),
        "note": guest.note,
    }


def _forward(rule: PortForward) -> dict[str, Any]:
    protocol = "" if rule.protocol == "tcp" else f"/{rule.protocol}"
    where = f"{rule.host_address or 'host'}:{rule.host_port}{protocol}"
    return {
        "text": f"{where} -> {rule.guest_port} {find_service_name(rule)}",
        "service": find_service_name(rule),
        "protocol": rule.protocol,
        "host_address": rule.host_address,
        "host_port": rule.host_port,
        "guest_port": rule.guest_port,
        "rule": rule.name,
    }


def _address(one: Address, now: float) -> dict[str, Any]:
    return {
        "address": one.address,
        "network": {"kind": one.network.kind, "name": one.network.name},
        "mac": one.mac,
        "source": one.source,
        "why": why(one, now),
        "since": one.since,
    }


def why(one: Address, now: float) -> str:
    """Why the VM has this address, with what is left of a lease."""
    return f"{one.why}, {max(0, round(one.until - now))} s left" if one.until else one.why


def change(one: VmChange, zones: Sequence[str], now: float) -> dict[str, Any]:
    """A change of one VM as a line of `names --watch`."""
    guest = one.after or one.before
    assert guest is not None
    after = one.after.addresses if one.after else ()
    name = list_names(guest, zones)[0]
    return {
        "change": "appeared" if one.before is None else "gone" if one.after is None else "changed",
        "name": name,
        "shown": display_name(name),
        "was_name": list_names(one.before or guest, zones)[0],
        "vm": guest.machine.name,
        "addresses": [_address(item, now) for item in after],
        "forwards": [_forward(rule) for rule in one.after.forwards] if one.after else [],
        "was": [item.address for item in one.before.addresses] if one.before else [],
        "why": "; ".join(why(item, now) for item in after) or guest.note,
        "at": now,
    }


def change_line(value: dict[str, Any]) -> str:
    """The same as one line of text."""
    if value["change"] == "gone":
        return f"- {value['shown']}"
    found = [f"{one['address']} ({Network(**one['network']).title}, {one['source']})" for one in value["addresses"]] + [
        rule["text"] for rule in value["forwards"]
    ]
    addresses = ", ".join(found) or "no address known yet"
    if value["change"] == "appeared":
        return f"+ {value['shown']}  {addresses}"
    renamed = f" (was {value['was_name']})" if value["was_name"] != value["name"] else ""
    was = ", ".join(value["was"])
    moved = f" (was {was})" if was and value["was"] != [item["address"] for item in value["addresses"]] else ""
    return f"~ {value['shown']}{renamed}  {addresses}{moved}"


def explain(snapshot: Snapshot, key: bytes, now: float, view: View, kind: int | None = None) -> list[str]:
    """Why a name is answered to this view as it is, to a query for this record type: one sentence each."""
    text = to_text(key)
    lines = [f"{text} is answered from this computer's hosts file"] if _is_in_hosts_file(snapshot, key) else []
    zone = next((zone for zone in map(to_text, snapshot.policy.own) if text.endswith(f".{zone}")), None)
    labels = tuple(text.removesuffix(f".{zone}").split(".")) if zone else ()
    guests = snapshot.by_uuid.values()
    for guest in guests:
        if labels in guest.named.denied:
            lines += [f"VM {guest.machine.name!r} ({guest.machine.uuid}) {one}" for one in guest.named.problems]
    # The VMs that have this name, or the closest name above it.
    named = ([guest for guest in guests if labels[at:] in guest.named.names] for at in range(len(labels)))
    for guest in next(filter(None, named), ()):
        machine = guest.machine
        lines.append(f"{text} is VM {machine.name!r} ({machine.uuid}), which is {machine.state}")
        if machine.online:
            sources = {one.address: f" ({why(one, now)})" for one in guest.addresses}
            for address, reason in explain_choices(guest, snapshot.vm_view(guest, view), view, snapshot.ways):
                if kind is None or _is_answered(address, kind, key):
                    lines.append(f"{reason}{sources.get(address, '')}")
        if guest.note:
            lines.append(guest.note)
        places = dict.fromkeys((one.address, one.network) for one in guest.addresses)
        lines += [str(snapshot.shared[place]) for place in places if place in snapshot.shared]
        lines += dict.fromkeys(one.advice for one in (*guest.named.problems, *guest.refused) if one.advice)
        if machine.online and not guest.waiting and (reason := snapshot.vm_view(guest, view).why):
            lines.append(reason)
    for address, uuid in snapshot.pointers.get(key, ()):
        guest = snapshot.by_uuid[uuid]
        networks = [one.network.phrase for one in guest.addresses if one.address == address]
        lines.append(f"{address} is VM {guest.machine.name!r} ({uuid}) on {' and '.join(networks)}")
    return lines


def _is_answered(address: str, kind: int, key: bytes) -> bool:
    """Whether an address is in answers of this record type for this name, or what a service's answer leads to."""
    return kind == (AAAA if ":" in address else A) or (kind == SRV and key[1:2] == b"_")


def _is_in_hosts_file(snapshot: Snapshot, key: bytes) -> bool:
    """Whether a name has the address of a line in the hosts file: VMs that run and own records come before it."""
    if key in snapshot.owned or snapshot.nodes.get(key):
        return False
    return not {A, AAAA}.isdisjoint(snapshot.late.get(key) or snapshot.outside.get(key, {}))
