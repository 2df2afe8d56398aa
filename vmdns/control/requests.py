"""Answers the requests of commands over the control channel: names, watch, status, config, doctor, ask.

What it shows of the snapshot are JSON values; the same functions serve commands without a server, and the log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.rdatatype

from vmdns.dns.name import display_name
from vmdns.dns.query import encode_query
from vmdns.state.facts import Fact, Network, PortForward
from vmdns.state.guests import Guest, VmChange
from vmdns.state.networks import Address
from vmdns.state.reachability import find_service_name
from vmdns.state.snapshot import Snapshot, list_names
from vmdns.state.views import View

if TYPE_CHECKING:
    from vmdns.state.findings import Finding

# The server: the response to a packet from a client to an address of the host.
Resolve = Callable[[bytes, str, str], Awaitable[bytes]]

SIMULATION = "This is a simulation (vmdns demo): these VMs and networks do not exist."
MAX_PENDING = 10_000  # changes for a watcher that does not read


@dataclass(eq=False)
class Requests:
    """The callbacks give the current values; simulation: whether each response says that VirtualBox is simulated."""

    current: Callable[[], Snapshot]
    facts: Callable[[], Iterable[Fact]]
    resolve: Resolve
    status: Callable[[], dict[str, Any]]
    config: Callable[[], dict[str, Any]]
    simulation: bool = False
    _watchers: set[asyncio.Queue[dict[str, Any]]] = field(default_factory=set)

    def notify_watchers(self, change: dict[str, Any]) -> None:
        """Sends a change to every `vmdns names --watch`."""
        for queue in self._watchers:
            if queue.qsize() < MAX_PENDING:
                queue.put_nowait(change)

    def handle(self, message: dict[str, Any]) -> Awaitable[dict[str, Any]] | AsyncGenerator[dict[str, Any]]:
        """The response to one request, or its lines."""
        return self._watch() if message.get("do") == "watch" else self._respond(message)

    async def _respond(self, message: dict[str, Any]) -> dict[str, Any]:
        match message.get("do"):
            case "names":  # in a thread: with many VMs it takes long
                response = await asyncio.to_thread(names, self.current(), time.time())
            case "status":
                response = await self.status_with_verdict()
            case "config":
                response = self.config()
            case "doctor":
                response = {"findings": [one._asdict() for one in await self._findings(self.status())]}
            case "ask":
                response = await query_server(self.resolve, self.current(), message)
            case other:
                response = {"error": f"this vmdns does not know {other!r}; it is version {self.status()['version']}"}
        return {"simulation": SIMULATION, **response} if self.simulation else response

    async def _watch(self) -> AsyncGenerator[dict[str, Any]]:
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            yield await self._respond({"do": "names"})
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)

    async def status_with_verdict(self) -> dict[str, Any]:
        """What `vmdns status` shows."""
        from vmdns.state.findings import summarize_findings

        status = self.status()
        found = [one for one in await self._findings(status) if one.level != "ok"]
        verdict = summarize_findings(found)
        return {"verdict": f"{verdict}: run vmdns doctor" if found else verdict, **status}

    async def _findings(self, status: dict[str, Any]) -> list[Finding]:
        """In a thread: with many VMs it takes long."""
        from vmdns.state.diagnosis import DoctorInput, find_findings

        snapshot = self.current()
        inputs = DoctorInput(status, tuple(self.facts()), snapshot, time.time())
        return await asyncio.to_thread(find_findings, inputs)


async def query_server(resolve: Resolve, snapshot: Snapshot, message: dict[str, Any]) -> dict[str, Any]:
    """What the server answers to `name` and `type`, to the client `as` (default: this host), and why.

    `name` is what a user typed (see `typed_name`). `summary` says in words why there is no answer.
    """
    from vmdns.state.typed_name import explain, explain_no_answer, parse_typed_name

    try:
        key, default_type, note = parse_typed_name(str(message["name"]), snapshot)
    except (ValueError, KeyError) as error:
        remedy = "" if "; " in str(error) else "; write it like web, web.local or 10.0.2.4"
        return {"error": f"{error}{remedy}"}
    try:
        kind = dns.rdatatype.from_text(str(message.get("type") or default_type).upper())
    except (dns.exception.DNSException, ValueError):  # ValueError: TYPE65536
        return {"error": f"{message['type']!r} is no record type; use one like A, AAAA, PTR, SRV or TXT"}
    peer, local = _client_addresses(snapshot, str(message.get("as") or ""))
    if not peer:
        what = "neither an address nor a VM that runs; write it like 192.168.56.101, or see vmdns names"
        return {"error": f"--as {message['as']}: {what}"}
    if not local:
        return {"error": f"{peer} has no way to ask: no address of this host is on its network or handed out there"}
    found = dns.message.from_wire(await resolve(encode_query(1, key, int(kind)), peer, local))
    errors = [option for option in found.options if isinstance(option, dns.edns.EDEOption)]
    reason = "; ".join(option.text or str(int(option.code)) for option in errors)
    rcode, kind_text = found.rcode().name, dns.rdatatype.to_text(kind)
    view = snapshot.view(local, peer)
    summary = ""
    if not found.answer:
        summary = await asyncio.to_thread(explain_no_answer, key, kind_text, rcode, reason, snapshot, view)
    return {
        "question": f"{found.question[0].name} {kind_text}",
        "found": bool(found.answer),
        "summary": summary,
        "note": note,
        "rcode": rcode,
        "flags": dns.flags.to_text(found.flags).split(),
        "answer": [line for rrset in found.answer for line in rrset.to_text().splitlines()],
        "authority": [line for rrset in found.authority for line in rrset.to_text().splitlines()],
        "extended_error": reason,
        "why": explain(snapshot, key, time.time(), view, int(kind)),
    }


def _client_addresses(snapshot: Snapshot, wanted: str) -> tuple[str, str]:
    """From which address a client queries, and at which of the host's. wanted: a VM's name, an address, or '' for the
    host. The first is '' where that is neither, the second where the client reaches no address of the host."""
    if not wanted:
        return "127.0.0.1", "127.0.0.1"
    host = snapshot.host_networks
    if wanted in host.loopback:
        return "127.0.0.1", wanted
    typed = wanted.lower().rstrip(".")
    for guest in snapshot.guests:
        if not guest.machine.online:
            continue
        names = [*list_names(guest, snapshot.policy.zones), *(".".join(labels) for labels in guest.named.names)]
        if wanted == guest.machine.name or typed in names:
            networks = [adapter.network for adapter in guest.machine.adapters]
        elif not (networks := [one.network for one in guest.addresses if one.address == wanted]):
            continue
        for network in networks:
            if local := host.find_address_towards(network):
                # The queries of a guest behind NAT come, to the host, from the very address that they go to.
                own = [] if network.kind in ("nat", "natnetwork") else guest.addresses
                return next((one.address for one in own if one.network == network), local), local
        return wanted, ""
    try:
        ip_address(wanted)
    except ValueError:
        return "", ""
    place = host.place_of(wanted)
    return wanted, place.address if place is not None else "127.0.0.1" if host.owns(wanted) else ""


def names(snapshot: Snapshot, now: float) -> dict[str, Any]:
    """Every VM that is online, with its names and addresses; "here" are those by which this host reaches it.

    now in Unix seconds.
    """
    online = [guest for guest in snapshot.by_uuid.values() if guest.machine.online]
    online.sort(key=lambda one: (one.named.label, one.machine.uuid))
    return {
        "zones": list(snapshot.policy.zones),
        "serial": snapshot.serial,
        "names": [_guest(snapshot, guest, now) for guest in online],
        "problems": list(snapshot.problems),
    }


def _guest(snapshot: Snapshot, guest: Guest, now: float) -> dict[str, Any]:
    first, *others = list_names(guest, snapshot.policy.zones)
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
        "why": one.origin(now),
        "since": one.since,
    }


def describe_change(one: VmChange, zones: Sequence[str], now: float) -> dict[str, Any]:
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
        "why": "; ".join(item.origin(now) for item in after) or guest.note,
        "at": now,
    }


def format_change(value: dict[str, Any]) -> str:
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
