"""Multicast DNS responder for the names of VMs on one link (RFC 6762): host records and reverse records, no services.

It has no socket and no clock: `configure` and `receive` take input, `send` returns output, `timeout` returns when to
call `wake`. Times are seconds of any one clock. Its own packets must not be passed to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple

from vmdns.dns.message import (
    AAAA,
    PTR,
    RESPONSE,
    TRUNCATED,
    A,
    Message,
    ParsedRecord,
    QuestionEntry,
    Record,
    address_record,
)
from vmdns.dns.name import reverse_name
from vmdns.mdns.name_state import GAP, PROBE_GAP, TTL, DrawRandom, KnownAnswer, NameState, OwnedName, Records
from vmdns.mdns.packets import (
    PORT,
    UNICAST,
    encode_legacy_response,
    encode_probes,
    encode_responses,
)

LEGACY_TTL = 10  # section 6.7
DEFENCE_GAP = 0.25  # between two times that a record is multicast, to answer a probe (section 6)
PROBE_BATCH, PROBE_BATCH_GAP = 32, 0.1  # names to start probing for at once, and seconds until the next
RECENT = TTL / 4  # a question gets a unicast answer, if it may, and the records were multicast recently (section 5.4)
KNOWN_ANSWER_SECONDS = 2.0  # the longest wait for more known answers
MAX_QUERIES, MAX_KNOWN_ANSWERS = 64, 4096  # queries that wait for more known answers, and known answers of each

Peer = tuple[str, int]


class Outgoing(NamedTuple):
    """A packet, and the address and port it goes to; None for multicast."""

    packet: bytes
    to: Peer | None


class Conflict(NamedTuple):
    """Another host on the link has this name (wire form), with this address."""

    name: bytes
    address: str


@dataclass(slots=True)
class KnownAnswerQuery:
    """A query, and the records that its client has already, which may come in several packets (section 7.2)."""

    peer: Peer
    message: Message
    due: float
    latest: float
    known: set[KnownAnswer]


def find_records(names: Mapping[bytes, Iterable[str]]) -> dict[bytes, Records]:
    """The records of names with these addresses and of the addresses' names. An address points to the first name that
    has it."""
    found: dict[bytes, dict[int, tuple[bytes, ...]]] = {}
    for name, addresses in names.items():
        for address in dict.fromkeys(addresses):
            kind, rdata = address_record(address)
            records = found.setdefault(name, {})
            records[kind] = (*records.get(kind, ()), rdata)
            found.setdefault(reverse_name(address), {PTR: (name,)})
    return dict(found)


class Responder:
    """Answers on one link. draw(a, b) draws a random number between the two."""

    def __init__(self, draw: DrawRandom) -> None:
        self._draw = draw
        self._names: dict[bytes, OwnedName] = {}
        self._answers: dict[tuple[bytes, int], float] = {}  # what is to be multicast, and when
        self._queries: dict[Peer, KnownAnswerQuery] = {}
        self._out: list[Outgoing] = []
        self._conflicts: list[Conflict] = []

    def has_name(self, name: bytes) -> bool:
        """Whether this wire name (lower case) is configured, announced or not."""
        return name in self._names

    def configure(self, names: Mapping[bytes, Iterable[str]], now: float) -> None:
        """Sets the names to answer (wire form, lower case), with their addresses on this link.

        New names are probed for and announced, removed ones get a goodbye, changed ones are announced again.
        """
        wanted = find_records(names)
        gone: list[Record] = []
        for name, owned in list(self._names.items()):
            records = wanted.pop(name, {})
            if owned.records == records:
                continue
            if owned.was_multicast:
                gone += [record for record in owned.all_records(ttl=0) if record.type not in records]
            if records:
                owned.set_records(records, now)
            else:
                del self._names[name]
        new = {name: OwnedName(name, records) for name, records in wanted.items()}
        self._names.update(new)
        self._start_probes(new.values(), now)
        if gone:
            self._multicast(gone)

    def restart(self, now: float) -> None:
        """Probes for all names and announces them again: after a sleep or a change of the link, other hosts may have
        taken them (section 8). Until then they are not answered."""
        self._start_probes(self._names.values(), now)

    def _start_probes(self, names: Collection[OwnedName], now: float) -> None:
        """Starts to probe for a few names at a time: a thousand at once would flood the link."""
        start = now + self._draw(0, PROBE_GAP) if names else now
        for number, owned in enumerate(names):
            owned.probe(start + number // PROBE_BATCH * PROBE_BATCH_GAP)

    def receive(self, message: Message, source: str, port: int, now: float) -> None:
        """Handles a message from another host on this link."""
        if message.flags & RESPONSE:
            if port == PORT:  # section 6
                self._handle_records(message.answers + message.additionals, source, now)
        elif port == PORT:
            self._handle_query(message, (source, port), now)
        else:
            self._answer_legacy(message, (source, port))
        self._send_due_answers(now)

    def _handle_records(self, records: Iterable[ParsedRecord], source: str, now: float) -> None:
        received: dict[bytes, list[ParsedRecord]] = {}
        for record in records:
            owned = self._names.get(record.key)
            if owned is not None and record.type in ((A, AAAA) if owned.is_host else (PTR,)):
                received.setdefault(record.key, []).append(record)
        for name, theirs in received.items():
            owned = self._names[name]
            itself = owned.is_host and address_record(source) in owned.record_set
            instead = owned.on_response(theirs, itself, now, self._draw)
            if instead is not None:
                self._conflicts.append(Conflict(name, str(ip_address(instead))))

    def _handle_query(self, message: Message, peer: Peer, now: float) -> None:
        query = self._queries.pop(peer, None)
        if message.questions:
            if query is not None:
                self._answer(query, now)
            query = KnownAnswerQuery(peer, message, now, now + KNOWN_ANSWER_SECONDS, set())
        elif query is None:
            return
        query.known |= {(one.key, one.type, one.rdata) for one in message.answers if one.ttl * 2 >= TTL}  # section 7.1
        if message.flags & TRUNCATED:
            room = len(self._queries) < MAX_QUERIES and len(query.known) < MAX_KNOWN_ANSWERS
            query.due = min(now + self._draw(0.4, 0.5), query.latest) if room else now
        if query.due > now:
            self._queries[peer] = query
        else:
            self._answer(query, now)

    def _answer(self, query: KnownAnswerQuery, now: float) -> None:
        proposed: dict[bytes, list[ParsedRecord]] = {}
        for one in query.message.authorities:
            proposed.setdefault(one.key, []).append(one)
        found = [(question, self._announced_name(question)) for question in dict.fromkeys(query.message.questions)]
        # Other hosts may answer the remaining questions at the same time (section 6.3).
        alone = len(found) == 1 or all(owned is not None for _, owned in found)
        soon = now if alone else now + self._draw(0.02, 0.12)
        private: dict[Record, None] = {}
        for question, owned in found:
            name = question.name.lower()
            if name in proposed:
                self._handle_probe(name, proposed[name], now)
            elif owned is not None:
                for kind in owned.answer_types(question.type):
                    if owned.is_known(kind, query.known):
                        continue
                    if question.cls & UNICAST and now - owned.last_multicast(kind) < RECENT:
                        private.update(dict.fromkeys(owned.records_of(kind)))
                    else:
                        self._schedule_answer(owned, kind, soon, GAP)
        if private:
            self._out += [Outgoing(packet, query.peer) for packet in encode_responses(list(private))]

    def _handle_probe(self, name: bytes, proposed: list[ParsedRecord], now: float) -> None:
        owned = self._names.get(name)
        if owned is not None and owned.on_probe(proposed, now):
            for kind in owned.records:
                self._schedule_answer(owned, kind, now, DEFENCE_GAP)

    def _answer_legacy(self, message: Message, peer: Peer) -> None:
        records: dict[Record, None] = {}
        answered: list[QuestionEntry] = []
        for question in message.questions:
            owned = self._announced_name(question)
            if owned is not None:
                answered.append(question)
                for kind in owned.answer_types(question.type):
                    records.update(dict.fromkeys(owned.records_of(kind, LEGACY_TTL)))
        if answered:
            self._out.append(Outgoing(encode_legacy_response(message.id, answered, list(records)), peer))

    def _announced_name(self, question: QuestionEntry) -> OwnedName | None:
        owned = self._names.get(question.name.lower())
        return owned if owned is not None and owned.state is NameState.ANNOUNCED else None

    def timeout(self) -> float | None:
        """Returns when `wake` is due, None for never."""
        steps = [owned.due for owned in self._names.values() if owned.due is not None]
        return min([*steps, *self._answers.values(), *(query.due for query in self._queries.values())], default=None)

    def wake(self, now: float) -> None:
        """Does what is due by now."""
        for query in [query for query in self._queries.values() if query.due <= now]:
            del self._queries[query.peer]
            self._answer(query, now)
        due = [owned for owned in self._names.values() if owned.due is not None and owned.due <= now]
        probing = [(owned.name, owned.all_records()) for owned in due if self._step(owned, now)]
        self._out += [Outgoing(packet, None) for packet in encode_probes(probing)]
        self._send_due_answers(now)

    def _step(self, owned: OwnedName, now: float) -> bool:
        """Does the next step of a name. Returns whether that is a probe."""
        if owned.state is NameState.YIELDED:
            owned.probe(now + self._draw(0, PROBE_GAP))
            return False
        if owned.state is NameState.PROBING and owned.left:
            owned.left, owned.due = owned.left - 1, now + PROBE_GAP
            return True
        if owned.state is NameState.PROBING:
            owned.announce(now)
        for kind in owned.records:
            self._schedule_answer(owned, kind, now, GAP)
        owned.left -= 1
        owned.due = max(self._answers[owned.name, kind] for kind in owned.records) + GAP if owned.left else None
        return False

    def send(self) -> list[Outgoing]:
        """Returns the packets to send now, once."""
        out, self._out = self._out, []
        return out

    def conflicts(self) -> list[Conflict]:
        """Returns the new conflicts, once each."""
        found, self._conflicts = self._conflicts, []
        return found

    def _schedule_answer(self, owned: OwnedName, kind: int, soon: float, gap: float) -> None:
        due = max(soon, owned.last_multicast(kind) + gap)
        key = owned.name, kind
        self._answers[key] = min(due, self._answers.get(key, due))

    def _send_due_answers(self, now: float) -> None:
        answers: list[Record] = []
        more: dict[tuple[bytes, int], OwnedName] = {}
        for name, kind in [key for key, due in self._answers.items() if due <= now]:
            del self._answers[name, kind]
            owned = self._names.get(name)
            if owned is None or owned.state is not NameState.ANNOUNCED:
                continue
            answers += owned.records_of(kind)
            owned.last[kind], owned.was_multicast = now, True
            if kind in (A, AAAA):  # section 6.2
                more[name, owned.answer_types(AAAA if kind == A else A)[0]] = owned
        additionals: list[Record] = []
        for (name, kind), owned in more.items():
            if now - owned.last_multicast(kind) >= GAP:
                additionals += owned.records_of(kind)
                owned.last[kind] = now
                self._answers.pop((name, kind), None)
        if answers:
            self._multicast(answers, additionals)

    def _multicast(self, answers: Sequence[Record], additionals: Sequence[Record] = ()) -> None:
        self._out += [Outgoing(packet, None) for packet in encode_responses(answers, additionals)]
