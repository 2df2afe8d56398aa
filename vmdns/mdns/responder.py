"""Multicast DNS responder for the names of VMs on one link (RFC 6762): host records and reverse records, no services.

It has no socket and no clock: `configure` and `receive` take input, `send` returns output, `timeout` returns when to
call `wake`. Times are seconds of any one clock. Its own packets must not be passed to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush
from ipaddress import ip_address
from typing import NamedTuple

from vmdns.dns.builtin_zones import reverse_name
from vmdns.dns.message import AAAA, PTR, RESPONSE, A, Message, ParsedRecord, QuestionEntry, Record, address_record
from vmdns.mdns.known_answers import KnownAnswerQueries, KnownAnswerQuery, Peer
from vmdns.mdns.name_state import (
    DEFENCE_GAP,
    GAP,
    PROBE_GAP,
    TTL,
    DrawRandom,
    NameState,
    OwnedName,
    Records,
    host_records,
    pointers,
)
from vmdns.mdns.packets import UNICAST, encode_legacy_response, encode_probes, encode_responses, parse_packet

PORT = 5353
LEGACY_TTL = 10  # section 6.7
PROBE_BATCH, PROBE_BATCH_GAP = 32, 0.1  # names to start probing for at once, and seconds until the next
MAX_STALE_STEPS = 64
RECENT = TTL / 4  # a question gets a unicast answer, if it may, and the records were multicast recently (section 5.4)


class Outgoing(NamedTuple):
    """A packet, and the address and port it goes to; None for multicast."""

    packet: bytes
    to: Peer | None


class Conflict(NamedTuple):
    """Another host on the link has this name (wire form), with this address."""

    name: bytes
    address: str


_Step = tuple[float, int, OwnedName]


def _unschedule(step: _Step) -> None:
    """Clears the scheduled time of a step that was removed from the heap."""
    due, _, owned = step
    if owned.scheduled == due:
        owned.scheduled = None


class Responder:
    """Answers on one link. draw(a, b) draws a random number between the two."""

    def __init__(self, draw: DrawRandom) -> None:
        self._draw = draw
        self._names: dict[bytes, OwnedName] = {}
        self._unprobed: deque[OwnedName] = deque()  # not on_probe for yet: a few begin at a time
        self._start: float | None = None  # when the next of them start
        # A heap of the next steps of names (a counter orders equal times). Stale steps stay until their time, or until
        # there are too many of them: another host may send records of a name again and again.
        self._steps: list[_Step] = []
        self._step_count = 0
        self._answers: dict[tuple[bytes, int], float] = {}  # what is to be multicast, and when
        self._queries = KnownAnswerQueries(draw)
        self._out: list[Outgoing] = []
        self._conflicts: list[Conflict] = []

    def has_name(self, name: bytes) -> bool:
        """Whether this wire name (lower case) is configured, announced or not."""
        return name in self._names

    # -- configure --------------------------------------------------------------------------------------------

    def configure(self, names: Mapping[bytes, tuple[str, ...]], now: float) -> None:
        """Sets the names to answer (wire form, lower case), with their addresses on this link.

        New names are probed for and announced, removed ones get a goodbye, changed ones are announced again. An address
        points to the first name that has it.
        """
        wanted: dict[bytes, tuple[bool, Records]] = {
            name: (True, host_records(addresses)) for name, addresses in names.items() if addresses
        }
        for address, first in pointers(names).items():
            wanted[reverse_name(address)] = False, {PTR: (first,)}
        gone: list[Record] = []
        for name, owned in list(self._names.items()):
            records = wanted[name][1] if name in wanted else {}
            if owned.records == records:
                continue
            if owned.was_multicast:
                gone += [record for record in owned.all_records(ttl=0) if record.type not in records]
            if records:
                owned.set_records(records, now)
                self._schedule(owned)
            else:
                del self._names[name]
        for name, (host, records) in wanted.items():
            if name not in self._names:
                self._names[name] = OwnedName(name, host, records, None)
                self._unprobed.append(self._names[name])
        if self._unprobed and self._start is None:
            self._start = now + self._draw(0, PROBE_GAP)
        if gone:
            self._multicast(gone)

    def restart(self, now: float) -> None:
        """Probes for all names and announces them again: after a sleep or a change of the link, other hosts may have
        taken them (RFC 6762 section 8). Until then they are not answered."""
        for owned in self._names.values():
            owned.probe(now)
            owned.due = None
        self._unprobed = deque(self._names.values())
        self._start = now + self._draw(0, PROBE_GAP) if self._unprobed else None

    # -- receive ----------------------------------------------------------------------------------------------

    def receive(self, packet: bytes, source: str, port: int, now: float) -> None:
        """Handles a packet from another host on this link."""
        message = parse_packet(packet)
        if message is None:
            return
        if message.flags & RESPONSE:
            if port == PORT:  # section 6
                self._handle_records((*message.answers, *message.additionals), source, now)
        elif port != PORT:
            self._answer_legacy(message, (source, port))
        else:
            for query in self._queries.add(message, (source, port), now):
                self._answer(query, now)
        self._send_due_answers(now)

    def _handle_records(self, records: Iterable[ParsedRecord], source: str, now: float) -> None:
        received: dict[bytes, list[ParsedRecord]] = {}
        for record in records:
            owned = self._names.get(record.key)
            if owned is not None and record.type in ((A, AAAA) if owned.host else (PTR,)):
                received.setdefault(record.key, []).append(record)
        for name, heard in received.items():
            owned = self._names[name]
            itself = owned.host and address_record(source) in owned.record_set
            instead = owned.on_response(heard, itself, now, self._draw)
            self._schedule(owned)
            if instead is not None:
                self._conflicts.append(Conflict(name, str(ip_address(instead))))

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
            if question.name.lower() in proposed:
                self._defend_name(question.name.lower(), proposed[question.name.lower()], now)
            elif owned is not None:
                for kind in owned.answer_types(question.type):
                    if owned.is_known(kind, query.known):
                        continue
                    if question.cls & UNICAST and owned.seconds_since(kind, now) < RECENT:
                        private.update((record, None) for record in owned.records_of(kind))
                    else:
                        self._schedule_answer(owned, kind, soon, GAP)
        if private:
            self._out += [Outgoing(packet, query.peer) for packet in encode_responses(list(private))]

    def _defend_name(self, name: bytes, proposed: list[ParsedRecord], now: float) -> None:
        owned = self._names.get(name)
        if owned is None:
            return
        if owned.on_probe(proposed, now):
            for kind in owned.records:
                self._schedule_answer(owned, kind, now, DEFENCE_GAP)
        self._schedule(owned)

    def _answer_legacy(self, message: Message, peer: Peer) -> None:
        records: dict[Record, None] = {}
        answered: list[QuestionEntry] = []
        for question in message.questions:
            owned = self._announced_name(question)
            if owned is not None:
                answered.append(question)
                for kind in owned.answer_types(question.type):
                    records.update((record, None) for record in owned.records_of(kind, LEGACY_TTL))
        if answered:
            self._out.append(Outgoing(encode_legacy_response(message.id, answered, list(records)), peer))

    def _announced_name(self, question: QuestionEntry) -> OwnedName | None:
        owned = self._names.get(question.name.lower())
        return owned if owned is not None and owned.is_announced else None

    # -- timeout and wake -------------------------------------------------------------------------------------

    def timeout(self) -> float | None:
        """Returns when `wake` is due, None for never."""
        while self._steps and not self._is_scheduled(*self._steps[0]):
            self._pop_step()
        steps = [*self._answers.values(), self._queries.next_due(), self._start]
        steps += [due for due, _, _ in self._steps[:1]]
        return min((due for due in steps if due is not None), default=None)

    def wake(self, now: float) -> None:
        """Does what is due by now."""
        for query in self._queries.take_due(now):
            self._answer(query, now)
        self._start_probes(now)
        ripe: dict[bytes, OwnedName] = {}
        while self._steps and self._steps[0][0] <= now:
            owned = self._pop_step()
            if owned is not None:
                ripe[owned.name] = owned
        probing = [(owned.name, owned.all_records()) for owned in ripe.values() if self._step(owned, now)]
        for owned in ripe.values():
            self._schedule(owned)
        self._out += [Outgoing(packet, None) for packet in encode_probes(probing)]
        self._send_due_answers(now)

    def _start_probes(self, now: float) -> None:
        """Starts to probe for the next few names: a thousand at once would flood the link."""
        if self._start is None or self._start > now:
            return
        left = PROBE_BATCH
        while self._unprobed and left:
            owned = self._unprobed.popleft()
            if self._names.get(owned.name) is owned and owned.due is None and owned.state is NameState.PROBING:
                owned.probe(now)
                self._schedule(owned)
                left -= 1
        self._start = now + PROBE_BATCH_GAP if self._unprobed else None

    def _schedule(self, owned: OwnedName) -> None:
        """Schedules the next step of a name."""
        if owned.due is None or owned.due == owned.scheduled:
            return
        owned.scheduled = owned.due
        if len(self._steps) > 2 * len(self._names) + MAX_STALE_STEPS:
            steps, self._steps = self._steps, []
            for step in steps:
                (self._steps.append if self._is_scheduled(*step) else _unschedule)(step)
            heapify(self._steps)
        self._step_count += 1
        heappush(self._steps, (owned.due, self._step_count, owned))

    def _pop_step(self) -> OwnedName | None:
        """Removes the first step; returns its name, None if the step is stale."""
        step = heappop(self._steps)
        _unschedule(step)
        return step[2] if self._is_scheduled(*step) else None

    def _is_scheduled(self, due: float, _: int, owned: OwnedName) -> bool:
        return owned.due == due and self._names.get(owned.name) is owned

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
        if owned.left:
            for kind in owned.records:
                self._schedule_answer(owned, kind, now, GAP)
            owned.left -= 1
            owned.due = max(self._answers[owned.name, kind] for kind in owned.records) + GAP
        if not owned.left:
            owned.due = None
        return False

    # -- send -------------------------------------------------------------------------------------------------

    def send(self) -> list[Outgoing]:
        """Returns the packets to send now, once."""
        out, self._out = self._out, []
        return out

    def conflicts(self) -> list[Conflict]:
        """Returns the new conflicts, once each."""
        found, self._conflicts = self._conflicts, []
        return found

    def _schedule_answer(self, owned: OwnedName, kind: int, soon: float, gap: float) -> None:
        due = max(soon, owned.last[kind] + gap) if kind in owned.last else soon
        key = owned.name, kind
        self._answers[key] = min(due, self._answers.get(key, due))

    def _send_due_answers(self, now: float) -> None:
        ripe = [key for key, due in self._answers.items() if due <= now]
        answers: list[Record] = []
        more: dict[tuple[bytes, int], None] = {}
        for name, kind in ripe:
            del self._answers[name, kind]
            owned = self._names.get(name)
            if owned is None or not owned.is_announced:
                continue
            answers += owned.records_of(kind)
            owned.mark_multicast(kind, now)
            if kind in (A, AAAA):  # section 6.2
                other = owned.answer_types(AAAA if kind == A else A)[0]
                more[name, other] = None
        additionals: list[Record] = []
        for name, kind in more:
            owned = self._names[name]
            if owned.seconds_since(kind, now) >= GAP:
                additionals += owned.records_of(kind)
                owned.mark_multicast(kind, now)
                self._answers.pop((name, kind), None)
        if answers:
            self._multicast(answers, additionals)

    def _multicast(self, answers: list[Record], additionals: Iterable[Record] = ()) -> None:
        self._out += [Outgoing(packet, None) for packet in encode_responses(answers, list(additionals))]
