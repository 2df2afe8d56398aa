"""`vmdns ask`, and the rest of a CNAME chain that leaves our zones: both send a query to the server itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.rdatatype

from vmdns.control.report import explain
from vmdns.dns.forwarded_answer import Failure, Forwarded, Question
from vmdns.dns.message import Query, encode_query, encode_response
from vmdns.dns.name import to_text
from vmdns.state.authoritative import Reply
from vmdns.state.snapshot import Snapshot, list_names

Find = Callable[[Question], Awaitable[Forwarded | Failure]]
Handle = Callable[[bytes, str, str, bool], bytes | Awaitable[bytes] | None]


async def chase(find: Find, query: Query, reply: Reply, target: bytes, limit: int) -> bytes:
    """The response to a question whose CNAME chain goes on outside of our zones, at `target`."""
    found = await find(Question(target, query.type, query.dnssec_ok, query.checking_disabled))
    if isinstance(found, Failure):
        return encode_response(query, found.rcode, limit=limit, answer=reply.answer, extended_error=found.error)
    return encode_response(
        query, found.rcode, limit=limit, answer=[*reply.answer, *found.answer], authority=found.authority
    )


async def ask(handle: Handle, snapshot: Snapshot, message: dict[str, Any]) -> dict[str, Any]:
    """What the server answers to `name` and `type`, to the client `as` (default: this host), and why.

    `name` is what a user typed (see `typed_name`). `summary` says in words why there is no answer.
    """
    from vmdns.state.no_answer import explain_no_answer
    from vmdns.state.typed_name import parse_typed_name

    try:
        key, kind_name, note = parse_typed_name(str(message["name"]), snapshot)
    except (ValueError, KeyError) as error:
        return {"error": str(error)}
    try:
        kind = dns.rdatatype.from_text(str(message.get("type") or kind_name).upper())
    except (dns.exception.DNSException, ValueError):  # ValueError: TYPE65536
        return {"error": f"{message['type']!r} is no record type; use one like A, AAAA, PTR, SRV or TXT"}
    peer, local = _client(snapshot, str(message.get("as") or ""))
    if not peer:
        what = "neither an address nor a VM that runs; write it like 192.168.56.101, or see vmdns names"
        return {"error": f"--as {message['as']}: {what}"}
    if not local:
        return {"error": f"{peer} has no way to ask: no address of this host is on its network or handed out there"}
    reply = handle(encode_query(1, key, int(kind)), peer, local, True)
    if reply is not None and not isinstance(reply, bytes):
        reply = await reply
    if reply is None:
        return {"error": "the server stays silent"}
    found = dns.message.from_wire(reply)
    errors = [option for option in found.options if isinstance(option, dns.edns.EDEOption)]
    reason = "; ".join(option.text or str(int(option.code)) for option in errors)
    rcode = found.rcode().name
    view = snapshot.view(local, peer)
    summary = ""
    if not found.answer:
        kind_text = dns.rdatatype.to_text(kind)
        summary = await asyncio.to_thread(explain_no_answer, key, kind_text, rcode, reason, snapshot, view)
    return {
        "question": f"{found.question[0].name} {dns.rdatatype.to_text(kind)}",
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


def _client(snapshot: Snapshot, wanted: str) -> tuple[str, str]:
    """From which address somebody asks, and at which of the host's: the name of a VM, an address, or '' for the host.

    A guest behind NAT asks, to the host, from the very address that it asks at.
    """
    if not wanted:
        return "127.0.0.1", "127.0.0.1"
    ways = snapshot.ways
    if wanted in ways.loopback:
        return "127.0.0.1", wanted
    zones = [to_text(zone) for zone in snapshot.own]
    typed = wanted.lower().rstrip(".")
    for guest in snapshot.guests:
        if not guest.machine.online:
            continue
        full = list_names(guest, zones)
        named = wanted == guest.machine.name or typed in (*full, *(".".join(names) for names in guest.named.names))
        networks = [one.network for one in guest.addresses if one.address == wanted]
        if named:
            networks = [adapter.network for adapter in guest.machine.adapters]
        for network in networks:
            local = ways.find_address_towards(network)
            if local:
                mine = (one.address for one in guest.addresses if one.network == network)
                hidden = network.kind in ("nat", "natnetwork")
                return local if hidden else next(mine, local), local
        if named or networks:
            return wanted, ""
    try:
        ip_address(wanted)
    except ValueError:
        return "", ""
    place = ways.place_of(wanted)
    return wanted, place.address if place is not None else "127.0.0.1" if ways.owns(wanted) else ""
