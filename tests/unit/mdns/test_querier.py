"""Asking others for a name, on a clock that goes to whatever is due."""

from __future__ import annotations

import asyncio
from ipaddress import ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clock import in_loop
from vmdns.dns.message import AAAA, NSEC, A, Message, Record, address_record
from vmdns.dns.name import to_wire
from vmdns.mdns.links import Link
from vmdns.mdns.packets import encode_responses, nsec_rdata, parse_packet
from vmdns.mdns.querier import (
    ABSENT_SECONDS,
    ALL_QUERIES,
    CLIENT_QUERIES,
    FOUND_SECONDS,
    MAX_WAITERS,
    LinkQuerier,
    QueryBudget,
)
from vmdns.state.name_rules import LookupState

PRINTER = to_wire("printer.local")
Said = list[tuple[float, Message]]  # seconds after the query, and what is sent
LINK = Link((ip_interface("192.168.56.1/24"), ip_interface("fd00:56::1/64")), {})


def said(*addresses: str, name: bytes = PRINTER, ttl: int = 120, denied: int = 0) -> Message:
    records = [Record(name, kind, ttl, rdata) for kind, rdata in map(address_record, addresses)]
    if denied:
        records.append(Record(name, NSEC, ttl, nsec_rdata(name, {A, AAAA} - {denied})))
    (packet,) = encode_responses(records)
    message = parse_packet(packet)
    assert message is not None
    return message


class Scene:
    """A relay, and others who say these packets so long after they were asked."""

    def __init__(self, packets: Said) -> None:
        self.asked: list[float] = []
        self.forgotten = 0
        self.relay = LinkQuerier(self._ask, self._forget, asyncio.get_running_loop().time)
        self._packets = packets

    def _forget(self) -> None:
        self.forgotten += 1

    def _ask(self, packet: bytes) -> None:
        loop = asyncio.get_running_loop()
        message = parse_packet(packet)
        assert message is not None
        assert [(one.name, one.type) for one in message.questions] == [(PRINTER, A), (PRINTER, AAAA)]
        self.asked.append(loop.time())
        if len(self.asked) == 1:
            for delay, said in self._packets:
                loop.call_later(delay, self.relay.receive, said, LINK)


FOUND = ("192.168.56.9",)


@pytest.mark.parametrize(
    ("packets", "found", "seconds", "again"),
    [
        ([(0.1, said("192.168.56.9", denied=AAAA))], FOUND, 0.1, False),
        ([(0.1, said("192.168.56.9", "fd00:56::9"))], ("192.168.56.9", "fd00:56::9"), 0.1, False),
        ([(0.1, said("fd00:56::9")), (0.15, said("192.168.56.9"))], ("fd00:56::9", "192.168.56.9"), 0.15, False),
        ([(0.1, said("192.168.56.9"))], FOUND, 0.2, False),  # the other family may still come
        ([(0.1, said("192.168.56.9")), (0.15, said(denied=AAAA))], FOUND, 0.15, False),
        ([(0.1, said("192.168.56.9", "fe80::9"))], FOUND, 0.2, False),
        ([], (), 1.0, True),
        ([(2.0, said("192.168.56.9"))], (), 1.0, True),
        ([(0.1, said("192.168.56.9", name=to_wire("scanner.local")))], (), 1.0, True),
        ([(0.1, said("192.168.56.9", ttl=0))], (), 1.0, True),
        ([(0.1, said("8.8.8.8"))], (), 1.0, True),  # no address of this link
        ([(0.1, said("127.0.0.1"))], (), 1.0, True),
        ([(0.1, said("fe80::9"))], (), 1.0, True),  # of no use to who is not on the link
        ([(0.1, said("8.8.8.8")), (0.3, said("192.168.56.9", denied=AAAA))], FOUND, 0.3, True),
        ([(0.1, said("192.168.56.9", denied=AAAA)), (0.1, said("192.168.56.10"))], FOUND, 0.1, False),
        ([(0.1, said(denied=A)), (0.2, said(denied=AAAA))], (), 0.2, False),
        ([(0.1, said(denied=AAAA))], (), 1.0, True),
        ([(0.1, said("192.168.56.9")._replace(flags=0))], (), 1.0, True),  # a query
    ],
)
@in_loop
async def test_what_is_found(packets: Said, found: tuple[str, ...], seconds: float, again: bool) -> None:
    scene = Scene(packets)
    scene.relay.receive(said("192.168.56.9", name=to_wire("other.local")), LINK)  # this link is no silent one
    loop = asyncio.get_running_loop()
    start = loop.time()
    assert await scene.relay.find(PRINTER, "") == found
    assert loop.time() - start == pytest.approx(seconds)
    assert scene.asked == ([0, 0.25] if again else [0])


