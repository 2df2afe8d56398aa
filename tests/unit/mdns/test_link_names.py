"""Names in `local` that no VM has: which are looked up on the host's links, and what is answered beyond the budget."""

from __future__ import annotations

import asyncio
import time
from unittest.mock import Mock

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest

from tests.clock import in_loop
from tests.facts import HOSTONLY, NETWORKS, NOW, lease, uuid, vm
from tests.unit.server.dnsbench import HOST, InlineThread, Script, answer, answer_at_once, question
from vmdns.dns.message import A, Message, Record, address_record
from vmdns.dns.name import to_text, to_wire
from vmdns.mdns import transport as multicast
from vmdns.mdns.links import Link
from vmdns.mdns.packets import encode_responses, parse_packet
from vmdns.mdns.querier import CLIENT_LOOKUPS, CLIENT_QUERIES, LinkQuerier
from vmdns.mdns.responder import Responder
from vmdns.mdns.transport import Multicast
from vmdns.server import answer_cache
from vmdns.server.answer_cache import find
from vmdns.state.build import build
from vmdns.state.facts import HostAddress
from vmdns.state.name_rules import RESERVED, LookupState
from vmdns.state.snapshot import Policy

DOOR, FLOODER, OFFICE = "192.168.56.1", "192.168.56.101", "192.168.56.102"
FACTS = (
    *NETWORKS,
    HostAddress("lo", "127.0.0.1/8"),
    HostAddress("vboxnet0", "192.168.56.1/24"),
    HostAddress("eth0", "192.168.1.5/24"),
    vm(1, "web", HOSTONLY),
    vm(2, "db", HOSTONLY),
    lease(1, FLOODER, HOSTONLY),
    lease(2, OFFICE, HOSTONLY),
)
SNAPSHOT = build(FACTS, Policy(), NOW, 1)
LAN = Link(tuple(place.at for place in SNAPSHOT.host_networks.places if place.interface == "eth0"), {})


def announcement(record: Record) -> Message:
    (packet,) = encode_responses([record])
    message = parse_packet(packet)
    assert message is not None
    return message


class Lan:
    """A LAN on which printers answer after 50 ms, and the server that may ask it."""

    def __init__(self) -> None:
        self.queries: list[tuple[float, str]] = []
        self.relay = LinkQuerier(self._send, self._forget, asyncio.get_running_loop().time)
        script = Script(InlineThread())
        script.snapshot = SNAPSHOT
        self.server = script.serve()
        self.server.handler.links = self.relay
        self.server.publish(SNAPSHOT)

    def _forget(self) -> None:
        self.server.handler.answer_cache.drop_absent()

    def _send(self, packet: bytes) -> None:
        loop = asyncio.get_running_loop()
        message = parse_packet(packet)
        assert message is not None
        name = message.questions[0].name
        self.queries.append((loop.time(), to_text(name)))
        if name[1:].startswith(b"printer"):
            kind, rdata = address_record("192.168.1.9")
            loop.call_later(0.05, self.relay.receive, announcement(Record(name, kind, 120, rdata)), LAN)

    def answer_datagram(self, packet: bytes, peer: str) -> bytes | None:
        handler = self.server.handler
        return handler.answer_datagram(packet, (peer, 4000), DOOR, lambda later: None, lambda network: False)

    def cached(self, packet: bytes) -> bytes | None:
        """What this computer itself gets from the cache."""
        self.server.handler.answer_cache.expire()
        answers = self.server.handler.find_answers(HOST, HOST)
        assert answers is not None
        return find(answers, packet)

    async def ask(self, name: str, kind: str = "A", peer: str = OFFICE, *, tcp: bool = False) -> dns.message.Message:
        return dns.message.from_wire(await answer(self.server, question(name, kind, use_edns=0), peer, DOOR, tcp=tcp))


def error(message: dns.message.Message) -> str:
    return " ".join(str(one.text) for one in message.options if isinstance(one, dns.edns.EDEOption))


@in_loop
async def test_what_a_lookup_finds_is_answered() -> None:
    lan = Lan()
    found = await lan.ask("Printer.local")
    assert [str(one) for one in found.answer] == ["Printer.local. 5 IN A 192.168.1.9"]
    other = await lan.ask("printer.local", "AAAA")
    assert (other.rcode(), list(other.answer)) == (dns.rcode.NOERROR, [])
    assert (await lan.ask("nobody.local")).rcode() == dns.rcode.NXDOMAIN
    assert {name for _, name in lan.queries} == {"printer.local", "nobody.local"}


@pytest.mark.parametrize("tcp", [False, True])
@in_loop
async def test_beyond_the_budget_it_is_servfail_at_once_with_the_reason(tcp: bool) -> None:
    lan = Lan()
    tasks = [asyncio.create_task(lan.ask(f"no{number}.local", tcp=tcp)) for number in range(CLIENT_LOOKUPS)]
    await asyncio.sleep(0.01)
    response = answer_at_once(lan.server, question("printer.local", use_edns=0), OFFICE, DOOR, tcp=tcp)
    assert response is not None
    refused = dns.message.from_wire(response)
    assert refused.rcode() == dns.rcode.SERVFAIL
    assert "too many lookups" in error(refused)
    assert {(await task).rcode() for task in tasks} == {dns.rcode.NXDOMAIN}
    assert answer_at_once(lan.server, question("no0.local"), OFFICE, DOOR, tcp=tcp)  # known: nobody
    await asyncio.sleep(1)
    assert (await lan.ask("printer.local")).answer


