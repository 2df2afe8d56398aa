"""Names kept up while VMs come and go: a change costs as much as the names that it concerns.

The law, held by tests: after any changes the names are those that `assign` gives to all VMs at once.
"""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeVar

from vmdns.core.model import Machine
from vmdns.core.name import MAX_LABEL, MAX_NAME
from vmdns.core.naming import (
    Named,
    Relative,
    assign,
    fits,
    group_name,
    natural_label,
    note,
    numbered,
    problem,
    refusal,
    relative_name,
)

# A number behind a label this short makes nothing that a number behind another label makes as well.
_SHORT = MAX_LABEL - len("-9999999")
_NUMBER = re.compile(r"(.+)-[1-9][0-9]*\Z")

K = TypeVar("K")


class _Wish(NamedTuple):
    """What one VM wants: its label, names of its groups, and names that the user wrote, as he did and as labels."""

    machine: Machine
    natural: str
    groups: tuple[Relative, ...]
    extras: tuple[tuple[str, Relative], ...]


class Names:
    """The names of all VMs by UUID. reserved and zones are those of `assign`, and stay."""

    def __init__(self, reserved: Mapping[str, str], zones: tuple[str, ...]) -> None:
        self._reserved = reserved
        self._zones = zones
        self._room = MAX_NAME - 2 - max(len(zone) for zone in zones)
        self._wishes: dict[str, _Wish] = {}
        self._by_own: dict[str, str] = {}  # its UUID in lower case is a label that each VM has
        self._wanting: dict[str, list[str]] = {}  # by label, sorted; so are the next two
        self._grouped: dict[Relative, list[str]] = {}
        self._extra: dict[Relative, list[str]] = {}
        self._numbers: dict[str, tuple[str, ...]] = {}  # by label: those with numbers that stand for it
        self._numbered: dict[str, str] = {}  # by such a label: who has it
        self._crowded: set[str] = set()  # long labels that more want than can have them
        self._whole = False
        self._given: dict[str, tuple[str, str]] = {}  # its label, and what is to be said of that
        self._problems: dict[str, tuple[str, ...]] = {}
        self._told: tuple[str, ...] | None = ()
        self.by_uuid: dict[str, Named] = {}

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each name that a VM wanted and did not get."""
        if self._told is None:
            notes = [one.note for _, one in sorted(self.by_uuid.items()) if one.note]
            self._told = (*notes, *(text for _, texts in sorted(self._problems.items()) for text in texts))
        return self._told

    def change(self, machines: Mapping[str, Machine | None]) -> Iterator[set[str]]:
        """Takes these VMs (by UUID) as they are now, None where one is gone, in small steps.

        Yields those whose names or notes are other ones now. Between two steps nothing else may be asked.
        """
        labels: set[str] = set()
        longer: set[Relative] = set()
        for uuid, machine in machines.items():
            before = self._wishes.get(uuid)
            if machine is not None and (not machine.accessible or machine.ignored):
                machine = None
            if _wanted(machine) != _wanted(before.machine if before else None):
                for wish in (self._withdraw(uuid), self._enter(machine)):
                    if wish is not None:
                        labels |= {wish.natural, uuid.lower()}
                        longer.update(wish.groups, (relative for _, relative in wish.extras))
            yield set()
        if not labels:
            return
        for label in labels:
            if len(label) > _SHORT:
                (self._crowded.add if self._losers(label) else self._crowded.discard)(label)
            yield set()
        if self._crowded:
            self._whole = True
            yield self._anew()
            return
        dirty = {uuid for uuid in machines if uuid in self.by_uuid or uuid in self._wishes}
        if self._whole:  # what was kept up meanwhile is not all there is
            labels = {*self._wanting, *self._by_own, *self._numbers}
            dirty |= self._wishes.keys()
            self._whole, self._told = False, None
        yield set()
        for label in list(labels):
            match = _NUMBER.match(label)
            if match and match[1] in self._wanting:
                labels.add(match[1])
            yield set()
        for label in labels:
            yield from self._settle(label, dirty, longer)
            yield set()
        for relative in longer:
            dirty.update(self._grouped.get(relative, ()), self._extra.get(relative, ()))
            yield set()
        for uuid in dirty:
            yield {uuid} if self._name(uuid) else set()

    # -- what VMs want ----------------------------------------------------------------------------------------

    def _enter(self, machine: Machine | None) -> _Wish | None:
        if machine is None:
            return None
        natural = natural_label(machine)
        groups = (group_name(natural, group) for group in machine.groups)
        wish = _Wish(
            machine,
            natural,
            tuple(dict.fromkeys(one for one in groups if one and fits(one, self._room))),
            tuple((extra, relative_name(extra, self._zones)) for extra in machine.names),
        )
        self._wishes[machine.uuid] = wish
        self._by_own[machine.uuid.lower()] = machine.uuid
        insort(self._wanting.setdefault(natural, []), machine.uuid)
        for relative in wish.groups:
            insort(self._grouped.setdefault(relative, []), machine.uuid)
        for relative in self._possible(wish):
            insort(self._extra.setdefault(relative, []), machine.uuid)
        return wish

    def _withdraw(self, uuid: str) -> _Wish | None:
        wish = self._wishes.pop(uuid, None)
        if wish is None:
            return None
        del self._by_own[uuid.lower()]
        _take_out(self._wanting, wish.natural, uuid)
        for relative in wish.groups:
            _take_out(self._grouped, relative, uuid)
        for relative in self._possible(wish):
            _take_out(self._extra, relative, uuid)
        return wish

    def _possible(self, wish: _Wish) -> set[Relative]:
        return {relative for _, relative in wish.extras if not refusal(relative, self._room, self._reserved)}

    # -- who has what -----------------------------------------------------------------------------------------

    def _first(self, label: str) -> str | None:
        """Who has a label without a number: whose UUID it is, else the lowest UUID of those that want it."""
        own = self._by_own.get(label)
        if own is not None or label in self._reserved:
            return own
        wanting = self._wanting.get(label)
        return wanting[0] if wanting else None

    def _losers(self, label: str) -> list[str]:
        first = self._first(label)
        return [uuid for uuid in self._wanting.get(label, ()) if uuid != first]

    def _owner(self, relative: Relative) -> str | None:
        """Who has a name that somebody may have."""
        if len(relative) == 1:
            found = self._first(relative[0]) or self._numbered.get(relative[0])
            if found is not None:
                return found
        wanting = self._grouped.get(relative) or self._extra.get(relative)
        return wanting[0] if wanting else None

    def _settle(self, label: str, dirty: set[str], longer: set[Relative]) -> Iterator[set[str]]:
        """Decides a label anew, and the numbers behind it."""
        first = self._first(label)
        longer.add((label,))
        if first is not None and label in self._wanting and first in self._wanting[label]:
            dirty.add(first)
            self._given[first] = label, ""
        before = self._numbers.pop(label, ())
        for one in before:
            del self._numbered[one]
        after: list[str] = []
        free = (one for one in numbered(label) if self._first(one) is None and one not in self._reserved)
        owner = self._wishes[first].machine if first is not None else None
        for uuid in self._losers(label):
            given = next(free)
            after.append(given)
            self._numbered[given] = uuid
            found = given, note(self._wishes[uuid].machine, label, given, owner, self._reserved)
            if self._given.get(uuid) != found:
                self._given[uuid] = found
                dirty.add(uuid)
            yield set()
        if after:
            self._numbers[label] = tuple(after)
        longer.update((one,) for one in {*before, *after})

    def _name(self, uuid: str) -> bool:
        """Gives one VM its names. Returns whether they, or what is to be said of them, are other ones now."""
        wish = self._wishes.get(uuid)
        if wish is None:
            self._given.pop(uuid, None)
            return self._put(uuid, None, ())
        label, said = self._given[uuid]
        names = [(label,), *(one for one in wish.groups if self._owner(one) == uuid)]
        problems = []
        for extra, relative in wish.extras:
            why = refusal(relative, self._room, self._reserved)
            if not why and (owner := self._owner(relative)) != uuid:
                why = f"which VM {owner} has"
            if why:
                problems.append(problem(wish.machine, extra, why))
            else:
                names.append(relative)
        names.append((uuid.lower(),))
        return self._put(uuid, Named(tuple(dict.fromkeys(names)), said), tuple(problems))

    def _put(self, uuid: str, named: Named | None, problems: tuple[str, ...]) -> bool:
        before = self.by_uuid.get(uuid)
        if before != named:
            if (before.note if before else "") != (named.note if named else ""):
                self._told = None
            if named is None:
                del self.by_uuid[uuid]
            else:
                self.by_uuid[uuid] = named
        if self._problems.get(uuid, ()) != problems:
            self._told = None
            self._problems.pop(uuid, None)
            if problems:
                self._problems[uuid] = problems
        return before != named

    def _anew(self) -> set[str]:
        """All at once: numbers behind long labels take letters from them, and then they may meet."""
        found = assign((wish.machine for wish in self._wishes.values()), self._reserved, self._zones)
        before, self.by_uuid = self.by_uuid, dict(found.by_uuid)
        self._told = found.problems
        self._problems = {}
        return {uuid for uuid in before.keys() | self.by_uuid.keys() if before.get(uuid) != self.by_uuid.get(uuid)}


def _wanted(machine: Machine | None) -> object:
    return None if machine is None else (machine.name, machine.groups, machine.names)


def _take_out(among: dict[K, list[str]], key: K, uuid: str) -> None:
    found = among[key]
    del found[bisect_left(found, uuid)]
    if not found:
        del among[key]
