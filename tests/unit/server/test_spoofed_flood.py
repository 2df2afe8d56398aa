"""A flood in a victim's name, by a clock that is set: what the victim itself still gets."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import pytest

from tests.facts import HOSTONLY, NETWORKS, NOW, lease, vm
from tests.unit.server.dnsbench import Script, answer, answer_at_once, question, run
from vmdns.dns.cookie import COOKIE
from vmdns.dns.limits import Limits
from vmdns.dns.query import encode_option
from vmdns.state.build import build
from vmdns.state.facts import HostAddress
from vmdns.state.snapshot import Policy

DOOR, GUEST, UNKNOWN, NEIGHBOUR = "192.168.56.1", "192.168.56.101", "192.168.56.9", "192.168.56.8"
FACTS = (
    *NETWORKS, HostAddress("vboxnet0", "192.168.56.1/24"), vm(1, "web", HOSTONLY), lease(1, GUEST, HOSTONLY)
)  # fmt: skip
ASKED = 12


class World:
    """A server, whose kernel mutes nobody, and a flood of ten times what it takes."""

    def __init__(self) -> None:
        script = Script()
        script.snapshot = build(FACTS, Policy(), NOW, 1)
        self.server = script.serve(Limits(asker_rate=400))
        self.server.publish(script.current())
        self.now = 1000.0
        self.server.handler.clients._now = lambda: self.now

    def udp(self, packet: bytes, peer: str) -> dns.message.Message | None:
        handler = self.server.handler
        response = handler.answer_datagram(packet, (peer, 4000), DOOR, lambda later: None, lambda network: False)
        return dns.message.from_wire(response) if response else None

    def flood(self, peer: str, seconds: float, packet: bytes) -> list[dns.message.Message | None]:
        answers = []
        for _ in range(int(seconds * 1000)):
            self.now += 0.001
            answers += [self.udp(packet, peer) for _ in range(4)]
        return answers

    def cookie(self, peer: str) -> bytes:
        """What the server gave this address before."""
        return self.server.handler._cookies.check(b"cccccccc", peer)[0]


def with_cookie(packet: bytes, cookie: bytes) -> bytes:
    data = encode_option(COOKIE, cookie)
    return packet[:-2] + len(data).to_bytes(2, "big") + data


QUERY = question("web.local", use_edns=0)


def answered(one: dns.message.Message | None) -> bool:
    return one is not None and one.rcode() == dns.rcode.NOERROR and bool(one.answer)


@pytest.mark.parametrize(("victim", "flooded"), [(GUEST, GUEST), (UNKNOWN, UNKNOWN), (UNKNOWN, NEIGHBOUR)])
def test_one_in_three_moves_to_tcp_and_a_cookie_is_answered(victim: str, flooded: str) -> None:
    world = World()
    cookie = world.cookie(victim)
    world.flood(flooded, 1.5, QUERY)
    plain, cookies = [], []
    for _ in range(5 * ASKED):
        world.flood(flooded, 0.007, QUERY)
        plain.append(world.udp(QUERY, victim))
        cookies.append(world.udp(with_cookie(QUERY, cookie), victim))
    assert all(answered(one) for one in cookies)
    empty = [one for one in plain if one is not None and not answered(one)]
    assert all(one.flags & dns.flags.TC and one.rcode() == dns.rcode.NOERROR for one in empty)
    assert len(plain) // 4 <= len(empty) <= len(plain) // 2
    for _ in range(ASKED):
        by_tcp = answer_at_once(world.server, QUERY, victim, DOOR, tcp=True)
        assert by_tcp is not None
        assert answered(dns.message.from_wire(by_tcp))


def test_what_is_sent_is_a_third_of_the_flood_at_most() -> None:
    world = World()
    world.flood(UNKNOWN, 3.0, QUERY)
    answers = world.flood(UNKNOWN, 0.5, QUERY)
    assert 0.3 < sum(one is not None for one in answers) / len(answers) < 0.5
    assert sum(len(one.to_wire()) for one in answers if one is not None) <= len(QUERY) * len(answers)


def test_another_option_beside_the_cookie() -> None:
    world = World()
    data = encode_option(COOKIE, world.cookie(GUEST)) + encode_option(3, b"")  # NSID
    world.flood(GUEST, 1.5, QUERY)
    packet = QUERY[:-2] + len(data).to_bytes(2, "big") + data
    assert all(answered(world.udp(packet, GUEST)) for _ in range(ASKED))


def test_names_of_others_are_forwarded_for_who_is_proven() -> None:
    async def main() -> None:
        world = World()
        for number in range(50):
            await answer(world.server, question(f"no{number}.test"), GUEST, DOOR)
        refused = answer_at_once(world.server, question("x.test"), GUEST, DOOR)
        assert refused is not None
        assert dns.message.from_wire(refused).rcode() == dns.rcode.SERVFAIL
        cookie = with_cookie(question("y.test", use_edns=0), world.cookie(GUEST))
        for packet, tcp in ((question("x.test"), True), (cookie, False)):
            forwarded = await answer(world.server, packet, GUEST, DOOR, tcp=tcp)
            assert answered(dns.message.from_wire(forwarded))

    run(main())
