"""Probes of an upstream: queries of vmdns's own, whose responses no client can influence.

A client can query names to which an upstream responds badly or not at all. So only responses to probes change how
queries are sent; a client's query can only start a probe.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import NamedTuple

from vmdns.dns import message as wire
from vmdns.dns.builtin_zones import LOCALHOST
from vmdns.dns.forwarded_answer import Forwarded, Question
from vmdns.dns.limits import Limits
from vmdns.dns.response_validation import Rejected, ResponseFault, validate_response
from vmdns.dns.upstreams import Upstream
from vmdns.server.upstream_query import encode_query
from vmdns.server.upstream_socket import UpstreamSockets

# How long a probe's response is waited for, in seconds.
SILENCE_TIMEOUT = 1.5
_ABILITIES_TIMEOUT = 5.0
# An upstream lacks an ability only if this many probes in a row say so.
_REPEATS = 3
# Resolvers answer localhost themselves (RFC 6761 section 6.3).
_QUESTION = Question(LOCALHOST, wire.A, False, False)
_LIMITS = Limits()


class Abilities(NamedTuple):
    """What an upstream can do: take a query with an OPT record (RFC 6891), and repeat the case of its question."""

    edns: bool = True
    case: bool = True


class _Response(NamedTuple):
    rcode: int
    verdict: ResponseFault | None  # None for an answer


async def check_response(sockets: UpstreamSockets, upstream: Upstream) -> None:
    """Returns when the upstream has responded to a probe, in whatever way.

    Raises OSError (TimeoutError after SILENCE_TIMEOUT), ValueError.
    """
    await _probe(sockets, upstream, SILENCE_TIMEOUT, edns=False)


async def find_abilities(sockets: UpstreamSockets, upstream: Upstream) -> Abilities:
    """Finds out what an upstream can do. Raises OSError (TimeoutError), ValueError."""
    no_edns = flat_case = True
    for _ in range(_REPEATS):
        response = await _probe(sockets, upstream, _ABILITIES_TIMEOUT, edns=True)
        if response.verdict is ResponseFault.NO_EDNS:
            response = await _probe(sockets, upstream, _ABILITIES_TIMEOUT, edns=False)
            no_edns = no_edns and response.rcode not in (wire.FORMERR, wire.NOTIMP)
        else:
            no_edns = False
        flat_case = flat_case and response.verdict is ResponseFault.OTHER_CASE
        if not no_edns and not flat_case:
            break
    return Abilities(not no_edns, not flat_case)


async def _probe(sockets: UpstreamSockets, upstream: Upstream, seconds: float, *, edns: bool) -> _Response:
    while True:
        packet, sent = encode_query(_QUESTION, secrets.token_bytes, edns=edns, mix_case=True)
        if sent.name != sent.key:  # a name that happens to be in lower case would show nothing about case
            break
    responses: list[_Response] = []

    def validate(message: bytes) -> Forwarded | Rejected:
        found = validate_response(message, sent, _LIMITS, trusted=True, own=lambda name: False)
        verdict = found.verdict if isinstance(found, Rejected) else None
        if verdict is not ResponseFault.IGNORE:
            responses.append(_Response(message[3] & 0xF, verdict))
        return found

    async with asyncio.timeout(seconds):
        await sockets.ask_udp(upstream, packet, validate)
    if not responses:
        raise OSError("only datagrams that are no response")
    return responses[0]
