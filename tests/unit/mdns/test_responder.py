"""A responder on one link, and what the others on it send. The packets are made and read by dnspython."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping

import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdatatype
import pytest

from vmdns.dns.name import to_wire
from vmdns.mdns.packets import parse_packet
from vmdns.mdns.responder import Conflict, Outgoing, Responder

WEB, DB = "192.168.56.11", "192.168.56.12"
NAMES = {"web.local": (WEB,), "db.local": (DB, "fd00::12")}
REVERSE = "11.56.168.192.in-addr.arpa"
PEER, GUEST = "192.168.56.50", "192.168.56.77"
FLUSH, QU = 0x8000, 0x8000


def rdata(kind: str, text: str) -> bytes:
    wire = dns.rdata.from_text("IN", kind, text, origin=dns.name.root, relativize=False).to_wire()
    assert wire is not None
    return wire


def record(name: str, kind: str, text: str, ttl: int = 120, cls: int = 1 | FLUSH) -> bytes:
    made = rdata(kind, text)
    return to_wire(name) + struct.pack("!HHIH", dns.rdatatype.from_text(kind), cls, ttl, len(made)) + made


def question(name: str, kind: str, cls: int = 1) -> bytes:
    labels = b"".join(bytes((len(part),)) + part.encode() for part in name.split("."))  # to_wire would lower the case
    return labels + b"\0" + struct.pack("!HH", dns.rdatatype.from_text(kind), cls)


def packet(
    questions: Iterable[bytes] = (),
    answers: Iterable[bytes] = (),
    authority: Iterable[bytes] = (),
    flags: int = 0,
    ident: int = 0,
) -> bytes:
    sections = [list(one) for one in (questions, answers, authority)]
    head = struct.pack("!6H", ident, flags, *map(len, sections), 0)
    return head + b"".join(one for section in sections for one in section)


def ask(*asked: tuple[str, str], **more: int) -> bytes:
    return packet([question(*one) for one in asked], **more)


def response(*answers: bytes) -> bytes:
    return packet(answers=answers, flags=0x8400)


class Link:
    """One responder, and a clock that goes to whatever is due."""

    def __init__(self, names: Mapping[str, tuple[str, ...]] = NAMES) -> None:
        self.now = 1000.0
        self.drawn: list[tuple[float, float]] = []
        self.responder = Responder(self._lots)
        self.log: list[tuple[float, Outgoing]] = []
        self.neighbour: Callable[[Outgoing], bytes | None] = lambda out: None  # what somebody says to what is sent
        self.configure(names)

    def _lots(self, least: float, most: float) -> float:
        self.drawn.append((least, most))
        return (least + most) / 2

    def configure(self, names: Mapping[str, tuple[str, ...]]) -> list[Outgoing]:
        self.responder.configure({to_wire(name): addresses for name, addresses in names.items()}, self.now)
        return self._take()

    def _take(self) -> list[Outgoing]:
        out = self.responder.send()
        self.log += [(self.now, one) for one in out]
        for one in out:
            reply = self.neighbour(one)
            if reply is not None:
                self._receive(reply, GUEST, 5353)
        return out

    def hear(self, data: bytes, source: str = PEER, port: int = 5353) -> list[Outgoing]:
        """What is sent at once."""
        self._receive(data, source, port)
        return self._take()

    def _receive(self, data: bytes, source: str, port: int) -> None:
        message = parse_packet(data)
        if message is not None:
            self.responder.receive(message, source, port, self.now)

    def wait(self, seconds: float) -> list[tuple[float, Outgoing]]:
        """What is sent in that time, and how many seconds from now."""
        start, until, mark = self.now, self.now + seconds, len(self.log)
        for _ in range(1000):
            due = self.responder.timeout()
            steps = [one.due for one in self.responder._names.values() if one.due is not None]
            assert not steps or (due is not None and due <= min(steps))
            if due is None or due > until:
                self.now = until
                return [(at - start, one) for at, one in self.log[mark:]]
            self.now = max(self.now, due)
            self.responder.wake(self.now)
            self._take()
        raise AssertionError("it never comes to rest")

    def hear_and_wait(self, data: bytes, seconds: float = 0.3, source: str = PEER, port: int = 5353) -> list[Outgoing]:
        return self.hear(data, source, port) + [one for _, one in self.wait(seconds)]


@pytest.fixture
def link() -> Link:
    """A link with all names announced, and nobody who remembers."""
    link = Link()
    link.wait(100)
    return link


def read(data: bytes) -> dns.message.Message:
    return dns.message.from_wire(data)


def records(outs: Iterable[Outgoing], section: str = "answer") -> list[tuple[str, str, int, bool]]:
    """(name, type, TTL, cache-flush bit) of all records of a section."""
    return [(name, kind, ttl, flush) for name, kind, ttl, flush, _ in full(outs, section)]


def full(outs: Iterable[Outgoing], section: str = "answer") -> Iterator[tuple[str, str, int, bool, bytes]]:
    for out in outs:
        for rrset in getattr(read(out.packet), section):
            for one in rrset:
                wire = one.to_wire()
                assert wire is not None
                name = rrset.name.to_text(omit_final_dot=True)
                flush = bool(rrset.rdclass & FLUSH)
                yield name, dns.rdatatype.to_text(rrset.rdtype), rrset.ttl, flush, wire


def addresses(outs: Iterable[Outgoing]) -> list[tuple[str, bytes]]:
    return [(name, data) for name, kind, *_, data in full(outs) if kind in ("A", "AAAA")]


WEB_A = ("web.local", "A", 120, True)
WEB_NSEC = ("web.local", "NSEC", 120, True)
WEB_PTR = (REVERSE, "PTR", 120, True)


# -- the cases of RFC 6762 -----------------------------------------------------------------------------------


def test_absent_types_are_denied_beside_an_answer(link: Link) -> None:
    outs = link.hear(ask(("web.local", "A")))
    assert records(outs, "additional") == [WEB_NSEC]
    link.wait(10)
    outs = link.hear(ask(("db.local", "A")))
    assert records(outs, "additional") == [("db.local", "AAAA", 120, True)]


def test_a_question_that_takes_unicast_gets_it_when_all_others_know(link: Link) -> None:
    wanted = ask(("web.local", "A"))[:-2] + struct.pack("!H", 1 | QU)
    assert [out.to for out in link.hear(wanted)] == [None]  # nobody has heard it for a quarter of its TTL
    outs = link.hear(wanted)
    assert [out.to for out in outs] == [(PEER, 5353)]
    assert records(outs) == [WEB_A]
    assert read(outs[0].packet).id == 0


@pytest.mark.parametrize(
    ("name", "kind", "types"),
    [
        ("web.local", "AAAA", ["A"]),
        ("web.local", "TXT", ["A"]),
        ("db.local", "HINFO", ["A", "AAAA"]),
        (REVERSE, "TXT", ["PTR"]),
        ("web.local", "NSEC", ["A"]),
    ],
)
def test_a_type_that_we_lack_is_denied(link: Link, name: str, kind: str, types: list[str]) -> None:
    outs = link.hear(ask((name, kind)))
    assert records(outs) == [(name, "NSEC", 120, True)]
    ((*_, data),) = full(outs)
    assert data == rdata("NSEC", f"{name}. {' '.join(types)}")


def test_a_denial_that_is_known_is_not_given_again(link: Link) -> None:
    data = packet([question("web.local", "AAAA")], [record("web.local", "NSEC", "web.local. A", cls=1)])
    assert link.hear_and_wait(data) == []


def test_any_gets_all_that_there_is(link: Link) -> None:
    outs = link.hear(ask(("db.local", "ANY")))
    assert records(outs) == [("db.local", "A", 120, True), ("db.local", "AAAA", 120, True)]
    assert records(outs, "additional") == []


def test_a_probe_for_our_name_with_other_data_is_answered_in_time(link: Link) -> None:
    link.hear(ask(("web.local", "A")))  # even where that was multicast this very second
    probe = packet([question("web.local", "ANY", 1 | QU)], authority=[record("web.local", "A", GUEST, cls=1)])
    answered = [(at, records([out])) for at, out in [*((0.0, out) for out in link.hear(probe)), *link.wait(2)]]
    assert [found for _, found in answered] == [[WEB_A]]
    assert answered[0][0] <= 0.25


def test_a_probe_of_the_vm_itself_is_not_answered(link: Link) -> None:
    probe = packet([question("web.local", "ANY", 1 | QU)], authority=[record("web.local", "A", WEB, cls=1)])
    assert link.hear_and_wait(probe, seconds=5) == []


def test_where_others_may_answer_too_the_answer_waits_its_turn(link: Link) -> None:
    assert link.hear(ask(("web.local", "A"), ("printer.local", "A"))) == []
    assert (0.02, 0.12) in link.drawn
    ((at, out),) = link.wait(1)
    assert records([out]) == [WEB_A]
    assert 0.02 <= at <= 0.12


def test_a_goodbye_to_all_at_the_end(link: Link) -> None:
    assert {ttl for _, _, ttl, _ in records(link.configure({}))} == {0}
    assert link.responder.timeout() is None


def test_no_goodbye_for_a_name_that_was_never_announced() -> None:
    link = Link()
    link.wait(0.3)
    assert link.configure({}) == []


# -- a name's life -------------------------------------------------------------------------------------------


def test_a_new_name_is_probed_for_and_announced() -> None:
    link = Link({"web.local": (WEB,)})
    assert link.drawn == [(0, 0.25)]
    sent = link.wait(100)
    assert [at for at, _ in sent] == pytest.approx([0.125, 0.375, 0.625, 0.875, 1.875])
    assert {out.to for _, out in sent} == {None}
    for _, out in sent[:3]:
        message = read(out.packet)
        assert [(one.name.to_text(), one.rdtype) for one in message.question] == [
            ("web.local.", 255),
            ("web.local.", 1),
            (f"{REVERSE}.", 255),
        ]
        assert records([out], "authority") == [("web.local", "A", 120, False), (REVERSE, "PTR", 120, False)]
        assert not message.flags
    for _, out in sent[3:]:
        assert records([out]) == [WEB_A, WEB_PTR]
    assert link.responder.timeout() is None


def test_a_name_is_not_answered_before_it_is_announced() -> None:
    link = Link({"web.local": (WEB,)})
    for port in (5353, 40000):
        assert link.hear(ask(("web.local", "A")), port=port) == []


def test_unchanged_names_are_not_announced_again(link: Link) -> None:
    assert link.configure(NAMES) == []
    assert link.wait(100) == []


def test_another_address_is_announced_in_place_of_the_old_one(link: Link) -> None:
    outs = link.configure({**NAMES, "web.local": (GUEST,)})
    assert records(outs) == [(REVERSE, "PTR", 0, True)]
    sent = link.wait(100)
    assert [at for at, out in sent if addresses([out])] == pytest.approx([0, 1])
    assert {one for _, out in sent for one in addresses([out])} == {("web.local", rdata("A", GUEST))}


def test_a_type_that_is_lost_gets_a_goodbye(link: Link) -> None:
    outs = link.configure({**NAMES, "db.local": (DB,)})
    assert ("db.local", "AAAA", 0, True) in records(outs)
    assert ("db.local", "A", 0, True) not in records(outs)


def test_many_names_are_announced_in_few_packets() -> None:
    names = {f"vm-{number}.local": (f"10.0.{number // 200}.{number % 200 + 1}",) for number in range(1000)}
    link = Link(names)
    sent = [out.packet for _, out in link.wait(100)]
    assert max(map(len, sent)) <= 1440
    assert len(sent) < 5 * 120
    announced = {name for name, kind, *_ in records([Outgoing(one, None) for one in sent]) if kind == "A"}
    assert announced == set(names)


# -- others who have the name --------------------------------------------------------------------------------


# python-zeroconf announces services with a TXT record of no string (RFC 6763 section 6.1).
EMPTY = to_wire("x.local") + struct.pack("!HHIH", 16, 1, 120, 0)
V6 = record("web.local", "AAAA", "fe80::1")


@pytest.mark.parametrize(
    ("announced", "kind"), [([record("web.local", "A", WEB), V6], "A"), ([EMPTY, record("web.local", "A", WEB)], "A"),
                            ([V6], "AAAA")]
)  # fmt: skip
def test_a_vm_that_announces_itself_has_its_name(link: Link, announced: list[bytes], kind: str) -> None:
    link.hear(response(*announced), source=WEB)
    assert link.hear_and_wait(ask(("web.local", kind)), seconds=5) == []
    assert link.responder.conflicts() == []
    assert records(link.hear(ask(("db.local", "A")))) == [("db.local", "A", 120, True)]


def test_a_silent_vm_is_answered_for_again(link: Link) -> None:
    link.hear(response(record("web.local", "A", WEB)), source=WEB)
    assert link.wait(119) == []
    link.wait(10)
    assert records(link.hear(ask(("web.local", "A")))) == [WEB_A]


def test_a_vm_that_goes_on_keeps_its_name_for_one_probe_each_two_minutes(link: Link) -> None:
    itself = response(record("web.local", "A", WEB))
    link.neighbour = lambda out: itself if read(out.packet).question else None
    link.hear(itself, source=WEB)
    sent = [out for _, out in link.wait(1200)]
    assert records(sent) == []
    assert 9 <= len(sent) <= 10


def test_a_vm_that_says_goodbye_is_answered_for_soon(link: Link) -> None:
    link.hear(response(record("web.local", "A", WEB)), source=WEB)
    link.hear(response(record("web.local", "A", WEB, ttl=0)), source=WEB)
    link.wait(4)
    assert records(link.hear(ask(("web.local", "A")))) == [WEB_A]


def test_a_goodbye_of_another_host_takes_no_name_away(link: Link) -> None:
    link.hear(response(record("web.local", "A", WEB, ttl=0)))
    assert next(at for at, out in link.wait(100) if WEB_A in records([out])) == 0


def test_a_name_that_another_host_defends_is_left_to_it_and_reported_once(link: Link) -> None:
    other = response(record("web.local", "A", GUEST))
    link.neighbour = lambda out: other if read(out.packet).question else None
    link.hear(other, source=GUEST)
    sent = [out for _, out in link.wait(1200)]
    assert records(sent) == []
    assert 9 <= len(sent) <= 11
    assert link.responder.conflicts() == [Conflict(to_wire("web.local"), GUEST)]


@pytest.mark.parametrize(("ttl", "port"), [(120, 40000), (1 << 31, 5353)])
def test_a_packet_that_is_no_answer_takes_no_name_away(link: Link, ttl: int, port: int) -> None:
    """From another port (section 6), or with a TTL that is none (RFC 2181 section 8)."""
    for _ in range(3):
        assert link.hear_and_wait(response(record("web.local", "A", GUEST, ttl)), source=GUEST, port=port) == []
    assert records(link.hear(ask(("web.local", "A")))) == [WEB_A]


def test_one_forged_answer_takes_no_name_away(link: Link) -> None:
    link.hear(response(record("web.local", "A", GUEST)), source=GUEST)
    link.wait(5)
    assert records(link.hear(ask(("web.local", "A")))) == [WEB_A]
    assert link.responder.conflicts() == []


def test_a_second_announcement_takes_the_name_though_no_probe_is_answered(link: Link) -> None:
    link.hear(response(record("web.local", "A", GUEST)), source=GUEST)
    link.wait(100)
    link.hear(response(record("web.local", "A", GUEST)), source=GUEST)
    assert link.hear_and_wait(ask(("web.local", "A")), seconds=100) == []
    assert link.responder.conflicts() == [Conflict(to_wire("web.local"), GUEST)]


def test_a_name_that_is_taken_already_is_never_announced() -> None:
    link = Link({"web.local": (WEB,)})
    link.wait(0.2)
    link.hear(response(record("web.local", "A", GUEST)), source=GUEST)
    assert WEB_A not in records(out for _, out in link.wait(100))
    assert link.responder.conflicts() == [Conflict(to_wire("web.local"), GUEST)]


def test_a_moved_address_that_the_vm_announced_before_is_announced_too(link: Link) -> None:
    link.hear(response(record("web.local", "A", GUEST)), source=GUEST)  # the VM, before its new lease is known
    link.wait(0.2)
    link.hear(response(record("web.local", "A", GUEST)), source=GUEST)
    link.configure({**NAMES, "web.local": (GUEST,)})
    sent = link.wait(5)
    assert {one for _, out in sent for one in addresses([out])} == {("web.local", rdata("A", GUEST))}


@pytest.mark.parametrize("speaks", [True, False])
@pytest.mark.parametrize("probes", [True, False])
def test_a_vm_that_calls_itself_otherwise_keeps_what_its_address_points_to(speaks: bool, probes: bool) -> None:
    link = Link({"web.local": (WEB,)})
    if speaks:
        link.wait(100)
    probe = packet([question(REVERSE, "ANY", 1 | QU)], authority=[record(REVERSE, "PTR", "debian.local.", cls=1)])
    link.hear(probe if probes else response(record(REVERSE, "PTR", "debian.local.")), source=WEB)
    assert WEB_PTR not in records([*link.hear(ask((REVERSE, "PTR"))), *(out for _, out in link.wait(100))])
    assert link.responder.conflicts() == []


@pytest.mark.parametrize(("theirs", "first_probe"), [(GUEST, 1.0), ("10.0.0.1", 0.25)])
def test_of_two_simultaneous_probes_the_one_with_the_later_data_goes_on(theirs: str, first_probe: float) -> None:
    link = Link({"web.local": (WEB,)})
    link.wait(0.125)
    link.hear(packet([question("web.local", "ANY")], authority=[record("web.local", "A", theirs, cls=1)]))
    sent = [at for at, out in link.wait(100) if ("web.local", "A", 120, False) in records([out], "authority")]
    assert sent[0] == pytest.approx(first_probe)


# -- several packets -----------------------------------------------------------------------------------------

TC = 0x0200


def test_known_answers_may_come_in_several_packets(link: Link) -> None:
    first = packet([question("web.local", "A"), question("db.local", "A")], flags=TC)
    assert link.hear(first) == []
    assert (0.4, 0.5) in link.drawn
    link.wait(0.1)
    assert link.hear(packet(answers=[record("web.local", "A", WEB, cls=1)])) == []
    assert records(out for _, out in link.wait(2)) == [("db.local", "A", 120, True)]


def test_known_answers_of_another_client_count_for_nothing(link: Link) -> None:
    link.hear(packet([question("web.local", "A")], flags=TC))
    link.hear(packet(answers=[record("web.local", "A", WEB, cls=1)]), source=GUEST)
    ((at, out),) = link.wait(2)
    assert records([out]) == [WEB_A]
    assert 0.4 <= at <= 0.5


def test_a_client_that_never_ends_is_answered_all_the_same(link: Link) -> None:
    link.hear(packet([question("web.local", "A")], flags=TC))
    answered = []
    for _ in range(20):
        link.hear(packet(answers=[record("db.local", "A", DB, cls=1)], flags=TC))
        answered += [out for _, out in link.wait(0.2)]
    assert records(answered) == [WEB_A]


def test_only_some_clients_that_never_end_are_waited_for(link: Link) -> None:
    query = packet([question("web.local", "A")], flags=TC)
    for number in range(64):
        assert link.hear(query, source=f"192.168.57.{number}") == []
    assert records(link.hear(query)) == [WEB_A]


def test_a_client_with_too_many_known_answers_is_not_waited_for(link: Link) -> None:
    assert link.hear(packet([question("web.local", "A")], flags=TC)) == []
    for number in range(16):
        known = [record("x.local", "A", f"10.0.{number}.{one}", cls=1) for one in range(256)]
        outs = link.hear(packet(answers=known, flags=TC))
        assert bool(outs) is (number == 15)


def test_after_a_sleep_names_are_probed_for_and_announced_again(link: Link) -> None:
    """RFC 6762 section 8: a responder that wakes from sleep takes both steps of the start again."""
    link.responder.restart(link.now)
    assert not link.hear(ask(("web.local", "A")))  # nothing is said of a name that may be another's by now
    sent = link.wait(5)
    probing = [at for at, one in sent if read(one.packet).authority]
    assert len(probing) == 3
    assert probing[0] <= 0.25
    announced = [at for at, one in sent if ("web.local", "A") in {found[:2] for found in records([one])}]
    assert len(announced) == 2
    assert min(announced) >= probing[-1] + 0.25
    assert records(link.hear(ask(("web.local", "A"))))
