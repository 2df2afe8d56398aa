"""The one seam behind which VirtualBox is read: through its API, or through VBoxManage.

Keys of facts: `machine:<uuid>`, `natnetwork:<name>`, `dhcp:<network name>`, `interface:<name> <prefix>`, and of
simulated ones `loopback:<address>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from vmdns.state.facts import DhcpServer, Fact, HostInterface, LoopbackNetwork, Machine, NatNetwork

# The API and VBoxManage have DHCP options by group and lease files in this form since 6.1.
LEAST = (6, 1)


def is_too_old(version: str) -> bool:
    """Whether a version of VirtualBox, such as 5.2.44, is older than what the readers are made for."""
    numbers = re.match(r"([0-9]{1,4})\.([0-9]{1,4})", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) < LEAST


class Found(NamedTuple):
    """The VirtualBox that a reader found: its version, the reader's name, and VBOX_USER_HOME's folder."""

    version: str
    reader: str
    home: str


class Unavailable(Exception):
    """This reader cannot work here; the text says why and what to do."""


class Lost(Exception):
    """VirtualBox went away: the process that reads it must end and be started anew."""


class Upgraded(Lost):
    """VirtualBox was upgraded or removed while it was read: its old VBoxSVC must be left alone until it ends."""


class OtherHome(Lost):
    """VBoxSVC serves another settings folder than the one that was named. It must be left alone until it ends, which it
    does five seconds after its last client. A user has one VBoxSVC, whichever folder a new client names."""

    def __init__(self, named: str, served: str = "another folder") -> None:
        what = f"VBoxSVC runs with the settings in {served} and not in {named}"
        super().__init__(f"{what}; quit VirtualBox and all its VMs, and {named} is read ten seconds later")


class Reader(Protocol):
    """Looks at VirtualBox. Used by one thread of the worker process."""

    found: Found

    def look(self) -> Mapping[str, Fact]:
        """Everything there is now. Raises `Lost`."""

    def wait(self, seconds: float) -> Mapping[str, Fact | None]:
        """Waits for changes at most that long; what changed, None for what is gone. Raises `Lost`."""

    def nudge(self) -> None:
        """Called from another thread: something in VirtualBox's folder changed, look at networks again soon."""

    def wake(self) -> None:
        """Called from another thread: look at which VMs there are and how they are, soon."""

    def close(self) -> None:
        """Lets VirtualBox go."""


def key(fact: Fact) -> str:
    """The key under which a reader reports this fact. Raises TypeError for a fact that no reader reports."""
    match fact:
        case Machine():
            return f"machine:{fact.uuid}"
        case NatNetwork():
            return f"natnetwork:{fact.name}"
        case DhcpServer():
            return f"dhcp:{fact.network}"
        case HostInterface():
            return f"interface:{fact.name} {fact.prefix}"
        case LoopbackNetwork():
            return f"loopback:{fact.address}"
        case _:
            raise TypeError(f"no reader reports {fact!r}")
