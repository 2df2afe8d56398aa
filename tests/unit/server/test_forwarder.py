"""Forwarding against a scripted upstream on loopback. F and X numbers are the cases of the project's check list."""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import queue
import secrets
import selectors
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from selectors import SelectSelector
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from tests.unit.server.dnsbench import PATIENCE, until
from tests.unit.server.fakeupstream import GOOD, FakeUpstream, resolve
from vmdns.dns.forwarded_answer import Forwarded, Question, encode_answer
from vmdns.dns.limits import Limits
from vmdns.dns.name import LOCALHOST, to_wire
from vmdns.dns.query import parse_query
from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.server import forwarder as forward
from vmdns.server import io_thread, upstream_server
from vmdns.server.forwarder import Forwarder

# Nothing here may depend on how fast this machine is; where silence is the matter, it is cut short.
LIMITS = Limits(upstream_timeout=10, query_timeout=20)
QUICK = Limits(upstream_timeout=0.2, query_timeout=0.8)
ZONES = frozenset({to_wire("local"), to_wire("vm.internal")})
NOWHERE: frozenset[tuple[str, int]] = frozenset()


class Clock:
    """Real time, and what a test lets pass."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class Lab:
    """One forwarder and its scripted upstreams."""

    def __init__(self, forwarder: Forwarder, clock: Clock, *servers: FakeUpstream) -> None:
        self.forwarder = forwarder
        self.clock = clock
        self.servers = servers
        self.up = servers[0]
        self.withheld: list[str] = []
        forwarder._report_withheld = self.withheld.append

    def configure(self, *default: FakeUpstream, limits: Limits = LIMITS, **more: Any) -> list[str]:
        upstreams = Upstreams(tuple(Upstream(one.address, one.port) for one in default), **more)
        return self.forwarder.configure(upstreams, NOWHERE, ZONES, limits)

    async def ask(self, name: str, kind: str = "A", **how: Any) -> dns.message.Message:
        return dns.message.from_wire(await self.bytes(name, kind, **how))

    async def bytes(
        self, name: str, kind: str = "A", *, limit: int = 1232, flags: int = 0x0100, edns: int = 0, **how: Any
    ) -> bytes:
        message = dns.message.make_query(name, kind, use_edns=edns, **how)
        message.flags = dns.flags.Flag(flags)
        query = parse_query(message.to_wire())
        out = await resolve(self.forwarder, query, limit)
        assert out[:2] == message.to_wire()[:2]
        return out


Scenario = Callable[..., Awaitable[None]]


def with_lab(servers: int = 1, limits: Limits = LIMITS) -> Callable[[Scenario], Callable[..., None]]:
    """A test that is given a running forwarder, and its other arguments by name."""

    def wrap(scenario: Scenario) -> Callable[..., None]:
        async def main(given: dict[str, Any]) -> None:
            clock = Clock()
            forwarder = Forwarder(limits, clock)
            fakes = [await FakeUpstream().start() for _ in range(servers)]
            net = Lab(forwarder, clock, *fakes)
            assert net.configure(*fakes, limits=limits) == []
            try:
                await scenario(net, **given)
            finally:
                for fake in fakes:
                    await fake.stop()
                await forwarder.close(0.0)
                assert forwarder.status()["sockets"] == 0

        @functools.wraps(scenario)
        def test(**given: Any) -> None:
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(main(given))

        others = list(inspect.signature(scenario).parameters.values())[1:]
        test.__signature__ = inspect.Signature(others)  # type: ignore[attr-defined]
        return test

    return wrap


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
            return True
    except OSError:
        return False


def data(answer: dns.message.Message) -> list[str]:
    return sorted(rdata.to_text() for rrset in answer.answer for rdata in rrset)


def ede(answer: dns.message.Message) -> tuple[int, str]:
    (option,) = [one for one in answer.options if isinstance(one, dns.edns.EDEOption)]
    return int(option.code), option.text or ""


@pytest.mark.parametrize("name", ["flood", "baredns"])
@with_lab()
async def test_an_upstream_that_responds_badly_is_queried_once_more(net: Lab, name: str) -> None:
    assert data(await net.ask(f"{name}.mixed-case-name.fz.test")) == [GOOD]
    assert net.up.count() == 2


@with_lab()
async def test_t3_the_case_of_the_question_is_random_too(net: Lab) -> None:
    for at in range(10):
        assert data(await net.ask(f"www.abcdefghijklmnop{at}.fz.test")) == [GOOD]
    assert len({one.raw_name.translate({ord(digit): None for digit in "0123456789"}) for one in net.up.seen}) > 5


@with_lab()
async def test_f17_equal_pending_queries_are_one_upstream_query(net: Lab) -> None:
    asking = [asyncio.ensure_future(net.ask("slow.1.fz.test")) for _ in range(40)]
    await until(lambda: bool(net.up.seen) and net.forwarder.status()["waiting"] == 40)
    net.up.go.set()
    answers = await asyncio.gather(*asking)
    assert [data(answer) for answer in answers] == [[GOOD]] * 40
    assert net.up.count() == 1


@with_lab()
async def test_f30_x22_private_addresses_from_outside_are_blocked_and_reported(net: Lab) -> None:
    answer = await net.ask("rebind.1.fz.test")
    assert (answer.rcode(), data(answer), ede(answer)[0]) == (0, [], 15)
    net.configure(net.up, search=frozenset({to_wire("fz.test")}))
    assert data(await net.ask("rebind.1.fz.test")) == ["192.168.56.101"]
    net.configure(net.up, domains={to_wire("1.fz.test"): (Upstream("127.0.0.1", net.up.port),)})
    assert data(await net.ask("rebind.1.fz.test")) == ["192.168.56.101"]
    assert data(await net.ask("rebind.2.fz.test")) == []


@with_lab()
async def test_each_name_that_is_withheld_is_reported_once(net: Lab) -> None:
    for at in (1, 1, 2):
        net.clock.ahead += 61
        await net.ask(f"rebind.{at}.fz.test")
    await net.ask("cnlocal.1.fz.test")  # an alias into our zone, which no domain allows
    assert net.withheld == ["rebind.1.fz.test", "rebind.2.fz.test"]
    assert net.forwarder.status()["held_back"] == net.withheld
    net.clock.ahead += 3601
    assert net.forwarder.status()["held_back"] == []
    await net.ask("rebind.1.fz.test")
    assert net.withheld[2:] == ["rebind.1.fz.test"]
    net.configure(net.up, search=frozenset({to_wire("1.fz.test")}))
    assert net.forwarder.status()["held_back"] == []


@with_lab()
async def test_our_own_names_never_leave(net: Lab) -> None:
    assert (await net.ask("ghost.local")).rcode() == 5
    net.configure(net.up, domains={to_wire("lan.local"): (Upstream("127.0.0.1", net.up.port),)})
    assert (await net.ask("ghost.local")).rcode() == 5
    assert net.up.count() == 0
    assert data(await net.ask("nas.lan.local")) == [GOOD]


@pytest.mark.parametrize(
    ("kind", "how"),
    [("A", {"flags": 0}), ("AXFR", {}), ("IXFR", {}), ("MAILB", {}), ("A", {"rdclass": 3}), ("A", {"rdclass": 254})],
)
@with_lab()
async def test_a22_a23_what_is_never_forwarded(net: Lab, kind: str, how: dict[str, Any]) -> None:
    await net.ask("www.1.fz.test")
    assert (await net.ask("www.1.fz.test", kind, **how)).rcode() == 5
    assert net.up.count() == 1


@with_lab(2, Limits(upstream_timeout=1, query_timeout=4))
async def test_a_silent_server_is_followed_by_the_next_and_queried_last_from_then_on(net: Lab) -> None:
    dead, live = net.servers
    dead.dead = True
    assert data(await net.ask("a.fz.test")) == [GOOD]
    assert (dead.count(), live.count()) == (1, 1)
    await until(lambda: is_silent(net, 0))
    assert data(await net.ask("b.fz.test")) == [GOOD]
    assert (dead.count(), live.count()) == (1, 2)
    net.clock.ahead += 16  # it is probed again: by no client's question
    probes = len(dead.probes)
    answers = await asyncio.gather(*(net.ask(f"{name}.fz.test") for name in "cde"))
    assert [data(one) for one in answers] == [[GOOD]] * 3
    await until(lambda: len(dead.probes) == probes + 1 and not probing(net))
    assert (dead.count(), live.count()) == (1, 5)
    dead.dead = False
    net.clock.ahead += 16
    assert data(await net.ask("f.fz.test")) == [GOOD]
    await until(lambda: not is_silent(net, 0))
    assert data(await net.ask("g.fz.test")) == [GOOD]
    assert (dead.count(), live.count()) == (2, 6)


@pytest.mark.parametrize("fault", ["servfail", "refused", "loop", "tconly"])
@with_lab(2)
async def test_a_failure_of_one_server_is_followed_by_the_next_at_once(net: Lab, fault: str) -> None:
    first, second = net.servers
    second.behaviour = "ttl"
    assert data(await net.ask(f"{fault}.1.fz.test")) == [GOOD]
    assert (first.count(tcp=False), second.count()) == (1, 1)


@with_lab(2)
async def test_a_server_where_nobody_listens_is_followed_by_the_next_at_once(net: Lab) -> None:
    gone, live = net.servers
    await gone.stop()
    answer = await asyncio.wait_for(net.ask("www.1.fz.test"), 5)
    assert data(answer) == [GOOD]
    await until(lambda: is_silent(net, 0))
    assert live.count() == 1
    await gone.start()


@with_lab(2, QUICK)
async def test_two_dead_servers_end_in_time_and_both_are_named(net: Lab) -> None:
    for one in net.servers:
        one.dead = True
    answer = await asyncio.wait_for(net.ask("www.1.fz.test"), 5)
    assert (answer.rcode(), ede(answer)[1].count("does not answer")) == (2, 2)
    assert [one.count() for one in net.servers] == [2, 2]


def probing(net: Lab) -> bool:
    return any(one._probe is not None for one in net.forwarder._routes.servers.values())


def is_silent(net: Lab, at: int) -> bool:
    return bool(net.forwarder.status()["upstreams"][at]["silent"])


@with_lab()
async def test_a_server_that_never_understands_edns_or_case_is_not_troubled_with_it(net: Lab) -> None:
    net.up.no_edns = True
    assert data(await net.ask("www.0.fz.test")) == [GOOD]
    await until(lambda: len(net.up.probes) == 6 and not probing(net))
    net.up.seen.clear()
    assert data(await net.ask("www.1.fz.test", want_dnssec=True)) == [GOOD]
    assert [one.message.edns for one in net.up.seen] == [-1]
    net.up.no_edns = False
    net.clock.ahead += 901
    net.up.seen.clear()
    await net.ask("www.2.fz.test")
    assert [one.message.edns for one in net.up.seen] == [0]

    net.up.flat = True
    net.up.seen.clear()
    net.up.probes.clear()
    assert data(await net.ask("www.mixed-case-name-0.fz.test")) == [GOOD]
    assert [one.tcp for one in net.up.seen] == [False, True]
    await until(lambda: len(net.up.probes) == 3 and not probing(net))
    assert data(await net.ask("www.mixed-case-name-1.fz.test")) == [GOOD]
    assert [one.tcp for one in net.up.seen] == [False, True, False]
    assert net.up.seen[-1].raw_name == "www.mixed-case-name-1.fz.test."


@with_lab()
async def test_a_probe_always_has_letters_of_both_cases(net: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """By chance one name in 512 would be in lower case, and the server would seem to repeat the case."""
    drawn, random = itertools.count(), secrets.token_bytes

    def draw(size: int) -> bytes:
        return bytes(size) if size == 2 + len(LOCALHOST) and next(drawn) % 2 else random(size)

    monkeypatch.setattr(secrets, "token_bytes", draw)
    net.up.flat = True
    assert data(await net.ask("www.mixed-case-name-0.fz.test")) == [GOOD]
    await until(lambda: len(net.up.probes) == 3 and not probing(net))
    net.up.seen.clear()
    assert data(await net.ask("www.mixed-case-name-1.fz.test")) == [GOOD]
    assert [one.tcp for one in net.up.seen] == [False]


@pytest.mark.parametrize("manner", ["formerredns", "baredns", "flat", "drop"])
@with_lab(2, QUICK)
async def test_no_name_that_one_client_queries_changes_how_other_queries_are_sent(net: Lab, manner: str) -> None:
    """Whoever owns a domain decides how it responds: that says nothing of the server that was asked."""
    first, second = net.servers
    second.behaviour = "ttl"
    for at in range(5):
        assert data(await net.ask(f"{manner}.mixed-case-name-{at}.fz.test")) == [GOOD]
        await until(lambda: not probing(net))
    assert first.probes
    assert not is_silent(net, 0)
    asked = f"www.{'abcdefgh.' * 5}fz.test"
    second.seen.clear()
    assert data(await net.ask(asked, want_dnssec=True)) == [GOOD]
    last = first.seen[-1]
    assert (last.name, last.raw_name == last.name, last.tcp) == (f"{asked}.", False, False)
    assert (last.message.edns, last.message.ednsflags & dns.flags.DO) == (0, dns.flags.DO)
    assert second.seen == []


@with_lab()
async def test_a_server_that_rejects_a_query_with_and_without_edns_is_not_probed(net: Lab) -> None:
    for at in range(4):
        assert (await net.ask(f"formerr.{at}.fz.test")).rcode() == 2
    assert (net.up.count(), net.up.probes) == (8, [])
    await net.ask("www.1.fz.test")
    assert net.up.seen[-1].message.edns == 0


@with_lab()
async def test_a_server_without_tcp_is_not_taken_for_silent(net: Lab) -> None:
    net.up.tcp.close()
    answer = await net.ask("tc.1.fz.test")
    assert (answer.rcode(), ede(answer)[0]) == (2, 22)
    assert "cannot be reached" in ede(answer)[1]
    assert net.forwarder.status()["upstreams"][0]["silent"] is False


@pytest.mark.parametrize("tcp", ["closed", "silent"])
@with_lab()
async def test_x08_an_answer_whose_only_fault_is_its_case_is_used_where_tcp_fails(
    net: Lab, tcp: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_server, "_CASE_SECONDS", 0.05)
    if tcp == "closed":
        net.up.tcp.close()
    net.up.silent_tcp = tcp == "silent"
    for at in range(5):
        assert data(await net.ask(f"flat.mixed-case-name-{at}.fz.test")) == [GOOD]
    assert net.up.count(tcp=False) == 5


@with_lab()
async def test_a_fault_of_our_own_is_servfail_and_is_logged(
    net: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(forward, "validate_response", broken)
    answer = await net.ask(r"www.\010x.fz.test")
    assert (answer.rcode(), ede(answer)[1]) == (2, "internal error")
    assert r"forwarding www.\010x.fz.test failed" in caplog.text


@with_lab(limits=replace(LIMITS, outstanding=10))
async def test_t9_a_limit_on_pending_queries_answers_the_rest_at_once(net: Lab) -> None:
    waiting = [asyncio.ensure_future(net.ask(f"slow.{at}.fz.test")) for at in range(10)]
    await until(lambda: net.up.count() == 10)
    refused = await net.ask("slow.x.fz.test")
    assert (refused.rcode(), ede(refused)[1]) == (2, "too many queries are pending")
    assert not any(one.done() for one in waiting)
    net.up.go.set()
    await asyncio.gather(*waiting)
    assert data(await net.ask("slow.x.fz.test")) == [GOOD]


@with_lab()
async def test_t4_a_limit_on_clients_that_wait_for_one_answer(net: Lab) -> None:
    asking = [asyncio.ensure_future(net.ask("slow.1.fz.test")) for _ in range(120)]
    await until(lambda: bool(net.up.seen) and sum(one.done() for one in asking) == 20)
    net.up.go.set()
    answers = await asyncio.gather(*asking)
    assert sorted({answer.rcode() for answer in answers}) == [0, 2]
    assert sum(answer.rcode() == 0 for answer in answers) == 100
    assert net.up.count() == 1


@with_lab()
async def test_a_lack_of_sockets_is_no_fault_of_the_server(net: Lab) -> None:
    net.forwarder._sockets.most = 0
    answer = await net.ask("www.1.fz.test")
    assert (answer.rcode(), net.up.count()) == (2, 0)
    assert "too many sockets" in ede(answer)[1]
    assert net.forwarder.status()["upstreams"][0]["silent"] is False


@with_lab()
async def test_no_upstream_at_all_is_servfail_with_the_reason(net: Lab) -> None:
    net.configure()
    answer = await net.ask("www.1.fz.test")
    assert (answer.rcode(), ede(answer)) == (2, (22, "no upstream server is known for this name"))


@with_lab(2)
async def test_domains_go_to_their_own_servers_and_nowhere_else(net: Lab) -> None:
    default, corp = net.servers
    here = (Upstream("127.0.0.1", corp.port),)
    net.configure(default, domains={to_wire("corp.test"): here, to_wire("dead.corp.test"): ()})
    routes = net.forwarder._routes
    assert tuple(one.upstream for one in routes.of(to_wire("a.b.corp.test"))) == here
    assert routes.of(to_wire("x.dead.corp.test")) == []
    assert [one.upstream for one in routes.of(to_wire("xcorp.test"))] == list(routes.upstreams.default)
    for name in ("www.corp.test", "corp.test", "www.xcorp.test"):
        await net.ask(name)
    assert ([one.name for one in corp.seen], [one.name for one in default.seen]) == (
        ["www.corp.test.", "corp.test."],
        ["www.xcorp.test."],
    )
    assert (await net.ask("x.dead.corp.test")).rcode() == 2
    assert [one["domains"] for one in net.forwarder.status()["upstreams"]] == [["."], ["corp.test"]]


@with_lab(2)
async def test_other_upstreams_empty_the_cache_and_none_at_all_does_not(net: Lab) -> None:
    first, second = net.servers
    second.good = "198.51.100.5"
    net.configure(first)
    assert data(await net.ask("www.1.fz.test")) == [GOOD]
    net.configure()
    assert data(await net.ask("www.1.fz.test")) == [GOOD]
    net.configure(first)
    assert data(await net.ask("www.1.fz.test")) == [GOOD]
    assert first.count() == 1
    net.configure(second)
    assert data(await net.ask("www.1.fz.test")) == ["198.51.100.5"]


@with_lab(2)
async def test_an_answer_of_former_upstreams_that_comes_late_is_not_kept(net: Lab) -> None:
    first, second = net.servers
    net.configure(first)
    late = asyncio.ensure_future(net.ask("slow.1.fz.test"))
    await until(lambda: bool(first.seen))
    net.configure(second)
    second.good = "198.51.100.5"
    second.go.set()
    assert data(await net.ask("slow.1.fz.test")) == ["198.51.100.5"]
    first.go.set()
    assert data(await late) == [GOOD]
    assert data(await net.ask("slow.1.fz.test")) == ["198.51.100.5"]


@pytest.mark.parametrize(
    ("upstream", "own", "left_out"),
    [
        (Upstream("127.0.0.1"), ("127.0.0.1", 53), "itself"),
        (Upstream("127.0.0.9"), ("0.0.0.0", 53), "itself"),  # any address of this host
        (Upstream("127.0.0.1", 5300), ("127.0.0.1", 53), ""),
        (Upstream("127.0.0.1"), ("0.0.0.0", 53), "itself"),
        (Upstream("0.0.0.0"), ("127.0.0.1", 53), "itself"),
        (Upstream("::ffff:127.0.0.1"), ("127.0.0.1", 53), "itself"),
        (Upstream("::1"), ("::", 53), "itself"),
        (Upstream("::"), ("::1", 53), "itself"),
        (Upstream("127.0.0.1"), ("::", 53), ""),
        (Upstream("127.0.0.2"), ("127.0.0.1", 53), ""),
        (Upstream("192.0.2.1"), ("0.0.0.0", 53), ""),
        (Upstream("dns.example"), ("127.0.0.1", 53), "an IP address is expected"),
        (Upstream("999.1.1.1"), ("127.0.0.1", 53), "an IP address is expected"),
        (Upstream("192.0.2.1", 0), ("127.0.0.1", 53), "a port is a number"),
        (Upstream("224.0.0.251", 5353), ("127.0.0.1", 53), "single server"),
    ],
)
def test_unusable_upstreams_are_left_out_with_a_sentence(
    upstream: Upstream, own: tuple[str, int], left_out: str
) -> None:
    forwarder = Forwarder(LIMITS)
    problems = forwarder.configure(Upstreams((upstream,)), frozenset({own}), ZONES, LIMITS)
    assert len(problems) == bool(left_out)
    assert left_out in "".join(problems)
    assert len(forwarder.status()["upstreams"]) == (not left_out)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
@with_lab()
async def test_upstreams_by_ipv6(net: Lab) -> None:
    six = await FakeUpstream("::1").start()
    net.configure(six)
    assert data(await net.ask("www.1.fz.test")) == [GOOD]
    assert len(data(await net.ask("tc.1.fz.test", limit=65535))) == 100
    assert six.count(tcp=True) == 1
    await six.stop()


@with_lab()
async def test_status_counts_what_happened(net: Lab) -> None:
    for name in ("www.1.fz.test", "www.1.fz.test", "servfail.1.fz.test"):
        await net.ask(name)
    status = net.forwarder.status()
    (one,) = status["upstreams"]
    assert (one["address"], one["asked"], one["answered"], one["failed"]) == (
        f"127.0.0.1:{net.up.port}", 2, 1, 1,
    )  # fmt: skip
    assert one["error"] == "answered SERVFAIL"
    assert one["round_trip_ms"] > 0
    assert (status["cache"]["entries"], status["cache"]["hits"], status["cache"]["misses"]) == (1, 1, 2)
    assert (status["outstanding"], status["waiting"]) == (0, 0)


@with_lab()
async def test_closing_answers_the_waiting_clients(net: Lab) -> None:
    waiting = asyncio.ensure_future(net.ask("drop.1.fz.test"))
    await until(lambda: bool(net.up.seen))
    await net.forwarder.close(0.0)
    assert (await waiting).rcode() == 2


@with_lab(2, limits=QUICK)
async def test_a_late_answer_of_the_first_server_still_counts(net: Lab) -> None:
    first, second = net.servers
    second.dead = True
    asking = asyncio.ensure_future(net.ask("firstonly.1.fz.test"))
    await until(lambda: second.count() == 1)
    first.go.set()
    assert data(await asking) == [GOOD]
    assert (first.count(), second.count()) == (1, 1)


@pytest.mark.parametrize("selector", [SelectSelector, getattr(selectors, "PollSelector", SelectSelector)])
@with_lab(2, limits=QUICK)
async def test_where_there_is_select_or_poll_alone(net: Lab, selector: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io_thread, "new_selector", selector)
    first, second = net.servers
    assert data(await net.ask("www.1.fz.test")) == [GOOD]
    first.dead = True
    assert data(await net.ask("www.2.fz.test")) == [GOOD]
    assert (first.count(), second.count()) == (2, 1)


def test_more_queries_are_in_flight_than_select_takes_sockets() -> None:
    count = 1500
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = max(soft, 3 * count)
        if hard not in (resource.RLIM_INFINITY, max(hard, wanted)):
            pytest.skip("this process may not open that many sockets")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    forwarder = Forwarder(limits := Limits(outstanding=2000, upstream_timeout=30, query_timeout=30))
    answers: queue.Queue[Forwarded] = queue.Queue()
    arrived: dict[bytes, tuple[bytes, Any]] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream:
        upstream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        upstream.bind(("127.0.0.1", 0))
        upstream.settimeout(PATIENCE)
        forwarder.configure(Upstreams((Upstream(*upstream.getsockname()),)), NOWHERE, ZONES, limits)
        for number in range(count):
            question = Question(to_wire(f"n{number}.fz.test"), 1, False, False)
            forwarder.thread.submit(functools.partial(forwarder.find, question, answers.put))
            while number % 100 == 99 and len(arrived) <= number:  # so that the socket's buffer has room for them
                packet, peer = upstream.recvfrom(512)
                query = parse_query(packet)
                if query.key != LOCALHOST:  # a probe
                    arrived[query.key] = packet, peer
        status = forwarder.status()
        assert (status["outstanding"], status["waiting"]) == (count, count)
        assert status["sockets"] >= count
        for packet, peer in arrived.values():
            upstream.sendto(encode_answer(parse_query(packet), Forwarded(3), 512), peer)
        assert {answers.get(timeout=PATIENCE).rcode for _ in range(count)} == {3}
    asyncio.run(forwarder.close(0.0))
