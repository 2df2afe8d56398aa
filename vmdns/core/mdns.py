"""A responder for the names of VMs on one link (RFC 6762): host records and reverse records, and no services.

It has no socket and no clock: `configure` and `receive` take in, `send` gives out, `timeout` says when to `wake` it.
Times are seconds of any one clock. Its own packets must not be handed to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from vmdns.core.mdns_asked import Asked, Asking, Peer
from vmdns.core.mdns_message import Heard, Message, Question, legacy_response, parse, probes, responses
from vmdns.core.mdns_owner import DEFENCE_GAP, GAP, PROBE_GAP, TTL, Lots, Owner, State, wanted_owners
from vmdns.core.node import address_record
from vmdns.core.wire import AAAA, PTR, A, Record

PORT = 5353
LEGACY_TTL = 10  # section 6.7
RECENT = TTL / 4  # a question that takes a unicast answer gets one, if all others heard it by now (section 5.4)


class Outgoing(NamedTuple):
    """A packet, and the address and port it goes to; None for all on the link."""

    packet: bytes
    to: Peer | None


class Conflict(NamedTuple):
    """Somebody else on the link has this name (wire form), with this address."""

    name: bytes
    address: str


class Responder:
    """The five verbs. lots(a, b) draws a number between the two."""

    def __init__(self, lots: Lots) -> None:
        self._lots = lots
        self._names: dict[bytes, tuple[str, ...]] = {}
        self._owners: dict[bytes, Owner] = {}
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
        if names == self._names:
            return
        self._names = dict(names)
        wanted = wanted_owners(names)
        gone: list[Record] = []
        for owner in list(self._owners.values()):
            _, fresh = wanted.get(owner.name, (False, {}))
            if owner.records == fresh:
                continue
            if owner.spoken:
                gone += [record for record in owner.everything(ttl=0) if record.type not in fresh]
            if fresh:
                owner.become(fresh, now)
            else:
                del self._owners[owner.name]
        start = now + self._lots(0, PROBE_GAP)
        for name, (host, records) in wanted.items():
            if name not in self._owners:
                self._owners[name] = Owner(name, host, records, start)
        if gone:
            self._multicast(gone)

    def again(self, now: float) -> None:
        """Probes for all names and announces them anew: who slept, or whose link changed, may have missed who took
        them since (RFC 6762 section 8). Until then they are not answered."""
        start = now + self._lots(0, PROBE_GAP)
        for owner in self._owners.values():
            owner.probe(start)

    # -- receive ----------------------------------------------------------------------------------------------

    def receive(self, packet: bytes, source: str, port: int, now: float) -> None:
        """A packet that came in on this link from somebody on it."""
        message = parse(packet)
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

    def _hear(self, records: Iterable[Heard], source: str, now: float) -> None:
        told: dict[bytes, list[Heard]] = {}
        for record in records:
            owner = self._owners.get(record.key)
            if owner is not None and record.type in ((A, AAAA) if owner.host else (PTR,)):
                told.setdefault(record.key, []).append(record)
        for name, heard in told.items():
            owner = self._owners[name]
            itself = owner.host and address_record(source) in owner.facts
            instead = owner.heard(heard, itself, now, self._lots)
            if instead is not None:
                self._conflicts.append(Conflict(name, str(ip_address(instead))))

    def _answer(self, asked: Asked, now: float) -> None:
        proposed: dict[bytes, list[Heard]] = {}
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
            self._out += [Outgoing(packet, asked.peer) for packet in responses(list(private))]

    def _defend(self, name: bytes, proposed: list[Heard], now: float) -> None:
        owner = self._owners.get(name)
        if owner is not None and owner.probed(proposed, now):
            for kind in owner.records:
                self._due(owner, kind, now, DEFENCE_GAP)

    def _answer_legacy(self, message: Message, peer: Peer) -> None:
        records: dict[Record, None] = {}
        answered: list[Question] = []
        for question in message.questions:
            owner = self._speaker(question)
            if owner is not None:
                answered.append(question)
                for kind in owner.types(question.type):
                    records.update((record, None) for record in owner.given(kind, LEGACY_TTL))
        if answered:
            self._out.append(Outgoing(legacy_response(message.id, answered, records), peer))

    def _speaker(self, question: Question) -> Owner | None:
        owner = self._owners.get(question.key)
        return owner if owner is not None and owner.speaks else None

    # -- timeout and wake -------------------------------------------------------------------------------------

    def timeout(self) -> float | None:
        """When `wake` is due, None for never."""
        steps = [owner.due for owner in self._owners.values()]
        steps += [*self._answers.values(), self._asking.due()]
        return min((due for due in steps if due is not None), default=None)

    def wake(self, now: float) -> None:
        """Does what is due by now."""
        for asked in self._asking.ripe(now):
            self._answer(asked, now)
        ripe = [one for one in self._owners.values() if one.due is not None and one.due <= now]
        probing = [(owner.name, owner.everything()) for owner in ripe if self._step(owner, now)]
        self._out += [Outgoing(packet, None) for packet in probes(probing)]
        self._flush(now)

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
        self._out += [Outgoing(packet, None) for packet in responses(answers, list(additionals))]
