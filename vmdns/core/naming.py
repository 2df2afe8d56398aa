"""Which VM answers to which name: decided from all registered VMs at once, the same way every time.

The VM with the lower UUID keeps a name that two want; the other gets `name-2`. VMs that are off take part, so that
a name does not change its owner when a VM starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from vmdns.core.model import Machine
from vmdns.core.name import MAX_LABEL, MAX_NAME, label

# Names by which machines find services without being told (RFC 6761, web proxy discovery, ISATAP, CERT VU#598349),
# and our own.
RESERVED = frozenset({"localhost", "localdomain", "wpad", "isatap", "broadcasthost", "vmdns"})

Relative = tuple[str, ...]  # the labels of a name below a zone, leftmost first


class Named(NamedTuple):
    """The names of one VM, below each zone: the first is the one PTR records and people use."""

    names: tuple[Relative, ...]
    note: str = ""

    @property
    def label(self) -> str:
        return self.names[0][0]


@dataclass(frozen=True, slots=True)
class Naming:
    """Names by UUID, and one sentence for each name that a VM wanted and did not get."""

    by_uuid: Mapping[str, Named]
    problems: tuple[str, ...]


def natural_label(machine: Machine) -> str:
    """The label of the VM's name, or one of its UUID where the name has nothing that DNS can carry."""
    return label(machine.name) or f"vm-{machine.uuid[:8].lower()}"


def assign(machines: Iterable[Machine], reserved: Mapping[str, str], zones: tuple[str, ...]) -> Naming:
    """Gives every accessible VM that is not ignored its names.

    reserved maps labels that no VM may take to why, in words that follow "which is". zones are the names of our
    zones as text: an extra name may be written with one of them.
    """
    present = sorted(
        (machine for machine in machines if machine.accessible and not machine.ignored), key=lambda one: one.uuid
    )
    natural = {machine.uuid: natural_label(machine) for machine in present}
    room = MAX_NAME - 2 - max(len(zone) for zone in zones)
    # A VM may be named like the UUID of another one, which is that one's name.
    first = {machine.uuid.lower(): machine for machine in present}
    for machine in present:
        if natural[machine.uuid] not in reserved:
            first.setdefault(natural[machine.uuid], machine)
    taken: dict[Relative, str] = {(name,): machine.uuid for name, machine in first.items()}
    names: dict[str, list[Relative]] = {}
    notes: dict[str, str] = {}
    for machine in present:
        wanted = natural[machine.uuid]
        owner = first.get(wanted)
        if owner is machine:
            names[machine.uuid] = [(wanted,)]
            continue
        given = next(one for one in numbered(wanted) if (one,) not in taken and one not in reserved)
        taken[(given,)] = machine.uuid
        names[machine.uuid] = [(given,)]
        notes[machine.uuid] = note(machine, wanted, given, owner, reserved)
    for machine in present:
        for group in machine.groups:
            relative = group_name(natural[machine.uuid], group)
            if relative and fits(relative, room) and taken.setdefault(relative, machine.uuid) == machine.uuid:
                names[machine.uuid].append(relative)
    problems = list(notes.values())
    for machine in present:
        for extra in machine.names:
            extra_relative = relative_name(extra, zones)
            why = refusal(extra_relative, room, reserved)
            if not why and taken.get(extra_relative, machine.uuid) != machine.uuid:
                why = f"which VM {taken[extra_relative]} has"
            if why:
                problems.append(problem(machine, extra, why))
            elif extra_relative not in names[machine.uuid]:
                taken[extra_relative] = machine.uuid
                names[machine.uuid].append(extra_relative)
    for machine in present:
        names[machine.uuid].append((machine.uuid.lower(),))
    by_uuid = {uuid: Named(tuple(dict.fromkeys(given)), notes.get(uuid, "")) for uuid, given in names.items()}
    return Naming(by_uuid, tuple(problems))


def numbered(wanted: str) -> Iterator[str]:
    """The labels that a VM may get in place of one that it cannot have, the best first."""
    for number in count(2):
        suffix = f"-{number}"
        yield wanted[: MAX_LABEL - len(suffix)].rstrip("-") + suffix


def note(machine: Machine, wanted: str, given: str, owner: Machine | None, reserved: Mapping[str, str]) -> str:
    """Why a VM has another label than it wanted."""
    why = f"which VM {owner.name!r} ({owner.uuid}) has" if owner else f"which is {reserved[wanted]}"
    return f"VM {machine.name!r} ({machine.uuid}) wanted the name {wanted}, {why}: it is {given}"


def problem(machine: Machine, extra: str, why: str) -> str:
    """Why a VM does not have a name that the user wrote."""
    return f"VM {machine.name!r} ({machine.uuid}) wanted the name {extra!r}, {why}"


def group_name(own: str, group: str) -> Relative | None:
    """`web` in `/lab/a` is `web.a.lab`; None for the root group or one without a name that DNS can carry."""
    path = [label(part) for part in group.split("/") if part]
    if not path or not all(path):
        return None
    return (own, *reversed(path))


def relative_name(text: str, zones: tuple[str, ...]) -> Relative:
    """What the user wrote as labels below a zone; an empty one among them where DNS cannot carry it."""
    name = text.strip().rstrip(".")
    for zone in zones:
        if name.lower().endswith("." + zone):
            name = name[: -len(zone) - 1]
            break
    return tuple(label(part) for part in name.split("."))


def fits(name: Relative, room: int) -> bool:
    """Whether a name has at most `room` bytes on the wire, so that it fits below each zone."""
    return sum(len(part) + 1 for part in name) <= room


def refusal(name: Relative, room: int, reserved: Mapping[str, str]) -> str:
    """Why no VM may have this name; '' if one may."""
    if not all(name) or not fits(name, room):
        return "which is no name that DNS can carry"
    return f"which is {reserved[name[0]]}" if len(name) == 1 and name[0] in reserved else ""
