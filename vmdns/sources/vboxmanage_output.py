"""Parses the output of VBoxManage.

Most of it is not escaped: names may contain quotes and line breaks, so each pattern is anchored on what VBoxManage
writes around a value. Labels may be translated (7.0 and later have Russian), so patterns rely on the order of labels
and on words that are never translated (VBoxManageInfo.cpp, VBoxManageList.cpp, VBoxManageNATNetwork.cpp,
VBoxManageGuestProp.cpp).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Interface
from itertools import zip_longest

from vmdns.sources.virtualbox_values import parse_nat_rule, parse_network_rule, parse_timestamp, rule_sort_key
from vmdns.state.external_data import NAME_SERVERS, DhcpScope, find_name_servers
from vmdns.state.facts import Adapter, DhcpServer, HostInterface, Machine, NatNetwork, Network, PortForward

INACCESSIBLE = "<inaccessible>"

_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
IP = r"[0-9]+(?:\.[0-9]+){3}"
LABEL = r"[^\n:]+: +"

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
_EXTRA = re.compile(
    r"^[^\n:]{1,40}: ([^\n]*?), [^\n:]{1,40}: (.*?)\n(?=[^\n:]{1,40}: [^\n]*?, [^\n:]{1,40}: |\Z)",
    re.MULTILINE | re.DOTALL,
)
_NETWORK = re.compile(
    rf"{LABEL}(?P<name>.*?)\n{LABEL}(?P<enabled>\S+)\n{LABEL}(?P<prefix>{IP}/[0-9]+)\n{LABEL}{IP}\n", re.DOTALL
)
_INTERFACE = re.compile(
    rf"{LABEL}(?P<name>.*?)\nGUID: [^\n]*\nDHCP: [^\n]*\n{LABEL}(?P<address>{IP})\n{LABEL}(?P<mask>{IP})\n",
    re.DOTALL,
)
_HOST_ONLY_NETWORK = re.compile(
    rf"^{LABEL}(?P<name>[^\n]*)\nGUID: [^\n]*\n\n{LABEL}\S+\n{LABEL}(?P<mask>{IP})\n{LABEL}(?P<address>{IP})\n",
    re.MULTILINE,
)
NO = ("No", "Нет")


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
        rules = (
            _rules(_FORWARD.findall(text, match.end(), after.start() if after else len(text))) if kind == "nat" else ()
        )
        yield Adapter(
            slot=int(match["number"]) - 1,
            mac=match["mac"].lower(),
            network=Network(kind, (match["name"] or "") if kind in _NAMED else ""),
            cable=match["cable"] == "on",
            forwards=tuple(rules),
        )


def _rules(texts: list[str]) -> list[PortForward]:
    rules = []
    for text in texts:
        try:
            rules.append(parse_nat_rule(text))
        except ValueError:
            continue
    return sorted(rules, key=rule_sort_key)


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


def parse_extra_data(text: str) -> dict[str, str]:
    """`getextradata UUID enumerate`: key -> value."""
    return {match[1]: match[2] for match in _EXTRA.finditer(text)}


def parse_nat_networks(text: str) -> list[NatNetwork]:
    """`natnetwork list`, with the rules for IPv4."""
    found = []
    for block in text.split("\n\n"):
        match = _NETWORK.match(block)
        if match is None:
            continue
        rules = []
        for line in block[match.end() :].split("\n"):
            try:
                rule = parse_network_rule(line.removeprefix(" " * 8))
            except ValueError:
                continue
            if ":" not in rule.guest_address:
                rules.append(rule)
        forwards = tuple(sorted(rules, key=rule_sort_key))
        found.append(NatNetwork(match["name"], match["prefix"], match["enabled"] not in NO, forwards))
    return found


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


_SERVER = re.compile(
    rf"{LABEL}(?P<network>.*?)\nDhcpd IP: +(?P<address>{IP})\n{LABEL}{IP}\n{LABEL}{IP}\n"
    rf"{LABEL}(?P<mask>{IP})\n{LABEL}(?P<enabled>\S+)\n",
    re.DOTALL,
)
_FIXED = re.compile(rf"^\S[^\n]* ((?:[0-9a-f]{{2}}:){{5}}[0-9a-f]{{2}})\n {{4}}{LABEL}({IP})$", re.MULTILINE)
_OPTION = re.compile(r" +([0-9]+)/\w+: (.*)")
_EVERYONE = re.compile(r" {4}\S.*? (\S+) MAC\* +\*")


def parse_dhcp_servers(text: str) -> list[DhcpServer]:
    """`list dhcpservers`, with fixed addresses by MAC, also those of VMs' adapters (VirtualBox resolves their MACs)."""
    found = []
    for block in text.split("\n\n"):
        match = _SERVER.match(block)
        if match is None:
            continue
        fixed = {(mac.replace(":", ""), address) for mac, address in _FIXED.findall(block)}
        found.append(
            DhcpServer(
                match["network"],
                match["address"],
                match["mask"],
                match["enabled"] not in NO,
                tuple(sorted(fixed)),
                _name_servers(block[match.end() :]),
            )
        )
    return found


def _name_servers(text: str) -> tuple[str, ...]:
    """From the options of a server: those of the whole server, then a part for each group, then for single VMs."""
    whole, *others = re.split(r"\n(?=\S)", text)
    groups = []
    for part in others:
        words = [match[1] for match in map(_EVERYONE.fullmatch, part.split("\n")) if match]
        if words and "exclude" not in words:
            groups.append(_scope(part))
    return find_name_servers(_scope(whole), groups)


def _scope(part: str) -> DhcpScope:
    """Labels may be translated, but suppressed options are always in the last line before the options."""
    title, *lines = part.rstrip("\n").split("\n")
    options = {match[1]: match[2] for match in map(_OPTION.fullmatch, lines) if match}
    others = [line for line in lines if not _OPTION.fullmatch(line)]
    suppressed = others[-1 if options else -2] if len(others) > 1 else ""
    return DhcpScope(
        title.partition(":")[2].strip(),
        options.get(str(NAME_SERVERS), ""),
        str(NAME_SERVERS) in re.findall("[0-9]+", suppressed.partition(":")[2]),
    )
