"""Parses the output of VBoxManage.

Most of it is not escaped: names may contain quotes and line breaks, so each pattern is anchored on what VBoxManage
writes around a value. Labels may be translated (7.0 and later have Russian), so patterns rely on the order of labels
and on words that are never translated (VBoxManageInfo.cpp, VBoxManageList.cpp, VBoxManageGuestProp.cpp).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Interface
from itertools import zip_longest

from vmdns.sources.virtualbox_values import parse_nat_rule, parse_timestamp, rule_sort_key
from vmdns.state.facts import Adapter, HostInterface, Machine, Network, PortForward

INACCESSIBLE = "<inaccessible>"

_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_IP = r"[0-9]+(?:\.[0-9]+){3}"
_LABEL = r"[^\n:]+: +"

# machineStateToName: the short word of --machinereadable, and the long one of --long where it differs.
_STATES = {
    "poweroff": "PoweredOff", "powered off": "PoweredOff", "saved": "Saved", "teleported": "Teleported",
    "aborted": "Aborted", "aborted-saved": "AbortedSaved", "running": "Running", "paused": "Paused",
    "gurumeditation": "Stuck", "guru meditation": "Stuck", "teleporting": "Teleporting",
    "livesnapshotting": "LiveSnapshotting", "live snapshotting": "LiveSnapshotting", "starting": "Starting",
    "stopping": "Stopping", "saving": "Saving", "restoring": "Restoring",
    "teleportingpausedvm": "TeleportingPausedVM", "teleporting paused vm": "TeleportingPausedVM",
    "teleportingin": "TeleportingIn", "teleporting (incoming)": "TeleportingIn",
    "deletingsnapshotlive": "DeletingSnapshotOnline", "deleting snapshot live": "DeletingSnapshotOnline",
    "deletingsnapshotlivepaused": "DeletingSnapshotPaused",
    "deleting snapshot live paused": "DeletingSnapshotPaused",
    "onlinesnapshotting": "OnlineSnapshotting", "online snapshotting": "OnlineSnapshotting",
    "restoringsnapshot": "RestoringSnapshot", "restoring snapshot": "RestoringSnapshot",
    "deletingsnapshot": "DeletingSnapshot", "deleting snapshot": "DeletingSnapshot", "settingup": "SettingUp",
    "setting up": "SettingUp", "snapshotting": "Snapshotting", "offline snapshotting": "Snapshotting",
}  # fmt: skip
_KINDS = {
    "nat": "nat", "natnetwork": "natnetwork", "bridged": "bridged", "intnet": "intnet", "hostonly": "hostonly",
    "hostonlynetwork": "hostonlynetwork", "Generic": "generic", "cloudnetwork": "cloud",
}  # fmt: skip
_NAMED = frozenset(("natnetwork", "bridged", "intnet", "hostonly", "hostonlynetwork", "generic"))

_VM = re.compile(rf'^"(.*?)" \{{({_UUID})\}}$', re.MULTILINE | re.DOTALL)
_NAME = re.compile(r'\Aname="((?:[^"\\]|\\.)*)"\n', re.DOTALL)
_ADAPTER = re.compile(
    r"^(?:(?:natnet|nat-network|bridgeadapter|intnet|hostonlyadapter|hostonly-network|cloud-network|generic)"
    r'[0-9]+="(?P<name>.*?)"\n)?'
    r'macaddress(?P<number>[0-9]+)="(?P<mac>[0-9A-Fa-f]{12})"\n'
    r'cableconnected(?P=number)="(?P<cable>on|off)"\n'
    r'nic(?P=number)="(?P<kind>[^"\n]*)"$',
    re.MULTILINE | re.DOTALL,
)
_FORWARD = re.compile(r'^Forwarding\([0-9]+\)="(.*?)"$', re.MULTILINE | re.DOTALL)
_PROPERTY = re.compile(
    r"^[^\n:]{1,40}: (/[^\n]*?), [^\n:]{1,40}: (.*?), [^\n:]{1,40}: (-?[0-9]{1,19}), [^\n:]{1,40}: [A-Z, ]*\n"
    r"(?=[^\n:]{1,40}: /|\Z)",
    re.MULTILINE | re.DOTALL,
)
_INTERFACE = re.compile(
    rf"{_LABEL}(?P<name>.*?)\nGUID: [^\n]*\nDHCP: [^\n]*\n{_LABEL}(?P<address>{_IP})\n{_LABEL}(?P<mask>{_IP})\n",
    re.DOTALL,
)
_HOST_ONLY_NETWORK = re.compile(
    rf"^{_LABEL}(?P<name>[^\n]*)\nGUID: [^\n]*\n\n{_LABEL}\S+\n{_LABEL}(?P<mask>{_IP})\n{_LABEL}(?P<address>{_IP})\n",
    re.MULTILINE,
)


def parse_vms(text: str) -> dict[str, str]:
    """`list vms` or `list runningvms`: UUID -> name, "<inaccessible>" if VirtualBox cannot read the VM.

    A name that looks like two lines of this list also yields a UUID of no VM.
    """
    return {match[2]: match[1] for match in _VM.finditer(text)}


def parse_machine(text: str) -> Machine:
    """`showvminfo UUID --machinereadable`, without names and reports. Raises ValueError on anything else.

    VBoxManage up to 7.2 prints rules of plain NAT as a format string: a rule name with a percent sign is printed wrong
    or crashes VBoxManage.
    """
    name = _NAME.match(text)
    uuid = re.search(rf'^UUID="({_UUID})"$', text, re.MULTILINE)
    groups = re.search(r'^groups="(.*)"$', text, re.MULTILINE)
    state = re.search(r'^VMState="([^"\n]*)"$', text, re.MULTILINE)
    changed = re.search(r'^VMStateChangeTime="([^"\n]*)"$', text, re.MULTILINE)
    if name is None or uuid is None or state is None:
        raise ValueError(f"not a VM in machine readable form: {text[:100]!r}")
    return Machine(
        uuid=uuid[1],
        name=re.sub(r"\\(.)", r"\1", name[1], flags=re.DOTALL),
        state=_STATES.get(state[1], ""),
        groups=tuple(groups[1].split(",")) if groups else ("/",),
        adapters=tuple(sorted(_adapters(text), key=lambda adapter: adapter.slot)),
        state_changed=parse_timestamp(changed[1]) if changed else 0.0,
    )


def _adapters(text: str) -> Iterator[Adapter]:
    found = list(_ADAPTER.finditer(text))
    for match, after in zip_longest(found, found[1:]):
        kind = _KINDS.get(match["kind"], "null")
        rules: list[PortForward] = []
        for rule in _FORWARD.findall(text, match.end(), after.start() if after else len(text)) if kind == "nat" else ():
            with suppress(ValueError):  # rules in an unknown form are left out
                rules.append(parse_nat_rule(rule))
        yield Adapter(
            slot=int(match["number"]) - 1,
            mac=match["mac"].lower(),
            network=Network(kind, (match["name"] or "") if kind in _NAMED else ""),
            cable=match["cable"] == "on",
            forwards=tuple(sorted(rules, key=rule_sort_key)),
        )


def parse_states(text: str) -> dict[str, tuple[str, float]]:
    """`list vms --long`: UUID -> state and when it began, for VMs in a known state.

    The time is in whole Unix seconds.
    """
    found: dict[str, tuple[str, float]] = {}
    uuid = ""
    for line in text.split("\n"):
        if match := re.fullmatch(rf"UUID: +({_UUID})", line):
            uuid = match[1]
        elif uuid and (match := re.fullmatch(r"State: +(.+) \(since ([^()]*)\)", line)):
            if match[1] in _STATES:
                found[uuid] = _STATES[match[1]], parse_timestamp(match[2])
            uuid = ""
    return found


def parse_properties(text: str) -> dict[str, tuple[str, float]]:
    """`guestproperty enumerate --old-format`: name -> value, time in Unix seconds (6.x has only this format).

    The other format of 7.x truncates the time to milliseconds. Values are not escaped: a guest may make one value look
    like several properties, all of which it could have set anyway.
    """
    return {match[1]: (match[2], int(match[3]) / 1e9) for match in _PROPERTY.finditer(text)}


def parse_host_interfaces(text: str) -> list[HostInterface]:
    """`list hostonlyifs`: those with an IPv4 address."""
    return _interfaces(match for block in text.split("\n\n") if (match := _INTERFACE.match(block)))


def parse_host_only_networks(text: str) -> list[HostInterface]:
    """`list hostonlynets` of macOS: the host has the lowest address of each network (vmnet, host mode)."""
    return _interfaces(_HOST_ONLY_NETWORK.finditer(text))


def _interfaces(matches: Iterator[re.Match[str]]) -> list[HostInterface]:
    found = []
    for match in matches:
        try:
            prefix = IPv4Interface(f"{match['address']}/{match['mask']}")
        except ValueError:
            continue
        if int(prefix.ip):
            found.append(HostInterface(match["name"], prefix.with_prefixlen))
    return found