@in_loop
async def test_a_flood_of_unknown_names_leaves_another_client_its_printers() -> None:
    lan = Lan()

    async def flood() -> list[int]:
        asked = []
        for number in range(600):
            asked.append(asyncio.create_task(lan.ask(f"no{number}.local", peer=FLOODER)))
            await asyncio.sleep(0.01)
        return [one.rcode() for one in await asyncio.gather(*asked)]

    flooding = asyncio.create_task(flood())
    for number in range(30):
        found = await lan.ask(f"printer{number}.local")
        assert [str(one) for one in found.answer] == [f"printer{number}.local. 5 IN A 192.168.1.9"]
        await asyncio.sleep(0.05)
    rcodes = await flooding
    assert set(rcodes) == {dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL}
    assert rcodes.count(dns.rcode.NXDOMAIN) > 20
    for start, _ in lan.queries:
        second = [name for at, name in lan.queries if start <= at < start + 1]
        assert sum(name.startswith("no") for name in second) <= CLIENT_QUERIES
        assert len(second) <= 2 * CLIENT_QUERIES


@pytest.mark.parametrize("label", [*sorted(RESERVED), "WPAD", "_http"])
@in_loop
async def test_reserved_names_are_never_looked_up(label: str) -> None:
    lan = Lan()
    answered = await lan.ask(f"{label}.local")
    assert answered.rcode() == (dns.rcode.NOERROR if label == "vmdns" else dns.rcode.NXDOMAIN)
    assert lan.queries == []


def test_only_links_with_other_hosts_than_guests_are_queried(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_link(interface: str, link: Link, *_: object) -> Mock:
        return Mock(interface=interface, link=link, index=0, responder=Responder(min))

    monkeypatch.setattr(multicast, "_OpenLink", open_link)
    monkeypatch.setattr(multicast, "_index", lambda interface: 0)
    guests = Link(tuple(place.at for place in SNAPSHOT.host_networks.places if place.interface == "vboxnet0"), {}, True)
    name = to_wire("printer.local")
    lan = {"vboxnet0": guests, "eth0": LAN}

    async def main() -> None:
        found = Multicast(print, dict)
        for links, state in (
            ({}, LookupState.ABSENT),
            ({"vboxnet0": guests}, LookupState.ABSENT),
            (lan, LookupState.LOOKUP),
            (lan, LookupState.ABSENT),  # looked up before, and nothing has changed
            ({**lan, "wlan0": LAN}, LookupState.LOOKUP),
            (lan, LookupState.LOOKUP),
        ):
            found.set_links(links)
            assert found.state(name, "") is state
            assert await found.find(name, "") == ()
        assert all(one.multicast.called for one in found._open.values())
        found.restart()  # this computer slept
        assert found.state(name, "") is LookupState.LOOKUP

    asyncio.run(main())


@in_loop
async def test_one_clients_servfail_is_not_given_to_another() -> None:
    lan = Lan()
    lan.relay.state = lambda name, client: (  # type: ignore[method-assign]
        LookupState.OVER_BUDGET if client == uuid(1) else LookupState.ABSENT
    )
    packet = question("printer.local")
    for peer, rcode in ((FLOODER, dns.rcode.SERVFAIL), (OFFICE, dns.rcode.NXDOMAIN)):
        response = lan.answer_datagram(packet, peer)
        assert response is not None
        assert response[3] & 15 == rcode


@in_loop
async def test_this_computer_gets_either_answer_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a million unknown names cost as little as any other negative answer."""

    lan = Lan()
    for state, rcode in ((LookupState.OVER_BUDGET, dns.rcode.SERVFAIL), (LookupState.ABSENT, dns.rcode.NXDOMAIN)):
        lan.relay.state = lambda name, client, state=state: state  # type: ignore[method-assign]
        packet = question(f"{state.name.lower()}.local")
        lan.server.handler.answer_cache.expire()
        first = answer_at_once(lan.server, packet)
        assert first is not None
        assert first[3] & 15 == rcode
        assert lan.cached(packet) == first
    later = time.monotonic() + 11
    monkeypatch.setattr(answer_cache.time, "monotonic", lambda: later)
    assert [lan.cached(question(f"{name}.local")) for name in ("absent", "over_budget")] == [None, None]


@in_loop
async def test_an_absent_name_is_forgotten_with_the_snapshot_a_link_and_its_appearance() -> None:
    lan = Lan()
    packet = question("nobody.local")
    announced = announcement(Record(to_wire("nobody.local"), A, 120, bytes(4)))
    for forget in (
        lambda: lan.server.publish(build(FACTS, Policy(), NOW, 2)),
        lan.relay.drop_results,
        lambda: lan.relay.receive(announced, LAN),
    ):
        lan.server.publish(SNAPSHOT)
        await lan.ask("nobody.local", peer=HOST)
        lan.server.handler.answer_cache.expire()
        assert answer_at_once(lan.server, packet) is not None
        assert lan.cached(packet) is not None
        forget()
        assert lan.cached(packet) is None
