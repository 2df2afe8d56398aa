"""Which VM has which names: assigned to all registered VMs at once, the same way every time.

A VM keeps the names that it has as long as it exists. A free name goes to a VM that runs before one that is off, then
to the older one; the other VM gets `name-2`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from math import inf
from typing import NamedTuple

from vmdns.dns.name import MAX_LABEL
from vmdns.state.facts import Machine
from vmdns.state.findings import Problem, quote_for_shell
from vmdns.state.name_rules import (
    Owners,
    Relative,
    Reservation,
    WantedKind,
    WantedName,
    find_vagrant_names,
    find_wanted_names,
    natural_label,
)


class AssignedNames(NamedTuple):
    """The names of one VM, below each zone: the first is the one PTR records and people use.

    denied: the names that it would have and does not get, and problems: why; note: other VMs that would have its
    names. Both are without the subject.
    """

    names: tuple[Relative, ...]
    problems: tuple[Problem, ...] = ()
    denied: tuple[Relative, ...] = ()
    note: str = ""

    @property
    def label(self) -> str:
        """The first name as text."""
        return ".".join(self.names[0])


class Naming(NamedTuple):
    """Names by UUID, one text for each name that a VM would have and does not get, and the owners of all names."""

    by_uuid: Mapping[str, AssignedNames]
    problems: tuple[str, ...]
    owners: Owners


def assign_names(
    machines: Iterable[Machine],
    reserved: Mapping[str, Reservation],
    zones: tuple[str, ...],
    owners: Owners | None = None,
    addresses: Mapping[str, frozenset[str]] | None = None,
) -> Naming:
    """Gives every accessible VM that is not ignored its names.

    zones are the names of our zones as text. owners is what the last assignment returned. addresses are those that
    are known of VMs, by UUID: they matter where the hosts file has a name that a VM would have.
    """
    registered = list(machines)
    if not registered:
        return Naming({}, (), owners or {})  # VirtualBox was not read yet, or went away
    return _Assignment(registered, reserved, zones, owners or {}, addresses or {}).run()


class _Assignment:
    """One run of `assign_names`: `taken` fills up with the names that are given, the most important ones first."""

    def __init__(
        self,
        machines: list[Machine],
        reserved: Mapping[str, Reservation],
        zones: tuple[str, ...],
        owners: Owners,
        addresses: Mapping[str, frozenset[str]],
    ) -> None:
        self._reserved = reserved
        self._owners = owners
        self._addresses = addresses
        self._registered = {machine.uuid for machine in machines}
        present = sorted((one for one in machines if one.accessible and not one.ignored), key=_precedence)
        self._machines = {machine.uuid: machine for machine in present}
        vagrant = find_vagrant_names(present, owners)
        self._wishes = {one.uuid: (*find_wanted_names(one, zones), *vagrant.get(one.uuid, ())) for one in present}
        self._taken: dict[Relative, str] = {(machine.uuid.lower(),): machine.uuid for machine in present}
        self._label: dict[str, str] = {}
        self._problems: dict[str, list[tuple[Relative, Problem]]] = {machine.uuid: [] for machine in present}
        self._losers: dict[Relative, list[str]] = {}  # other VMs that would have a name

    def run(self) -> Naming:
        """Gives all names. A VM that is registered, but has no names now, keeps those that nobody else took."""
        self._keep_names()
        self._give_labels()
        self._give_others()
        names = {machine.uuid: self._names_of(machine) for machine in self._machines.values()}
        for machine in self._machines.values():
            self._explain_label(machine, names[machine.uuid])
        notes: dict[str, list[str]] = {}
        for relative, losers in self._losers.items():
            more = f" and {len(losers) - 1} more" if len(losers) > 1 else ""
            note = f"has the name {'.'.join(relative)}, which {losers[0]}{more} would have as well"
            notes.setdefault(self._taken[relative], []).append(note)
        by_uuid, texts = {}, []
        for uuid, found in self._problems.items():
            problems = tuple(problem for _, problem in found)
            denied = tuple(relative for relative, _ in found)
            by_uuid[uuid] = AssignedNames(names[uuid], problems, denied, "; ".join(notes.get(uuid, ())))
            texts += [f"VM {self._machines[uuid].name!r} ({uuid}) {problem}" for problem in problems]
        owners = {relative: uuid for relative, uuid in self._taken.items() if relative != (uuid.lower(),)}
        for relative, uuid in self._owners.items():
            if uuid in self._registered and uuid not in self._machines:
                owners.setdefault(relative, uuid)
        return Naming(by_uuid, tuple(texts), owners)

    def _keep_names(self) -> None:
        """Gives each VM the names that it has had, if it still would have them.

        A name of Vagrant's kind is kept while the VM runs: a VM that is off must not keep it from the next one.
        """
        for machine in self._machines.values():
            for wish in self._wishes[machine.uuid]:
                kept = self._owners.get(wish.relative) == machine.uuid
                if kept and (machine.online or wish.kind is not WantedKind.VAGRANT):
                    self._take(wish.relative, machine)

    def _give_labels(self) -> None:
        """Gives each VM the label of its name, or that label with a number where it cannot have it."""
        numbers: dict[str, list[str]] = {}  # the single labels that each VM has had, the shortest first
        for label in sorted((one[0] for one in self._owners if len(one) == 1), key=lambda one: (len(one), one)):
            numbers.setdefault(self._owners[(label,)], []).append(label)
        wanting = [(natural_label(machine), machine) for machine in self._machines.values()]
        without = []
        # The shortest first: a label with a number is longer than the one that it replaces.
        for wanted, machine in sorted(wanting, key=lambda pair: (len(pair[0]), pair[0])):
            kept = [one for one in numbers.get(machine.uuid, ()) if _is_numbered_form(one, wanted)]
            given = next((one for one in (wanted, *kept) if self._take((one,), machine)), None)
            if given is None:
                without.append((wanted, machine))
            else:
                self._label[machine.uuid] = given
        free: dict[str, Iterator[str]] = {}
        for wanted, machine in without:
            labels = free.setdefault(wanted, (_with_number(wanted, number) for number in count(2)))
            given = next(one for one in labels if (one,) not in self._taken and one not in self._reserved)
            self._take((given,), machine)
            self._label[machine.uuid] = given

    def _give_others(self) -> None:
        """Gives all other names, kind after kind, and explains which of the user's own a VM does not get."""
        pairs = [(machine, wish) for machine in self._machines.values() for wish in self._wishes[machine.uuid][1:]]
        not_given = []
        for machine, wish in sorted(pairs, key=lambda pair: pair[1].kind):
            if not self._take(wish.relative, machine) and wish.kind is WantedKind.USER:
                not_given.append((machine, wish))
        for machine, wish in not_given:
            self._deny(machine, wish)

    def _take(self, relative: Relative, machine: Machine) -> bool:
        """Whether the VM has this name now."""
        if not relative or self._find_reservation(relative, machine) is not None:
            return False
        return self._taken.setdefault(relative, machine.uuid) == machine.uuid

    def _find_reservation(self, relative: Relative, machine: Machine) -> Reservation | None:
        """What keeps the VM from this name; None where it may have it.

        A VM without a known address keeps a name of the hosts file that it has had: the line may well be its own.
        """
        found = self._reserved.get(relative[0]) if len(relative) == 1 else None
        if found is None or not found.addresses:
            return found
        known = self._addresses.get(machine.uuid)
        own = not known.isdisjoint(found.addresses) if known else self._owners.get(relative) == machine.uuid
        return None if own else found

    def _find_given(self, machine: Machine) -> list[WantedName]:
        return [wish for wish in self._wishes[machine.uuid] if self._taken.get(wish.relative) == machine.uuid]

    def _names_of(self, machine: Machine) -> tuple[Relative, ...]:
        given = self._find_given(machine)
        # A name in a zone, and a name of Vagrant's kind, are better than the whole text as one label.
        first = [wish.relative for wish in given if wish.kind is WantedKind.USER and wish.text == machine.name]
        first += [wish.relative for wish in given if wish.kind is WantedKind.VAGRANT][:1]
        others = [wish.relative for wish in given]
        return tuple(dict.fromkeys([*first, (self._label[machine.uuid],), *others, (machine.uuid.lower(),)]))

    # -- why a VM does not get a name ---------------------------------------------------------------------------

    def _explain_label(self, machine: Machine, names: tuple[Relative, ...]) -> None:
        """Reports a label with a number, unless the VM has a name of the user's or Vagrant's besides."""
        given, wanted = self._label[machine.uuid], natural_label(machine)
        better = (WantedKind.USER, WantedKind.VAGRANT)
        if given == wanted or any(one.kind in better and one.relative in names for one in self._wishes[machine.uuid]):
            return
        found = self._find_reservation((wanted,), machine)
        remedy, command = "rename one of the two VMs, or choose a name for this one", self._command(machine)
        if found is not None:
            remedy, command = found.remedy, ""
            if found.addresses and not machine.online:
                return  # until it runs, it is not known whether the hosts file means this VM
        text = f"is {given}, because {self._why(machine, (wanted,))}"
        self._problems[machine.uuid].append(((wanted,), Problem(text, remedy, command)))

    def _deny(self, machine: Machine, wish: WantedName) -> None:
        found = self._find_reservation(wish.relative, machine)
        remedy, command = "rename the VM", ""
        if found is not None and found.addresses:
            remedy = found.remedy
        elif wish.text != machine.name:
            remedy, command = f"choose another name than {wish.text!r}, or none", self._command(machine)
        text = f"does not get the name {wish.text!r}, because {self._why(machine, wish.relative)}"
        self._problems[machine.uuid].append((wish.relative, Problem(text, remedy, command)))

    def _command(self, machine: Machine) -> str:
        """The command that leaves the VM the names that it has: one for all of its problems, as each sets all names."""
        given = [
            one.text for one in self._find_given(machine) if one.kind is WantedKind.USER and one.text in machine.names
        ]
        label = self._label[machine.uuid]
        if not given and label != natural_label(machine):
            given = [label]
        names = quote_for_shell(",".join(given)) if given else ""
        return f"VBoxManage setextradata {machine.uuid} vmdns/names {names}".rstrip()

    def _why(self, machine: Machine, relative: Relative) -> str:
        if not relative:
            return "DNS cannot carry it"
        found = self._find_reservation(relative, machine)
        if found is not None:
            return f"{relative[0]} is {found.why}"
        owner = self._machines[self._taken[relative]]
        self._losers.setdefault(relative, []).append(f"VM {machine.name!r} ({machine.uuid})")
        return f"VM {owner.name!r} ({owner.uuid}) has the name {'.'.join(relative)}"


def _precedence(machine: Machine) -> tuple[bool, int, float, str]:
    """Who gets a free name first: a VM that runs, then the one that was registered first.

    Without an order of registration: the one that has been in its state for longer.
    """
    return not machine.online, machine.registration_index, machine.state_changed or inf, machine.uuid


def _with_number(wanted: str, number: int) -> str:
    """A label that a VM may get in place of one that it cannot have."""
    suffix = f"-{number}"
    return wanted[: MAX_LABEL - len(suffix)].rstrip("-") + suffix


def _is_numbered_form(given: str, wanted: str) -> bool:
    """Whether a label is another one with a number."""
    match = re.search(r"-([1-9][0-9]{0,8})\Z", given)
    return match is not None and int(match[1]) > 1 and _with_number(wanted, int(match[1])) == given
