"""Which names a VM would have if it were alone: from its name, its groups, `vmdns/names`, and Vagrant.

Vagrant names a VM `shop_web_1590409844173_74829`: the project's folder, the machine of the Vagrantfile, the time in
milliseconds and a random number (plugins/providers/virtualbox/action/import.rb). It makes a new VM with a new UUID at
each `vagrant destroy` and `vagrant up`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum, IntEnum
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

from vmdns.dns.name import MAX_LABEL, MAX_NAME, split_labels, to_label
from vmdns.state.facts import Machine

Relative = tuple[str, ...]  # the labels of a name below a zone, leftmost first
Owners = Mapping[Relative, str]  # the VM (UUID) that has a name

# Names by which machines discover services (RFC 6761, web proxy discovery, ISATAP, CERT VU#598349),
# and our own.
RESERVED = frozenset({"localhost", "localdomain", "wpad", "isatap", "broadcasthost", "vmdns"})

# `_` is allowed in DNS names (RFC 2181 section 11), at the beginning it means a service (RFC 8552).
_WRITTEN = re.compile(r"[a-z0-9][a-z0-9_-]*\Z")
# Where the folder or the machine has underscores itself, the last part is taken for the machine.
_VAGRANT = re.compile(r"(.+)_([^_]+)_([0-9]{13})_[0-9]{1,5}", re.DOTALL)


class Reservation(NamedTuple):
    """A label that no VM may take. why follows "is".

    addresses are those that the hosts file has for the label: a VM with one of them may take it.
    """

    why: str
    remedy: str = "rename the VM"
    addresses: frozenset[str] = frozenset()


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


@lru_cache(maxsize=4096)  # a third of a build's time otherwise (tests/bench/churn.py)
def _find_wanted_names(
    name: str, natural: str, groups: tuple[str, ...], names: tuple[str, ...], zones: tuple[str, ...]
) -> tuple[WantedName, ...]:
    paths = [[part for part in reversed(group.split("/")) if part] for group in groups]
    paths = [path for path in paths if path and all(map(to_label, path))]
    users = {text: _cut_zone(text, zones) for text in (name, *names)}
    if users[name] == name.strip().rstrip(".") and name not in names:
        del users[name]  # it lies in no zone
    texts = {text: below.split(".") for text, below in users.items()}
    found = [WantedName((natural,), WantedKind.OWN)]
    found += [WantedName((natural, *map(to_label, path)), WantedKind.GROUP) for path in paths]
    found += [WantedName(tuple(map(to_label, parts)), WantedKind.USER, text) for text, parts in texts.items()]
    for parts in (*([name, *path] for path in paths), [name], *texts.values()):
        written = tuple(map(_written_label, parts))
        if any("_" in part for part in written):
            found.append(WantedName(written, WantedKind.WRITTEN))
    room = MAX_NAME - 2 - max(len(zone) for zone in zones)
    fitting = (
        one if all(one.relative) and sum(len(part) + 1 for part in one.relative) <= room else one._replace(relative=())
        for one in found
    )
    # What the user wants and DNS cannot carry is reported.
    return tuple(one for one in fitting if one.relative or one.kind is WantedKind.USER)


def _cut_zone(text: str, zones: tuple[str, ...]) -> str:
    """What the user wrote, without the zone at its end."""
    name = text.strip().rstrip(".")
    for zone in sorted(zones, key=len, reverse=True):
        if name.lower().endswith("." + zone):
            return name[: -len(zone) - 1]
    return name


def _written_label(text: str) -> str:
    """The label as the user wrote it, in lower case, where DNS can carry it; else ''."""
    lower = text.lower()
    return lower if len(lower) <= MAX_LABEL and _WRITTEN.match(lower) else ""


def find_vagrant_names(machines: Iterable[Machine], owners: Owners) -> dict[str, list[WantedName]]:
    """The names from Vagrant's own of the VMs that represent their machines, by UUID.

    Of several VMs made for the same machine the newest that runs represents it. A VM has the name of its machine
    without the project's if no VM of another project wants it.
    """
    newest: dict[tuple[str, str], tuple[tuple[object, ...], Machine]] = {}
    for machine in machines:
        match = _VAGRANT.fullmatch(machine.name)
        labels = (to_label(match[1]), to_label(match[2])) if match else ("", "")
        if match and all(labels):
            one = (machine.online, int(match[3]), machine.registration_index, machine.uuid), machine
            newest[labels] = max(newest.get(labels, one), one, key=itemgetter(0))
    rivals: dict[str, list[Machine]] = {}
    for (_, short), (_, machine) in newest.items():
        rivals.setdefault(short, []).append(machine)
    found = {}
    for (project, short), (_, machine) in newest.items():
        # The machine of a Vagrantfile that names none.
        names: list[Relative] = [(project,)] if short == "default" else []
        names.append((short, project))
        running = [one for one in rivals[short] if one.online]
        owner = next((one for one in running if one.uuid == owners.get((short,))), None)
        if owner is machine or (owner is None and (running or rivals[short]) == [machine]):
            names.append((short,))
        found[machine.uuid] = [WantedName(relative, WantedKind.VAGRANT) for relative in names]
    return found


class LookupState(Enum):
    """What a query for a name of another host on a link needs: nothing, as nobody has the name; a lookup, or one's
    result; or a lookup that the budgets do not allow now."""

    ABSENT, LOOKUP, OVER_BUDGET = range(3)


def is_lookup_allowed(name: bytes) -> bool:
    """Whether this name may be looked up by multicast DNS: two labels below `local`, no service, and none of the names
    that a stranger must not have for guests either (`wpad`)."""
    parts = split_labels(name)
    if len(parts) != 2 or parts[1] != b"local" or parts[0].startswith(b"_"):
        return False
    return parts[0].decode("latin-1") not in RESERVED
