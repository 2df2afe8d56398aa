"""What Guest Additions report of a guest's interfaces, read from its guest properties.

VBoxService writes `/VirtualBox/GuestInfo/Net/Count` and, for each interface that has an IPv4 address,
`Net/<n>/MAC`, `Net/<n>/V4/IP` and `Net/<n>/Status` (VBoxServiceVMInfo.cpp, vgsvcVMInfoWriteNetwork).
n is the guest's own order, not the VM's slot. Any program in the guest can write these
properties, so what comes out are well-formed claims, not truths.

Guest Additions up to 7.0 write `Net/*` without the flag TRANSIENT, so VirtualBox keeps them over power-off, and after
the next start they are those of the last run until VBoxService writes again, 10 to 60 s later or never. What proves
that a report is of this run is `/VirtualBox/HostInfo/VBoxVer`: the VM process writes it when it starts or restores the
guest, before the guest runs. The guest cannot write it (RDONLYGUEST), and its time stays over pause, snapshot and
reset, at which `IMachine.lastStateChange` changes. Seen with 7.2; public outputs of 4.1 to 5.2 have it as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from ipaddress import AddressValueError, IPv4Address

from vmdns.state.facts import Report

_STARTED = "/VirtualBox/HostInfo/VBoxVer"
PATTERN = f"/VirtualBox/GuestInfo/Net/*|{_STARTED}"
MAX_REPORTS = 64

# States in which the guest has not run yet. All properties are of the run before, VBoxVer too after a crash.
_NOT_RUN = ("Starting", "Restoring", "TeleportingIn")
_COUNT = "/VirtualBox/GuestInfo/Net/Count"
_ENTRY = re.compile(r"/VirtualBox/GuestInfo/Net/(0|[1-9][0-9]{0,5})/(.+)", re.ASCII)
_MAC = re.compile(r"[0-9A-Fa-f]{12}", re.ASCII)


def parse_reports(properties: Mapping[str, tuple[str, float]], state: str) -> tuple[Report, ...]:
    """The interfaces that the guest reported in this run of the VM, sorted, at most 64.

    properties: name -> (value, time of writing in Unix seconds), those that PATTERN matches; state: the VM's. Entries
    from Count on are left over from an earlier boot or a removed interface: VBoxService never deletes them. A Count
    that is no number is taken for absent. An entry is as fresh as its newest property or Count, which is written again
    at each round (10 s) even where nothing else changed.
    """
    _, started = properties.get(_STARTED, ("", math.inf))
    if state in _NOT_RUN:
        return ()
    count_value, count_time = properties.get(_COUNT, ("", 0.0))
    count = int(count_value) if re.fullmatch(r"[0-9]{1,6}", count_value, re.ASCII) else None
    entries: dict[int, dict[str, tuple[str, float]]] = {}
    for name, value in properties.items():
        match = _ENTRY.fullmatch(name)
        if match and (count is None or int(match[1]) < count):
            entries.setdefault(int(match[1]), {})[match[2]] = value
    found: dict[tuple[str, str], float] = {}
    for _, entry in sorted(entries.items()):
        mac, _ = entry.get("MAC", ("", 0.0))
        address, _ = entry.get("V4/IP", ("", 0.0))
        status, _ = entry.get("Status", ("", 0.0))
        if status == "Down" or not _MAC.fullmatch(mac) or not _is_usable(address):
            continue
        who = mac.lower(), address
        since = max(count_time, *(time for _, time in entry.values()))
        if since < started:
            continue
        found[who] = max(since, found.get(who, since))
        if len(found) == MAX_REPORTS:
            break
    return tuple(Report(mac, address, since) for (mac, address), since in sorted(found.items()))


def _is_usable(text: str) -> bool:
    """Whether this is a strict dotted quad that one host can be reached at (RFC 6890 section 2.2.2)."""
    try:
        address = IPv4Address(text)
    except AddressValueError:
        return False
    return not (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or int(address) >> 24 == 0
    )
