"""Which names a VM would have if it were alone: from its name, its groups, `vmdns/names`, and Vagrant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from vmdns.dns.name import MAX_LABEL, MAX_NAME, to_label
from vmdns.state.facts import Machine
from vmdns.state.vagrant import DEFAULT, VagrantName, parse_vagrant_name

Relative = tuple[str, ...]  # the labels of a name below a zone, leftmost first

# `_` is allowed in DNS names (RFC 2181 section 11), at the beginning it means a service (RFC 8552).
_WRITTEN = re.compile(r"[a-z0-9][a-z0-9_-]*\Z")


class WantedKind(IntEnum):
    """Where a name comes from. Names of the first kinds are given first."""

    OWN, GROUP, USER, WRITTEN, VAGRANT = range(5)


class WantedName(NamedTuple):
    """A name that a VM would have; empty where DNS cannot carry it. text is what the user wrote."""

    relative: Relative
    kind: WantedKind
    text: str = ""


def natural_label(machine: Machine) -> str:
    """The label of the VM's name, or one of its UUID where the name has nothing that DNS can carry."""
    return to_label(machine.name) or f"vm-{machine.uuid[:8].lower()}"


def find_wanted_names(machine: Machine, zones: tuple[str, ...]) -> tuple[WantedName, ...]:
    """All names that a VM would have, but for those from Vagrant, in the order of their kinds."""
    return _find_wanted_names(machine.name, natural_label(machine), machine.groups, machine.names, zones)


@lru_cache(maxsize=4096)  # it is asked for all VMs whenever one of them changed
def _find_wanted_names(
    name: str, natural: str, groups: tuple[str, ...], extra: tuple[str, ...], zones: tuple[str, ...]
) -> tuple[WantedName, ...]:
    written = _written_label(name)
    found = [WantedName((natural,), WantedKind.OWN)]
    users = [name] if _ends_in_zone(name, zones) else []
    users += extra
    found += [WantedName(relative_name(text, zones), WantedKind.USER, text) for text in users]
    for group in groups:
        path = [part for part in group.split("/") if part]
        relative = tuple(map(to_label, reversed(path)))
        if path and all(relative):
            found.append(WantedName((natural, *relative), WantedKind.GROUP))
            found.append(WantedName((written, *map(_written_label, reversed(path))), WantedKind.WRITTEN))
    found.append(WantedName((written,), WantedKind.WRITTEN))
    for text in users:
        found.append(WantedName(tuple(map(_written_label, _relative_text(text, zones).split("."))), WantedKind.WRITTEN))
    room = MAX_NAME - 2 - max(len(zone) for zone in zones)
    carried = (wish if is_encodable(wish.relative, room) else wish._replace(relative=()) for wish in found)
    return tuple(sorted(filter(_is_useful, carried), key=lambda wish: wish.kind))


def _is_useful(wish: WantedName) -> bool:
    """Whether a name is one of its own, or one to report to the user."""
    if wish.kind is WantedKind.WRITTEN:
        return any("_" in part for part in wish.relative)
    return bool(wish.relative) or wish.kind is WantedKind.USER


def find_vagrant_names(
    machines: Iterable[Machine], owners: Mapping[Relative, str]
) -> dict[str, tuple[WantedName, ...]]:
    """The names from Vagrant's own of the VMs that represent their machines, by UUID.

    Of several VMs made for the same machine the newest that runs represents it.
    """
    newest: dict[tuple[str, str], tuple[bool, int, int, Machine, VagrantName]] = {}
    for machine in machines:
        name = parse_vagrant_name(machine.name)
        if name is not None:
            one = machine.online, name.created, machine.registration_index, machine, name
            key = name.project, name.machine
            newest[key] = max(newest.get(key, one), one, key=lambda entry: (*entry[:3], entry[3].uuid))
    by_machine: dict[str, list[Machine]] = {}
    for (_, short), (*_, machine, _) in newest.items():
        by_machine.setdefault(short, []).append(machine)
    found = {}
    for (project, short), (*_, machine, _) in newest.items():
        names: list[Relative] = [(project,)] if short == DEFAULT else []
        names.append((short, project))
        if _is_only_candidate(machine, by_machine[short], owners.get((short,))):
            names.append((short,))
        found[machine.uuid] = tuple(WantedName(relative, WantedKind.VAGRANT) for relative in names)
    return found


def _is_only_candidate(machine: Machine, wanting: list[Machine], owner: str | None) -> bool:
    """Whether a VM may have the name of its machine without the project's: no VM of another project wants it."""
    running = [one for one in wanting if one.online]
    if any(one.uuid == owner for one in running):
        return machine.uuid == owner
    return (running or wanting) == [machine]


def _written_label(text: str) -> str:
    """The label as the user wrote it, in lower case, where DNS can carry it; else ''."""
    lower = text.lower()
    return lower if len(lower) <= MAX_LABEL and _WRITTEN.match(lower) else ""


def _ends_in_zone(text: str, zones: tuple[str, ...]) -> bool:
    return _relative_text(text, zones) != text.strip().rstrip(".")


def _relative_text(text: str, zones: tuple[str, ...]) -> str:
    """What the user wrote, without the zone at its end."""
    name = text.strip().rstrip(".")
    for zone in sorted(zones, key=len, reverse=True):
        if name.lower().endswith("." + zone):
            return name[: -len(zone) - 1]
    return name


def relative_name(text: str, zones: tuple[str, ...]) -> Relative:
    """What the user wrote as labels below a zone; an empty one among them where DNS cannot carry it."""
    return tuple(to_label(part) for part in _relative_text(text, zones).split("."))


def is_encodable(name: Relative, room: int) -> bool:
    """Whether DNS can carry a name with at most `room` bytes on the wire."""
    return all(name) and sum(len(part) + 1 for part in name) <= room