@in_loop
async def test_an_absent_name_is_not_queried_again_for_a_minute() -> None:
    scene = Scene([])
    for _ in range(10):
        assert await scene.relay.find(PRINTER, "") == ()
    assert scene.asked == [0, 0.25]
    assert asyncio.get_running_loop().time() == pytest.approx(0.3)  # nobody has answered any query yet
    assert scene.relay.state(PRINTER, "") is LookupState.ABSENT
    await asyncio.sleep(ABSENT_SECONDS)
    assert scene.relay.state(PRINTER, "") is LookupState.LOOKUP
    await scene.relay.find(PRINTER, "")
    assert len(scene.asked) == 4


@in_loop
async def test_an_answer_that_comes_late_is_found_by_the_next_query() -> None:
    scene = Scene([])
    assert await scene.relay.find(PRINTER, "") == ()
    scene.relay.receive(said(ttl=0, name=PRINTER), LINK)
    assert scene.relay.state(PRINTER, "") is LookupState.ABSENT
    assert scene.forgotten == 0
    scene.relay.receive(said("192.168.56.9", denied=AAAA), LINK)
    assert scene.forgotten == 1
    asyncio.get_running_loop().call_later(0.6, scene.relay.receive, said("192.168.56.9", denied=AAAA), LINK)
    assert await scene.relay.find(PRINTER, "") == FOUND


@in_loop
async def test_one_query_for_all_waiters_though_one_is_cancelled() -> None:
    scene = Scene([])
    tasks = [asyncio.create_task(scene.relay.find(PRINTER, client)) for client in "abcde"]
    await asyncio.sleep(0.1)
    tasks[0].cancel()
    scene.relay.receive(said("192.168.56.9", denied=AAAA), LINK)
    assert await asyncio.gather(*tasks[1:]) == [("192.168.56.9",)] * 4
    assert scene.asked == [0]


@in_loop
async def test_the_number_of_waiters_is_bounded() -> None:
    relay = LinkQuerier(lambda packet: None, now=asyncio.get_running_loop().time)
    found = await asyncio.gather(*(relay.find(PRINTER, "a") for _ in range(MAX_WAITERS + 10)))
    assert found == [()] * MAX_WAITERS + [None] * 10


@in_loop
async def test_what_was_found_is_known_for_seconds() -> None:
    scene = Scene([])
    asyncio.get_running_loop().call_later(0.1, scene.relay.receive, said("192.168.56.9", denied=AAAA), LINK)
    assert await scene.relay.find(PRINTER, "") == FOUND
    await asyncio.sleep(FOUND_SECONDS - 0.01)
    assert await scene.relay.find(PRINTER, "") == FOUND
    assert scene.asked == [0]
    await asyncio.sleep(0.01)
    await scene.relay.find(PRINTER, "")
    assert len(scene.asked) == 3


@given(st.lists(st.tuples(st.floats(0, 0.4), st.sampled_from("abc")), max_size=300))
def test_no_second_has_more_queries_than_the_budgets(steps: list[tuple[float, str]]) -> None:
    budget, now, sent = QueryBudget(), 0.0, list[tuple[float, str]]()
    for later, client in steps:
        now += later
        if budget.allows(client, now):
            budget.charge(client, now)
            sent.append((now, client))
        else:
            budget.refuse(client, now)
        last = [one for at, one in sent if at > now - 1.0]
        assert len(last) <= ALL_QUERIES
        assert all(last.count(one) <= CLIENT_QUERIES for one in "abc")
    assert len(sent) >= min(len(steps), CLIENT_QUERIES)


@pytest.mark.parametrize(("clients", "least"), [(2, 28), (8, 14)])
@in_loop
async def test_a_client_that_counts_as_several_leaves_others_a_share(clients: int, least: int) -> None:
    """One client, from several addresses, queries 100 unknown names a second from each for 6 s; another one queries 30
    printers, five a second, and finds at least this many."""

    def answer(packet: bytes) -> None:
        message = parse_packet(packet)
        assert message is not None
        name = message.questions[0].name
        if name[1:].startswith(b"printer"):
            loop.call_later(0.1, relay.receive, said("192.168.56.9", denied=AAAA, name=name), LINK)

    loop = asyncio.get_running_loop()
    relay = LinkQuerier(answer, now=loop.time)
    relay.receive(said("192.168.56.9", name=to_wire("other.local")), LINK)  # this link is no silent one
    flood, office = [], []
    for tick in range(600):
        for client in map(str, range(clients)):
            flood.append(asyncio.create_task(relay.find(to_wire(f"no{tick}-{client}.local"), client)))
        if tick % 20 == 0:
            office.append(asyncio.create_task(relay.find(to_wire(f"printer{tick}.local"), "office")))
        await asyncio.sleep(0.01)
    assert (await asyncio.gather(*office)).count(FOUND) >= least
    assert sum(found is not None for found in await asyncio.gather(*flood)) <= 6 * clients * CLIENT_QUERIES
