"""Parses values as VirtualBox stores them: times, port-forward rules, extra data, guest properties.

VBoxService writes the guest property `/VirtualBox/GuestInfo/Net/Count` and, for each interface n that has an IPv4
address, `Net/<n>/MAC`, `Net/<n>/V4/IP` and `Net/<n>/Status` (VBoxServiceVMInfo.cpp, vgsvcVMInfoWriteNetwork). n is the
guest's own order, not the VM's slot. Any program in the guest can write these properties, so what comes out are
well-formed claims, not truths.

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
from datetime import UTC, datetime
from ipaddress import AddressValueError, IPv4Address
from typing import NamedTuple

from vmdns.state.addresses import BY_USER, is_machine_address
from vmdns.state.facts import GuestReport, PortForward

_PROTOCOLS = {"0": "udp", "1": "tcp", "udp": "udp", "tcp": "tcp"}

_NAMES, _IGNORE = "vmdns/names", "vmdns/ignore"
EXTRA_KEYS = (_NAMES, _IGNORE, BY_USER)
MAX_NAMES = 32

_STARTED = "/VirtualBox/HostInfo/VBoxVer"
GUEST_PROPERTIES = f"/VirtualBox/GuestInfo/Net/*|{_STARTED}"
MAX_REPORTS = 64
# States in which the guest has not run yet. All properties are of the run before, VBoxVer too after a crash.
_NOT_RUN = ("Starting", "Restoring", "TeleportingIn")
_COUNT = "/VirtualBox/GuestInfo/Net/Count"
_ENTRY = re.compile(r"/VirtualBox/GuestInfo/Net/(0|[1-9][0-9]{0,5})/(.+)", re.ASCII)
_MAC = re.compile(r"[0-9A-Fa-f]{12}", re.ASCII)


def parse_timestamp(text: str) -> float:
    """Unix seconds of `2026-11-22T22:13:02.687000000` or `2026-11-22T22:13:02Z`, in whole seconds; 0.0 for other texts.

    VirtualBox writes UTC, with a fraction (`VMStateChangeTime`) or without (`lastStateChange` in a settings file).
    The fraction is dropped, so that both give the same value.
    """
    try:
        return datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def parse_nat_rule(text: str) -> PortForward:
    """A rule of plain NAT: name,protocol,host address,host port,guest address,guest port.

    The protocol is 0 (udp) or 1 (tcp) in `INATEngine.redirects`, a word where VBoxManage shows it.
    Raises ValueError on anything else.
    """
    name, protocol, host, host_port, guest, guest_port = text.rsplit(",", 5)
    if protocol not in _PROTOCOLS:
        raise ValueError(f"no such protocol: {protocol!r}")
    return PortForward(name, _PROTOCOLS[protocol], host, int(host_port), guest, int(guest_port))


def rule_sort_key(rule: PortForward) -> tuple[str, int, str, str]:
    """The key by which both readers sort rules, so that equal worlds compare equal."""
    return rule.protocol, rule.host_port, rule.host_address, rule.name


class ExtraData(NamedTuple):
    """What the user set in a VM's extra data, as the fields of a `Machine` that it fills."""

    names: tuple[str, ...]
    ignored: bool
    set_addresses: tuple[str, ...]


def parse_extra(values: Mapping[str, str]) -> ExtraData:
    """Parses `vmdns/names` (separated by commas), `vmdns/ignore` (1, true, yes or on) and `vmdns/address` (by commas or
    blanks); the first 32 of each list, as written and in that order."""
    names = filter(None, map(str.strip, values.get(_NAMES, "").split(",")))
    addresses = filter(None, re.split(r"[,;\s]+", values.get(BY_USER, "")))
    ignored = values.get(_IGNORE, "").strip().lower() in ("1", "true", "yes", "on")
    return ExtraData(tuple(names)[:MAX_NAMES], ignored, tuple(addresses)[:MAX_NAMES])


def parse_guest_reports(properties: Mapping[str, tuple[str, float]], state: str) -> tuple[GuestReport, ...]:
    """The interfaces that the guest reported in this run of the VM, sorted, at most 64.

    properties: name -> (value, time of writing in Unix seconds), those that GUEST_PROPERTIES matches; state: the VM's.
    Entries from Count on are left over from an earlier boot or a removed interface: VBoxService never deletes them. A
    Count that is no number is taken for absent. An entry is as fresh as its newest property or Count, which is written
    again at each round (10 s) even where nothing else changed.
    """
    if state in _NOT_RUN:
        return ()
    _, started = properties.get(_STARTED, ("", math.inf))
    count_value, count_time = properties.get(_COUNT, ("", 0.0))
    count = int(count_value) if re.fullmatch(r"[0-9]{1,6}", count_value, re.ASCII) else None
    entries: dict[int, dict[str, tuple[str, float]]] = {}
    for name, value in properties.items():
        match = _ENTRY.fullmatch(name)
        if match and (count is None or int(match[1]) < count):
            entries.setdefault(int(match[1]), {})[match[2]] = value
    found: dict[tuple[str, str], float] = {}
    for _, entry in sorted(entries.items()):
        mac, address, status = (entry.get(key, ("", 0.0))[0] for key in ("MAC", "V4/IP", "Status"))
        since = max(count_time, *(time for _, time in entry.values()))
        if status == "Down" or not _MAC.fullmatch(mac) or not _is_usable(address) or since < started:
            continue
        key = mac.lower(), address
        found[key] = max(since, found.get(key, since))
        if len(found) == MAX_REPORTS:
            break
    return tuple(GuestReport(mac, address, since) for (mac, address), since in sorted(found.items()))


def _is_usable(text: str) -> bool:
    """Whether this is a strict dotted quad that one host can be reached at (RFC 6890 section 2.2.2)."""
    try:
        return is_machine_address(IPv4Address(text))
    except AddressValueError:
        return False
