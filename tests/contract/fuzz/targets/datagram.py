"""Any datagram gets the same bytes from every path: silence where that is right, else one sound response in its limit.

Silence is right for less than a header and for responses. The first byte of the data says who asks, the rest is the
packet. What nobody but an upstream can answer is handed over by the paths of the threads, and answered by the loop's.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import dns.message

from tests.testzone import SNAPSHOT
from vmdns.dns.limits import Limits
from vmdns.dns.query import Malformed, Query, encode_response, parse_query, udp_response_limit
from vmdns.server.answer_cache import find
from vmdns.server.dns_server import DnsServer
from vmdns.server.external_names import ExternalNames
from vmdns.server.listeners import Listener
from vmdns.state.authoritative import Reply

# (the asker, the host's address that it asks at): the host itself, a guest, somebody on the LAN, a stranger
ASKERS = (
    ("127.0.0.1", "127.0.0.1"),
    ("192.168.56.102", "192.168.56.1"),
    ("192.168.1.77", "192.168.1.5"),
    ("203.0.113.9", "192.168.1.5"),
)


async def _forward(query: Query, limit: int) -> bytes:
    return encode_response(query, limit=limit)


async def _chase(query: Query, reply: Reply, target: bytes, limit: int) -> bytes:
    return encode_response(query, limit=limit, answer=reply.answer)


async def _admit(peer: str) -> None:
    """Nobody turns out to be a guest."""


def _served() -> DnsServer:
    return DnsServer(lambda: SNAPSHOT, ExternalNames(_forward, lambda query, limit: None, _chase, _admit), Limits())


SERVER = _served()
LISTENERS = {local: Listener(local, 53, None, None) for _, local in ASKERS}  # type: ignore[arg-type]


def check(data: bytes) -> None:
    peer, local = ASKERS[data[0] % len(ASKERS)] if data else ASKERS[0]
    packet = data[1:]
    general = _awaited(SERVER.handle(packet, peer, local, False))
    coming = general[1]
    response = general[0]
    assert SERVER.counts.failed == 0, "an exception was caught"
    silent = len(packet) < 12 or bool(packet[2] & 0x80)
    assert silent == (response is None), "silence where an answer is due, or an answer where silence is"
    if response is not None:
        sound(packet, response, 512)
    _same_by_threads(packet, peer, local, None if coming else response)


def sound(packet: bytes, response: bytes, least: int) -> None:
    """Raises AssertionError where that is no response to this packet."""
    assert len(response) >= 12, "less than a header"
    assert response[:2] == packet[:2], "another id"
    assert response[2] & 0x80, "no response"
    assert not (response[2] ^ packet[2]) & 0x78, "another opcode"
    assert response[2] & 1 == (packet[2] & 1 if not packet[2] & 0x78 else 0), "RD is copied for QUERY, and for it alone"
    dns.message.from_wire(response)
    try:
        query = parse_query(packet)
    except Malformed:
        question = response[12:]
        assert packet.startswith(question, 12), "more than a header and its question for what cannot be read"
        assert response[4:12] == (b"\0\1" if question else b"\0\0") + bytes(6), "counts"
        return
    assert response[4:6] == b"\0\1", "not one question"
    assert response[12 : 12 + len(query.question)] == query.question, "the question is not echoed"
    assert len(response) <= max(least, udp_response_limit(query)), "over its limit"
    assert (b"" if query.edns else response[10:12]) in (b"", b"\0\0"), "additional records nobody asked for"


def _same_by_threads(packet: bytes, peer: str, local: str, wanted: bytes | None) -> None:
    """The thread's first answer, what the cache makes of it, and that in another case."""
    listener = LISTENERS[local]
    SERVER.publish(SNAPSHOT)
    # Whoever is not of this host is counted, and gets silence for asking as fast as this.
    ask = SERVER.datagrams.ask if peer == "127.0.0.1" else SERVER.datagrams.answer
    first = ask(packet, (peer, 40000), listener)
    assert SERVER.counts.failed == (wanted is None and first is None and _handed_over(packet)), "an exception"
    SERVER._handler.counts.failed = 0
    assert (None if wanted is None else wanted[2:]) == first, "the thread's path and the loop's differ"
    if first is not None:
        assert ask(packet, (peer, 40000), listener) == first, "another answer at the second time"
    ready = SERVER.datagrams.find_answers(listener, peer)
    if ready is None:
        return
    again = find(ready, packet)
    assert again in (None, first), "the cache gives something else"
    end = packet.find(0, 12)
    other = packet[:12] + packet[12:end].swapcase() + packet[end:]
    hit = find(ready, other) if end > 0 else None
    if hit is not None:
        assert hit == (_awaited(SERVER.handle(other, peer, local, False))[0] or b"")[2:], "the cache in another case"


def _handed_over(packet: bytes) -> bool:
    """Whether it is a query: without a loop, one that is handed over counts as failed."""
    try:
        parse_query(packet)
    except Malformed:
        return False
    return True


def _awaited(response: bytes | Awaitable[bytes] | None) -> tuple[bytes | None, bool]:
    """The response, and whether it had to be waited for. Nothing here really waits."""
    if response is None or isinstance(response, bytes):
        return response, False
    coroutine: Any = response
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value, True
    raise AssertionError("it waits for something")
