"""Any datagram gets the same bytes from every path: silence where that is right, else one sound response in its limit.

Silence is right for less than a header and for responses. The first byte of the data chooses the client, the
rest is the packet.
"""

from __future__ import annotations

import os

import dns.message

from tests.testzone import SNAPSHOT
from tests.unit.server.dnsbench import InlineThread, answer_at_once
from vmdns.dns.cookie import Cookies
from vmdns.dns.forwarded_answer import Forwarded, Question
from vmdns.dns.limits import Limits
from vmdns.dns.query import Malformed, parse_query, udp_response_limit
from vmdns.server.answer_cache import find
from vmdns.server.dns_server import DnsServer
from vmdns.server.query_handler import QueryHandler
from vmdns.state.snapshot import AccessRight

# (the client, the host's address that it queries): the host itself, a guest, a host on the LAN, an unknown one
CLIENTS = (
    ("127.0.0.1", "127.0.0.1"),
    ("192.168.56.102", "192.168.56.1"),
    ("192.168.1.77", "192.168.1.5"),
    ("203.0.113.9", "192.168.1.5"),
)


class _Forwarder:
    """Answers every query with nothing, in the thread that queries."""

    thread = InlineThread()

    def find(self, question: Question, waiter: object) -> Forwarded:
        return Forwarded(0)


async def _admit(peer: str) -> None:
    """Nobody turns out to be a guest."""


SERVER = DnsServer(QueryHandler(lambda: SNAPSHOT, _Forwarder(), _admit, Limits()))  # type: ignore[arg-type]
# A cookie has the second of its making, in which two equal answers may differ.
SERVER.handler._cookies = Cookies(lambda: 1_800_000_000.0, os.urandom)


def check(data: bytes) -> None:
    peer, local = CLIENTS[data[0] % len(CLIENTS)] if data else CLIENTS[0]
    packet = data[1:]
    SERVER.publish(SNAPSHOT)
    response = answer_at_once(SERVER, packet, peer, local)
    if _waits(packet, peer, local):
        assert (response, SERVER.handler.counts.failed) == (b"", 1), "an answer before the neighbour table was read"
        SERVER.handler.counts.failed = 0
        return
    assert SERVER.handler.counts.failed == 0, "an exception was caught"
    silent = len(packet) < 12 or bool(packet[2] & 0x80)
    assert silent == (response == b""), "silence where an answer is due, or an answer where silence is"
    assert response is not None
    if response:
        sound(packet, response, 512)
    _same_from_cache(packet, peer, local, response)


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


def _same_from_cache(packet: bytes, peer: str, local: str, response: bytes) -> None:
    """The second answer, what the cache makes of it, and that in another case."""
    assert answer_at_once(SERVER, packet, peer, local) == response, "another answer at the second time"
    answers = SERVER.handler.find_answers(peer, local)
    if answers is None:
        return
    assert find(answers, packet) in (None, response), "the cache gives something else"
    end = packet.find(0, 12)
    other = packet[:12] + packet[12:end].swapcase() + packet[end:]
    hit = find(answers, other) if end > 0 else None
    if hit is not None:
        assert hit == answer_at_once(SERVER, other, peer, local), "the cache in another case"


def _waits(packet: bytes, peer: str, local: str) -> bool:
    """Whether it is a query of a peer that may turn out to be a VM; there is no loop here to wait in."""
    try:
        parse_query(packet)
    except Malformed:
        return False
    return SNAPSHOT.right(local, peer) is AccessRight.UNKNOWN
