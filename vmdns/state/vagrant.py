"""The names that Vagrant gives its VMs: `shop_web_1590409844173_74829`.

Vagrant joins the project's folder, the machine of the Vagrantfile, the time in milliseconds and a random number by
underscores (plugins/providers/virtualbox/action/import.rb), and makes a new VM with a new UUID at each
`vagrant destroy` and `vagrant up`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from vmdns.dns.name import to_label

# Where the folder or the machine has underscores itself, the last part is taken for the machine.
_NAME = re.compile(r"(?P<project>.+)_(?P<machine>[^_]+)_(?P<created>[0-9]{13})_[0-9]{1,5}", re.DOTALL)

# The machine of a Vagrantfile that names none.
DEFAULT = "default"


class VagrantName(NamedTuple):
    """The labels of the project's folder and of the machine, and when the VM was made, in Unix milliseconds."""

    project: str
    machine: str
    created: int


def parse_vagrant_name(name: str) -> VagrantName | None:
    """What Vagrant put into the name of a VM; None for a name of another form."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    project, machine = to_label(match["project"]), to_label(match["machine"])
    return VagrantName(project, machine, int(match["created"])) if project and machine else None
