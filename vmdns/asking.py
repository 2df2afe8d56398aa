"""`vmdns ask`, and the rest of a CNAME chain that leaves our zones: both put a question to the server itself."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.rdatatype

from vmdns.core.answer import Reply
from vmdns.core.build import Snapshot
from vmdns.core.forwarded import Failure, Forwarded, Question
from vmdns.core.name import to_wire, unicode_name
from vmdns.core.wire import Query, make_query, respond
from vmdns.report import explain

Find = Callable[[Question], Awaitable[Forwarded | Failure]]
Handle = Callable[[bytes, str, str, bool], bytes | Awaitable[bytes] | None]


async def chase(find: Find, query: Query, reply: Reply, target: bytes, limit: int) -> bytes:
    """The response to a question whose CNAME chain goes on outside of our zones, at `target`."""
    found = await find(Question(target, query.type, query.dnssec_ok, query.checking_disabled))
    if isinstance(found, Failure):
        return respond(query, found.rcode, limit=limit, answer=reply.answer, extended_error=found.error)
    return respond(query, found.rcode, limit=limit, answer=[*reply.answer, *found.answer], authority=found.authority)


async def ask(handle: Handle, snapshot: Snapshot, message: dict[str, Any]) -> dict[str, Any]:
    """What the server answers to `name` and `type`, to the asker `as` (default: this host), and why."""
    try:
        kind = dns.rdatatype.from_text(str(message.get("type") or "A"))
        key = to_wire(str(message["name"]))
    except (dns.exception.DNSException, ValueError, KeyError) as error:
        return {"error": str(error) or "no such record type"}
    peer = str(message.get("as") or "127.0.0.1")
    packet = make_query(1, key, int(kind))
    reply = handle(packet, peer, "127.0.0.1", True)
    if reply is not None and not isinstance(reply, bytes):
        reply = await reply
    if reply is None:
        return {"error": "the server stays silent"}
    found = dns.message.from_wire(reply)
    errors = [option for option in found.options if isinstance(option, dns.edns.EDEOption)]
    key = unicode_name(key) or key
    return {
        "question": f"{found.question[0].name} {dns.rdatatype.to_text(kind)}",
        "rcode": found.rcode().name,
        "flags": dns.flags.to_text(found.flags).split(),
        "answer": [line for rrset in found.answer for line in rrset.to_text().splitlines()],
        "authority": [line for rrset in found.authority for line in rrset.to_text().splitlines()],
        "extended_error": "; ".join(option.text or str(int(option.code)) for option in errors),
        "why": explain(snapshot, key, time.time()),
    }
