"""The snapshot as JSON values, for commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vmdns.dns.builtin_zones import reverse_name
from vmdns.dns.message import AAAA, SRV, A
from vmdns.dns.name import display_name, to_text
from vmdns.state.addresses import Address
from vmdns.state.facts import Network, PortForward
from vmdns.state.problem import Problem
from vmdns.state.reachability import describe_network
from vmdns.state.services import find_service_name
from vmdns.state.shared_addresses import find_shared_address
from vmdns.state.snapshot import Guest, Snapshot, list_names
from vmdns.state.views import View
from vmdns.state.vm_change import VmChange


def names(snapshot: Snapshot, zones: Sequence[str], now: float) -> dict[str, Any]:
    """Every VM that is online, with its names and addresses; here are those by which this host reaches it.

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
        "network": _network(one),
        "mac": one.mac,
        "source": one.source,
        "why": why(one, now),
        "since": one.since,
    }


def _network(one: Address) -> dict[str, str]:
    return {"kind": one.network.kind, "name": one.network.name}


def why(one: Address, now: float) -> str:
    """Why the VM has this address, with what is left of a lease."""
    return f"{one.why}, {max(0, round(one.until - now))} s left" if one.until else one.why


def change(one: VmChange, zones: Sequence[str], now: float) -> dict[str, Any]:
    """A change of one VM as a line of `names --watch`."""
    guest = one.after or one.before
    assert guest is not None
    before = list(one.before.addresses) if one.before else []
    after = list(one.after.addresses) if one.after else []
    verb = "appeared" if one.before is None else "gone" if one.after is None else "changed"
    name = list_names(guest, zones)[0]
    was_name = list_names(one.before, zones)[0] if one.before else name
    return {
        "change": verb,
        "name": name,
        "shown": display_name(name),
        "was_name": was_name,
        "vm": guest.machine.name,
        "addresses": [_address(item, now) for item in after],
        "forwards": [_forward(rule) for rule in one.after.forwards] if one.after else [],
        "was": [item.address for item in before],
        "why": "; ".join(why(item, now) for item in after) or guest.note,
        "at": now,
    }


def change_line(value: dict[str, Any]) -> str:
    """The same as one line of text."""
    found = [_where(item) for item in value["addresses"]] + [rule["text"] for rule in value["forwards"]]
    addresses = ", ".join(found) or "no address known yet"
    if value["change"] == "gone":
        return f"- {value['shown']}"
    if value["change"] == "appeared":
        return f"+ {value['shown']}  {addresses}"
    renamed = f" (was {value['was_name']})" if value["was_name"] != value["name"] else ""
    was = ", ".join(value["was"])
    moved = f" (was {was})" if was and value["was"] != [item["address"] for item in value["addresses"]] else ""
    return f"~ {value['shown']}{renamed}  {addresses}{moved}"


def _where(item: dict[str, Any]) -> str:
    return f"{item['address']} ({_place(item['network'])}, {item['source']})"


def _place(network: dict[str, str]) -> str:
    return Network(network["kind"], network["name"]).title


def explain(snapshot: Snapshot, key: bytes, now: float, view: View, kind: int | None = None) -> list[str]:
    """Why a name is answered to this view as it is, to a question for this record type: one sentence each."""
    text = to_text(key)
    lines = [f"{text} is answered from this computer's hosts file"] if _is_in_hosts_file(snapshot, key) else []
    relative = _relative(snapshot, text)
    for guest in snapshot.by_uuid.values():
        if relative in guest.named.denied:
            machine = guest.machine
            lines += [f"VM {machine.name!r} ({machine.uuid}) {one}" for one in guest.named.problems]
    for guest in _guests_of(snapshot, text):
        machine = guest.machine
        lines.append(f"{text} is VM {machine.name!r} ({machine.uuid}), which is {machine.state}")
        if machine.online:
            sources = {one.address: f" ({why(one, now)})" for one in guest.addresses}
            found = (
                one for one in snapshot.choices(guest, view) if kind is None or _is_answered(one.address, kind, key)
            )
            lines += [f"{one}{sources.get(one.address, '')}" for one in found]
        if guest.note:
            lines.append(guest.note)
        lines += map(str, _shared_addresses(snapshot, guest))
        lines += dict.fromkeys(one.advice for one in (*guest.named.problems, *guest.refused) if one.advice)
        if machine.online and (reason := snapshot.vm_view(guest, view).why):
            lines.append(reason)
    for address, uuid in snapshot.pointers.get(key, ()):
        guest = snapshot.by_uuid[uuid]
        places = [describe_network(one.network) for one in guest.addresses if one.address == address]
        lines.append(f"{address} is VM {guest.machine.name!r} ({uuid}) on {' and '.join(places)}")
    return lines


def _shared_addresses(snapshot: Snapshot, guest: Guest) -> Iterator[Problem]:
    """Notes on addresses of this VM that other VMs have on the same network."""
    for place in dict.fromkeys((one.address, one.network) for one in guest.addresses):
        owners = (snapshot.by_uuid[uuid] for _, uuid in snapshot.pointers.get(reverse_name(place[0]), ()))
        found = find_shared_address(
            place[0], [one for one in owners if place in {(it.address, it.network) for it in one.addresses}]
        )
        if found is not None:
            yield found


def _is_answered(address: str, kind: int, key: bytes) -> bool:
    """Whether an address is in answers of this record type for this name, or what a service's answer leads to."""
    return kind == (AAAA if ":" in address else A) or (kind == SRV and key[1:2] == b"_")


def _is_in_hosts_file(snapshot: Snapshot, key: bytes) -> bool:
    """Whether a name has the address of a line in the hosts file: VMs that run and own records come before it."""
    if key in snapshot.owned or snapshot.nodes.get(key):
        return False
    return not {A, AAAA}.isdisjoint(snapshot.late.get(key) or snapshot.outside.get(key, {}))


def _guests_of(snapshot: Snapshot, text: str) -> list[Guest]:
    """The VMs that have this name, or the closest name above it."""
    parts = _relative(snapshot, text)
    for at in range(len(parts)):
        if found := [one for one in snapshot.by_uuid.values() if parts[at:] in one.named.names]:
            return found
    return []


def _relative(snapshot: Snapshot, text: str) -> tuple[str, ...]:
    """The labels of a name below its zone of VM names; none for a name elsewhere."""
    zone = next((zone for zone in map(to_text, snapshot.own) if text.endswith(f".{zone}")), None)
    return tuple(text.removesuffix(f".{zone}").split(".")) if zone else ()
