"""A responder for the names of VMs on one link (RFC 6762): host records and reverse records, and no services.

It has no socket and no clock: `configure` and `receive` take in, `send` gives out, `timeout` says when to `wake` it.
Times are seconds of any one clock. Its own packets must not be handed to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush
from ipaddress import ip_address
from typing import NamedTuple

from vmdns.dns.builtin_zones import reverse_name
from vmdns.dns.mdns_message import (
    MdnsMessage,
    MdnsQuestion,
    ReceivedRecord,
    encode_legacy_response,
    encode_probes,
    encode_responses,
    parse_message,
)
from vmdns.dns.message import AAAA, PTR, A, Record
from vmdns.dns.rrset import address_record
from vmdns.mdns.known_answers import Asked, Asking, Peer
from vmdns.mdns.name_state import (
    DEFENCE_GAP,
    GAP,
    PROBE_GAP,
    TTL,
    Lots,
    Owner,
    Records,
    State,
    host_records,
    pointers,
)

PORT = 5353
LEGACY_TTL = 10  # section 6.7
STARTS, START_GAP = 32, 0.1  # so many names are begun to be probed for at once, and seconds until the next
MOST_IN_VAIN = 64
RECENT = TTL / 4  # a question that takes a unicast answer gets one, if all others heard it by now (section 5.4)


class Outgoing(NamedTuple):
    """A packet, and the address and port it goes to; None for all on the link."""

    packet: bytes
    to: Peer | None


class Conflict(NamedTuple):
    """Somebody else on the link has this name (wire form), with this address."""

    name: bytes
    address: str


_Step = tuple[float, int, Owner]


def _forget(step: _Step) -> None:
    """It stands among the steps no more."""
    due, _, owner = step
    if owner.planned == due:
        owner.planned = None


class Responder:
    """The five verbs. lots(a, b) draws a number between the two."""

    def __init__(self, lots: Lots) -> None:
        self._lots = lots
        self._owners: dict[bytes, Owner] = {}
        self._fresh: deque[Owner] = deque()  # not probed for yet: a few begin at a time
        self._start: float | None = None  # when the next of them begin
        # When names have their next step, and which (a heap; a number parts equal times). What stands there in vain
        # stays until its time, or until there is too much of it: somebody else may speak of a name without end.
        self._steps: list[_Step] = []
        self._planned = 0
        self._answers: dict[tuple[bytes, int], float] = {}  # what is to be multicast, and when
        self._asking = Asking(lots)
        self._out: list[Outgoing] = []
        self._conflicts: list[Conflict] = []

    def holds(self, name: bytes) -> bool:
        """Whether this wire name (lower case) is configured, announced or not."""
        return name in self._owners

    # -- configure --------------------------------------------------------------------------------------------

    def configure(self, names: Mapping[bytes, tuple[str, ...]], now: float) -> None:
        """The names to answer for (wire form, lower case), with their addresses on this link.

        New ones are probed for and announced, gone ones get a goodbye, changed ones are announced again. The first
        name that has an address is what the address points to.
        """
        wanted: dict[bytes, tuple[bool, Records]] = {
            name: (True, host_records(addresses)) for name, addresses in names.items() if addresses
        }
        for address, first in pointers(names).items():
            wanted[reverse_name(address)] = False, {PTR: (first,)}
        gone: list[Record] = []
        for name, owner in list(self._owners.items()):
            records = wanted[name][1] if name in wanted else {}
            if owner.records == records:
                continue
            if owner.spoken:
                gone += [record for record in owner.everything(ttl=0) if record.type not in records]
            if records:
                owner.become(records, now)
                self._plan(owner)
            else:
                del self._owners[name]
        for name, (host, records) in wanted.items():
            if name not in self._owners:
                self._owners[name] = Owner(name, host, records, None)
                self._fresh.append(self._owners[name])
        if self._fresh and self._start is None:
            self._start = now + self._lots(0, PROBE_GAP)
        if gone:
            self._multicast(gone)

    def again(self, now: float) -> None:
        """Probes for all names and announces them anew: who slept, or whose link changed, may have missed who took
        them since (RFC 6762 section 8). Until then they are not answered."""
        for owner in self._owners.values():
            owner.probe(now)
            owner.due = None
        self._fresh = deque(self._owners.values())
        self._start = now + self._lots(0, PROBE_GAP) if self._fresh else None

    # -- receive ----------------------------------------------------------------------------------------------

    def receive(self, packet: bytes, source: str, port: int, now: float) -> None:
        """A packet that came in on this link from somebody on it."""
        message = parse_message(packet)
        if message is None:
            return
        if message.response:
            if port == PORT:  # section 6
                self._hear((*message.answers, *message.additionals), source, now)
        elif port != PORT:
            self._answer_legacy(message, (source, port))
        else:
            for asked in self._asking.join(message, (source, port), now):
                self._answer(asked, now)
        self._flush(now)

    def _hear(self, records: Iterable[ReceivedRecord], source: str, now: float) -> None:
        told: dict[bytes, list[ReceivedRecord]] = {}
        for record in records:
            owner = self._owners.get(record.key)
            if owner is not None and record.type in ((A, AAAA) if owner.host else (PTR,)):
                told.setdefault(record.key, []).append(record)
        for name, heard in told.items():
            owner = self._owners[name]
            itself = owner.host and address_record(source) in owner.facts
            instead = owner.heard(heard, itself, now, self._lots)
            self._plan(owner)
            if instead is not None:
                self._conflicts.append(Conflict(name, str(ip_address(instead))))

    def _answer(self, asked: Asked, now: float) -> None:
        proposed: dict[bytes, list[ReceivedRecord]] = {}
        for one in asked.message.authorities:
            proposed.setdefault(one.key, []).append(one)
        found = [(question, self._speaker(question)) for question in dict.fromkeys(asked.message.questions)]
        # Others may answer the rest of the questions at the same time (section 6.3).
        alone = len(found) == 1 or all(owner is not None for _, owner in found)
        soon = now if alone else now + self._lots(0.02, 0.12)
        private: dict[Record, None] = {}
        for question, owner in found:
            if question.key in proposed:
                self._defend(question.key, proposed[question.key], now)
            elif owner is not None:
                for kind in owner.types(question.type):
                    if owner.known(kind, asked.known):
                        continue
                    if question.unicast and owner.since(kind, now) < RECENT:
                        private.update((record, None) for record in owner.given(kind))
                    else:
                        self._due(owner, kind, soon, GAP)
        if private:
            self._out += [Outgoing(packet, asked.peer) for packet in encode_responses(list(private))]

    def _defend(self, name: bytes, proposed: list[ReceivedRecord], now: float) -> None:
        owner = self._owners.get(name)
        if owner is None:
            return
        if owner.probed(proposed, now):
            for kind in owner.records:
                self._due(owner, kind, now, DEFENCE_GAP)
        self._plan(owner)

    def _answer_legacy(self, message: MdnsMessage, peer: Peer) -> None:
        records: dict[Record, None] = {}
        answered: list[MdnsQuestion] = []
        for question in message.questions:
            owner = self._speaker(question)
            if owner is not None:
                answered.append(question)
                for kind in owner.types(question.type):
                    records.update((record, None) for record in owner.given(kind, LEGACY_TTL))
        if answered:
            self._out.append(Outgoing(encode_legacy_response(message.id, answered, records), peer))

    def _speaker(self, question: MdnsQuestion) -> Owner | None:
        owner = self._owners.get(question.key)
        return owner if owner is not None and owner.speaks else None

    # -- timeout and wake -------------------------------------------------------------------------------------

    def timeout(self) -> float | None:
        """When `wake` is due, None for never."""
        while self._steps and not self._is_planned(*self._steps[0]):
            self._next()
        steps = [*self._answers.values(), self._asking.due(), self._start]
        steps += [due for due, _, _ in self._steps[:1]]
        return min((due for due in steps if due is not None), default=None)

    def wake(self, now: float) -> None:
        """Does what is due by now."""
        for asked in self._asking.ripe(now):
            self._answer(asked, now)
        self._begin(now)
        ripe: dict[bytes, Owner] = {}
        while self._steps and self._steps[0][0] <= now:
            owner = self._next()
            if owner is not None:
                ripe[owner.name] = owner
        probing = [(owner.name, owner.everything()) for owner in ripe.values() if self._step(owner, now)]
        for owner in ripe.values():
            self._plan(owner)
        self._out += [Outgoing(packet, None) for packet in encode_probes(probing)]
        self._flush(now)

    def _begin(self, now: float) -> None:
        """Begins to probe for the next few names: a thousand at once would be a storm on the link."""
        if self._start is None or self._start > now:
            return
        left = STARTS
        while self._fresh and left:
            owner = self._fresh.popleft()
            if self._owners.get(owner.name) is owner and owner.due is None and owner.state is State.PROBING:
                owner.probe(now)
                self._plan(owner)
                left -= 1
        self._start = now + START_GAP if self._fresh else None

    def _plan(self, owner: Owner) -> None:
        """Notes when the next step of a name is."""
        if owner.due is None or owner.due == owner.planned:
            return
        owner.planned = owner.due
        if len(self._steps) > 2 * len(self._owners) + MOST_IN_VAIN:
            steps, self._steps = self._steps, []
            for step in steps:
                (self._steps.append if self._is_planned(*step) else _forget)(step)
            heapify(self._steps)
        self._planned += 1
        heappush(self._steps, (owner.due, self._planned, owner))

    def _next(self) -> Owner | None:
        """Takes the first of the steps; None for one that stands there in vain."""
        step = heappop(self._steps)
        _forget(step)
        return step[2] if self._is_planned(*step) else None

    def _is_planned(self, due: float, _: int, owner: Owner) -> bool:
        return owner.due == due and self._owners.get(owner.name) is owner

    def _step(self, owner: Owner, now: float) -> bool:
        """The next step in the life of one name; whether that is a probe."""
        if owner.state is State.YIELDED:
            owner.probe(now + self._lots(0, PROBE_GAP))
            return False
        if owner.state is State.PROBING and owner.left:
            owner.left, owner.due = owner.left - 1, now + PROBE_GAP
            return True
        if owner.state is State.PROBING:
            owner.announce(now)
        if owner.left:
            for kind in owner.records:
                self._due(owner, kind, now, GAP)
            owner.left -= 1
            owner.due = max(self._answers[owner.name, kind] for kind in owner.records) + GAP
        if not owner.left:
            owner.due = None
        return False

    # -- send -------------------------------------------------------------------------------------------------

    def send(self) -> list[Outgoing]:
        """What is to be sent now, once."""
        out, self._out = self._out, []
        return out

    def conflicts(self) -> list[Conflict]:
        """Who turned out to have a name of ours with another address, once each."""
        found, self._conflicts = self._conflicts, []
        return found

    def _due(self, owner: Owner, kind: int, soon: float, gap: float) -> None:
        due = max(soon, owner.last[kind] + gap) if kind in owner.last else soon
        key = owner.name, kind
        self._answers[key] = min(due, self._answers.get(key, due))

    def _flush(self, now: float) -> None:
        ripe = [key for key, due in self._answers.items() if due <= now]
        answers: list[Record] = []
        more: dict[tuple[bytes, int], None] = {}
        for name, kind in ripe:
            del self._answers[name, kind]
            owner = self._owners.get(name)
            if owner is None or not owner.speaks:
                continue
            answers += owner.given(kind)
            owner.multicast(kind, now)
            if kind in (A, AAAA):  # section 6.2
                other = owner.types(AAAA if kind == A else A)[0]
                more[name, other] = None
        additionals: list[Record] = []
        for name, kind in more:
            owner = self._owners[name]
            if owner.since(kind, now) >= GAP:
                additionals += owner.given(kind)
                owner.multicast(kind, now)
                self._answers.pop((name, kind), None)
        if answers:
            self._multicast(answers, additionals)

    def _multicast(self, answers: list[Record], additionals: Iterable[Record] = ()) -> None:
        self._out += [Outgoing(packet, None) for packet in encode_responses(answers, list(additionals))]
