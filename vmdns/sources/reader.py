"""The interface of readers of VirtualBox: through its API, through VBoxManage, or simulated.

Keys of facts: `machine:<uuid>`, `natnetwork:<name>`, `dhcp:<network name>`, `interface:<name> <prefix>`, and in a
simulation `loopback:<address>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from vmdns.state.facts import DhcpServer, Fact, HostInterface, LoopbackNetwork, Machine, NatNetwork

# 6.1 brought DHCP options by group and the present form of lease files.
MIN_VERSION = (6, 1)
UPGRADE_SECONDS = 8.0  # VBoxSVC ends 5 s after its last client: wait for that after an upgrade and for another home


class ReaderUnavailable(OSError):
    """This reader does not work here; the text says why and what to do."""


def check_version(version: str) -> None:
    """Raises `ReaderUnavailable` for a version of VirtualBox, such as 5.2.44, older than the readers support."""
    numbers = re.match(r"([0-9]{1,4})\.([0-9]{1,4})", version)
    if numbers is not None and (int(numbers[1]), int(numbers[2])) < MIN_VERSION:
        least = ".".join(map(str, MIN_VERSION))
        raise ReaderUnavailable(
            f"version {version} is too old for vmdns, which needs {least} or newer: update VirtualBox"
        )


class VirtualBoxInfo(NamedTuple):
    """The VirtualBox that a reader uses: its version, the reader's name, and the settings folder (VBOX_USER_HOME)."""

    version: str
    reader: str
    home: str


class VirtualBoxLost(Exception):
    """The connection to VirtualBox is lost: the worker process must end and be started again, after `pause` seconds at
    least."""

    def __init__(self, text: str, pause: float = 0.0) -> None:
        super().__init__(text)
        self.pause = pause


def wrong_home(named: str, served: str = "another folder") -> VirtualBoxLost:
    """VBoxSVC serves another settings folder than the configured one. A user has one VBoxSVC, whichever folder a new
    client names; it ends five seconds after its last client."""
    what = f"VBoxSVC runs with the settings in {served} and not in {named}"
    return VirtualBoxLost(
        f"{what}; quit VirtualBox and all its VMs, and {named} is read ten seconds later", UPGRADE_SECONDS
    )


class Reader(Protocol):
    """Reads VirtualBox. Used by one thread of the worker process, except for `request_look`."""

    found: VirtualBoxInfo

    def read(self, seconds: float) -> Mapping[str, Fact]:
        """Waits at most that long for a reason to look, and returns everything that is there. The first call does not
        wait. Raises `VirtualBoxLost`."""

    def request_look(self) -> None:
        """Has everything read soon, because VirtualBox's folder changed or a user waits."""

    def close(self) -> None:
        """Closes the connection."""


def fact_key(fact: Fact) -> str:
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
