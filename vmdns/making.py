"""How snapshots come about without the event loop standing still: in small steps, by turns.

Changes of VMs, leases and neighbours are made upon what there is. Where all must be made anew (networks, records, the
hosts file), a second builder makes it beside the one in force, which goes on with the changes meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from vmdns.core.builder import Builder, Built, Moved
from vmdns.core.hosts import Hosts
from vmdns.core.model import Fact, Lease, Machine, Neighbour
from vmdns.core.node import Node
from vmdns.core.policy import Policy
from vmdns.core.snapshot import Guest, Snapshot

# Leases and neighbours that are made at once: a VM that changes meanwhile waits no longer than they take. VMs are
# taken all together, as names are decided among them.
PORTION = 32
_PASSES = 4  # at most, until what came meanwhile is little
_FEW = 500  # facts that are made anew in a moment
_MANY = 10_000  # names that are answered otherwise: to forget all answers is quicker than those
_COMPARED = 2000  # nodes up to which two sets are compared where they may be equal

Changes = dict[object, Fact | None]


class _Waiting(NamedTuple):
    """What was reported and is not made yet, the last report of each key."""

    gone: Changes  # leases and neighbours that are no more
    loose: Changes
    machines: Changes
    others: Changes


class Maker:
    """Takes what is reported, and makes snapshots of it. wall tells the Unix time."""

    def __init__(self, policy: Policy, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._policy = policy
        self._hosts: Hosts | None = None
        self._waiting = _Waiting({}, {}, {}, {})
        self._holding: set[object] = set()
        self._again = False
        self._builder = Builder(policy)
        # What is taken while a builder makes all anew, for that one to take as well; None while there is none.
        self._behind: Changes | None = None
        self._alone = False  # whether the one in force has to wait for that one
        self.snapshot = self._builder.build(wall(), 0).snapshot

    def put(self, key: object, before: Fact | None, fact: Fact | None) -> None:
        """A fact that is another one from now on; before: what it was in the last report."""
        at = max(_rank(before), _rank(fact))
        for rank, waiting in enumerate(self._waiting):
            if key in waiting:
                at = max(at, rank)
                del waiting[key]
        self._waiting[0 if fact is None and at == 1 else at][key] = fact

    def hold(self, source: object, until_then: bool) -> None:
        """Whether VMs and networks wait until this source has told the rest of them: they mean something together."""
        (self._holding.add if until_then else self._holding.discard)(source)

    def put_hosts(self, hosts: Hosts) -> None:
        """The hosts file, digested for the policy."""
        self._hosts = hosts

    def configure(self, policy: Policy) -> None:
        """Another policy from now on."""
        self._policy = policy

    def look(self) -> None:
        """Has the next turns look at the time, though nothing was reported."""
        self._again = True

    def turns(self) -> Iterator[Built | None]:
        """All the work that there is, in small steps. Yields what is to be put in force, whose serial is 0."""
        going: Iterator[None] | None = None
        anew: Iterator[Built | None] | None = None
        leaving: Iterator[None] | None = None
        try:
            while True:
                if anew is None and going is None and self._must_be_anew():
                    before = self._builder
                    anew = self._begin_anew()
                if going is None and not self._alone and self._has_changed():
                    going = self._changes()
                if going is None and anew is None:
                    if leaving is None or next(leaving, self) is self:
                        return
                    yield None
                if going is not None and not self._alone:
                    if next(going, self) is self:
                        going = None
                        yield from self._made(self._builder.built(0))
                    else:
                        yield None
                if anew is not None:
                    step = next(anew)
                    if step is not None:
                        going = anew = None
                        leaving = before.let_go()
                        yield from self._made(step)
                        step = None  # it holds VMs as they were
                    yield None
        finally:
            self._behind, self._alone = None, False

    def _made(self, built: Built) -> Iterator[Built | None]:
        self.snapshot = built.snapshot
        yield None  # to put it in force takes as long as the step before
        yield built

    # -- changes of VMs ---------------------------------------------------------------------------------------

    def _has_changed(self) -> bool:
        one = self._builder
        changed = self._waiting.gone or self._waiting.loose or (self._waiting.machines and not self._holding)
        light = self._again or (self._policy != one.policy and one.fits(self._policy))
        return bool(changed or light) and not one.is_whole(self._wall())

    def _changes(self) -> Iterator[None]:
        self._again = False
        taken = self._take(PORTION)
        if self._behind is not None:
            self._behind.update(taken)
        if self._builder.fits(self._policy):
            self._builder.configure(self._policy)
        return self._apply(taken)

    def _apply(self, taken: Changes) -> Iterator[None]:
        try:
            for key in list(taken):
                self._builder.put(key, taken.pop(key))
                yield
        finally:
            self._give_back(taken)
        yield from self._builder.steps(self._wall())

    def _take(self, most: int | None) -> Changes:
        taken: Changes = {}
        if not self._holding:
            taken |= self._waiting.machines
            self._waiting.machines.clear()
        # What came before what went, whatever was reported first: a VM whose lease gives way to others one after the
        # other would be without an address meanwhile.
        for waiting in (self._waiting.loose, self._waiting.gone):
            for key in list(islice(waiting, most)):
                taken[key] = waiting.pop(key)
            if waiting:
                break
        return taken

    def _give_back(self, taken: Changes) -> None:
        """Something failed: what was not to blame is not lost, unless it was reported again since."""
        for key, fact in taken.items():
            if not any(key in waiting for waiting in self._waiting):
                self._waiting[_rank(fact)][key] = fact

    # -- all anew ---------------------------------------------------------------------------------------------

    def _must_be_anew(self) -> bool:
        one = self._builder
        other = (
            (self._waiting.others and not self._holding) or not one.fits(self._policy) or one.hosts is not self._hosts
        )
        return bool(other) or one.is_whole(self._wall())

    def _begin_anew(self) -> Iterator[Built | None]:
        held, waiting = self._builder.facts, self._waiting
        others: Changes = {} if self._holding else waiting.others.copy()
        taken: Changes = {}
        # The one in force goes on meanwhile, where it can (the clock went on, and nothing failed) and that is worth it.
        many = len(held) > max(_FEW, len(waiting.machines) + len(waiting.loose) + len(waiting.gone))
        if not many or self._builder.is_whole(self._wall()):
            taken = self._take(None)
        self._behind = {}
        builder = Builder(self._policy, self._hosts, like=self._builder)
        return self._anew(builder, {**held, **taken, **others}, {**taken, **others})

    def _anew(self, builder: Builder, facts: Mapping[object, Fact | None], fresh: Changes) -> Iterator[Built | None]:
        try:
            built = yield from self._made_anew(builder, facts)
        except BaseException:
            self._give_back({key: fact for key, fact in fresh.items() if key not in self._waiting.others})
            raise
        for key, fact in fresh.items():
            if self._waiting.others.get(key, self) is fact:
                del self._waiting.others[key]
        self._builder, self._behind, self._alone, self._again = builder, None, False, False
        yield built

    def _made_anew(self, builder: Builder, facts: Mapping[object, Fact | None]) -> Generator[Built | None, None, Built]:
        for key, fact in facts.items():
            if fact is not None:
                builder.put(key, fact)
            yield None
        behind = self._behind
        assert behind is not None
        for rest in reversed(range(_PASSES)):
            for key in list(behind):
                builder.put(key, behind.pop(key))
                yield None
            yield from builder.steps(self._wall())
            if self._alone:
                break
            self._alone = len(behind) < PORTION or rest == 1
        before, after = self.snapshot, builder.built(0).snapshot
        moved: dict[str, Moved] = {}
        names: set[bytes] = set()
        others = 0
        for among in (after.by_uuid, before.by_uuid):
            for uuid in among:
                was, now = before.by_uuid.get(uuid), after.by_uuid.get(uuid)
                if (among is after.by_uuid or now is None) and not _same(was, now):
                    others += 1
                    if was is None or now is None or was.answers != now.answers:
                        moved[uuid] = was, now
                        names.update(builder.names_of(was), builder.names_of(now))
                yield None
        few = len(names) <= _MANY and _alike(before, after)
        return Built(after, frozenset(names) if few else None, moved, others)


def _rank(fact: Fact | None) -> int:
    """Where in `_Waiting`: with what is taken by portions, with what is taken together, or for all to be made anew."""
    if fact is None:
        return 0
    return 1 if isinstance(fact, Lease | Neighbour) else 2 if isinstance(fact, Machine) else 3


def _same(one: Guest | None, other: Guest | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.machine is other.machine or one.machine == other.machine) and one == other


def _alike(one: Snapshot, other: Snapshot) -> bool:
    """Whether all but VMs is answered alike."""
    return (
        _equal(one.nodes, other.nodes)
        and _equal(one.late, other.late)
        and (one.zones, one.own, one.ways, one.lan) == (other.zones, other.own, other.ways, other.lan)
    )


def _equal(one: Mapping[bytes, Node], other: Mapping[bytes, Node]) -> bool:
    return one is other or (len(one) == len(other) <= _COMPARED and one == other)
